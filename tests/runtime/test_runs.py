"""Asynchronous runs: asked for, executed once, told of, cancelled, and there after a crash."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flask import jsonify, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway import executor as execution
from slipway import runs
from slipway.errors import Busy, NotReady
from slipway.ledger import OVER, Ledger, LongWork
from slipway.scorer import create_app

ROW = {"text": "win a prize"}
SLOW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def app(trained):
    return create_app(trained.job, trained.out, background=False)


@pytest.fixture
def ledger(executor):
    return executor.ledger


def ask(client, body: object = ROW, **headers: str):
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(
        "/score",
        data=data,
        content_type="application/json",
        headers={"Prefer": "respond-async"} | named,
    )


def told(client, reply):
    return client.get(reply.headers["Location"]).json


def kinds(run) -> list[str]:
    return [event["type"] for _, event in run.events()]


def test_a_run_is_answered_202_and_then_as_the_request_would_have_been(client, executor) -> None:
    at_once = client.post("/score", json=ROW)
    reply = ask(client)

    assert 202 == reply.status_code
    assert f"/runs/{reply.json['id']}" == reply.headers["Location"]
    assert "respond-async" == reply.headers["Preference-Applied"]
    assert ("queued", "for its turn", 0) == tuple(
        reply.json[name] for name in ("state", "waiting", "attempt")
    )

    early = client.get(f"{reply.headers['Location']}/result")

    assert (202, "1", "queued") == (
        early.status_code,
        early.headers["Retry-After"],
        early.json["state"],
    )
    assert executor.request_once()
    assert not executor.request_once()

    run = told(client, reply)
    result = client.get(run["result"])

    assert ("succeeded", 200, 1, None) == tuple(
        run[name] for name in ("state", "status", "attempt", "error")
    )
    assert at_once.json == run["answer"] == result.json
    assert (200, at_once.data, "application/json") == (
        result.status_code,
        result.data,
        result.mimetype,
    )
    assert run["created"] <= run["started"] <= run["finished"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"text": 7}, 422, "1 field is wrong"),
        (b"{", 400, "the body is no JSON"),
        ({"text": "explode"}, 500, "the scorer failed"),
    ],
)
def test_a_request_that_is_wrong_is_a_failed_run_with_its_answer(
    client, executor, body, status, error
) -> None:
    reply = ask(client, body)
    executor.request_once()
    run = told(client, reply)
    result = client.get(run["result"])

    assert ("failed", status) == (run["state"], run["status"])
    assert run["error"].startswith(error)
    assert (status, run["error"]) == (result.status_code, result.json["error"])


def test_what_is_too_large_or_no_route_is_told_at_once(client, ledger) -> None:
    assert 413 == ask(client, b"x" * 3000).status_code
    assert 404 == client.post("/nothing", headers={"Prefer": "respond-async"}).status_code
    assert 405 == client.post("/livez", headers={"Prefer": "respond-async"}).status_code
    assert 200 == client.get("/livez", headers={"Prefer": "respond-async"}).status_code
    assert [] == ledger.latest(10)


@pytest.mark.parametrize(
    ("prefer", "status"),
    [
        ("respond-async, wait=10", 202),
        ("return=minimal,Respond-Async; x=1", 202),
        ("respond-asynchronously", 200),
        ("wait=10", 200),
        ("", 200),
    ],
)
def test_prefer_is_read_as_the_standard_has_it(client, prefer, status) -> None:
    assert status == ask(client, Prefer=prefer).status_code


def test_credentials_are_not_kept_and_other_headers_are(client, ledger) -> None:
    ask(client, Authorization="Bearer secret", Cookie="a=secret", X_Amzn_Thing="kept")
    stored = (ledger.latest(1)[0].folder / "request.json").read_text("utf-8")

    assert "kept" in stored
    assert "secret" not in stored


def test_query_path_and_headers_reach_the_route_as_they_were(app, client, executor) -> None:
    def echo(rest: str):
        return jsonify(rest, request.query_string.decode(), request.headers["X-Thing"])

    app.add_url_rule("/echo/<path:rest>", "echo", echo, methods=["POST"])
    path = "/echo/a%20b/%C3%A9%3F%23?q=%26&r=é"
    headers = {"X-Thing": "caf\xe9", "Prefer": "respond-async"}
    reply = client.post(path, headers=headers)
    executor.request_once()

    assert client.post(path, headers={"X-Thing": "caf\xe9"}).json == told(client, reply)["answer"]


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/invocations", "text/csv", b"text,weight\nwin a prize,1.0\n"),
        ("/invocations", "application/json", b'{"instances": [{"text": "see you"}]}'),
        ("/v1/models/toy:predict", "application/json", b'{"instances": [{"text": "see you"}]}'),
        ("/score", "application/jsonl", b'{"text": "a"}\n{"text": 7}\n'),
    ],
)
def test_every_route_and_body_answers_later_as_it_would_at_once(
    client, executor, path, kind, body
) -> None:
    at_once = client.post(path, data=body, content_type=kind)
    reply = client.post(path, data=body, content_type=kind, headers={"Prefer": "respond-async"})
    executor.request_once()
    result = client.get(f"{reply.headers['Location']}/result")

    assert 202 == reply.status_code
    assert (at_once.status_code, at_once.data, at_once.content_type) == (
        result.status_code,
        result.data,
        result.content_type,
    )


def test_an_unknown_run_is_404_whatever_its_name(client) -> None:
    for name in ("0" * 24, "nothing", "..", ".queue", "%2e%2e%2fmodel", "0" * 5000):
        for path in (f"/runs/{name}", f"/runs/{name}/events", f"/runs/{name}/result"):
            assert 404 == client.get(path).status_code
        assert client.delete(f"/runs/{name}").status_code in (404, 405)


def test_the_newest_runs_come_first_and_pages_go_on(client, ledger) -> None:
    made = [ask(client).json["id"] for _ in range(5)]
    page = client.get("/runs?limit=2").json["runs"]
    after = client.get(f"/runs?limit=9&before={page[-1]['id']}").json["runs"]

    assert made[::-1] == [run["id"] for run in page + after]
    for wrong in ("limit=0", "limit=101", "limit=x", "before=../x"):
        assert 422 == client.get(f"/runs?{wrong}").status_code


def test_a_run_waits_until_the_model_is_ready_and_says_so(toy, finished_run) -> None:
    app = create_app(toy.job, toy.out, background=False)
    executor, client = app.extensions["slipway-runs"], app.test_client()
    reply = ask(client)

    assert not executor.request_once()
    assert told(client, reply)["waiting"].startswith("the model is not ready: ")

    app.extensions["slipway"].out = finished_run / "out"
    app.extensions["slipway"].warm()

    assert executor.request_once()
    assert "succeeded" == told(client, reply)["state"]


@pytest.mark.parametrize("error", [Busy("full"), NotReady("leaving")])
def test_a_scorer_that_is_full_is_asked_again(app, client, executor, monkeypatch, error) -> None:
    answers = [(b"{}", 429 if isinstance(error, Busy) else 503), (b"{}", 200)]
    reply = ask(client)
    app.view_functions["score"] = lambda: answers.pop(0)

    assert not executor.request_once()
    assert ("queued", 0) == tuple(told(client, reply)[name] for name in ("state", "attempt"))

    executor.later.clear()

    assert executor.request_once()
    assert ("succeeded", 1) == tuple(told(client, reply)[name] for name in ("state", "attempt"))
    assert ["queued", "start", "completed"] == kinds(executor.ledger.latest(1)[0])


def test_a_scorer_that_stays_full_fails_the_run(app, client, executor, monkeypatch) -> None:
    monkeypatch.setattr(execution, "AGAIN_AT_MOST", 0)
    app.view_functions["score"] = lambda: (b'{"error": "full"}', 429)
    reply = ask(client)
    executor.request_once()

    assert ("failed", 429, "full") == tuple(
        told(client, reply)[name] for name in ("state", "status", "error")
    )


# Idempotency


def test_a_key_gives_the_same_run_and_no_second_execution(client, executor, ledger) -> None:
    first = ask(client, Idempotency_Key="one")
    again = ask(client, Idempotency_Key="one")
    executor.request_once()
    after = ask(client, Idempotency_Key="one")

    assert 1 == len({reply.json["id"] for reply in (first, again, after)})
    assert [202, 202, 200] == [reply.status_code for reply in (first, again, after)]
    assert not executor.request_once()
    assert 1 == len(ledger.latest(10))


def test_a_key_with_another_request_is_422(client, ledger) -> None:
    ask(client, Idempotency_Key="one")
    other = ask(client, {"text": "see you"}, Idempotency_Key="one")

    assert 422 == other.status_code
    assert "another request" in other.json["error"]
    assert 422 == ask(client, Idempotency_Key="x" * 256).status_code
    assert 1 == len(ledger.latest(10))


def test_threads_with_one_key_get_one_run(app, ledger) -> None:
    found: list[str] = []
    gate = threading.Barrier(8)

    def post() -> None:
        gate.wait()
        found.append(ask(app.test_client(), Idempotency_Key="one").json["id"])

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8 == len(found)
    assert 1 == len(set(found)) == len(ledger.latest(10))
    assert 1 == len(ledger.queued("request"))


def test_a_key_whose_run_never_appeared_is_free(client, ledger) -> None:
    ask(client, Idempotency_Key="one")
    run = ledger.latest(1)[0]
    run.folder.rename(run.folder.with_name(".gone-by-a-crash"))
    reply = ask(client, Idempotency_Key="one")

    assert 202 == reply.status_code
    assert run.id != reply.json["id"]


# Once, by whichever executor


def test_executors_side_by_side_execute_each_run_once(app, client, ledger) -> None:
    counted: list[int] = []
    app.view_functions["score"] = lambda: (counted.append(1), ("{}", 200))[1]
    for _ in range(20):
        ask(client)
    service = app.extensions["slipway"]
    several = [execution.Executor(app, service, Ledger(ledger.folder, LongWork())) for _ in "1234"]

    def work(one) -> None:
        while ledger.queued("request"):
            one.request_once()

    threads = [threading.Thread(target=work, args=(one,)) for one in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 20 == len(counted)
    assert {"succeeded"} == {run.state()["state"] for run in ledger.latest(100)}
    assert [["queued", "start", "completed"]] * 20 == [kinds(run) for run in ledger.latest(100)]


def test_started_threads_work_off_the_queue_and_are_woken(app, client, executor) -> None:
    executor.start()
    replies = [ask(client) for _ in range(3)]
    end = time.monotonic() + 20
    while time.monotonic() < end and executor.ledger.queued("request"):
        threading.Event().wait(0.01)
    app.extensions["slipway"].draining = lambda: True

    assert ["succeeded"] * 3 == [told(client, reply)["state"] for reply in replies]


# What a crash leaves

CRASHING = """
import os, signal, sys
from pathlib import Path
from slipway.job import load_job
from slipway.scorer import create_app

app = create_app(load_job(Path(sys.argv[1])), Path(sys.argv[2]), background=False)
app.view_functions["score"] = lambda: os.kill(os.getpid(), signal.SIGKILL)
app.extensions["slipway-runs"].request_once()
"""


def crash(trained) -> None:
    found = subprocess.run(
        [sys.executable, "-c", CRASHING, str(trained.folder), str(trained.out)],
        env=os.environ | {"PYTHONPATH": str(Path(execution.__file__).parent.parent)},
        check=False,
        capture_output=True,
    )
    assert -signal.SIGKILL == found.returncode, found.stderr.decode()


def test_a_run_whose_process_was_killed_is_executed_again(client, executor, trained) -> None:
    reply = ask(client)
    crash(trained)

    assert ("running", 1) == tuple(told(client, reply)[name] for name in ("state", "attempt"))
    assert executor.request_once()
    assert ("succeeded", 2) == tuple(told(client, reply)[name] for name in ("state", "attempt"))
    assert ["queued", "start", "start", "completed"] == kinds(executor.ledger.latest(1)[0])


def test_a_run_that_ends_each_process_is_given_up(client, executor) -> None:
    reply = ask(client)
    executor.ledger.latest(1)[0].change(state="running", attempt=execution.ATTEMPTS)
    executor.request_once()

    assert "failed" == told(client, reply)["state"]
    assert "the scorer ended 5 times while this ran" == told(client, reply)["error"]
    assert 500 == client.get(f"{reply.headers['Location']}/result").status_code


def test_a_crash_between_state_and_event_is_made_good(client, executor, ledger) -> None:
    reply = ask(client)
    run = ledger.latest(1)[0]
    run.change(state="succeeded", attempt=1, status=200, headers=[])
    executor.request_once()

    assert ["queued", "completed"] == kinds(run)
    assert [] == ledger.queued("request")
    assert "succeeded" == told(client, reply)["state"]


@pytest.mark.parametrize("name", ["state.json", "events.jsonl", "request.json", "body"])
@SLOW
@given(content=st.binary(max_size=200) | st.just(b'{"state": "running"}') | st.just(b"[" * 9000))
def test_a_damaged_run_stops_neither_the_routes_nor_the_others(
    client, executor, ledger, name, content
) -> None:
    damaged = ask(client).json["id"]
    (ledger.folder / damaged / name).write_bytes(content)
    whole = ask(client)
    for _ in range(3):
        executor.request_once()

    assert "succeeded" == told(client, whole)["state"]
    assert client.get(f"/runs/{damaged}").json["state"] in (*OVER, "queued")
    assert 200 == client.get(f"/runs/{damaged}/events").status_code
    assert client.get(f"/runs/{damaged}/result").status_code < 600
    assert 200 == client.get("/runs").status_code
    executor.ledger.tidy()


def test_a_run_that_is_over_and_lost_its_record_says_so(client, executor, ledger) -> None:
    reply = ask(client)
    executor.request_once()
    (ledger.latest(1)[0].folder / "state.json").write_text("torn")

    assert "failed" == told(client, reply)["state"]
    assert "the record of this run is damaged" == told(client, reply)["error"]
    assert not executor.request_once()


def test_a_folder_where_a_file_should_be_is_passed_over(client, executor, ledger, caplog) -> None:
    damaged = ask(client).json["id"]
    (ledger.folder / damaged / "state.json").mkdir()
    (ledger.folder / ("f" * 24)).write_text("no run")
    (ledger.queue / "strange.request").touch()
    whole = ask(client)
    executor.request_once()
    executor.request_once()

    assert "succeeded" == told(client, whole)["state"]
    assert "queued" == client.get(f"/runs/{damaged}").json["state"]
    assert "is tried again" in caplog.text


def test_a_torn_event_is_never_given_out_and_the_next_replaces_it(client, ledger) -> None:
    ask(client)
    run = ledger.latest(1)[0]
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"type": "start", "da' + b"x" * 10_000)

    assert ["queued"] == kinds(run)

    run.append("log", text="after")

    assert ["queued", "log"] == kinds(run)


# Events


def frames(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block.startswith("id: ")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_events_are_sent_from_the_first_and_again_after_the_last_that_was_seen(
    client, executor
) -> None:
    reply = ask(client)
    executor.request_once()
    path = f"{reply.headers['Location']}/events"
    answer = client.get(path)
    whole = frames(answer.text)

    assert ("text/event-stream", "no-store") == (answer.mimetype, answer.headers["Cache-Control"])
    assert ["queued", "start", "completed"] == [frame["event"] for frame in whole]
    assert {reply.json["id"]} == {json.loads(frame["data"])["data"]["id"] for frame in whole}
    assert "succeeded" == json.loads(whole[-1]["data"])["data"]["state"]
    for place, frame in enumerate(whole[:-1], start=1):
        rest = client.get(path, headers={"Last-Event-ID": frame["id"]}).text
        assert whole[place:] == frames(rest)
        assert whole[place:] == frames(client.get(f"{path}?after={frame['id']}").text)
    assert 204 == client.get(path, headers={"Last-Event-ID": whole[-1]["id"]}).status_code


@pytest.mark.parametrize("text", ["x", "-1", "3", "999999999", "9" * 40, "1e3", "٣"])
def test_an_event_id_that_is_none_gives_all(client, executor, text) -> None:
    reply = ask(client)
    executor.request_once()
    found = client.get(f"{reply.headers['Location']}/events?after={text}").text

    assert 3 == len(frames(found))


def test_a_reader_is_told_of_events_as_they_come(client, executor, monkeypatch) -> None:
    reply = ask(client)
    waits = iter([executor.request_once])
    monkeypatch.setattr(runs.NEVER, "wait", lambda _: next(waits)())
    found = client.get(f"{reply.headers['Location']}/events").text

    assert ["queued", "start", "completed"] == [frame["event"] for frame in frames(found)]


def test_a_stream_ends_after_a_while_or_where_too_many_wait(client, app, monkeypatch) -> None:
    path = f"{ask(client).headers['Location']}/events"
    monkeypatch.setattr(runs, "STREAM_SECONDS", -1)

    assert "retry: 1000" in client.get(path).text

    monkeypatch.setattr(runs, "STREAM_SECONDS", 1e9)
    monkeypatch.setattr(runs, "HEARTBEAT_SECONDS", -1)
    held = []
    for _ in range(runs.STREAMS):
        stream = iter(client.get(path, buffered=False).response)
        while b":\n\n" != next(stream):
            pass
        held.append(stream)

    assert ["queued"] == [frame["event"] for frame in frames(client.get(path).text)]
    for stream in held:
        stream.close()


# Cancelling


def test_a_queued_run_is_cancelled_at_once(client, executor) -> None:
    reply = ask(client)
    path = reply.headers["Location"]
    gone = client.delete(path)

    assert (200, "cancelled") == (gone.status_code, gone.json["state"])
    assert not executor.request_once()
    assert 410 == client.get(f"{path}/result").status_code
    assert 200 == client.delete(path).status_code
    assert ["queued", "completed"] == kinds(executor.ledger.latest(1)[0])


def test_a_running_run_is_cancelled_and_its_answer_not_kept(app, client, executor) -> None:
    reply = ask(client)
    path = reply.headers["Location"]
    asked = []

    def score():
        asked.append(app.test_client().delete(path))
        return "{}", 200

    app.view_functions["score"] = score
    executor.request_once()

    assert (202, True) == (asked[0].status_code, asked[0].json["cancelling"])
    assert "cancelled" == told(client, reply)["state"]
    assert not (executor.ledger.latest(1)[0].folder / "result").exists()
    assert 410 == client.get(f"{path}/result").status_code


def test_a_run_that_is_over_is_not_cancelled(client, executor) -> None:
    reply = ask(client)
    executor.request_once()

    assert 409 == client.delete(reply.headers["Location"]).status_code
    assert "succeeded" == told(client, reply)["state"]


# Room


def test_past_the_number_that_may_wait_it_is_429(trained) -> None:
    app = create_app(trained.job, trained.out, background=False, long_work=LongWork(queue_runs=2))
    client, executor = app.test_client(), app.extensions["slipway-runs"]
    codes = [ask(client).status_code for _ in range(3)]

    assert [202, 202, 429] == codes
    assert ask(client).headers["Retry-After"]

    executor.request_once()

    assert 202 == ask(client).status_code
    assert [] == list(executor.ledger.folder.glob(".new-*"))


def test_runs_that_are_over_go_by_number_and_by_age(client, executor, ledger) -> None:
    for number in range(4):
        ask(client, Idempotency_Key=str(number))
    while executor.request_once():
        pass
    waiting = ask(client, Idempotency_Key="waiting").json["id"]
    names = [run.id for run in ledger.latest(10)]
    (ledger.folder / ".new-old").mkdir()
    os.utime(ledger.folder / ".new-old", (0, 0))
    Ledger(ledger.folder, LongWork(keep_runs=2)).tidy()

    assert names[:3] == [run.id for run in ledger.latest(10)]
    assert waiting == names[0]
    assert 3 == len(list(ledger.keys.iterdir()))
    assert not (ledger.folder / ".new-old").exists()

    Ledger(ledger.folder, LongWork(keep_days=0)).tidy()

    assert [waiting] == [run.id for run in ledger.latest(10)]


def test_a_folder_that_takes_no_files_is_501_and_requests_are_still_answered(trained) -> None:
    (trained.out / "runs").write_text("a file stands where the folder would be")
    app = create_app(trained.job, trained.out, background=False)
    client = app.test_client()
    reply = ask(client)

    assert 501 == reply.status_code
    assert "runs cannot be kept there" in reply.json["error"]
    assert 200 == client.post("/score", json=ROW).status_code
    assert [] == client.get("/runs").json["runs"]
    assert not app.extensions["slipway-runs"].request_once()


def test_a_full_disk_is_507_and_leaves_nothing_half_written(client, ledger) -> None:
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(ledger.folder.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, kept[1]))
    try:
        reply = ask(client, {"text": "a", "weight": 1.0, "more": "x" * 500})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    assert 507 == reply.status_code
    assert "no room for another run" in reply.json["error"]
    assert [] == [
        path for path in ledger.folder.rglob("*") if path.is_file() and path not in before
    ]
    assert 202 == ask(client).status_code


def test_the_last_of_the_disk_is_left_to_the_runs_that_wait(
    client, executor, ledger, monkeypatch
) -> None:
    waiting = ask(client)
    monkeypatch.setattr("slipway.ledger.RESERVE", 2**60)

    assert 507 == ask(client).status_code
    assert 1 == len(ledger.latest(10))
    assert executor.request_once()
    assert "succeeded" == told(client, waiting)["state"]


def test_an_answer_that_finds_no_room_is_scored_again_later(app, client, executor) -> None:
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    app.view_functions["score"] = lambda: ("x" * 20_000, 200)
    reply = ask(client)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, kept[1]))
    try:
        executor.request_once()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    assert "queued" == told(client, reply)["state"]
    assert not [*executor.ledger.latest(1)[0].folder.glob("*.part")]

    executor.later.clear()
    executor.request_once()

    assert "succeeded" == told(client, reply)["state"]
    assert 20_000 == len(client.get(f"{reply.headers['Location']}/result").data)


def test_a_body_that_ends_early_makes_no_run(client, ledger) -> None:
    reply = client.post(
        "/score",
        input_stream=io.BytesIO(b'{"text"'),
        headers={"Prefer": "respond-async"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": "100"},
    )

    assert 422 == reply.status_code
    assert "ended after 7 of 100 bytes" in reply.json["error"]
    assert [] == ledger.latest(10)


@SLOW
@given(
    body=st.binary(max_size=300),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Idempotency-Key",
                "Slipway-Webhook",
                "Slipway-Webhook-Events",
                "Content-Type",
                "Accept",
            ]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
    ),
)
def test_no_header_and_no_body_is_our_fault(client, executor, body, headers) -> None:
    reply = client.post("/score", data=body, headers=headers | {"Prefer": "respond-async"})

    assert reply.status_code in (200, 202, 422)
    while executor.request_once():
        pass
    if reply.status_code == 202:
        assert told(client, reply)["status"] in (200, 400, 415, 422)
