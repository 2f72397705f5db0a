"""The clients nobody wants: slow ones, ones that vanish, and bodies of 100 MB.

Runs until SIGTERM and then prints how each kind ended.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

SLOW, SLOW_BODIES, VANISH_EVERY, LARGE_EVERY, LARGE = 30, 10, 0.1, 10.0, 100 * 10**6
HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
RESET = struct.pack("ii", 1, 0)  # linger for 0 s: close with a reset
counts: Counter[str] = Counter()
ended = threading.Event()


def connected(port: int) -> socket.socket:
    """Connect; whatever fails later fails within 30 s."""
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status_of(sock: socket.socket) -> str:
    """Return the status of the answer, or how there came to be none."""
    try:
        head = sock.recv(64)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    return head.split()[1].decode() if head.startswith(b"HTTP/1.1 ") else "closed"


def slow(port: int, start: bytes, endless: bytes, kind: str) -> None:
    """Send ``start``, then a byte of ``endless`` each second until the server has enough of it."""
    with connected(port) as sock:
        sock.sendall(start)
        sock.settimeout(1)
        counts[f"{kind} begun"] += 1
        while not ended.is_set():
            sock.sendall(endless)
            found = status_of(sock)
            if found != "no answer":
                counts[f"{kind}: {found}"] += 1
                return


def vanish(port: int, path: str, body: bytes, reset: bool) -> None:
    """Send a whole request and leave before its answer."""
    with connected(port) as sock:
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.sendall(f"{HEAD.format(path)}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    counts["vanished"] += 1


def large(port: int, path: str) -> None:
    """Send a body of 100 MB; the server may answer and close before it has all."""
    with connected(port) as sock:
        sock.sendall(f"{HEAD.format(path)}Content-Length: {LARGE}\r\n\r\n".encode() + b'{"text": "')
        chunk = b"x" * 10**6
        try:
            for _ in range(LARGE // len(chunk)):
                sock.sendall(chunk)
        except OSError:
            counts["large cut short"] += 1
        counts[f"large: {status_of(sock)}"] += 1


def repeat(every: float, action: object, *given: object) -> None:
    """Do something again and again until the end; a server that refuses is counted."""
    while not ended.is_set():
        try:
            action(*given)  # type: ignore[operator]
        except OSError as error:
            counts[f"{getattr(action, '__name__', action)} failed: {type(error).__name__}"] += 1
        ended.wait(every)


def main() -> None:
    """``nuisance PORT PATH BODIES``."""
    port, path = int(sys.argv[1]), sys.argv[2]
    body = Path(sys.argv[3]).read_bytes().splitlines()[0]
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    head = HEAD.format(path).encode()
    waits = b"Content-Length: 1000\r\n\r\n{"
    threads: list[tuple[Any, ...]]
    threads = [(1.0, slow, port, head, b"X", "slow head")] * SLOW
    threads += [(1.0, slow, port, head + waits, b" ", "slow body")] * SLOW_BODIES
    threads += [(VANISH_EVERY, vanish, port, path, body, reset) for reset in (True, False)]
    threads += [(LARGE_EVERY, large, port, path)]
    for given in threads:
        threading.Thread(target=repeat, args=given, daemon=True).start()
    while not ended.is_set():
        time.sleep(0.2)
    time.sleep(1)
    print(json.dumps(dict(counts)))


if __name__ == "__main__":
    main()
