"""Requests at a constant rate, whether the server keeps up or not.

Each request has its due time, and its latency counts from there, so a server that stalls is
charged for all that came due meanwhile (no coordinated omission). One thread, raw sockets and
epoll: Python spends some 20 us on a request, and how late it sent is part of the result.
"""

from __future__ import annotations

import argparse
import errno
import json
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OPENED, MOST = 32, 512
CUT, REFUSED, TIMEOUT, UNSENT = "cut", "refused", "timeout", "unsent"
LINGERING = (errno.EINPROGRESS, errno.EWOULDBLOCK)


@dataclass
class Connection:
    """One keep-alive connection; ``number`` is the request it waits for, or -1.

    ``wrote`` is when the last request was handed to the kernel, ``answers`` how many came before.
    """

    sock: socket.socket
    opened: float = field(default_factory=time.perf_counter)
    wrote: float = 0.0
    answers: int = 0
    number: int = -1
    unsent: bytes = b""
    received: bytearray = field(default_factory=bytearray)


@dataclass
class Outcome:
    """One entry for each request: when it was due and sent, how long it took, how it ended."""

    due: list[float]
    sent: list[float]
    took: list[float]
    ended: list[str]
    cuts: list[dict[str, float]] = field(default_factory=list)


def request(host: str, path: str, body: bytes) -> bytes:
    """Return the bytes of one POST."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def response_end(received: bytes | bytearray) -> tuple[int, str, bool] | None:
    """Return length, status and whether the connection stays, or None while bytes are missing."""
    head = received.find(b"\r\n\r\n")
    if head < 0:
        return None
    lines = bytes(received[:head]).lower().split(b"\r\n")
    fields = dict(line.partition(b":")[::2] for line in lines[1:])
    status, stays = lines[0].split()[1].decode(), fields.get(b"connection", b"").strip() != b"close"
    if b"content-length" in fields:
        end = head + 4 + int(fields[b"content-length"])
        return (end, status, stays) if len(received) >= end else None
    end = received.find(b"0\r\n\r\n", head + 4)
    return None if end < 0 else (end + 5, status, stays)


class OpenLoop:
    """Sends ``requests`` in turn at ``rate`` a second over a pool of connections."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: Callable[[int], bytes],
        rate: float,
        patience: float = 5.0,
        most: int = MOST,
    ) -> None:
        self.address, self.requests, self.rate, self.patience = address, requests, rate, patience
        self.most = most
        self.epoll = select.epoll()
        self.idle: deque[Connection] = deque()
        self.open: dict[int, Connection] = {}
        self.waiting: deque[int] = deque()
        self.next = 0

    def run(self, seconds: float) -> Outcome:
        """Send for ``seconds``, wait for the last answers, and return what became of each."""
        total = max(1, int(self.rate * seconds))
        for _ in range(OPENED):
            self._connect()
        start = time.perf_counter()
        due = [start + number / self.rate for number in range(total)]
        self.result = Outcome(due, [0.0] * total, [0.0] * total, [UNSENT] * total)
        last = due[-1] + self.patience
        while True:
            now = time.perf_counter()
            while self.next < total and due[self.next] <= now:
                self.waiting.append(self.next)
                self.next += 1
            self._dispatch()
            over = self.next >= total and not self.waiting and not self._busy()
            if over or now > last:
                break
            soon = due[self.next] if self.next < total else now + 0.02
            self._wait(max(0.0, min(soon - time.perf_counter(), 0.1)))
        self._leave()
        result = self.result
        result.due = [moment - start for moment in due]
        result.sent = [moment - start if moment else 0.0 for moment in result.sent]
        return result

    def _busy(self) -> bool:
        return len(self.idle) < len(self.open)

    def _wait(self, seconds: float) -> None:
        """Wait for answers; epoll's own timeout has milliseconds, select's microseconds."""
        select.select([self.epoll], [], [], seconds)
        for descriptor, event in self.epoll.poll(0):
            connection = self.open.get(descriptor)
            if connection is None:
                continue
            if event & select.EPOLLOUT:
                self._flush(connection)
            if event & ~select.EPOLLOUT and connection.sock.fileno() >= 0:
                self._receive(connection)

    def _connect(self) -> Connection | None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(self.address)
        if code not in (0, *LINGERING):
            sock.close()
            return None
        connection = Connection(sock)
        self.open[sock.fileno()] = connection
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.idle.append(connection)
        return connection

    def _dispatch(self) -> None:
        """Give what waits to idle connections, the longest idle first, so that all are used."""
        while self.waiting:
            if not self.idle and len(self.open) < self.most:
                self._connect()
            if not self.idle:
                if not self.open:
                    self._end(self.waiting.popleft(), REFUSED)
                    continue
                return
            number, connection = self.waiting.popleft(), self.idle.popleft()
            connection.number, connection.unsent = number, self.requests(number)
            self.result.sent[number] = time.perf_counter()
            self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection.unsent:
            try:
                done = connection.sock.send(connection.unsent)
                connection.unsent = connection.unsent[done:]
                connection.wrote = time.perf_counter()
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOTCONN):
                    refused = error.errno == errno.ECONNREFUSED
                    self._drop(connection, REFUSED if refused else CUT)
                    return
        events = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        self.epoll.modify(connection.sock.fileno(), events)

    def _receive(self, connection: Connection) -> None:
        try:
            chunk = connection.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED
            self._drop(connection, REFUSED if refused else CUT)
            return
        if not chunk:
            self._drop(connection, CUT)
            return
        connection.received += chunk
        found = response_end(connection.received)
        if found is None or connection.number < 0:
            return
        length, status, stays = found
        del connection.received[:length]
        number, connection.number = connection.number, -1
        connection.answers += 1
        self._end(number, status)
        if stays:
            self.idle.append(connection)
        else:
            self._drop(connection, CUT)

    def _end(self, number: int, how: str) -> None:
        self.result.took[number] = time.perf_counter() - self.result.due[number]
        self.result.ended[number] = how

    def _drop(self, connection: Connection, how: str) -> None:
        """Close a connection; what it had under way ended like ``how``."""
        descriptor = connection.sock.fileno()
        self.open.pop(descriptor, None)
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.number >= 0:
            self._end(connection.number, how)
            if how == CUT:
                self._note(connection)
            connection.number = -1
        connection.sock.close()

    def _note(self, connection: Connection) -> None:
        """Keep when what happened to a request that was cut off, in seconds of the run."""
        moments = {"opened": connection.opened, "wrote": connection.wrote,
                   "cut": time.perf_counter()}  # fmt: skip
        start = self.result.due[0]
        told = {name: round(moment - start, 4) for name, moment in moments.items()}
        counts = {"answers": connection.answers, "received": len(connection.received),
                  "unsent": len(connection.unsent)}  # fmt: skip
        self.result.cuts.append(told | counts)

    def _leave(self) -> None:
        for connection in list(self.open.values()):
            self._drop(connection, TIMEOUT)
        self.epoll.close()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the sorted values lie; 0 where there is none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def summary(outcome: Outcome, seconds: float) -> dict[str, object]:
    """Return counts by status, success rate, latencies of good answers and the sender's delay.

    ``rps`` are the good answers that came before the sending ended, a second.
    """
    ends = zip(outcome.due, outcome.took, outcome.ended, strict=True)
    good = sorted(t for t, how in zip(outcome.took, outcome.ended, strict=True) if how == "200")
    late = sorted(s - d for s, d in zip(outcome.sent, outcome.due, strict=True) if s)
    return {
        "requests": len(outcome.due),
        "seconds": seconds,
        "ended": dict(Counter(outcome.ended)),
        "success": len(good) / len(outcome.due),
        "rps": sum(how == "200" and due + took <= seconds for due, took, how in ends) / seconds,
        "p50_ms": percentile(good, 0.5) * 1e3,
        "p99_ms": percentile(good, 0.99) * 1e3,
        "late_p50_ms": percentile(late, 0.5) * 1e3,
        "late_p99_ms": percentile(late, 0.99) * 1e3,
        "cuts": outcome.cuts,
    }


def by_second(outcome: Outcome, bad_every: int = 0) -> list[dict[str, object]]:
    """Return for each second of due time the statuses and p50 and p99 of good requests."""
    rows: dict[int, list[int]] = {}
    for number, due in enumerate(outcome.due):
        rows.setdefault(int(due), []).append(number)
    found = []
    for second, numbers in sorted(rows.items()):
        meant = [n for n in numbers if not is_bad(n, bad_every)]
        took = sorted(outcome.took[n] for n in meant if outcome.ended[n] == "200")
        found.append(
            {
                "second": second,
                "ended": dict(Counter(outcome.ended[n] for n in meant)),
                "bad_ended": dict(Counter(outcome.ended[n] for n in numbers if n not in meant)),
                "p50_ms": percentile(took, 0.5) * 1e3,
                "p99_ms": percentile(took, 0.99) * 1e3,
            }
        )
    return found


def is_bad(number: int, bad_every: int) -> bool:
    """Tell whether a request is one of the deliberately bad ones."""
    return bool(bad_every) and number % bad_every == bad_every - 1


BAD = (b"{", b'{"nothing_of_ours": 1}', b'[{"nothing_of_ours": 1}]', b"\xff\xfe", b'"row"')


def main() -> None:
    """Send, and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/score")
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--bad-every", type=int, default=0)
    parser.add_argument("--most", type=int, default=MOST, help="connections")
    parser.add_argument("--seconds-apart", action="store_true")
    given = parser.parse_args()
    bodies = given.bodies.read_bytes().splitlines()
    good = [request("127.0.0.1", given.path, body) for body in bodies]
    bad = [request("127.0.0.1", given.path, body) for body in BAD]

    def of(number: int) -> bytes:
        some = bad if is_bad(number, given.bad_every) else good
        return some[
            number // (given.bad_every or 1) % len(some) if some is bad else number % len(some)
        ]

    sender = OpenLoop(("127.0.0.1", given.port), of, given.rate, most=given.most)
    outcome = sender.run(given.seconds)
    found = summary(outcome, given.seconds)
    if given.seconds_apart:
        found["by_second"] = by_second(outcome, given.bad_every)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
