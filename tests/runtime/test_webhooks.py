"""Webhooks: who may be called, what a receiver can check, and that it is told in the end."""

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from slipway import webhooks
from slipway.errors import InputInvalid
from slipway.ledger import LongWork, read_object
from slipway.scorer import create_app
from tests.receiver import Receiver, receiving

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def app(trained):
    work = LongWork(webhook_hosts=("127.0.0.1", "*.example.org"), webhook_secret=SECRET)
    return create_app(trained.job, trained.out, background=False, long_work=work)


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deliverer(executor, clock):
    return webhooks.Deliverer(executor.ledger, clock)


def ask(app, url: str, events: str | None = None):
    headers = {"Prefer": "respond-async", "Slipway-Webhook": url}
    if events is not None:
        headers["Slipway-Webhook-Events"] = events
    return app.test_client().post("/score", json={"text": "a"}, headers=headers)


def hook(app) -> dict:
    client = app.test_client()
    return client.get(f"/runs/{client.get('/runs').json['runs'][0]['id']}").json["webhook"]


def test_a_receiver_is_told_once_of_the_end_with_a_signature(
    app, executor, deliverer, receiver, clock
) -> None:
    reply = ask(app, receiver.url)

    assert not deliverer.once()
    assert "pending" == hook(app)["state"]

    executor.request_once()

    assert deliverer.once()
    assert not deliverer.once()

    headers, body = receiver.got[0]
    told = json.loads(body)
    mark = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = b"a key of twenty-four byte"
    wanted = base64.b64encode(hmac.new(key, mark, hashlib.sha256).digest()).decode()

    assert f"v1,{wanted}" == headers["webhook-signature"]
    assert str(int(clock.now)) == headers["webhook-timestamp"]
    assert "application/json" == headers["Content-Type"]
    assert {"type", "timestamp", "data"} == set(told)
    assert ("run.completed", reply.json["id"], "succeeded") == (
        told["type"],
        told["data"]["id"],
        told["data"]["state"],
    )
    assert 1 == len(receiver.got)
    assert "delivered" == hook(app)["state"]


def test_the_signature_is_that_of_the_specifications_example() -> None:
    found = webhooks.signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )

    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == found["webhook-signature"]


def test_a_receiver_that_fails_twice_gets_its_event_once_it_answers(
    app, executor, receiver, clock
) -> None:
    receiver.statuses = [500, 302]
    ask(app, receiver.url)
    executor.request_once()
    waits = []
    for _ in range(3):
        deliverer = webhooks.Deliverer(executor.ledger, clock)  # as after a restart

        assert deliverer.once()
        assert not deliverer.once()

        state = read_object(executor.ledger.latest(1)[0].folder / "delivery.json")
        if "next" in state:
            waits.append(state["next"] - clock.now)
            clock.now = state["next"]

    assert 1 == len({headers["webhook-id"] for headers, _ in receiver.got})
    assert 1 == len({body for _, body in receiver.got})
    assert 3 == len(receiver.got)
    assert 0.5 <= waits[0] <= 1
    assert 1 <= waits[1] <= 2
    assert "delivered" == hook(app)["state"]


def test_a_receiver_that_is_not_there_is_tried_until_it_is_given_up(
    app, executor, deliverer, clock
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ask(app, f"http://127.0.0.1:{unused.getsockname()[1]}/")
        executor.request_once()
        tries = 0
        while executor.ledger.undelivered():
            tries += deliverer.once()
            clock.now += webhooks.LONGEST_PAUSE

    assert webhooks.ATTEMPTS == tries
    assert ("failed", "Connection refused") == (hook(app)["state"], hook(app)["error"][-18:])


def test_a_receiver_that_is_gone_is_asked_no_more(app, executor, deliverer, receiver) -> None:
    receiver.statuses = [410]
    ask(app, receiver.url)
    executor.request_once()

    assert deliverer.once()
    assert [] == executor.ledger.undelivered()
    assert ("failed", "HTTP 410") == (hook(app)["state"], hook(app)["error"])


def test_only_the_events_that_were_asked_for_are_told_in_order(
    app, executor, deliverer, receiver
) -> None:
    ask(app, receiver.url, "start, progress completed")
    run = executor.ledger.latest(1)[0]
    run.append("start", attempt=1)
    run.append("log", text="not told")
    for done in range(5):
        run.append("progress", done=done)
    while deliverer.once():
        pass
    run.append("progress", done=5)
    run.append("progress", done=6)
    run.change(state="succeeded", attempt=1)
    run.append("completed", state="succeeded")
    while deliverer.once():
        pass

    found = [(told["type"], told["data"].get("done")) for told in receiver.told]

    assert [
        ("run.start", None),
        ("run.progress", 4),
        ("run.completed", None),
    ] == found
    assert [] == executor.ledger.undelivered()


def test_a_run_whose_last_event_nobody_asked_for_is_closed(
    app, executor, deliverer, receiver
) -> None:
    ask(app, receiver.url, "start")
    executor.request_once()
    while deliverer.once():
        pass
    deliverer.once()

    assert ["run.start"] == [told["type"] for told in receiver.told]
    assert [] == executor.ledger.undelivered()


def test_two_workers_deliver_an_event_once(app, executor, receiver, clock) -> None:
    for _ in range(5):
        ask(app, receiver.url)
        executor.request_once()
    gate = threading.Barrier(4)

    def work() -> None:
        deliverer = webhooks.Deliverer(executor.ledger, clock)
        gate.wait()
        while executor.ledger.undelivered():
            deliverer.once()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 5 == len(receiver.got) == len({headers["webhook-id"] for headers, _ in receiver.got})


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 2", b"x" * 5000])
def test_an_answer_that_is_no_http_is_a_failure(answer) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def reply() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):  # the other side has heard enough
                connection.recv(4096)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)

        thread = threading.Thread(target=reply)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(OSError, match="the answer is no HTTP"):
            webhooks.post(url, b"{}", {}, ("127.0.0.1",))
        thread.join()


def test_a_receiver_that_never_answers_holds_no_thread_for_long(monkeypatch) -> None:
    monkeypatch.setattr(webhooks, "SECONDS", 0.05)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            webhooks.post(url, b"{}", {}, ("127.0.0.1",))


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "127.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
    ],
)
def test_addresses_that_no_webhook_may_go_to(host) -> None:
    with pytest.raises(webhooks.Forbidden):
        webhooks.vet(f"http://{host}/", ())


@pytest.mark.parametrize("host", ["10.0.0.7", "8.8.8.8", "[2001:4860::1]", "example.org"])
def test_other_addresses_are_allowed(host) -> None:
    assert webhooks.vet(f"https://{host}:8443/a?b=c", ())


def test_a_link_local_address_is_refused_even_where_it_is_named() -> None:
    with pytest.raises(webhooks.Forbidden, match="link-local or metadata"):
        webhooks.vet("http://169.254.169.254/", ("169.254.169.254",))


def test_a_name_that_leads_to_a_forbidden_address_is_given_up(
    app, executor, deliverer, monkeypatch
) -> None:
    ask(app, "http://rebound.example.org/")
    executor.request_once()
    address = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(webhooks.socket, "getaddrinfo", lambda *_, **__: address)

    assert deliverer.once()
    assert "failed" == hook(app)["state"]
    assert "link-local or metadata" in hook(app)["error"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example.org/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://user:word@a.example.org/",
        "http://a.example.org:99999/",
        "http://a.example.org:0/",
        "http://a.example.org/\u00e9",
        "http://a.example.org/ b",
        "http://[::1",
        "http://other.test/",
        "http://a.example.org/" + "x" * 3000,
    ],
)
def test_an_address_that_cannot_be_is_422_and_makes_no_run(app, executor, url) -> None:
    reply = ask(app, url)

    assert 422 == reply.status_code
    assert reply.json["error"].startswith("Slipway-Webhook: ")
    assert [] == executor.ledger.latest(1)


def test_an_event_that_is_none_is_422(app) -> None:
    for events in ("end", "start,", "completed;start"):
        assert (
            "wanted some of start, progress, completed"
            in ask(app, "http://a.example.org/", events).json["error"]
        )


def test_without_a_secret_webhooks_are_off_and_say_so(trained) -> None:
    app = create_app(trained.job, trained.out, background=False)
    reply = ask(app, "http://a.example.org/")

    assert 422 == reply.status_code
    assert "SLIPWAY_WEBHOOK_SECRET is not set" in reply.json["error"]


def test_a_secret_that_is_none_keeps_the_server_from_starting(trained, monkeypatch) -> None:
    for secret in ("short", "whsec_not base64!", "whsec_YQ=="):
        monkeypatch.setenv("SLIPWAY_WEBHOOK_SECRET", secret)
        code, _, err = trained("serve", "--out", str(trained.out))

        assert 2 == code
        assert "SLIPWAY_WEBHOOK_SECRET: " in err


def test_two_secrets_sign_side_by_side() -> None:
    found = webhooks.signed(f"{SECRET} another-plain-secret", "a", 1, b"{}")

    assert re.fullmatch("v1,[^ ]{44} v1,[^ ]{44}", found["webhook-signature"])
    with pytest.raises(InputInvalid):
        webhooks.keys("whsec_%%%")


def test_pauses_double_up_to_an_hour_with_jitter() -> None:
    assert all(0.5 <= webhooks.pause(1) <= 1 for _ in range(50))
    assert all(1800 <= webhooks.pause(40) <= 3600 for _ in range(50))
    assert 1 < len({webhooks.pause(5) for _ in range(50)})
