"""Score chunks in several processes and get the results in order.

Each process reads the model itself, and sees one core while it does, so that libraries start one
thread instead of one for each core. Bytes and JSON go through the pipes, never objects. At most
a few chunks are under way, whatever the input's size.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from slipway import errors
from slipway.scoring.readers import Chunk

AHEAD = 3


@dataclass
class Result:
    """What became of a chunk: encoded answers, lines for the errors file, counts."""

    answers: bytes
    errors: bytes
    good: int
    bad: int
    first: str = ""
    done: int = 0


Work = Callable[[Chunk], Result]


@contextmanager
def one_core(number: int) -> Iterator[None]:
    """Let libraries that are loaded here see one core, and size their threads by it."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
        yield
    finally:
        os.sched_setaffinity(0, before)


class Pool:
    """Processes that each made their work by ``start``."""

    def __init__(self, start: Callable[[], Work], workers: int) -> None:
        context = get_context("fork")
        self.lines: list[Connection] = []
        self.processes = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            self.lines.append(ours)
            process = context.Process(
                target=_work, args=(start, theirs, list(self.lines)), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)

    def results(self, chunks: Iterator[Chunk], eager: bool = True) -> Iterator[Result]:
        """Yield the result of each chunk, in order; raise what went wrong in a process.

        Not ``eager``, no chunk is read before the last one is done: a stream may take its time.
        """
        order = _Order(chunks, AHEAD * len(self.lines), eager)
        threads = [
            threading.Thread(target=_attend, args=(line, order), daemon=True) for line in self.lines
        ]
        for thread in threads:
            thread.start()
        try:
            yield from order.results(len(threads))
        finally:
            order.stop()

    def close(self) -> None:
        """End the processes at once; they hold nothing that would be lost."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


class _Order:
    """Hands out chunks by number, and takes results in any order."""

    def __init__(self, chunks: Iterator[Chunk], ahead: int, eager: bool) -> None:
        self.chunks, self.ahead, self.eager = chunks, ahead, eager
        self.reading = threading.Lock()
        self.changed = threading.Condition()
        self.given = self.yielded = self.ended = 0
        self.found: dict[int, Result] = {}
        self.failure: BaseException | None = None
        self.stopped = False

    def next(self, wait: bool = True) -> tuple[int, Chunk] | None:
        """Return the next chunk, or None at the end and, not to ``wait``, when many are under way.

        Who holds a result must not wait here: it may be the one that all others wait for.
        """
        with self.changed:
            while self.given - self.yielded >= self.ahead and not self.stopped:
                if not wait:
                    return None
                self.changed.wait()
        with self.reading:
            chunk = None if self.stopped else next(self.chunks, None)
            if chunk is None:
                return None
            self.given += 1
            return self.given - 1, chunk

    def put(self, number: int, result: Result) -> None:
        with self.changed:
            self.found[number] = result
            self.changed.notify_all()

    def end(self, failure: BaseException | None) -> None:
        with self.changed:
            self.ended += 1
            self.failure = self.failure or failure
            self.changed.notify_all()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def results(self, makers: int) -> Iterator[Result]:
        while True:
            with self.changed:
                while self.yielded not in self.found and not self.failure and self.ended < makers:
                    self.changed.wait()
                if self.failure:
                    raise self.failure
                if self.yielded not in self.found:
                    return
                result = self.found.pop(self.yielded)
                self.yielded += 1
                self.changed.notify_all()
            yield result


def _attend(line: Connection, order: _Order) -> None:
    """Keep one process busy: the next chunk is read while it scores the last one."""
    try:
        task = order.next()
        while task:
            number, chunk = task
            _send(line, asdict(chunk) | {"content": None}, chunk.content)
            ahead = order.next(wait=False) if order.eager else None
            order.put(number, _received(line))
            task = ahead or order.next()
    except (EOFError, OSError) as error:
        lost = "a scoring process was killed; perhaps memory was short (fewer --workers need less)"
        told = errors.Retryable(lost) if isinstance(error, EOFError | ConnectionError) else error
        order.end(told)
    except BaseException as error:
        order.end(error)
    else:
        order.end(None)


def _send(line: Connection, header: dict[str, Any], *contents: bytes) -> None:
    line.send_bytes(json.dumps(header).encode())
    for content in contents:
        line.send_bytes(content)


def _received(line: Connection) -> Result:
    header = json.loads(line.recv_bytes())
    if "failure" in header:
        kind = getattr(errors, header["failure"], None)
        raise kind(header["told"]) if kind else RuntimeError(header["trace"])
    return Result(**header | {"answers": line.recv_bytes(), "errors": line.recv_bytes()})


def _work(start: Callable[[], Work], line: Connection, others: list[Connection]) -> None:
    """The life of a process: it ends with its parent, whose end of the pipe is then closed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    with suppress(EOFError, OSError):
        try:
            with one_core(len(others)):
                score = start()
            while True:
                header = json.loads(line.recv_bytes())
                result = score(Chunk(**header | {"content": line.recv_bytes()}))
                shown = {"good": result.good, "bad": result.bad, "first": result.first}
                header = shown | {"done": result.done}
                _send(line, header, result.answers, result.errors)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            told = {"failure": type(error).__name__, "told": str(error)}
            _send(line, told | {"trace": traceback.format_exc()})
