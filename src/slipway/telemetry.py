"""What a scorer tells of itself: Prometheus metrics, an access log, OpenTelemetry spans.

With several worker processes each keeps its counts in files below ``PROMETHEUS_MULTIPROC_DIR``,
which the server sets before this module is imported, and any of them answers for all. Spans are
made after the fact, from the times that a request carries, and only where
``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) names a collector.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import sys
import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, get_origin

from annotated_types import Ge, Gt, Le, Lt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from slipway.batching import Ticket

log = logging.getLogger("slipway.telemetry")

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)


class Metrics:
    """The counts of one scorer. ``answer`` is the job's type of answers."""

    def __init__(self, answer: type[Any]) -> None:
        self.registry = CollectorRegistry()
        self.classes = [name for name, entry in fields_of(answer) if is_class(entry)]
        self.shares = [name for name, entry in fields_of(answer) if is_share(entry)]
        self.requests = self._new(
            Counter, "requests", "Requests by route and status.", ["route", "status"]
        )
        self.latency = self._new(
            Histogram, "request_seconds", "Seconds from a request's head to its answer.",
            ["route", "status"], buckets=SECONDS,
        )  # fmt: skip
        self.score_seconds = self._new(
            Histogram, "score_seconds", "Seconds in score() for one batch.", buckets=SECONDS
        )
        self.batch_rows = self._new(Histogram, "batch_rows", "Rows of one batch.", buckets=ROWS)
        self.batch_requests = self._new(
            Histogram, "batch_requests", "Requests of one batch.", buckets=ROWS
        )
        self.rows = self._new(Counter, "rows", "Rows scored.")
        self.scores = self._new(
            Counter, "scores", "Answers by the value of a field.", ["field", "value"]
        )
        self.tenths = self._new(
            Counter, "scores_by_tenth", "Answers by the tenth of [0, 1] that a field lies in.",
            ["field", "from"],
        )  # fmt: skip
        self.queue = self._gauge("queue_rows", "Rows that wait for the model.", "livesum")
        self.load = self._gauge("model_load_seconds", "Seconds to load the model.", "livemax")
        self.ready = self._gauge("ready", "1 when the model is warm.", "livemin")
        self.ready.set(0)
        self._kept: dict[tuple[str, int], tuple[Any, Any]] = {}

    def _new(self, kind: Any, name: str, *more: Any, **options: Any) -> Any:
        return kind(f"slipway_{name}", *more, registry=self.registry, **options)

    def _gauge(self, name: str, text: str, mode: str) -> Any:
        return self._new(Gauge, name, text, multiprocess_mode=mode)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        kept = self._kept.get((route, status))
        if kept is None:
            labels = (route, str(status))
            kept = self.requests.labels(*labels), self.latency.labels(*labels)
            self._kept[route, status] = kept
        kept[0].inc()
        kept[1].observe(seconds)

    def scored(self, batch: Sequence[Ticket], seconds: float) -> None:
        """Count a batch and its answers."""
        answers = [answer for ticket in batch for answer in ticket.answers]
        self.score_seconds.observe(seconds)
        self.batch_rows.observe(sum(len(ticket.rows) for ticket in batch))
        self.batch_requests.observe(len(batch))
        self.rows.inc(len(answers))
        for name in self.classes:
            for value, count in Tally(getattr(answer, name) for answer in answers).items():
                self.scores.labels(name, shown(value)).inc(count)
        for name in self.shares:
            tenths = Tally(min(int(getattr(answer, name) * 10), 9) for answer in answers)
            for tenth, count in tenths.items():
                self.tenths.labels(name, f"0.{tenth}").inc(count)

    def text(self) -> bytes:
        """Return the metrics of all workers in Prometheus' format."""
        if not os.environ.get(FOLDER):
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)


def fields_of(answer: type[Any]) -> list[tuple[str, Any]]:
    """Return the fields of a pydantic model by name."""
    return list(answer.model_fields.items())


def is_class(entry: Any) -> bool:
    """Tell whether a field has few values: a bool, a Literal or an enumeration."""
    kind = entry.annotation
    return (
        kind is bool
        or get_origin(kind) is Literal
        or (isinstance(kind, type) and issubclass(kind, Enum))
    )


def is_share(entry: Any) -> bool:
    """Tell whether a field is a float that its type holds in [0, 1]."""
    least = [m.ge if isinstance(m, Ge) else m.gt for m in entry.metadata if isinstance(m, Ge | Gt)]
    most = [m.le if isinstance(m, Le) else m.lt for m in entry.metadata if isinstance(m, Le | Lt)]
    return entry.annotation is float and least == [0] and most == [1]


def shown(value: Any) -> str:
    """Return a value as JSON writes it, without quotes."""
    value = value.value if isinstance(value, Enum) else value
    return value if isinstance(value, str) else json.dumps(value)


IDS = random.Random()
"""Where new request ids come from. They are no secrets, and the system's source lets go of Python's
lock each time: one of those who answer at the same time would wait for all others."""
os.register_at_fork(after_in_child=IDS.seed)


def request_id(given: str | None) -> str:
    """Return the id that a client gave its request, or a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else f"{IDS.getrandbits(64):016x}"


@dataclass
class Request:
    """What is told of one request, when it is answered."""

    id: str
    method: str
    route: str
    status: int
    began: float
    """As `time.perf_counter` had it."""
    traceparent: str | None = None
    tickets: Sequence[Ticket] = ()


class Telemetry:
    """Metrics always; the access log and spans where they were asked for."""

    def __init__(self, answer: type[Any], job: str = "", access_log: bool = False) -> None:
        self.metrics = Metrics(answer)
        self.access_log = access_log
        asked = any(os.environ.get(name) for name in ENDPOINTS)
        self.spans = Spans(job) if asked else None

    @property
    def detailed(self) -> bool:
        """Whether more than counts is wanted of a request."""
        return self.access_log or self.spans is not None

    def answered(self, request: Request) -> None:
        """Tell of one request that is answered."""
        seconds = time.perf_counter() - request.began
        self.metrics.answered(request.route, request.status, seconds)
        if self.access_log:
            print(access_line(request, seconds), file=sys.stderr, flush=True)
        if self.spans:
            self.spans.record(request, seconds)

    def close(self) -> None:
        """Send the spans that are still here."""
        if self.spans:
            self.spans.close()


def access_line(request: Request, seconds: float) -> str:
    """Return the line of the access log: no body, no address, no query."""
    return json.dumps(
        {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "severity": "INFO",
            "logger": "slipway.access",
            "message": f"{request.method} {request.route} {request.status}",
            "method": request.method,
            "route": request.route,
            "status": request.status,
            "ms": round(seconds * 1e3, 3),
            "rows": sum(len(ticket.rows) for ticket in request.tickets),
            "request_id": request.id,
        }
    )


class Spans:
    """Sends a span for each request, and below it one for the queue and one for score()."""

    def __init__(self, job: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        name = os.environ.get("OTEL_SERVICE_NAME") or f"slipway-{job}"
        self.provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self.provider.get_tracer("slipway")
        self.propagator = TraceContextTextMapPropagator()
        self.offset = time.time_ns() - int(time.perf_counter() * 1e9)

    def record(self, request: Request, seconds: float) -> None:
        """Make the spans of one request."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        carried = {"traceparent": request.traceparent} if request.traceparent else {}
        span = self.tracer.start_span(
            f"{request.method} {request.route}", self.propagator.extract(carried), SpanKind.SERVER,
            {
                "http.request.method": request.method,
                "http.route": request.route,
                "http.response.status_code": request.status,
                "slipway.request_id": request.id,
            },
            start_time=self._nanoseconds(request.began),
        )  # fmt: skip
        if request.status >= 500:
            span.set_status(StatusCode.ERROR)
        inside = set_span_in_context(span)
        for ticket in request.tickets:
            rows = {"slipway.rows": len(ticket.rows)}
            self._child("queue", inside, rows, ticket.queued, ticket.began)
            self._child("score", inside, rows, ticket.began, ticket.ended)
        span.end(self._nanoseconds(request.began + seconds))

    def _child(
        self, name: str, inside: Any, attributes: Mapping[str, int], start: float, end: float
    ) -> None:
        if not end:  # it never came to that
            return
        span = self.tracer.start_span(
            name, inside, attributes=attributes, start_time=self._nanoseconds(start)
        )
        span.end(self._nanoseconds(end))

    def _nanoseconds(self, moment: float) -> int:
        return self.offset + int(moment * 1e9)

    def close(self) -> None:
        """Send what is left."""
        self.provider.shutdown()
