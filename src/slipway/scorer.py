"""The scorer: a job's score function over HTTP, one of the two edges.

``/livez`` says that the process lives, ``/readyz`` 503 until the model has scored its first row;
`slipway.waiting` answers while it loads, `slipway.gate` stands in front. A body is checked against
the job's `Input` type; what is wrong is told field by field.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, g, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from slipway import bodies, platforms, runs, store, telemetry
from slipway.batching import CLIENT, Batcher, Limits, Ticket
from slipway.errors import InputInvalid, NotReady, SlipwayError, refusal
from slipway.later import TAKES, Later
from slipway.ledger import LongWork
from slipway.openapi import openapi, own_paths
from slipway.report import PAGES, headline
from slipway.run import built, read_json
from slipway.types import example

if TYPE_CHECKING:
    from slipway.job import Job

log = logging.getLogger("slipway.scorer")

OWN = "own"
"""The blueprint of a job's own routes."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory with its id, or the reason why there is none."""

    model: Any = None
    model_id: str = ""
    seconds: float = 0.0
    reason: str = ""


def load(job: Job, folder: Path, form: str) -> Loaded:
    """Load a model; what goes wrong is logged and told by ``/readyz``."""
    started = time.perf_counter()
    try:
        model_id = store.identity(folder)
        model = job.load(folder, form)
    except Exception as error:
        return Loaded(reason=_not_loaded(error))
    return Loaded(model, model_id, time.perf_counter() - started)


def _not_loaded(error: Exception) -> str:
    unforeseen = not isinstance(error, SlipwayError)
    log.error("model not loaded: %s", error, exc_info=unforeseen)
    return str(error) or type(error).__name__


@dataclass
class Service:
    """One job's model in memory, with its state and its measurements."""

    job: Job
    out: Path
    score_log: str | None = None
    form: str = "auto"
    model: Any = None
    model_id: str = ""
    state: str = "loading"
    draining: Callable[[], bool] = lambda: False
    settled: Callable[[], bool] = lambda: True
    """Whether every worker has its model and the port: only then is the server ready."""
    limits: Limits = field(default_factory=Limits)
    access_log: bool = False

    def __post_init__(self) -> None:
        self.telemetry = telemetry.Telemetry(self.job.answer, self.job.spec.name, self.access_log)
        self.metrics = self.telemetry.metrics
        self.batcher = Batcher(
            lambda rows: self.job.answers(self.model, rows), self.limits, self._watch
        )
        self.metrics.queue.set_function(lambda: self.batcher.waiting)

    @property
    def ready(self) -> bool:
        """Whether a balancer may send requests."""
        return self.state == "ready" and self.settled() and not self.draining()

    @property
    def reason(self) -> str:
        """Why not."""
        if self.draining():
            return "draining"
        return self.state if self.settled() else "loading"

    def warm(self, loaded: Loaded | None = None) -> None:
        """Load the model and score one example; afterwards `state` is ready or the reason."""
        loaded = loaded or load(self.job, self.out / "model", self.form)
        self.model, self.model_id = loaded.model, loaded.model_id
        self.form = self.job.form(loaded.model)
        self.metrics.load.set(loaded.seconds)
        if loaded.reason:
            self.state = loaded.reason
            return
        started = time.perf_counter()
        try:
            self.job.answers(self.model, [self.job.row(**example(self.job.row))])
        except Exception as error:
            self.state = _not_loaded(error)
            return
        self.state = "ready"
        self.metrics.ready.set(1)
        seconds = time.perf_counter() - started
        log.info(
            "%s model %s loaded in %.2f s, warm in %.2f s",
            self.form, self.model_id, loaded.seconds, seconds,
        )  # fmt: skip

    def score(self, rows: list[Any]) -> list[dict[str, Any]]:
        """Score rows and return their answers as JSON-able objects.

        Raises NotReady, Busy, InputInvalid, or what score() raised for these rows.
        """
        if self.state != "ready":
            raise NotReady(f"the model is not ready: {self.state}")
        if not rows:
            return []
        return [answer.model_dump(mode="json") for answer in self.batcher.score(rows)]

    def submit(self, rows: list[Any], done: Callable[[Ticket], None]) -> None:
        """Queue rows; ``done`` gets their answers or their error in the thread that scored them.

        For a route that goes on with what it gets in a thread of its own, and answers `Later`:
        ``done`` may be called on the event loop, so it must be short. Raises NotReady, Busy.
        """
        if self.state != "ready":
            raise NotReady(f"the model is not ready: {self.state}")
        self.batcher.submit(rows, done, CLIENT.get())

    def _watch(self, batch: Sequence[Ticket], seconds: float) -> None:
        good = [ticket for ticket in batch if not ticket.error]
        self.metrics.scored(good, seconds)
        if self.score_log and good:
            self._note(good, seconds)

    def _note(self, batch: Sequence[Ticket], seconds: float) -> None:
        """Append to the score log; the input itself is not kept, only its hash."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [
            json.dumps(
                {
                    "time": now,
                    "model": self.model_id,
                    "input": hashlib.sha256(row.model_dump_json().encode()).hexdigest(),
                    "prediction": answer.model_dump(mode="json"),
                    "latency_ms": round(seconds * 1e3, 3),
                }
            )
            for ticket in batch
            for row, answer in zip(ticket.rows, ticket.answers, strict=True)
        ]
        # one write, so that lines of several workers stay whole
        with Path(str(self.score_log)).open("ab", buffering=0) as file:
            file.write(("\n".join(lines) + "\n").encode())


def create_app(
    job: Job,
    out: Path,
    score_log: str | None = None,
    *,
    form: str = "auto",
    background: bool = True,
    loaded: Loaded | None = None,
    long_work: LongWork | None = None,
    **more: Any,
) -> Flask:
    """Make the Flask app of a job whose model is in ``out/model``, or is ``loaded`` already.

    With ``background`` off the app is returned only when the model is warm. ``more`` goes to
    `Service`: ``draining``, ``settled``, ``limits``, ``access_log``.
    """
    service = Service(job, out, score_log, form, **more)
    app = Flask("slipway", template_folder=str(PAGES), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = job.row.max_bytes
    app.extensions["slipway"] = service
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.before_request(_clocked)
    _health_routes(app, service)
    _describing_routes(app, service)
    _score_route(app, service)
    platforms.add_routes(app, service)
    runs.add_routes(app, service, out / "runs", long_work)
    if job.router:
        _own_routes(app, service, job.router)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failed)
    app.after_request(partial(_counted, service))
    if background:
        loading = threading.Thread(target=service.warm, args=(loaded,), daemon=True, name="loading")
        loading.start()
    else:
        service.warm(loaded)
    return app


def _health_routes(app: Flask, service: Service) -> None:
    @app.get("/livez")
    def livez() -> Response:
        return jsonify(live=True)

    @app.get("/readyz")
    @app.get("/healthz")
    def readyz() -> tuple[Response, int]:
        if service.ready:
            return jsonify(ready=True), 200
        return jsonify(ready=False, reason=service.reason), 503

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(service.metrics.text(), mimetype="text/plain; version=0.0.4")


def _describing_routes(app: Flask, service: Service) -> None:
    job = service.job

    @app.get("/")
    def form() -> str:
        schema = job.row.model_json_schema()
        return render_template("form.html", spec=job.spec, schema=schema, row=example(job.row))

    @app.get("/openapi.json")
    def describe() -> Response:
        own = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith(f"{OWN}.")]
        return jsonify(openapi(job, own_paths(own, app.view_functions)))

    @app.get("/version")
    def version() -> Response:
        record = read_json(service.out / "run.json").get("train", {})
        return jsonify(
            job=job.spec.name,
            model=service.model_id,
            form=service.form,
            built=built(job.spec),
            tier=record.get("tier", "unknown"),
            seed=record.get("options", {}).get("seed"),
            figures=headline(job.spec, service.out),
            licences=sorted({data.licence for data in job.spec.data.values()}),
        )


def _score_route(app: Flask, service: Service) -> None:
    @app.post("/score")
    def score() -> Response:
        asked = bodies.read(request, service.job.row)
        return bodies.respond(request, asked, service.score)


def _own_routes(app: Flask, service: Service, add: Callable[[Blueprint, Service], None]) -> None:
    """Add the job's own routes. Raises InputInvalid for one that takes the place of ours."""
    ours = {
        (rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()
    }
    routes = Blueprint(OWN, "slipway")
    add(routes, service)
    app.register_blueprint(routes)
    for rule in app.url_map.iter_rules():
        taken = {(rule.rule, method) for method in (rule.methods or set()) - {"OPTIONS"}} & ours
        if rule.endpoint.startswith(f"{OWN}.") and taken:
            raise InputInvalid(f"{rule.rule}: a route of the scorer; wanted another one")


def _refused(code: int, message: str) -> tuple[Response, int]:
    return jsonify(error=message), code


def _http_error(error: HTTPException) -> tuple[Response, int]:
    answer, code = _refused(error.code or 500, error.description or error.name)
    if error.code == 405 and getattr(error, "valid_methods", None):
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))  # type: ignore[attr-defined]
    if error.code == 413:
        answer.headers["Connection"] = "close"  # the rest of the body is not read
    return answer, code


def _failed(error: Exception) -> Response:
    """Answer without the traceback."""
    status, headers, body = refusal(error)
    return Response(body, status, headers, mimetype=bodies.JSON)


def _clocked() -> None:
    g.began = time.perf_counter()


def _counted(service: Service, answer: Response) -> Response:
    if isinstance(answer, Later):
        if TAKES in request.environ:
            return answer  # the server counts it
        answer = answer.waited()
    client = CLIENT.get()
    told = telemetry.Request(
        id=telemetry.request_id(request.headers.get("X-Request-Id")),
        method=request.method,
        route=request.url_rule.rule if request.url_rule else "unknown",
        status=answer.status_code,
        began=client.began if client else g.began,
        traceparent=request.headers.get("Traceparent"),
        tickets=client.tickets if client else (),
    )
    answer.headers["X-Request-Id"] = told.id
    service.telemetry.answered(told)
    if service.draining():
        answer.headers["Connection"] = "close"
    return answer
