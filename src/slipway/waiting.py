"""Answer on the port while the models load: a process of its own, which no import holds up.

``/livez`` is 200 and everything else 503 with Retry-After. When the workers have settled, it takes
what is still in its queue, stops to listen, and leaves when the last client has its answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable

PATIENCE = 5
"""Seconds in which a client must have sent its request, or read its answer."""
POLL = 0.005
HEAD = 16 * 1024


def wait(listener: socket.socket, settled: Callable[[], bool]) -> None:
    """Answer until ``settled()``, or until the server's first process is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(listener, settled, os.getppid()))


async def _serve(listener: socket.socket, settled: Callable[[], bool], parent: int) -> None:
    open_: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        open_.add(task)
        try:
            async with asyncio.timeout(PATIENCE):
                await _answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            open_.discard(task)

    server = await asyncio.start_server(connected, sock=listener, limit=HEAD, backlog=1024)
    while not settled() and os.getppid() == parent:
        await asyncio.sleep(POLL)
    server.close()
    if open_:
        await asyncio.wait(open_, timeout=PATIENCE)


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
