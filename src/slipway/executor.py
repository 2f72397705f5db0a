"""Execute runs: any worker may, and exactly one does.

A request is replayed through the same Flask app that would have answered it at once, so bodies,
adapters and batching are what they are there. It is safe to replay one: scoring changes nothing.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.wrappers import Response

from slipway.data import written
from slipway.ledger import OVER, Ledger, Run, locked, now, parsed

if TYPE_CHECKING:
    from slipway.scorer import Service

log = logging.getLogger("slipway.runs")

REPLAYED = "slipway.run"
"""The key of a replayed request's environment that holds the run's id."""
POLL = 0.5
TIDY_SECONDS = 60.0
ATTEMPTS = 5
"""Executions that may end with the process, before the run itself is taken for the reason."""
AGAIN = (429, 503)
AGAIN_SECONDS = 1.0
AGAIN_AT_MOST = 300
TROUBLE_SECONDS = 15.0
TOLD_BYTES = 64 * 1024
"""An answer of JSON up to this size is part of the run's description."""
KEPT = (
    "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "SERVER_NAME",
    "SERVER_PORT", "SERVER_PROTOCOL", "wsgi.url_scheme", "REMOTE_ADDR",
)  # fmt: skip
DROPPED = (
    "PREFER", "IDEMPOTENCY_KEY", "SLIPWAY_WEBHOOK", "SLIPWAY_WEBHOOK_EVENTS", "AUTHORIZATION",
    "PROXY_AUTHORIZATION", "COOKIE", "CONNECTION", "TRANSFER_ENCODING", "CONTENT_LENGTH", "EXPECT",
)  # fmt: skip
HOP = ("connection", "content-length", "date", "server", "transfer-encoding", "keep-alive")


class NotNow(Exception):
    """A run that was begun and goes back into the queue."""


def kept(environ: dict[str, Any]) -> dict[str, str]:
    """Return what of a request's environment to keep; credentials never reach the disk."""
    dropped = {f"HTTP_{name}" for name in DROPPED}
    headers = {name for name in environ if name.startswith("HTTP_")} - dropped
    return {name: str(environ[name]) for name in (*KEPT, *headers) if name in environ}


@dataclass
class Executor:
    """Takes runs from the ledger and brings them to an end."""

    app: Flask
    service: Service
    ledger: Ledger
    verb: Callable[[Run, int], None] | None = None
    """Does the run of a job's verb whose claim is held; see `slipway.control`."""
    steps: list[Callable[[], bool]] = field(default_factory=list)
    later: dict[str, float] = field(default_factory=dict)
    deferred: dict[str, int] = field(default_factory=dict)
    bells: list[threading.Event] = field(default_factory=list)
    tidied: float = 0.0

    def start(self) -> None:
        """Work in the background, in this process, until it ends."""
        steps = [self.request_once, *([self.verb_once] if self.verb else []), *self.steps]
        for step in (*steps, self.tidy_once):
            bell = threading.Event()
            self.bells.append(bell)
            threading.Thread(target=self._loop, args=(step, bell), daemon=True).start()

    def ring(self) -> None:
        """Tell the threads of this process that there is work; other processes look by and by."""
        for bell in self.bells:
            bell.set()

    def _loop(self, step: Callable[[], bool], bell: threading.Event) -> None:
        while True:
            try:
                busy = not self.service.draining() and step()
            except Exception:
                log.exception("runs: %s failed", getattr(step, "__name__", step))
                busy = False
            if not busy:
                bell.wait(POLL)
                bell.clear()

    def tidy_once(self) -> bool:
        """Remove old runs now and then."""
        if time.monotonic() - self.tidied > TIDY_SECONDS or not self.tidied:
            self.tidied = time.monotonic()
            self.ledger.tidy()
        return False

    def request_once(self) -> bool:
        """Execute the oldest request that waits; tell whether there was one."""
        if self.service.state != "ready":
            return False
        for run in self.ledger.queued("request"):
            if self.later.get(run.id, 0.0) <= time.monotonic():
                with run.claimed() as claim:
                    if claim is not None:
                        return self._guarded(run, partial(self.replay, run))
        return False

    def verb_once(self) -> bool:
        """Execute the oldest verb that waits: one at a time, in the order in which they came."""
        waiting = self.ledger.queued("verb")
        if not waiting or not self.verb:
            return False
        with locked(self.ledger.folder / ".verb", wait=False) as turn:
            for run in self.ledger.queued("verb") if turn is not None else []:
                with run.claimed() as claim:
                    if claim is None or self.later.get(run.id, 0.0) > time.monotonic():
                        return False  # it is under way; what follows it waits
                    return self._guarded(run, partial(self.verb, run, claim))
        return False

    def _guarded(self, run: Run, action: Callable[[], None]) -> bool:
        """Execute a claimed run; whatever is wrong with one keeps no other from its turn."""
        try:
            if self._begin(run):
                action()
        except NotNow:
            self._put_back(run, AGAIN_SECONDS)
            return False
        except OSError as error:
            log.error("run %s is tried again: %s", run.id, error)
            self._put_back(run, TROUBLE_SECONDS)
        except Exception as error:
            log.exception("run %s failed", run.id)
            told = f"our fault: {type(error).__name__}; the scorer's log has the reason"
            self._fail(run, told)
        return True

    def _begin(self, run: Run) -> bool:
        """Note a new attempt; False when the run is over."""
        state = run.state()
        if state["state"] in OVER:
            self.ledger.settle(run)
        elif run.unwanted:
            self.ledger.finish(run, "cancelled", error="cancelled before it ran again")
        elif not run.request():
            self._fail(run, "the stored request is damaged")
        elif state["attempt"] >= ATTEMPTS:
            self._fail(run, f"the scorer ended {ATTEMPTS} times while this ran")
        else:
            attempt = state["attempt"] + 1
            run.change(state="running", attempt=attempt, started=now())
            if run.id not in self.deferred:
                run.append("start", attempt=attempt)
            return True
        return False

    def _fail(self, run: Run, told: str) -> None:
        try:
            self.ledger.finish(run, "failed", error=told)
        except OSError as error:
            log.error("run %s: %s", run.id, error)
            self._put_back(run, TROUBLE_SECONDS)

    def _put_back(self, run: Run, seconds: float) -> None:
        self.later[run.id] = time.monotonic() + seconds
        state = run.state()
        try:
            if state["state"] == "running":
                run.change(state="queued", attempt=state["attempt"] - 1)
        except OSError as error:
            log.error("run %s: %s", run.id, error)

    def replay(self, run: Run) -> None:
        """Answer a stored request and keep the answer."""
        body = run.folder / "body"
        with body.open("rb") as file:
            environ = self._environ(run, file, body.stat().st_size)
            answer = Response.from_app(self.app.wsgi_app, environ)
            try:
                if answer.status_code in AGAIN and self._defer(run):
                    raise NotNow
                content = self._keep(run, answer)
            finally:
                answer.close()
        self._conclude(run, answer, content)

    def _conclude(self, run: Run, answer: Response, content: bytes) -> None:
        self.deferred.pop(run.id, None)
        status = answer.status_code
        headers = [pair for pair in answer.headers.items() if pair[0].lower() not in HOP]
        if run.unwanted:
            (run.folder / "result").unlink(missing_ok=True)
            self.ledger.finish(run, "cancelled", error="cancelled; the answer was not kept")
            return
        error = None if status < 400 else str(parsed(content).get("error") or f"HTTP {status}")
        state = "succeeded" if status < 400 else "failed"
        told = {"status": status, "headers": headers, "error": error}
        self.ledger.finish(run, state, model=self.service.model_id, **told)

    def _defer(self, run: Run) -> bool:
        """Tell whether to try again: a full scorer is a reason to wait, though not for ever."""
        self.deferred[run.id] = self.deferred.get(run.id, 0) + 1
        return self.deferred[run.id] <= AGAIN_AT_MOST

    def _environ(self, run: Run, body: io.BufferedReader, size: int) -> dict[str, Any]:
        asked = {str(k): str(v) for k, v in (run.request().get("environ") or {}).items()}
        return asked | {
            "CONTENT_LENGTH": str(size),
            "wsgi.input": body,
            "wsgi.errors": sys.stderr,
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            REPLAYED: run.id,
        }

    def _keep(self, run: Run, answer: Response) -> bytes:
        """Write an answer as it comes and return its beginning."""
        head = b""
        with written(run.folder / "result") as part, part.open("wb") as file:
            for piece in answer.iter_encoded():
                file.write(piece)
                head += piece[: TOLD_BYTES - len(head)]
            file.flush()
            os.fsync(file.fileno())
        return head
