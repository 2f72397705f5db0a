"""What stands between the server and the Flask app: an RSGI application of granian's.

Bodies are read here, on the event loop, within the limits of the job's type and of time, so a slow
or endless body costs a few kilobytes and never a thread. A plain JSON body for ``POST /score`` goes
straight to the batcher, or is refused with what is wrong in it; everything else goes through Flask
in threads: one lane for GET and HEAD, which never wait for the model, and one for the rest,
bounded, so that a full server says 429.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slipway.batching import CLIENT, Client, Ticket
from slipway.bodies import JSON, row_of, rows_of_json, wrong_json
from slipway.errors import Busy, refusal
from slipway.later import TAKES, Later
from slipway.machine import stay_on
from slipway.telemetry import Request, request_id

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("slipway.gate")

Headers = list[tuple[str, str]]

SMALL = 32 * 1024
"""Bytes of a body that is read in one go and parsed on the event loop."""
BUFFERED = 256 * 2**20
"""Bytes of larger bodies that a worker holds at most while they arrive."""
SWEEP = 0.5
"""Seconds between two looks at who is slow and who has gone."""
READERS = 4
"""Threads for GET and HEAD."""
STREAMS = 64
"""Answers that are streamed at one time; each has a thread of its own."""
QUEUED = 256
"""Requests that wait for a thread of a lane."""


class Exchange(Client):
    """One request and its answer."""

    def __init__(self, scope: Any, proto: Any, task: asyncio.Task[Any]) -> None:
        super().__init__()
        self.scope = scope
        self.proto = proto
        self.task = task
        self.body = b""
        self.reading = True
        self.watcher: asyncio.Task[None] | None = None
        self.finished: asyncio.Future[None] = task.get_loop().create_future()
        self.later: Later | None = None


class Exits:
    """Lets the event loop, in whose thread it is made, forget requests that are answered.

    Those of a batch come together, and each call from another thread wakes the loop: one does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.answered: deque[Exchange] = deque()
        self.called = False

    def soon(self, callback: Callable[[], None]) -> None:
        """Run a callback on the loop; called from any thread, and the loop's own need not wake."""
        own = threading.get_ident() == self.thread
        (self.loop.call_soon if own else self.loop.call_soon_threadsafe)(callback)

    def put(self, exchange: Exchange) -> None:
        """Tell, from any thread, that nothing more is sent."""
        self.answered.append(exchange)
        if not self.called:
            self.called = True
            self.soon(self._forget)

    def _forget(self) -> None:
        self.called = False  # first: what is put from here on calls again
        while self.answered:
            finished = self.answered.popleft().finished
            if not finished.done():
                finished.set_result(None)


class Lane:
    """Threads that answer requests through Flask, and the requests that wait for them.

    A request that is answered later needs no thread until then, and counts as one that waits.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        work: Callable[[Exchange], None],
        failed: Callable[[Exchange, Exception], None],
        answer: Callable[[Exchange, int, dict[str, str], bytes], None],
    ) -> None:
        self.work, self.failed, self.answer = work, failed, answer
        self.free = threading.Semaphore(threads + QUEUED)
        self.queue: SimpleQueue[Exchange] = SimpleQueue()
        for number in range(threads):
            thread = threading.Thread(target=self._serve, daemon=True, name=f"{name}-{number}")
            thread.start()

    def put(self, exchange: Exchange) -> None:
        """Queue a request. Raises Busy when too many wait."""
        if not self.free.acquire(blocking=False):
            raise Busy("too many requests wait already; send this one again in a second")
        self.queue.put(exchange)

    def _serve(self) -> None:
        while True:
            exchange = self.queue.get()
            try:
                self.work(exchange)
            except Exception as error:
                exchange.later = None
                self.failed(exchange, error)
            if exchange.later:
                exchange.later.then(partial(self._send, exchange))
            else:
                self.free.release()

    def _send(self, exchange: Exchange, *answer: Any) -> None:
        self.free.release()
        try:
            self.answer(exchange, *answer)
        finally:
            exchange.later = None  # they know each other, and neither is to wait for the collector


class Gate:
    """The RSGI application of a scorer's Flask app.

    ``core`` is where its event loop stays, and the server's own threads that serve it.
    """

    def __init__(self, app: Flask, threads: int, core: int | None = None) -> None:
        self.app = app
        self.core = core
        self.service = app.extensions["slipway"]
        self.timeout = self.service.limits.timeout
        self.largest = int(app.config["MAX_CONTENT_LENGTH"])
        self.threads = threads
        self.routes: set[str] = {rule.rule for rule in app.url_map.iter_rules()}
        self.open: set[Exchange] = set()
        self.buffered = 0
        self.streams = threading.Semaphore(STREAMS)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the lanes; granian calls this in the worker."""
        self.exits = Exits(loop)
        self.service.batcher.soon = lambda turn: self.exits.soon(partial(_outside, turn))
        ways = self._through_flask, self._failed, self._answer_json
        self.reading, self.writing = Lane("get", READERS, *ways), Lane("post", self.threads, *ways)
        self.sweeper = loop.create_task(self._sweep())
        self.service.batcher.begin()
        if self.core is not None:  # last: a thread begins where the one is that starts it
            stay_on(self.core)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send the last spans."""
        self.service.batcher.soon = None
        self.sweeper.cancel()
        self.service.telemetry.close()

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task
        exchange = Exchange(scope, proto, task)
        self.open.add(exchange)
        try:
            exchange.body = await self._body(exchange)
            exchange.reading = False
            if not (self._is_plain(scope) and self._straight(exchange)):
                lane = self.reading if scope.method in ("GET", "HEAD") else self.writing
                lane.put(exchange)
            await exchange.finished
        except Refused as refused:
            await self._refuse(exchange, refused.status, str(refused), refused.discard)
        except Busy as error:
            await self._refuse(exchange, 429, str(error))
        finally:
            self.open.discard(exchange)
            if exchange.watcher:
                exchange.watcher.cancel()

    async def _body(self, exchange: Exchange) -> bytes:
        headers = exchange.scope.headers
        told = headers.get("content-length")
        if told is None and "transfer-encoding" not in headers:
            return b""
        length = int(told) if told and told.isdecimal() else None
        if length is not None and length > self.largest:
            raise Refused(413, self._too_large(), discard=True)
        try:
            if length is not None and length <= SMALL:
                return bytes(await exchange.proto())
            return await self._large_body(exchange, length)
        except asyncio.CancelledError:
            raise Refused(408, f"the body did not arrive within {self.timeout:g} s") from None
        except RuntimeError:  # the client went away in the middle of it
            raise Refused(400, "the body ended early") from None

    async def _large_body(self, exchange: Exchange, length: int | None) -> bytes:
        """Read a body piece by piece, within the limit of one and of all."""
        parts: list[bytes] = []
        held = 0
        try:
            async for part in exchange.proto:
                if not part:
                    break
                parts.append(part)
                held += len(part)
                self.buffered += len(part)
                if held > self.largest:
                    raise Refused(413, self._too_large(), discard=True)
                if self.buffered > BUFFERED:
                    raise Refused(503, "too many large bodies at one time; send this one later")
            if length is not None and held < length:
                raise Refused(400, "the body ended early")
            return b"".join(parts)
        finally:
            self.buffered -= held

    def _too_large(self) -> str:
        return f"the body is too large; wanted at most {self.largest} bytes"

    async def _refuse(
        self, exchange: Exchange, status: int, message: str, discard: bool = False
    ) -> None:
        """Answer without having read the body, and end the connection after it."""
        headers = [("Content-Type", JSON), ("X-Request-Id", self._told(exchange, status))]
        if status != 429:
            headers.append(("Connection", "close"))
        if status in (429, 503):
            headers.append(("Retry-After", "1"))
        exchange.proto.response_bytes(status, headers, json.dumps({"error": message}).encode())
        if discard:
            await self._discard(exchange)

    async def _discard(self, exchange: Exchange) -> None:
        """Read on for a while: a client that is still sending would lose the answer."""
        try:
            async with asyncio.timeout(self.timeout):
                async for part in exchange.proto:
                    if not part:
                        break
        except (TimeoutError, RuntimeError):
            pass

    def _told(self, exchange: Exchange, status: int) -> str:
        """Count an answer that Flask does not know of, and return its request id."""
        headers = exchange.scope.headers
        given = headers.get("x-request-id")
        path = exchange.scope.path
        known = path if path in self.routes else "unknown"
        route = exchange.later.route if exchange.later else known
        request = Request(
            request_id(given), exchange.scope.method, route, status, exchange.began,
            headers.get("traceparent"), exchange.tickets,
        )  # fmt: skip
        self.service.telemetry.answered(request)
        return request.id

    def _is_plain(self, scope: Any) -> bool:
        """Tell whether a request is one row or a list of rows to score, and nothing else."""
        if scope.method != "POST" or scope.path != "/score" or self.service.state != "ready":
            return False
        headers = scope.headers
        return (
            headers.get("content-type") == JSON
            and headers.get("accept") in (None, "*/*", JSON)
            and "prefer" not in headers
            and "content-encoding" not in headers
        )

    def _straight(self, exchange: Exchange) -> bool:
        """Queue the rows of a small body, or tell what is wrong with it, as Flask would."""
        body = exchange.body
        if len(body) > SMALL:
            return False
        try:
            asked = rows_of_json(body, row_of(self.service.job.row))
        except ValidationError as error:
            wrong = wrong_json(error)
            self._answer_json(exchange, wrong.code, {}, wrong.told().encode())
            return True
        if not asked.rows:
            return False
        self.service.batcher.submit(
            asked.rows, partial(self._scored, exchange, asked.many), exchange
        )
        return True

    def _scored(self, exchange: Exchange, many: bool, ticket: Ticket) -> None:
        """Answer with what the batcher found; called in the thread that scored."""
        if ticket.error:
            self._failed(exchange, ticket.error)
            return
        parts = [answer.__pydantic_serializer__.to_json(answer) for answer in ticket.answers]
        body = b"[" + b",".join(parts) + b"]" if many else parts[0]
        self._answer_json(exchange, 200, {}, body)

    def _failed(self, exchange: Exchange, error: Exception) -> None:
        """Answer with what a request raised; what no one foresaw is told by the log alone."""
        try:
            self._answer_json(exchange, *refusal(error))
        except Exception:
            log.exception("a request was not answered")

    def _answer_json(
        self, exchange: Exchange, status: int, more: dict[str, str], body: bytes
    ) -> None:
        """Send an answer that Flask does not know of."""
        headers = [("Content-Type", JSON), *more.items()]
        if self.service.draining():
            headers.append(("Connection", "close"))
        headers.append(("X-Request-Id", self._told(exchange, status)))
        self._answer(exchange, status, headers, body)

    def _answer(self, exchange: Exchange, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer, from any thread."""
        try:
            exchange.proto.response_bytes(status, headers, body)
        finally:
            self.exits.put(exchange)

    def _through_flask(self, exchange: Exchange) -> None:
        """Answer a request by the Flask app; called in a thread of a lane."""
        if exchange.gone:
            self.exits.put(exchange)
            return
        token = CLIENT.set(exchange)
        started: list[Any] = []

        def start_response(status: str, headers: Headers, exc_info: Any = None) -> None:
            started[:] = int(status.split(" ", 1)[0]), headers

        try:
            found = self.app(environ(exchange), start_response)  # type: ignore[arg-type]
        finally:
            CLIENT.reset(token)
        if exchange.later:
            _close(found)
            return
        status, headers = started
        if any(name.lower() == "content-length" for name, _ in headers):
            self._answer(exchange, status, headers, b"".join(found))
            _close(found)
        elif self.streams.acquire(blocking=False):
            arguments = (exchange, status, headers, found)
            threading.Thread(target=self._stream, args=arguments, daemon=True).start()
        else:
            _close(found)
            self._answer(exchange, 503, [("Retry-After", "5")], b"")

    def _stream(
        self, exchange: Exchange, status: int, headers: Headers, found: Iterable[bytes]
    ) -> None:
        """Send an answer as it is made, until the client goes away."""
        try:
            transport = exchange.proto.response_stream(status, headers)
            for part in found:
                if exchange.gone:
                    break
                transport.send_bytes(part)
        except Exception:
            log.exception("an answer was cut short")
        finally:
            _close(found)
            self.streams.release()
            self.exits.put(exchange)

    async def _sweep(self) -> None:
        """Look now and then for bodies that do not arrive, and for clients that went away."""
        while True:
            await asyncio.sleep(SWEEP)
            now = time.perf_counter()
            for exchange in list(self.open):
                age = now - exchange.began
                if exchange.reading and age > self.timeout:
                    exchange.task.cancel()
                elif (later := exchange.later) and age > later.within:
                    later.late()
                elif not exchange.reading and not exchange.watcher and age > SWEEP:
                    exchange.watcher = asyncio.create_task(_watch(exchange))


class Refused(Exception):
    """A request that is answered before Flask sees it."""

    def __init__(self, status: int, message: str, discard: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.discard = discard


def _outside(turn: Callable[[], None]) -> None:
    """Run a job's code on the loop as if it were not: it may start one (`asyncio.run`)."""
    loop = asyncio.get_running_loop()
    _set_running_loop(None)
    try:
        turn()
    finally:
        _set_running_loop(loop)


async def _watch(exchange: Exchange) -> None:
    await exchange.proto.client_disconnect()
    exchange.gone = True


def _close(found: Any) -> None:
    if hasattr(found, "close"):
        found.close()


def environ(exchange: Exchange) -> dict[str, Any]:
    """Return the WSGI environment of a request whose body has been read."""
    scope = exchange.scope
    server, port = scope.server.rsplit(":", 1)
    found: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": scope.client.rsplit(":", 1)[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": BytesIO(exchange.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        TAKES: partial(setattr, exchange, "later"),
    }
    for name in scope.headers.keys():  # noqa: SIM118 - granian's headers are no mapping
        key = name.upper().replace("-", "_")
        text = ",".join(scope.headers.get_all(name))
        found[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = text
    found.pop("HTTP_TRANSFER_ENCODING", None)  # the body is whole by now
    found["CONTENT_LENGTH"] = str(len(exchange.body))
    return found
