"""Long work over HTTP: ``Prefer: respond-async``, and what became of it below ``/runs``.

A request that asks for it is kept on disk and answered 202; whichever worker is free replays it
later through the same app. So this knows no body format and no route.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request

from slipway import webhooks
from slipway.errors import Busy, InputInvalid, SlipwayError
from slipway.executor import REPLAYED, TOLD_BYTES, Executor, kept
from slipway.ledger import OVER, Full, Ledger, LongWork, Run, Unwritable

if TYPE_CHECKING:
    from slipway.scorer import Service

STREAMS = 8
"""Event streams of a worker that may wait for more; one beyond them tells what there is."""
STREAM_SECONDS = 25.0
HEARTBEAT_SECONDS = 10.0
LOOK_SECONDS = 0.2
NEVER = threading.Event()  # waiting on it is how a stream pauses
LONGEST_KEY = 255


def add_routes(
    app: Flask, service: Service, folder: Path, settings: LongWork | None = None
) -> Executor:
    """Let an app keep runs below ``folder``; the caller starts the executor, or drives it."""
    settings = settings or LongWork()
    ledger = Ledger(folder, settings)
    executor = Executor(app, service, ledger)
    executor.steps.append(webhooks.Deliverer(ledger).once)
    app.extensions["slipway-runs"] = executor
    routes = Routes(executor, ledger)
    app.before_request(routes.take)
    app.add_url_rule("/runs", "runs", routes.listing)
    app.add_url_rule("/runs/<name>", "run", routes.show)
    app.add_url_rule("/runs/<name>", "cancel_run", routes.cancel, methods=["DELETE"])
    app.add_url_rule("/runs/<name>/result", "run_result", routes.result)
    app.add_url_rule("/runs/<name>/events", "run_events", routes.events)
    if settings.control_token:
        from slipway import control

        control.add_routes(app, service, executor, routes)
    return executor


def asks_async(prefer: str) -> bool:
    """Tell whether a Prefer header names ``respond-async``."""
    return any(
        part.partition(";")[0].strip().lower() == "respond-async" for part in prefer.split(",")
    )


class Routes:
    """The handlers, over one ledger."""

    def __init__(self, executor: Executor, ledger: Ledger) -> None:
        self.executor = executor
        self.service = executor.service
        self.ledger = ledger
        self.direct: set[str] = set()
        """Endpoints that never wait in the queue, or make their runs themselves."""
        self.streams = threading.Semaphore(STREAMS)

    def take(self) -> Response | None:
        """Keep a request for later if it asks for that and is one that scores."""
        if request.method != "POST" or REPLAYED in request.environ or not request.url_rule:
            return None
        if request.endpoint in self.direct or not asks_async(request.headers.get("Prefer", "")):
            return None
        if (request.content_length or 0) > (request.max_content_length or float("inf")):
            return None  # told as it is without Prefer
        return self.accept("request", {"environ": kept(request.environ)}, request.stream)

    def accept(self, kind: str, asked: dict[str, Any], body: IO[bytes]) -> Response:
        """Keep a run and answer 202; 200 where an idempotency key names one that is over."""
        try:
            key = _key(request.headers.get("Idempotency-Key", ""))
            query = request.environ.get("QUERY_STRING", "")
            whole = asked | {
                "kind": kind,
                "method": request.method,
                "path": request.path,
                "same": [request.method, request.path, query, request.content_type],
                "length": request.content_length,
                "webhook": webhooks.asked(request.headers, self.ledger.settings),
            }
            run, _ = self.ledger.create(whole, body, key)
        except (Busy, Full, Unwritable, InputInvalid) as error:
            return refused(error)
        self.executor.ring()
        answer = jsonify(self.view(run))
        answer.status_code = 200 if run.over else 202
        answer.headers["Location"] = f"/runs/{run.id}"
        if asks_async(request.headers.get("Prefer", "")):
            answer.headers["Preference-Applied"] = "respond-async"
        return answer

    def view(self, run: Run, inline: bool = False) -> dict[str, Any]:
        """Return what is told of a run; ``inline`` with its answer where that is small."""
        asked, state = run.request(), run.state()
        over = state["state"] in OVER
        found = {
            "id": run.id,
            "state": state["state"],
            "attempt": state["attempt"],
            "method": asked.get("method"),
            "path": asked.get("path"),
            "created": asked.get("created"),
            "started": state.get("started"),
            "finished": state.get("finished"),
            "progress": state.get("progress"),
            "status": state.get("status"),
            "error": state.get("error"),
            "model": state.get("model"),
            "events": f"/runs/{run.id}/events",
            "result": f"/runs/{run.id}/result" if over and state["state"] != "cancelled" else None,
        }
        if not over and run.unwanted:
            found["cancelling"] = True
        if state["state"] == "queued" and asked.get("kind") == "request":
            found["waiting"] = _waiting(self.service.state)
        if asked.get("webhook"):
            found["webhook"] = webhooks.told(run)
        if inline and found["result"]:
            found["answer"] = _small_answer(run, state)
        return found

    def listing(self) -> Response:
        """Answer ``GET /runs``: the newest first, 20 or ``limit``; ``before`` pages on."""
        text = request.args.get("limit", "20")
        before = request.args.get("before", "")
        if not re.fullmatch(r"[1-9]\d?|100", text) or not re.fullmatch(r"[0-9a-f]{0,24}", before):
            return refused(InputInvalid("limit: wanted 1 to 100; before: wanted the id of a run"))
        return jsonify(runs=[self.view(run) for run in self.ledger.latest(int(text), before)])

    def show(self, name: str) -> Response:
        """Answer ``GET /runs/<id>``."""
        run = self.ledger.run(name)
        return jsonify(self.view(run, inline=True)) if run else _absent(name)

    def result(self, name: str) -> Response:
        """Answer ``GET /runs/<id>/result`` as the request would have been; 202 while it runs."""
        run = self.ledger.run(name)
        if not run:
            return _absent(name)
        state = run.state()
        if state["state"] not in OVER:
            answer = jsonify(self.view(run))
            answer.status_code = 202
            answer.headers["Retry-After"] = "1"
            return answer
        if "headers" not in state:
            code = 410 if state["state"] == "cancelled" else 500
            return _told(code, str(state.get("error") or "there is no answer"))
        try:
            file = (run.folder / "result").open("rb")
        except OSError as error:
            return _told(500, f"the answer is lost ({error.strerror})")
        return Response(_pieces(file), _status(state), [tuple(pair) for pair in state["headers"]])

    def cancel(self, name: str) -> Response:
        """Answer ``DELETE /runs/<id>``: 200 cancelled, 202 asked to stop, 409 over already."""
        run = self.ledger.run(name)
        if not run:
            return _absent(name)
        try:
            run.cancel()
            with run.claimed() as claim:
                if claim is not None and not run.over:
                    self.ledger.finish(run, "cancelled", error="cancelled before it ran")
        except OSError as error:
            return _told(507, f"the run cannot be cancelled ({error.strerror})")
        answer = jsonify(self.view(run))
        answer.status_code = {"cancelled": 200, "succeeded": 409, "failed": 409}.get(
            run.state()["state"], 202
        )
        self.executor.ring()
        return answer

    def events(self, name: str) -> Response:
        """Answer ``GET /runs/<id>/events`` as server-sent events, after ``Last-Event-ID``."""
        run = self.ledger.run(name)
        if not run:
            return _absent(name)
        text = request.headers.get("Last-Event-ID") or request.args.get("after", "")
        after = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
        if after and run.over and not any(run.events(after)):
            return Response(status=204)  # what a browser takes as: do not come again
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Response(self._stream(run, after), 200, headers, "text/event-stream")

    def _stream(self, run: Run, after: int) -> Iterator[str]:
        """Yield events as they come, for a while: a client comes again and goes on from its last.

        So no number of readers can keep all threads from scoring.
        """
        waits = self.streams.acquire(blocking=False)
        began = spoke = time.monotonic()
        try:
            yield "retry: 1000\n\n"
            while True:
                for place, event in run.events(after):
                    after, spoke = place, time.monotonic()
                    yield f"id: {place}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n"
                    if event["type"] == "completed":
                        return
                if not waits or self.service.draining():
                    return
                if time.monotonic() - began > STREAM_SECONDS:
                    return
                if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                    spoke = time.monotonic()
                    yield ":\n\n"
                NEVER.wait(LOOK_SECONDS)
        finally:
            if waits:
                self.streams.release()


def refused(error: SlipwayError) -> Response:
    """Answer an error that keeps a run from being made."""
    code = {Busy: 429, Full: 507, Unwritable: 501}.get(type(error), 422)
    answer = _told(code, str(error))
    if code == 429:
        answer.headers["Retry-After"] = "5"
    return answer


def _told(code: int, message: str) -> Response:
    answer = jsonify(error=message)
    answer.status_code = code
    return answer


def _absent(name: str) -> Response:
    return _told(404, f"no run {name[:40]}")


def _key(text: str) -> str:
    if len(text) > LONGEST_KEY:
        told = f"Idempotency-Key: found {len(text)} characters; wanted at most {LONGEST_KEY}"
        raise InputInvalid(told)
    return text


def _waiting(state: str) -> str:
    return "for its turn" if state == "ready" else f"the model is not ready: {state}"


def _status(state: dict[str, Any]) -> int:
    status = state.get("status")
    return status if type(status) is int else 200


def _small_answer(run: Run, state: dict[str, Any]) -> Any:
    """Return an answer of JSON that is short enough to be told along, else None."""
    kinds = [str(text) for name, text in state.get("headers", []) if name.lower() == "content-type"]
    file = run.folder / "result"
    if not kinds or not kinds[0].startswith("application/json"):
        return None
    try:
        return json.loads(file.read_bytes()) if file.stat().st_size <= TOLD_BYTES else None
    except (OSError, ValueError):
        return None


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(1 << 16):
            yield piece
