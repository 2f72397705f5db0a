"""The process that answers while the models load."""

import http.client
import json
import socket
import threading

import pytest

from slipway import waiting

PATIENCE = 20


@pytest.fixture
def place(monkeypatch):
    """Answer in a thread; give the port and what ends it."""
    monkeypatch.setattr(waiting.signal, "signal", lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    settled, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=waiting.wait, args=(listener, settled.is_set, left.set))
    thread.start()
    yield listener.getsockname()[1], settled, thread
    assert left.is_set() == settled.is_set()
    settled.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert left.is_set()


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def test_it_lives_and_is_not_ready_whatever_is_asked(place) -> None:
    port, *_ = place

    status, _, body = ask(port, "GET", "/livez")
    assert (200, {"live": True}) == (status, json.loads(body))
    for method, path in (("GET", "/readyz"), ("POST", "/score"), ("GET", "/livezz?/livez")):
        status, headers, body = ask(
            port, method, path, b"x" * 300_000 if method == "POST" else None
        )

        assert (503, "1", "close") == (status, headers["Retry-After"], headers["Connection"])
        assert "loading" == json.loads(body)["reason"]
    assert b"" == ask(port, "HEAD", "/readyz")[2]


@pytest.mark.parametrize("sent", [b"\r\n\r\n", b"x" * 100_000, b"GET /livez HTTP/1.1\r\n"])
def test_what_is_no_request_stops_nobody(place, sent) -> None:
    port, *_ = place
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)

        assert 200 == ask(port, "GET", "/livez")[0]


def test_when_all_have_settled_it_leaves_and_the_port_is_free(place) -> None:
    port, settled, thread = place
    assert 503 == ask(port, "GET", "/readyz")[0]
    settled.set()
    thread.join(PATIENCE)

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
