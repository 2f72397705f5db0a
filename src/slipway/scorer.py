"""The scorer: a job's score function over HTTP, one of the two edges.

The model is loaded in the background, so that the port answers at once: ``/livez`` says that
the process lives, ``/readyz`` 503 until the model has scored its first row. A body is checked
against the job's `Input` type; what is wrong is told field by field.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, render_template, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from werkzeug.exceptions import HTTPException

from slipway import bodies, platforms, runs, store
from slipway.errors import InputInvalid, NotReady, SlipwayError
from slipway.ledger import LongWork
from slipway.openapi import openapi
from slipway.report import PAGES, headline
from slipway.run import built, read_json
from slipway.types import example

if TYPE_CHECKING:
    from slipway.job import Job

log = logging.getLogger("slipway.scorer")

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


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
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "slipway_requests", "Requests by route and status.", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            "slipway_score_seconds", "Seconds in score() for one request.",
            buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.rows = Counter("slipway_rows", "Rows scored.", registry=self.registry)
        self.ready = Gauge("slipway_ready", "1 when the model is warm.", registry=self.registry)

    def warm(self) -> None:
        """Load the model and score one example; afterwards `state` is ready or the reason."""
        started = time.perf_counter()
        try:
            self.model_id = store.identity(self.out / "model")
            self.model = self.job.load(self.out / "model", self.form)
            self.form = self.job.form(self.model)
            self.job.answers(self.model, [self.job.row(**example(self.job.row))])
        except Exception as error:
            self.state = str(error)
            unforeseen = not isinstance(error, SlipwayError)
            log.error("model not loaded: %s", error, exc_info=unforeseen)
            return
        self.state = "ready"
        self.ready.set(1)
        seconds = time.perf_counter() - started
        log.info("%s model %s ready after %.2f s", self.form, self.model_id, seconds)

    def score(self, rows: list[Any]) -> list[dict[str, Any]]:
        """Score rows and return their answers as JSON-able objects."""
        if self.state != "ready":
            raise NotReady(f"the model is not ready: {self.state}")
        started = time.perf_counter()
        answers = [answer.model_dump(mode="json") for answer in self.job.answers(self.model, rows)]
        seconds = time.perf_counter() - started
        self.latency.observe(seconds)
        self.rows.inc(len(rows))
        if self.score_log:
            self._note(rows, answers, seconds)
        return answers

    def _note(self, rows: list[Any], answers: list[dict[str, Any]], seconds: float) -> None:
        """Append to the score log; the input itself is not kept, only its hash."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [
            json.dumps(
                {
                    "time": now,
                    "model": self.model_id,
                    "input": hashlib.sha256(row.model_dump_json().encode()).hexdigest(),
                    "prediction": answer,
                    "latency_ms": round(seconds * 1e3, 3),
                }
            )
            for row, answer in zip(rows, answers, strict=True)
        ]
        with self.lock, Path(str(self.score_log)).open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def create_app(
    job: Job,
    out: Path,
    score_log: str | None = None,
    *,
    form: str = "auto",
    background: bool = True,
    draining: Callable[[], bool] = lambda: False,
    long_work: LongWork | None = None,
) -> Flask:
    """Make the Flask app of a job whose model is in ``out/model``.

    ``draining`` tells when the server is about to leave; with ``background`` off the app is
    returned only when the model is warm.
    """
    service = Service(job, out, score_log, form, draining=draining)
    app = Flask("slipway", template_folder=str(PAGES), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = job.row.max_bytes
    app.extensions["slipway"] = service
    app.json.sort_keys = False  # type: ignore[attr-defined]
    _health_routes(app, service)
    _describing_routes(app, service)
    _score_route(app, service)
    platforms.add_routes(app, service)
    runs.add_routes(app, service, out / "runs", long_work)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _our_fault)
    app.after_request(lambda answer: _counted(service, answer))
    if background:
        threading.Thread(target=service.warm, daemon=True).start()
    else:
        service.warm()
    return app


def _health_routes(app: Flask, service: Service) -> None:
    @app.get("/livez")
    def livez() -> Response:
        return jsonify(live=True)

    @app.get("/readyz")
    @app.get("/healthz")
    def readyz() -> tuple[Response, int]:
        if service.state == "ready" and not service.draining():
            return jsonify(ready=True), 200
        return jsonify(ready=False, reason="draining" if service.draining() else service.state), 503

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(service.registry), mimetype="text/plain; version=0.0.4")


def _describing_routes(app: Flask, service: Service) -> None:
    job = service.job

    @app.get("/")
    def form() -> str:
        schema = job.row.model_json_schema()
        return render_template("form.html", spec=job.spec, schema=schema, row=example(job.row))

    @app.get("/openapi.json")
    def describe() -> Response:
        return jsonify(openapi(job))

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


def _refused(code: int, message: str) -> tuple[Response, int]:
    return jsonify(error=message), code


def _http_error(error: HTTPException) -> tuple[Response, int]:
    answer, code = _refused(error.code or 500, error.description or error.name)
    if error.code == 405 and getattr(error, "valid_methods", None):
        answer.headers["Allow"] = ", ".join(sorted(error.valid_methods))  # type: ignore[attr-defined]
    if error.code == 413:
        answer.headers["Connection"] = "close"  # the rest of the body is not read
    return answer, code


def _our_fault(error: Exception) -> tuple[Response, int]:
    """Answer 500 without the traceback, which goes to the log; a bad input is told as such."""
    if isinstance(error, InputInvalid):
        return _refused(422, str(error))
    if isinstance(error, NotReady):
        answer, code = _refused(503, str(error))
        answer.headers["Retry-After"] = "1"
        return answer, code
    log.exception("score failed")
    return _refused(500, "the scorer failed; its log has the reason")


def _counted(service: Service, answer: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else "unknown"
    service.requests.labels(route, str(answer.status_code)).inc()
    if service.draining():
        answer.headers["Connection"] = "close"
    return answer
