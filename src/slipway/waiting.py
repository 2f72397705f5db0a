"""Answer on the port while the models load: a process of its own, which no import holds up.

``/livez`` is 200 and everything else 503 with Retry-After. When the workers have settled and
listen, every new client is theirs; this process answers those it has, closes its socket and leaves.

Each worker has a socket of its own on the port (SO_REUSEPORT), and the kernel would deal clients
out by a hash: of 32 connections to two workers, one has 20 or more in a fifth of all runs, and is
overloaded while the other idles. A small program in the kernel deals them out by the client's port
instead, which Linux raises by two from one connection to the next to the same address: in turn.

Source:  SO_ATTACH_REUSEPORT_CBPF and the offsets of classic BPF: Linux, socket(7) and filter.txt.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("slipway.waiting")

PATIENCE = 5
"""Seconds in which a client must have sent its request, or read its answer."""
POLL, LOOK = 0.005, 0.05
"""Seconds between two looks: at workers that start, and at workers that leave."""
HEAD = 16 * 1024
LISTENING = "0A"
"""How /proc/net/tcp says it."""
HANDSHAKES = 0.01
"""Seconds in which clients that are about to be connected are connected."""
OPENING = 2.0
"""Seconds that workers have from their model to their socket."""
ATTACH_PROGRAM = getattr(socket, "SO_ATTACH_REUSEPORT_CBPF", 51)
NETWORK = 0xFFF00000  # SKF_NET_OFF: an offset from here on counts from the network header


def bound(host: str, port: int) -> socket.socket:
    """Bind a port so that the workers, which each have a socket, may bind it too."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    return found


def wait(
    listener: socket.socket, workers: int, settled: Callable[[], bool], left: Callable[[], None]
) -> None:
    """Answer until ``settled()``, or the server's first process is gone; then call ``left``."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(listener, workers, settled, left))


def deal(
    listener: socket.socket, workers: int, first: int, own: tuple[int, int] | None = None
) -> bool:
    """Give new clients of the port to sockets ``first`` to ``first + workers - 1``, in turn.

    The sockets of a port are counted from 0 as they began to listen; when one goes, the last takes
    its number. A client whose number has no socket, or a system without this, is dealt by a hash.
    ``own`` is the port of one client and the number of the socket that it is given to.
    Return whether the kernel does so.
    """
    port, number = own or (0, 0)  # no client has port 0
    program = [  # code, jump if true, jump if false, operand: struct sock_filter
        (0x30, 0, 0, NETWORK),  # load the first byte of the IP header
        (0x74, 0, 0, 4),  # shift right by 4: the version
        (0x15, 3, 0, 6),  # of version 6 go to [A]
        (0xB1, 0, 0, NETWORK),  # X = length of the header
        (0x48, 0, 0, NETWORK),  # load the two bytes behind it: the client's port
        (0x05, 0, 0, 1),  # go to [B]
        (0x28, 0, 0, NETWORK + 40),  # [A] load the two bytes behind version 6's header
        (0x15, 0, 1, port),  # [B] if it is the one client's
        (0x06, 0, 0, number),  # return its number
        (0x74, 0, 0, 1),  # shift right by 1: a client's ports are all even or all odd
        (0x94, 0, 0, workers),  # modulo
        (0x04, 0, 0, first),  # add
        (0x16, 0, 0, 0),  # return
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    held = struct.pack("HP", len(program), ctypes.addressof(code))
    try:
        listener.setsockopt(socket.SOL_SOCKET, ATTACH_PROGRAM, held)
    except OSError as error:
        log.info("new clients get a worker by a hash: the kernel says %s", error.strerror)
        return False
    return True


def let_none_in(host: str, port: int, workers: int) -> None:
    """Let no new client connect to the workers on a port until these do not listen any more.

    When a listening socket is closed, the kernel cuts off who is connected and not yet accepted.
    So the last of them are accepted before that, while nobody new comes: all are given to a socket
    whose queue is full, with a client of our own, and what has no place there is dropped. It is
    sent anew a second later, when another server has the port, or none.
    """
    # when a worker goes, the last socket takes its number, and the full one keeps its own
    client, *traps = opened = [bound(host, 0), *(bound(host, port) for _ in range(workers + 1))]
    try:
        # asked first: without a program the traps would be dealt clients by a hash
        filled = deal(client, 1, 0) and _filled(client, traps, (host, port), workers)
        if not filled:
            log.info("the last clients may be cut off: new ones cannot be kept out")
            return
        filled.listen(0)
        deal(filled, 1, workers)
        there = listeners(port)
        while listeners(port) > there - workers:
            time.sleep(LOOK)
    finally:
        for one in opened:
            one.close()


def _filled(
    client: socket.socket, traps: list[socket.socket], address: tuple[str, int], workers: int
) -> socket.socket | None:
    """Return the socket behind the workers', with the client in its queue."""
    for trap in traps:
        trap.listen(1)
    deal(traps[0], workers, 0, (client.getsockname()[1], workers))
    client.setblocking(False)
    client.connect_ex(address)
    return next(iter(select.select(traps, [], [], PATIENCE)[0]), None)


def listeners(port: int) -> int:
    """Return how many sockets listen on a port, on any address."""
    found = 0
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                found += state == LISTENING and int(local.rpartition(":")[2], 16) == port
    return found


async def _serve(
    listener: socket.socket, workers: int, settled: Callable[[], bool], left: Callable[[], None]
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
    port, end = listener.getsockname()[1], loop.time() + OPENING
    while listeners(port) <= workers and loop.time() < end:
        await asyncio.sleep(POLL)
    if listeners(port) <= workers:
        log.info("not every worker listens after %g s; clients go to those that do", OPENING)
    deal(listener, workers, first=1)
    await asyncio.sleep(HANDSHAKES)
    loop.remove_reader(listener)
    deal(listener, workers, first=0)
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
