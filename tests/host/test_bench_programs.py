"""The programs in ``bench/``: what they make of measurements. Times are never tested."""

import json
import socket
import threading
from typing import Any

import pytest

from bench import batch, contestants, machine, openloop, rows, serving, soak, tables
from bench.openloop import OpenLoop, Outcome, by_second, is_bad, percentile, response_end, summary


def row(contestant: str, phase: str, **figures: float) -> dict[str, Any]:
    return {"contestant": contestant, "phase": phase, "repeat": 0, **figures}


def test_medians_are_over_the_repeats_of_one_phase() -> None:
    measured = [row("a", "closed-1", rps=n) for n in (1.0, 9.0, 2.0)] + [row("a", "start", rps=7)]
    assert tables.medians(measured) == {"a": {"closed-1 rps": 2.0, "start rps": 7}}


@pytest.mark.parametrize(
    ("trained", "verdict"), [(180.0, "reached"), (179.0, "missed"), (None, "not measured")]
)
def test_a_ratio_is_judged_against_its_bar(trained: float | None, verdict: str) -> None:
    figures = {"fastapi": {tables.THROUGHPUT: 100.0}}
    if trained:
        figures["trained"] = {tables.THROUGHPUT: trained}
    first = tables.judged(tables.SERVING, figures)[0]
    assert first[-1] == verdict


def test_an_upper_bar_is_reached_from_below() -> None:
    bar = tables.Bar("memory", ("a", "mib"), ("b", "mib"), 0.6, most=True)
    assert tables.judged([bar], {"a": {"mib": 60}, "b": {"mib": 100}})[0][1:] == [
        "0.6",
        "<= 0.6",
        "reached",
    ]
    assert tables.judged([bar], {"a": {"mib": 61}, "b": {"mib": 100}})[0][-1] == "missed"


def test_a_figure_at_the_floor_excuses_a_missed_ratio() -> None:
    bar = tables.Bar("x", ("a", "rps"), ("b", "rps"), 3.5, instead=("floor", "rps"))
    figures = {"a": {"rps": 91.0}, "b": {"rps": 50.0}, "floor": {"rps": 100.0}}
    assert tables.judged([bar], figures)[0][-1] == "at the floor"
    figures["a"]["rps"] = 89.0
    assert tables.judged([bar], figures)[0][-1] == "missed"


def test_a_lower_figure_than_wanted_may_be_zero() -> None:
    bar = tables.Bar("lost", ("soak", "lost"), None, 0, most=True)
    assert tables.judged([bar], {"soak": {"lost": 0}})[0][-1] == "reached"
    assert tables.judged([bar], {"soak": {"lost": 1}})[0][-1] == "missed"


def test_every_bar_names_a_figure_that_the_suites_measure() -> None:
    names = {*contestants.FORMS, *(entry.name for entry in contestants.RIVALS)}
    for bar in tables.SERVING:
        for place in filter(None, (bar.over, bar.under, bar.instead)):
            assert place[0] in names
    for bar in tables.BATCH:
        for place in filter(None, (bar.over, bar.under)):
            assert place[0].split()[0] in batch.ENGINES


def result(**more: Any) -> dict[str, Any]:
    about = {"cpus": 2, "processor": "a CPU", "kernel": "6.1"}
    model = {"tier": "sample", "id": "0123abcd", "form": "exported", "device": "cpu"}
    return {
        "model": model, "machine": about,
        "date": "2026-01-01", "commit": "abc", "job": "example", "repeats": 5,
        "seconds": 3.0, "versions": {"flask": "3.1"}, "failed": {}, **more,
    }  # fmt: skip


def test_the_table_marks_a_row_measured_beside_others_and_names_the_failed() -> None:
    measured = [
        row("trained", "closed-32", rps=100.0, success=1.0, foreign=0.1),
        row("fastapi", "closed-32", rps=50.0, success=0.99, foreign=0.3),
    ]
    titles = {"trained": "Ours", "fastapi": "FastAPI", "bentoml": "BentoML"}
    failed = {"bentoml": "no answer"}
    text = tables.serving_text(result(runs=measured, titles=titles, failed=failed))
    assert text.startswith(
        "Job example, tier sample, model 0123abcd, form: exported, device cpu, on 2 cores of a CPU"
    )
    assert "| Ours |" in text
    assert f"| FastAPI {tables.MARK} |" in text
    assert "Success below 100 % in a run: FastAPI 99.00%" in text
    assert "Failed: BentoML, no answer" in text
    assert "| throughput over FastAPI's | 2 | >= 1.8 | reached |" in text


def test_the_batch_table_has_a_line_for_each_format_and_each_length() -> None:
    figures = {"wall": 2.0, "rate": 500.0, "cpu": 3.0, "peak_mb": 300.0, "first": 0.5, "apart": 0.0,
               "foreign": 0.0}  # fmt: skip
    measured = [
        {"contestant": name, "phase": kind, **figures, "wall": wall}
        for name, wall in (("ours", 2.0), ("pandas", 4.0))
        for kind in ("jsonl", "parquet")
    ]
    growth = [{"rows": 1000, **figures}]
    text = tables.batch_text(
        result(
            runs=measured, titles=batch.ENGINES, growth=growth, rows=1000, failed={"ray jsonl": "x"}
        )
    )
    assert "| time of chunked pandas over ours, jsonl | 2 | >= 1.5 | reached |" in text
    assert "| 1,000 | 2 | 500 | 3 | 3000.00 | 300 |" in text
    assert "Failed: Ray Data map_batches (jsonl), x" in text


def test_wrk_failures_lower_the_success_and_cpu_is_shared_out_by_request() -> None:
    line = {"requests": 200, "seconds": 2.0, "p50_ms": 1.0, "p99_ms": 2.0, "refused": 0,
            "broken": 1, "bad_status": 3, "timeouts": 0}  # fmt: skip
    used = {"cpu": 0.1, "cores": 0.05, "foreign": 0.0}
    found = serving.closed_figures("Running 2s test\n\n" + json.dumps(line) + "\n", used)
    assert (found["rps"], found["success"]) == (100.0, 0.98)
    assert found["cpu_us"] == pytest.approx(500)


def test_a_rival_that_does_the_unforeseen_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = contestants.RIVALS[:2]

    def measure(entry: Any, *_: Any) -> list[dict[str, Any]]:
        if entry is first:
            raise KeyError("predictions")
        return [row(entry.name, "closed-32", rps=10.0)]

    monkeypatch.setattr(serving, "prepare", lambda: {"rows": [], "answers": []})
    monkeypatch.setattr(serving, "measure", measure)
    plan = serving.Plan([first, second], repeats=2, seconds=1.0, workers=2)
    said: list[str] = []
    found = serving.suite(plan, said.append)
    assert found["failed"] == {first.name: "KeyError: 'predictions'"}
    assert [r["contestant"] for r in found["runs"]] == [second.name] * 2
    assert found["common_rate"] == 5.0
    assert any("FAILED" in line for line in said)


@pytest.mark.parametrize(
    "wrapped", [{"a": 1}, [{"a": 1}], {"predictions": [{"a": 1}]}, {"predictions": {"a": 1}}]
)
def test_an_answer_is_found_in_whatever_wraps_it(wrapped: Any) -> None:
    assert contestants.answer_of(wrapped) == {"a": 1}


def test_answers_are_alike_up_to_arithmetic() -> None:
    wanted = {"prediction": True, "propensity": 0.5, "words": [1, 2]}
    assert serving.alike({**wanted, "propensity": 0.5 + 1e-9}, wanted)
    assert not serving.alike({**wanted, "propensity": 0.51}, wanted)
    assert not serving.alike({**wanted, "prediction": False}, wanted)
    assert not serving.alike({"prediction": True}, wanted)


def test_a_row_of_ours_that_serve_cannot_tell_apart_is_not_measured_twice() -> None:
    assert [e.name for e in contestants.ours([])] == ["trained"]
    everything = {"--form", "--batch-rows"}
    assert [e.name for e in contestants.ours(everything)] == list(contestants.FORMS)
    assert [e.name for e in contestants.ours({"--form"})] == ["trained", "exported"]


def test_a_command_gets_its_port_and_workers() -> None:
    flask = next(entry for entry in contestants.RIVALS if entry.name == "flask")
    started = flask.started(81, 3)
    assert "127.0.0.1:81" in started
    assert started[started.index("--workers") + 1] == "3"


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("received", "wanted"),
    [
        (HEAD, None),
        (HEAD + b"Content-Length: 4\r\n\r\nab", None),
        (HEAD + b"content-length: 4\r\n\r\nabcdHTTP", (42, "200", True)),
        (HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n", (57, "200", False)),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", (59, "200", True)),
    ],
)
def test_where_a_response_ends(received: bytes, wanted: Any) -> None:
    assert response_end(received) == wanted


def test_one_of_a_hundred_requests_is_bad() -> None:
    assert [n for n in range(250) if is_bad(n, 100)] == [99, 199]
    assert not any(is_bad(n, 0) for n in range(250))


def test_a_percentile_of_few_values() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile([], 0.99) == 0.0


OUTCOME = Outcome(
    due=[0.0, 0.5, 1.0, 1.5],
    sent=[0.0, 0.6, 1.0, 0.0],
    took=[0.1, 0.3, 0.2, 0.0],
    ended=["200", "200", "503", "unsent"],
)


def test_latency_is_of_good_answers_and_success_of_all_that_were_due() -> None:
    found = summary(OUTCOME, 2.0)
    assert found["ended"] == {"200": 2, "503": 1, "unsent": 1}
    assert found["success"] == 0.5
    assert found["p99_ms"] == pytest.approx(300)
    assert found["late_p99_ms"] == pytest.approx(100)


def test_seconds_keep_bad_requests_apart() -> None:
    first, second = by_second(OUTCOME, bad_every=4)
    assert (first["second"], first["ended"], first["bad_ended"]) == (0, {"200": 2}, {})
    assert (second["ended"], second["bad_ended"]) == ({"503": 1}, {"unsent": 1})


def answering(listener: socket.socket, answers: list[bytes]) -> None:
    """Answer request by request on one connection; an empty answer hangs up."""
    sock, _ = listener.accept()
    with sock:
        for answer in answers:
            if not sock.recv(1 << 16) or not answer:
                return
            sock.sendall(answer)


def test_the_open_loop_counts_each_request_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.openloop.OPENED", 1)
    ok, bad = HEAD + b"Content-Length: 2\r\n\r\nok", b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        given = (listener, [ok, bad, ok, b""])
        threading.Thread(target=answering, args=given, daemon=True).start()
        loop = OpenLoop(
            listener.getsockname(), lambda number: b"x", rate=1000.0, patience=0.2, most=1
        )
        found = loop.run(0.004)
    assert found.ended == ["200", "422", "200", "cut"]
    summary = openloop.summary(found, 60)
    assert 2 / 60 == summary["rps"]
    [cut] = summary["cuts"]
    assert (3, 0, 0) == (cut["answers"], cut["received"], cut["unsent"])
    assert cut["opened"] <= cut["wrote"] <= cut["cut"]


def test_nobody_listening_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    found = OpenLoop(address, lambda number: b"x", rate=1000.0, patience=0.2).run(0.003)
    assert set(found.ended) == {"refused"}


def reading(wall: float, container: float, ours: float, machine_seconds: float) -> Any:
    return machine.Reading(wall, container, ours, machine_seconds)


def test_cpu_is_split_between_contestant_driver_and_others() -> None:
    found = machine.between(reading(0, 0, 0, 0), reading(2, 3, 1, 3.5))
    assert found == {"wall": 2, "cpu": 2, "cores": 1.0, "foreign": 0.25}


def test_memory_drift_compares_the_second_minute_with_the_last() -> None:
    steady = [(float(second), 100.0) for second in range(600)]
    assert soak.drift(steady, 600) == 0
    grown = [(at, 100.0 + (at >= 540) * 10) for at, _ in steady]
    assert soak.drift(grown, 600) == pytest.approx(0.1)
    assert soak.drift([], 600) == float("inf")


def test_a_soak_tells_lost_answers_from_refused_connections() -> None:
    during = {
        "second": 0,
        "ended": {"200": 97, "500": 1, "timeout": 1},
        "bad_ended": {"422": 1},
        "p99_ms": 4.0,
    }
    leaving = {"second": 60, "ended": {"200": 5, "cut": 2, "refused": 9}, "bad_ended": {},
               "p99_ms": 4.0}  # fmt: skip
    storm = {"by_second": [during, leaving], "late_p99_ms": 0.1, "foreign": 0.0, "cuts": []}
    plan = soak.Plan(contestants.RIVALS[0], minutes=1, seconds=1, workers=2)
    found = soak.report(plan, 1000.0, {"p99_ms": 2.0}, storm, [], {}, 0)["soak"]
    assert (found["lost"], found["faults"], found["unanswered"]) == (2, 1, 1)
    assert found["good_answered"] == pytest.approx(97 / 99)


def test_a_soak_without_a_good_answer_has_no_fine_latency() -> None:
    second = {"second": 0, "ended": {"unsent": 9}, "bad_ended": {}, "p99_ms": 0.0}
    storm = {"by_second": [second], "late_p99_ms": 0.1, "foreign": 0.0, "cuts": []}
    plan = soak.Plan(contestants.RIVALS[0], minutes=1, seconds=1, workers=2)
    found = soak.report(plan, 1000.0, {"p99_ms": 2.0}, storm, [], {}, 0)
    judged = {line[0]: line[-1] for line in tables.judged(tables.SOAK, {"soak": found["soak"]})}
    assert judged["p99 of good requests at 80 % over 10 % load"] == "missed"
    assert judged["good requests without any answer"] == "missed"


class Words:
    """Stands in for a job: a row is one text of at most 20 letters."""

    @staticmethod
    def row(text: str) -> None:
        if len(text) > 20:
            raise rows.ValidationError.from_exception_data("too long", [])


def test_made_rows_differ_in_one_word_and_are_the_same_each_time() -> None:
    real = [{"text": "one two three"}, {"text": "four"}]
    made = list(rows.varied(Words, real, 50))  # type: ignore[arg-type]
    assert made == list(rows.varied(Words, real, 50))  # type: ignore[arg-type]
    assert len({entry["text"] for entry in made}) > 2
    for entry in made:
        given = ["four"] if " " not in entry["text"] else ["one", "two", "three"]
        found = entry["text"].split()
        assert sum(a != b for a, b in zip(given, found, strict=True)) <= 1


def test_a_made_row_that_the_type_refuses_is_left_as_it_was() -> None:
    real = [{"text": "a b"}, {"text": "much-too-long-for-a-field"}]
    assert {entry["text"] for entry in rows.varied(Words, real[:1] * 5, 20)} <= {  # type: ignore[arg-type]
        "a b", "a a", "b b",
    }  # fmt: skip
    long = list(rows.varied(Words, real, 200))  # type: ignore[arg-type]
    assert all(entry in real or len(entry["text"]) <= 20 for entry in long)
