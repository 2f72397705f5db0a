"""Where the scorer listens."""

import socket

import click
import pytest

from slipway import server
from slipway.errors import DataUnavailable


@pytest.fixture(autouse=True)
def no_port_is_set(monkeypatch) -> None:
    for name in server.PORT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_option_wins_then_the_platforms_in_order_then_8080(monkeypatch) -> None:
    assert 8080 == server.choose_port(None)
    for number, name in reversed([*enumerate(server.PORT_VARIABLES, start=9001)]):
        monkeypatch.setenv(name, str(number))

        assert number == server.choose_port(None)
    assert 0 == server.choose_port(0)


@pytest.mark.parametrize("text", ["http", "-1", "65536", "80 80"])
def test_a_variable_that_is_no_port_is_told_by_name(monkeypatch, text) -> None:
    monkeypatch.setenv("PORT", text)

    with pytest.raises(click.UsageError, match=f"PORT='{text}'; wanted a port from 0 to 65535"):
        server.choose_port(None)


def test_a_taken_port_is_told_with_its_exit_code(trained) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = trained(
            "serve", "--host", "127.0.0.1", "--port", port, "--out", str(trained.out)
        )

    assert 5 == code
    assert f"127.0.0.1:{port} cannot be bound: Address already in use" in err


def test_a_host_that_is_none_is_told(trained) -> None:
    with pytest.raises(DataUnavailable, match=r"host\.invalid:8080 cannot be bound"):
        server._check_free("no.such.host.invalid", 8080)


def test_a_score_log_that_cannot_be_written_is_told_before_the_port_answers(trained) -> None:
    code, _, err = trained(
        "serve", "--port", "0", "--score-log", str(trained.out), "--out", str(trained.out)
    )

    assert 5 == code
    assert "cannot be written (Is a directory)" in err
