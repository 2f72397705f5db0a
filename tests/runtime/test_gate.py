"""The gate before Flask: bodies within limits, slow and vanished clients, answers of both ways."""

import asyncio
import json
import threading
import time
from functools import partial

import pytest

from slipway import batching, gate
from slipway.batching import Limits
from slipway.errors import Busy, InputInvalid
from slipway.later import Later
from slipway.scorer import create_app

PATIENCE = 20


class Headers(dict):
    """Granian's headers, which are no mapping for Python."""

    def get_all(self, name):
        return [self[name]]


class Scope:
    """A request's head."""

    def __init__(self, method, path, headers):
        self.method, self.path, self.headers = method, path, Headers(headers)
        self.query_string, self.http_version, self.scheme = "", "1.1", "http"
        self.server, self.client = "127.0.0.1:80", "127.0.0.1:5000"


class Proto:
    """One exchange as granian has it; ``parts`` of the body, None is a pause without end."""

    def __init__(self, parts):
        self.parts = list(parts)
        self.answers, self.sent = [], []
        self.left = asyncio.Event()

    async def __call__(self):
        return b"".join([part async for part in self])

    async def __aiter__(self):
        for part in self.parts:
            if part is None:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            yield part

    async def client_disconnect(self):
        await self.left.wait()

    def response_bytes(self, status, headers, body):
        self.answers.append((status, {name.lower(): text for name, text in headers}, body))

    def response_stream(self, status, headers):
        self.answers.append((status, dict(headers), None))
        return self

    def send_bytes(self, part):
        self.sent.append(part)


@pytest.fixture
def make(toy, finished_run):
    """Return a function that makes the gate of a warm scorer."""

    def make(**limits):
        app = create_app(toy.job, finished_run / "out", background=False, limits=Limits(**limits))

        @app.post("/wait")
        def wait():
            assert app.released.wait(PATIENCE)
            return "waited"

        @app.post("/later/<name>")
        def later(name):
            app.laters[name] = found = Later(app.within, "nobody knows yet")
            if name == "at-once":
                found.give(201, ["done"])
            if name == "wrong":
                raise InputInvalid("on second thoughts")
            return found

        @app.get("/stream")
        def stream():
            return (part for part in (b"one", b"two"))

        app.released = threading.Event()
        app.laters, app.within = {}, PATIENCE
        return gate.Gate(app, threads=1)

    return make


def exchange(site, *requests):
    """Send requests at one time, each (method, path, headers, parts); return their answers."""

    async def all_of_them():
        site.__rsgi_init__(asyncio.get_running_loop())
        protos = [Proto(parts) for *_, parts in requests]
        tasks = [
            asyncio.ensure_future(site.__rsgi__(Scope(*head), proto))
            for (*head, _), proto in zip(requests, protos, strict=True)
        ]
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        site.__rsgi_del__(asyncio.get_running_loop())
        return protos

    return asyncio.run(all_of_them())


def score(body, **more):
    parts = body if isinstance(body, list) else [body]
    known = sum(len(part or b"") for part in parts)
    headers = {"content-type": "application/json", "content-length": str(known)} | more
    return "POST", "/score", headers, parts


ROW = b'{"text": "win a prize"}'


def test_plain_rows_never_see_flask_and_are_answered_like_flask_does(make) -> None:
    site = make()
    straight, listed = exchange(site, score(ROW), score(b"[" + ROW + b"]"))
    seen = site.app.full_dispatch_request
    site.app.full_dispatch_request = lambda: pytest.fail("Flask was asked")
    again, *_ = exchange(site, score(ROW))
    site.app.full_dispatch_request = seen
    (through,) = exchange(site, score(ROW, accept="application/json;q=0.9"))
    (status, headers, body) = straight.answers[0]

    assert (200, "application/json") == (status, headers["content-type"])
    assert json.loads(body) == json.loads(listed.answers[0][2])[0]
    assert [a[2] for a in again.answers] == [body]
    assert json.loads(body) == json.loads(through.answers[0][2])


def test_the_loop_stays_on_its_core_and_the_threads_that_score_do_not(make, monkeypatch) -> None:
    site, seen = make(), []
    site.core = 7
    monkeypatch.setattr(gate, "stay_on", lambda core: seen.append((core, threading.enumerate())))
    exchange(site, score(ROW))
    ((core, there),) = seen

    assert 7 == core
    assert {"scoring", "get-0", "post-0"} <= {thread.name for thread in there}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"text": 7}',
        b'[{"text": "a"}, {}, {"txt": 1}]',
        b"\xff\xfe",
        b'"row"',
        b"[7, 8]",
    ],
)
def test_a_wrong_body_is_refused_without_flask_as_flask_does(make, body) -> None:
    site = make()
    (through,) = exchange(site, score(body, accept="application/json;q=0.9"))
    site.app.full_dispatch_request = lambda: pytest.fail("Flask was asked")
    (straight,) = exchange(site, score(body))
    (status, headers, told) = straight.answers[0]
    (wanted, flasks, wording) = through.answers[0]

    assert (wanted, wording) == (status, told)
    assert flasks["content-type"] == headers["content-type"]


def test_a_quick_model_is_called_on_the_loop_and_may_start_one_of_its_own(
    make, monkeypatch
) -> None:
    monkeypatch.setattr(batching, "QUICK", PATIENCE)
    site, seen = make(), []
    answers = site.service.batcher.answers

    def noted(rows):
        seen.append((threading.current_thread(), len(rows)))
        asyncio.run(asyncio.sleep(0))
        return answers(rows)

    site.service.batcher.answers = noted
    exchange(site, score(ROW))
    protos = exchange(site, score(ROW), score(ROW))

    assert [200, 200] == [status for proto in protos for status, *_ in proto.answers]
    assert threading.current_thread() is not seen[0][0]
    assert [(threading.current_thread(), 2)] == seen[1:]


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (b'{"text": 7}', {}, 422),
        (b"{", {}, 400),
        (b"[]", {}, 200),
        (ROW, {"content-type": "application/xml"}, 415),
        (b'{"text": "explode"}', {}, 500),
    ],
)
def test_what_is_wrong_is_told_once_with_the_request_id(make, body, more, status) -> None:
    (proto,) = exchange(make(), score(body, **more, **{"x-request-id": "mine-7"}))

    assert [status] == [code for code, *_ in proto.answers]
    assert "mine-7" == proto.answers[0][1]["x-request-id"]
    assert b"secret" not in proto.answers[0][2]


def test_a_body_that_says_it_is_too_large_is_refused_unread_and_then_discarded(make) -> None:
    parts = [b"x" * 1000] * 3
    (proto,) = exchange(make(), score(parts))

    assert [(413, "close")] == [(code, h["connection"]) for code, h, _ in proto.answers]


def test_a_body_without_a_length_is_cut_at_the_limit(make) -> None:
    class Endless(list):
        def __iter__(self):
            while True:
                yield b"x" * 1000

    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    site = make(timeout=0.05)
    (proto,) = exchange(site, ("POST", "/score", headers, []))
    assert 400 == proto.answers[0][0]

    async def endless():
        site.__rsgi_init__(asyncio.get_running_loop())
        proto = Proto([])
        proto.parts = Endless()
        await asyncio.wait_for(site.__rsgi__(Scope("POST", "/score", headers), proto), PATIENCE)
        return proto

    assert [413] == [code for code, *_ in asyncio.run(endless()).answers]
    assert 0 == site.buffered


@pytest.mark.parametrize("size", [100, 1900])
def test_a_body_that_does_not_arrive_is_408_and_holds_no_thread(make, monkeypatch, size) -> None:
    monkeypatch.setattr(gate, "SWEEP", 0.01)
    monkeypatch.setattr(gate, "SMALL", 1000)
    head = {"content-type": "application/json", "content-length": str(size)}
    slow = [("POST", "/score", head, [b"{", None])] * 50
    *protos, good = exchange(make(timeout=0.05), *slow, score(ROW))

    assert {408} == {proto.answers[0][0] for proto in protos}
    assert 200 == good.answers[0][0]


def test_health_answers_while_every_other_thread_waits_and_a_full_lane_is_429(
    make, monkeypatch
) -> None:
    monkeypatch.setattr(gate, "QUEUED", 1)
    site = make()
    post = ("POST", "/wait", {"content-length": "0"}, [])

    async def crowd():
        site.__rsgi_init__(asyncio.get_running_loop())
        waiting = [Proto([]) for _ in range(2)]
        tasks = [asyncio.ensure_future(site.__rsgi__(Scope(*post[:3]), p)) for p in waiting]
        await asyncio.sleep(0)
        refused, health = Proto([]), Proto([])
        await site.__rsgi__(Scope(*post[:3]), refused)
        await asyncio.wait_for(site.__rsgi__(Scope("GET", "/readyz", {}), health), PATIENCE)
        assert not waiting[0].answers
        site.app.released.set()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return refused, health, waiting

    refused, health, waiting = asyncio.run(crowd())

    assert (429, "1") == (refused.answers[0][0], refused.answers[0][1]["retry-after"])
    assert 200 == health.answers[0][0]
    assert [200, 200] == [proto.answers[0][0] for proto in waiting]


def test_a_client_that_went_away_while_it_waited_is_not_asked_for(make, monkeypatch) -> None:
    monkeypatch.setattr(gate, "SWEEP", 0.005)
    site = make()
    calls = []
    inner = site.service.batcher.answers

    async def leave():
        site.__rsgi_init__(asyncio.get_running_loop())
        released = threading.Event()
        entered = threading.Event()

        def held(rows):
            calls.append([row.text for row in rows])
            entered.set()
            assert released.wait(PATIENCE)
            return inner(rows)

        site.service.batcher.answers = held
        first, left, stays = Proto([ROW]), Proto([b'{"text":"left"}']), Proto([b'{"text":"b"}'])
        tasks = [asyncio.ensure_future(site.__rsgi__(Scope(*score(ROW)[:3]), first))]
        while not entered.is_set():
            await asyncio.sleep(0.001)
        for proto in (left, stays):
            head = score(proto.parts[0])[:3]
            tasks.append(asyncio.ensure_future(site.__rsgi__(Scope(*head), proto)))
        left.left.set()
        end = time.monotonic() + PATIENCE
        while not any(one.gone for one in site.open) and time.monotonic() < end:
            await asyncio.sleep(0.001)
        released.set()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return first, stays

    first, stays = asyncio.run(leave())

    assert [200, 200] == [first.answers[0][0], stays.answers[0][0]]
    assert [["win a prize"], ["b"]] == calls


def test_a_client_that_left_the_queue_of_a_lane_is_forgotten(make, monkeypatch) -> None:
    monkeypatch.setattr(gate, "SWEEP", 0.005)
    site = make()
    head = "POST", "/wait", {"content-length": "0"}

    async def leave():
        site.__rsgi_init__(asyncio.get_running_loop())
        stays, left = Proto([]), Proto([])
        tasks = [asyncio.ensure_future(site.__rsgi__(Scope(*head), p)) for p in (stays, left)]
        left.left.set()
        while not any(one.gone for one in site.open):
            await asyncio.sleep(0.001)
        site.app.released.set()
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return stays, left

    stays, left = asyncio.run(leave())

    assert ([200], []) == ([code for code, *_ in stays.answers], left.answers)
    assert not site.open


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_raises_beyond_flask_is_500_with_the_request_id(make, method) -> None:
    site = make()
    site.app = lambda environ, start_response: {}["secret"]
    (proto,) = exchange(site, (method, "/openapi.json", {"x-request-id": "mine-7"}, []))
    ((status, headers, body),) = proto.answers

    assert (500, "mine-7") == (status, headers["x-request-id"])
    assert b"secret" not in body
    assert not site.open


def test_a_streamed_answer_is_sent_part_by_part(make) -> None:
    (proto,) = exchange(make(), ("GET", "/stream", {}, []))

    assert [b"one", b"two"] == proto.sent
    assert [200] == [code for code, *_ in proto.answers]


def test_the_answers_of_both_ways_are_counted_by_route(make) -> None:
    site = make()
    exchange(site, score(ROW), score(b"{"), ("GET", "/nowhere", {}, []), score([b"x" * 3000]))
    text = site.service.metrics.text().decode()

    for route, status in (("/score", 200), ("/score", 400), ("unknown", 404), ("/score", 413)):
        assert f'slipway_requests_total{{route="{route}",status="{status}"}} 1.0' in text


def later(name, **more):
    return "POST", f"/later/{name}", {"content-length": "0"} | more, []


def heads(proto):
    """Return status, body and some headers of the one answer."""
    ((status, headers, body),) = proto.answers
    return status, json.loads(body), headers.get("retry-after"), headers["x-request-id"]


def when(seen):
    """Wait until something is seen; in a thread, for the loop goes on meanwhile."""
    end = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_answers_that_are_given_later_hold_no_thread(make) -> None:
    site = make()  # one thread
    laters = site.app.laters

    def give():
        when(lambda: len(laters) == 3)
        laters["b"].give(201, {"b": 1})
        laters["a"].give(200, ["a"])
        laters["a"].give(200, ["a second one does not count"])
        laters["c"].fail(Busy("not now"))

    thread = threading.Thread(target=give)
    thread.start()
    a, b, c = exchange(site, later("a", **{"x-request-id": "mine-3"}), later("b"), later("c"))
    thread.join()

    assert (200, ["a"], None, "mine-3") == heads(a)
    assert (201, {"b": 1}, None) == heads(b)[:3]
    assert (429, {"error": "not now"}, "1") == heads(c)[:3]
    counted = site.service.metrics.text().decode()
    assert 'slipway_requests_total{route="/later/<name>",status="201"} 1.0' in counted
    assert "unknown" not in counted
    assert not site.open


def test_an_answer_may_be_there_before_the_view_returns_or_the_view_may_fail(make) -> None:
    site = make()
    once, wrong = exchange(site, later("at-once"), later("wrong"))
    site.app.laters["wrong"].give(200, "too late")

    assert (201, ["done"]) == heads(once)[:2]
    assert (422, {"error": "on second thoughts"}) == heads(wrong)[:2]


def test_who_is_not_answered_in_time_is_told_so(make, monkeypatch) -> None:
    monkeypatch.setattr(gate, "SWEEP", 0.005)
    site = make()
    site.app.within = 0.01
    (proto,) = exchange(site, later("never"))
    site.app.laters["never"].give(200, "too late")

    assert (503, {"error": "nobody knows yet"}, "1") == heads(proto)[:3]


def test_as_many_wait_for_a_later_answer_as_for_a_thread(make, monkeypatch) -> None:
    monkeypatch.setattr(gate, "QUEUED", 1)
    site = make()

    async def crowd():
        site.__rsgi_init__(asyncio.get_running_loop())
        protos = [Proto([]) for _ in range(4)]
        tasks = []
        for name, proto in zip("abc", protos, strict=False):
            head = Scope(*later(name)[:3])
            tasks.append(asyncio.ensure_future(site.__rsgi__(head, proto)))
            seen = partial(site.app.laters.__contains__, name) if name != "c" else tasks[-1].done
            await asyncio.to_thread(when, seen)
        site.app.laters["a"].give(200, "a")
        await asyncio.wait_for(tasks[0], PATIENCE)
        tasks.append(asyncio.ensure_future(site.__rsgi__(Scope(*later("d")[:3]), protos[3])))
        await asyncio.to_thread(when, lambda: "d" in site.app.laters)
        for name in "bd":
            site.app.laters[name].give(200, name)
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return protos

    a, b, c, d = asyncio.run(crowd())

    assert ["a", "b", "d"] == [heads(proto)[1] for proto in (a, b, d)]
    assert (429, "1") == (heads(c)[0], heads(c)[2])


def test_without_the_gate_the_view_waits_for_a_later_answer(make) -> None:
    site = make()
    site.app.within = 0.01
    client = site.app.test_client()
    slow, once = client.post("/later/never"), client.post("/later/at-once")

    assert (503, "nobody knows yet") == (slow.status_code, slow.json["error"])
    assert ("1", 201, ["done"]) == (slow.headers["Retry-After"], once.status_code, once.json)
    assert once.headers["X-Request-Id"]
    counted = site.service.metrics.text().decode()
    assert 'slipway_requests_total{route="/later/<name>",status="503"} 1.0' in counted


def test_an_answer_that_cannot_be_sent_does_no_harm_to_who_gives_it(make, caplog) -> None:
    site = make()
    with site.app.test_request_context("/score", method="POST"):
        one = Later(PATIENCE, "")
    one.then(lambda *_: 1 / 0)
    one.give(200, "x")

    assert "an answer was not delivered" in caplog.text
