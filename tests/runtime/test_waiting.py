"""The process that answers while the models load."""

import contextlib
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
    monkeypatch.setattr(waiting, "OPENING", 0)  # no worker is to come
    listener = socket.create_server(("127.0.0.1", 0))
    settled, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=waiting.wait, args=(listener, 1, settled.is_set, left.set))
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


def opened(address, number):
    """Return sockets that listen on one address, in the order of their numbers."""
    made = []
    for _ in range(number):
        one = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
        one.listen(64)
        one.setblocking(False)
        address = one.getsockname()[:2]
        made.append(one)
    return made, address


def taken(listener):
    """Return the ports of the clients in a listener's queue."""
    ports = []
    with contextlib.suppress(BlockingIOError):
        while True:
            client, address = listener.accept()
            client.close()
            ports.append(address[1])
    return ports


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("workers", "first"), [(2, 0), (3, 0), (2, 1)])
def test_clients_are_dealt_out_by_their_port(host, workers, first) -> None:
    made, address = opened((host, 0), workers + first)
    assert workers + first == waiting.listeners(address[1])
    waiting.deal(made[0], workers, first)
    clients = [socket.create_connection(address) for _ in range(24)]
    ports = {client.getsockname()[1] for client in clients}

    dealt = [taken(one) for one in made]

    assert ports == {port for some in dealt for port in some}
    for number, some in enumerate(dealt):
        assert all(number == first + port // 2 % workers for port in some)
    for one in (*clients, *made):
        one.close()


def test_nobody_is_cut_off_while_the_port_goes_over(monkeypatch) -> None:
    monkeypatch.setattr(waiting.signal, "signal", lambda *_: None)
    (first, *workers), address = opened(("127.0.0.1", 0), 3)
    settled, over = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=waiting.wait, args=(first, 2, settled.is_set, lambda: None), daemon=True
    )
    thread.start()
    kept, errors = [], []

    def connect() -> None:
        while not over.is_set():
            try:
                kept.append(socket.create_connection(address))
            except OSError as error:
                errors.append(error)
            for one in workers:
                taken(one)

    crowd = threading.Thread(target=connect)
    crowd.start()
    settled.set()
    thread.join(PATIENCE)
    over.set()
    crowd.join(PATIENCE)

    assert not thread.is_alive()
    assert not errors
    assert kept
    for one in (*kept, *workers):
        one.close()


@pytest.mark.parametrize(
    ("host", "workers"), [("127.0.0.1", 1), ("::1", 3), ("0.0.0.0", 3), ("::", 2)]
)
def test_nobody_new_is_let_in_and_those_who_have_connected_stay(host, workers) -> None:
    made, address = opened((host, 0), workers)
    (other,), elsewhere = opened((host, 0), 1)
    waiting.deal(made[0], workers, 0)
    before = [socket.create_connection(address) for _ in range(8)]
    door = threading.Thread(target=waiting.let_none_in, args=(*address, workers))
    door.start()
    seen: list[int] = []
    while not (shut(address) and shut(address)):
        seen += [port for one in made for port in taken(one)]
    seen += [port for one in made for port in taken(one)]
    assert {client.getsockname()[1] for client in before} <= set(seen)
    socket.create_connection(elsewhere, timeout=PATIENCE).close()

    for one in made:  # whichever worker leaves first
        assert door.is_alive()
        assert all(shut(address) for _ in range(4))
        one.close()
    door.join(PATIENCE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=PATIENCE)
    for one in (*before, other):
        one.close()


def shut(address) -> bool:
    """Tell whether a client is neither let in nor refused."""
    try:
        socket.create_connection(address, timeout=0.1).close()
    except TimeoutError:
        return True
    return False


def test_a_server_on_the_same_port_of_another_address_is_not_counted() -> None:
    (other,), (_, port) = opened(("127.0.0.2", 0), 1)
    (worker,), address = opened(("127.0.0.1", port), 1)
    waiting.deal(worker, 1, 0)
    door = threading.Thread(target=waiting.let_none_in, args=(*address, 1))
    door.start()
    while not (shut(address) and shut(address)):
        taken(worker)
    socket.create_connection(("127.0.0.2", port), timeout=PATIENCE).close()
    worker.close()
    door.join(PATIENCE)

    assert not door.is_alive()
    other.close()


def test_where_the_kernel_deals_nobody_out_clients_still_get_a_worker(monkeypatch, caplog) -> None:
    monkeypatch.setattr(waiting, "deal", lambda *_: False)
    (worker,), address = opened(("127.0.0.1", 0), 1)
    with caplog.at_level("INFO"):
        waiting.let_none_in(*address, 1)
    assert "the last clients may be cut off" in caplog.text
    clients = [socket.create_connection(address) for _ in range(8)]

    assert 8 == len(taken(worker))
    for one in (*clients, worker):
        one.close()
