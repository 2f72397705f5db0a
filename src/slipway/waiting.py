"""Answer on the port while the models load: a process of its own, which no import holds up.

``/livez`` is 200 and everything else 503 with Retry-After. When the workers have settled, it takes
what is still in its queue, stops to listen, and leaves when the last client has its answer. Only
a client whose handshake is under way in that moment is cut off, by the kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

PATIENCE = 5
"""Seconds in which a client must have sent its request, or read its answer."""
POLL = 0.005
HEAD = 16 * 1024


def wait(listener: socket.socket, settled: Callable[[], bool], left: Callable[[], None]) -> None:
    """Answer until ``settled()``, or the server's first process is gone; then call ``left``."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(listener, settled, left))


async def _serve(
    listener: socket.socket, settled: Callable[[], bool], left: Callable[[], None]
) -> None:
    parent = os.getppid()
    open_: set[asyncio.Task[None]] = set()

    def take_all() -> None:
        """Accept whoever is in the queue, so that none is in it when the listener goes."""
        with suppress(BlockingIOError):
            while True:
                task = asyncio.create_task(_attend(listener.accept()[0]))
                open_.add(task)
                task.add_done_callback(open_.discard)

    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.add_reader(listener, take_all)
    while not settled() and os.getppid() == parent:
        await asyncio.sleep(POLL)
    loop.remove_reader(listener)
    take_all()
    listener.close()
    left()
    if open_:
        await asyncio.wait(open_, timeout=PATIENCE)


async def _attend(client: socket.socket) -> None:
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client, limit=HEAD)
    try:
        async with asyncio.timeout(PATIENCE):
            await _answer(reader, writer)
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1].partition(b"?")[0] if head.count(b" ") > 1 else b""
    live = path == b"/livez"
    told = {"live": True} if live else {"ready": False, "reason": "loading", "error": LOADING}
    body = json.dumps(told).encode()
    status = "200 OK" if live else "503 Service Unavailable\r\nRetry-After: 1"
    writer.write(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + (b"" if head.startswith(b"HEAD ") else body)
    )
    await writer.drain()
    writer.write_eof()
    while await reader.read(1 << 16):  # a client that is still sending would lose the answer
        pass


LOADING = "the model is not ready: loading"
