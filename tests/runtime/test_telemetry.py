"""Metrics, access log and spans."""

import json
import threading
from enum import Enum
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue
from typing import Literal

import pytest

from slipway import Field, Output, telemetry
from slipway.batching import Ticket

PATIENCE = 20


class Kind(Enum):
    """Kinds."""

    GOOD = "good"
    BAD = "bad"


class Verdict(Output):
    """Every sort of field."""

    prediction: bool
    kind: Kind
    size: Literal["small", "large"]
    text: str = "free"
    propensity: float = Field(ge=0, le=1)
    open_share: float = Field(default=0.5, gt=0, lt=1)
    weight: float = 7.0
    half: float = Field(default=0.1, ge=0, le=0.5)


def ticket(*answers, rows=()):
    made = Ticket(list(rows or answers), lambda _: None, 0)
    made.answers = list(answers)
    return made


def verdict(propensity, kind=Kind.GOOD):
    return Verdict(prediction=True, kind=kind, size="small", propensity=propensity)


def request(**more):
    known = {"id": "a1", "method": "POST", "route": "/score", "status": 200, "began": 0.0}
    return telemetry.Request(**(known | more))


@pytest.fixture(autouse=True)
def no_collector(monkeypatch) -> None:
    for name in (*telemetry.ENDPOINTS, telemetry.FOLDER):
        monkeypatch.delenv(name, raising=False)


def test_answers_are_counted_by_the_classes_of_their_type_and_shares_by_tenth() -> None:
    metrics = telemetry.Metrics(Verdict)
    one, two = verdict(0.95), verdict(1.0, Kind.BAD)
    metrics.scored([ticket(one, two), ticket(verdict(0.0))], 0.25)
    lines = metrics.text().decode().splitlines()

    assert (["prediction", "kind", "size"], ["propensity", "open_share"]) == (
        metrics.classes,
        metrics.shares,
    )
    for line in (
        'slipway_scores_total{field="prediction",value="true"} 3.0',
        'slipway_scores_total{field="kind",value="good"} 2.0',
        'slipway_scores_total{field="kind",value="bad"} 1.0',
        'slipway_scores_by_tenth_total{field="propensity",from="0.9"} 2.0',
        'slipway_scores_by_tenth_total{field="propensity",from="0.0"} 1.0',
        "slipway_rows_total 3.0",
        "slipway_batch_rows_sum 3.0",
        "slipway_batch_requests_sum 2.0",
        "slipway_score_seconds_sum 0.25",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3/4+5=6@7", True), (None, False), ("", False), ("a b", False), ("x" * 129, False),
     ("é", False), ('a"\n', False)],
)  # fmt: skip
def test_a_request_id_is_kept_where_it_is_harmless_and_else_made(given, kept) -> None:
    made = telemetry.request_id(given)

    assert kept == (made == given)
    assert telemetry.REQUEST_ID.fullmatch(made)


def test_the_access_log_is_off_by_default_and_else_a_line_of_json(capsys) -> None:
    telemetry.Telemetry(Verdict).answered(request())
    assert "" == capsys.readouterr().err

    telemetry.Telemetry(Verdict, access_log=True).answered(request(tickets=[ticket(rows=[1, 2])]))
    told = json.loads(capsys.readouterr().err)

    assert ("POST /score 200", "a1", 2) == (told["message"], told["request_id"], told["rows"])
    assert {"time", "severity", "ms", "status", "route", "method"} <= set(told)


@pytest.fixture
def collector(monkeypatch):
    """A receiver of OTLP over HTTP; its queue holds the spans of each export."""
    trace = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    received: SimpleQueue[object] = SimpleQueue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            received.put(trace.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_a_collector_below_the_span_of_the_client(collector) -> None:
    scored = ticket(verdict(0.5), verdict(0.6))
    scored.queued, scored.began, scored.ended = 1.0, 1.25, 2.0
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    teller = telemetry.Telemetry(Verdict, "toy")
    teller.answered(request(began=0.5, traceparent=parent, tickets=[scored], status=500))
    teller.close()
    (resource,) = collector.get(timeout=PATIENCE).resource_spans
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    service = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
    server = spans["POST /score"]

    assert {"POST /score", "queue", "score"} == set(spans)
    assert "slipway-toy" == service["service.name"]
    assert bytes.fromhex("0af7651916cd43dd8448eb211c80319c") == server.trace_id
    assert bytes.fromhex("b7ad6b7169203331") == server.parent_span_id
    assert 2 == server.status.code
    for name, nanoseconds in (("queue", 250_000_000), ("score", 750_000_000)):
        assert server.span_id == spans[name].parent_span_id
        took = spans[name].end_time_unix_nano - spans[name].start_time_unix_nano
        assert nanoseconds == pytest.approx(took, abs=10)


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    assert telemetry.Telemetry(Verdict).spans is None
