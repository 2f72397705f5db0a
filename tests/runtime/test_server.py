"""Where the scorer listens."""

import socket
import subprocess
import sys
from contextlib import nullcontext

import click
import pytest

from slipway import machine, server
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


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_is_read_from_either_cgroup(tmp_path, files, found) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert found == machine.quota(tmp_path)


@pytest.mark.parametrize(
    ("limit", "found"), [("max", 8), ("250000", 2), ("10000", 1), ("9900000", 8)]
)
def test_cores_are_those_of_the_affinity_within_the_quota(
    tmp_path, monkeypatch, limit, found
) -> None:
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(f"{limit} 100000")

    assert found == machine.usable_cores(tmp_path)


def test_workers_are_the_option_or_one_for_a_gpu_or_one_a_core(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(server, "usable_cores", lambda: 6)
    job = toy.job
    (tmp_path / "nvidiactl").touch()

    assert (3, 6) == (
        server.choose_workers(job, 3, tmp_path),
        server.choose_workers(job, None, tmp_path),  # this job's base knows no GPU
    )
    monkeypatch.setattr(job, "spec", job.spec.__class__(**(vars(job.spec) | {"base": "torch"})))

    assert (1, 6) == (
        server.choose_workers(job, None, tmp_path),
        server.choose_workers(job, None, tmp_path / "none"),
    )


@pytest.mark.parametrize(
    ("cores", "usable", "workers", "found"),
    [
        ({0, 1}, 2, 2, [0, 1]),
        ({3, 5, 9}, 3, 3, [3, 5, 9]),
        (set(range(64)), 2, 2, [None, None]),  # a quota: its cores may be any
        ({0, 1}, 2, 4, [None] * 4),
        ({0}, 1, 1, [None]),
    ],
)
def test_a_worker_has_a_core_where_there_is_one_for_each(
    monkeypatch, cores, usable, workers, found
) -> None:
    monkeypatch.setattr(server.os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(server, "usable_cores", lambda: usable)

    assert found == [server._core_of(worker, workers) for worker in range(workers)]


STAYS = """
import os, threading
from slipway.machine import stay_on
over, own = threading.Event(), []
began = threading.Thread(target=lambda: (over.wait(), own.append(os.sched_getaffinity(0))))
began.start()
everywhere = os.sched_getaffinity(0)
stay_on(min(everywhere))
over.set()
began.join()
print(os.sched_getaffinity(0) == {min(everywhere)}, own == [everywhere])
"""


def test_a_thread_stays_on_a_core_and_those_of_python_do_not() -> None:
    found = subprocess.run([sys.executable, "-c", STAYS], capture_output=True, check=True)

    assert b"True True" == found.stdout.strip()


@pytest.mark.parametrize(
    ("workers", "gpu", "shared"), [(2, False, True), (1, False, False), (2, True, False)]
)
def test_workers_of_one_thread_share_a_model_that_is_loaded_and_warm(
    toy, finished_run, monkeypatch, workers, gpu, shared
) -> None:
    seen = []
    monkeypatch.setattr(server, "usable_cores", lambda: 2)
    monkeypatch.setattr(server, "on_gpu", lambda spec: gpu)
    monkeypatch.setattr(server, "_freeze", lambda: seen.append("frozen"))
    monkeypatch.setattr(server, "_waiting", lambda *_: nullcontext(8080))
    monkeypatch.setattr(server, "_run_granian", lambda *arguments: seen.append(arguments[-1]))
    settings = server.Settings(port=0, workers=workers)
    server.serve_forever(toy.job, finished_run / "out", settings)

    assert (["frozen"] if shared else []) == seen[:-1]
    assert shared == (seen[-1] is not None and bool(seen[-1].model_id))


def test_a_board_is_settled_when_every_worker_is() -> None:
    board = server.Board(2)
    seen = [board.settled()]
    for worker in (1, 0):
        board.settle(worker)
        seen.append(board.settled())

    assert [False, False, True] == seen
    assert not board.draining()
    board.drain()
    assert board.draining()


def test_what_platforms_and_options_say_reaches_the_server(trained, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(server, "serve_forever", lambda job, out, settings: seen.append(settings))
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_WORKERS", "3")
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_TIMEOUT", "7")
    trained("serve")
    monkeypatch.setenv("LOG_FORMAT", "json")
    trained("serve", "--workers", "2", "--batch-rows", "9", "--max-wait-ms", "5")

    assert (3, 7, False) == (seen[0].workers, seen[0].limits.timeout, seen[0].access_log)
    assert (2, 9, True) == (seen[1].workers, seen[1].limits.batch_rows, seen[1].access_log)
    assert 0.005 == seen[1].limits.max_wait
