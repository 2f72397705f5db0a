"""The command line as a user meets it: what is printed, and the exit code."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipway.host import catalog, check, cli, environment, process
from tests.host.conftest import REPOSITORY, Engine, Slipway


def test_list_shows_every_job(slipway: Slipway) -> None:
    code, out, _ = slipway("list")
    assert code == 0
    assert "example  Which of two kinds" in out


def test_every_command_has_its_row_in_the_docs() -> None:
    text = (REPOSITORY / "docs" / "05-host.md").read_text("utf-8")
    rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    told = set(re.findall(r"[a-z-]+", rows))
    assert set(cli.cli.commands) - told == set()


def test_an_unknown_job_is_one_line_and_exit_code_2(slipway: Slipway) -> None:
    code, out, err = slipway("run", "exmaple")
    assert (code, out) == (2, "")
    assert err.startswith("slipway: no job 'exmaple'")
    assert "Traceback" not in err


def test_run_builds_and_gives_the_exit_code_of_the_job(slipway: Slipway, docker: Engine) -> None:
    docker.output, docker.code = [(b"accuracy 0.9\n", None)], 3
    code, out, _ = slipway("run", "example")
    assert (code, out) == (3, "accuracy 0.9\n")
    assert docker.built() == ["slipway/base", "slipway/example"]
    assert docker.created[0].options["arguments"] == ["run"]


def test_run_passes_verb_and_options_on_untouched(slipway: Slipway, docker: Engine) -> None:
    slipway("run", "example", "train", "--seed", "3", "--help")
    assert docker.created[0].options["arguments"] == ["train", "--seed", "3", "--help"]


def test_build_prints_sizes(slipway: Slipway, docker: Engine) -> None:
    code, out, _ = slipway("build", "example")
    assert code == 0
    assert "slipway/base: 700 MB of 800 MB" in out


def test_build_without_an_engine_fails_clearly(slipway: Slipway, no_docker: None) -> None:
    code, _, err = slipway("build", "example")
    assert code == 1
    assert err == "slipway: no Docker engine answers at /nowhere (No such file)\n"


def test_without_an_engine_the_job_runs_as_a_process_said_aloud(
    slipway: Slipway, no_docker: None, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    called = {}

    def execve(python: Path, command: list[str], environ: dict[str, str]) -> None:
        called.update(command=command, environ=environ)
        raise SystemExit(5)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(environment, "make", lambda *_: Path("/venv/bin/python"))
    code, _, err = slipway("run", "example", "train")
    assert code == 5
    assert called["command"] == ["/venv/bin/python", "-m", "slipway", "train"]
    assert called["environ"]["SLIPWAY_JOB"] == str(root / "jobs" / "example")
    assert called["environ"]["PYTHONPATH"] == f"{root / 'src'}:{root}"
    assert "running as a process" in err


def test_an_engine_that_was_asked_for_is_not_replaced(slipway: Slipway, no_docker: None) -> None:
    code, _, err = slipway("run", "--runner", "docker", "example")
    assert code == 1
    assert "no Docker engine answers" in err


def test_serve_publishes_on_loopback(slipway: Slipway, docker: Engine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, _, err = slipway("serve", "example", "--port", str(port))
    assert docker.created[0].options["ports"] == {"8080/tcp": ("127.0.0.1", port)}
    assert f"http://127.0.0.1:{port}/ (a form)" in err


def test_a_taken_port_is_told_before_anything_is_built(slipway: Slipway, docker: Engine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = slipway("serve", "example", "--port", str(taken.getsockname()[1]))
    assert code == 1
    assert "choose another with --port" in err
    assert docker.built() == []


def test_score_mounts_the_input_alone_and_the_outputs_folder(
    slipway: Slipway, docker: Engine, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    slipway("score", "example", str(rows), str(tmp_path / "new" / "scores.jsonl"), "--shard", "0/2")
    options = docker.created[0].options
    assert f"{rows}:/input/rows.jsonl:ro" in options["volumes"]
    assert f"{tmp_path / 'new'}:/output:rw" in options["volumes"]
    wanted = ["score", "/input/rows.jsonl", "/output/scores.jsonl", "--shard", "0/2"]
    assert options["arguments"] == wanted


def test_score_passes_addresses_of_stores_on(slipway: Slipway, docker: Engine) -> None:
    slipway("score", "example", "s3://bucket/rows.jsonl", "s3://bucket/scores.jsonl")
    arguments = docker.created[0].options["arguments"]
    assert arguments == ["score", "s3://bucket/rows.jsonl", "s3://bucket/scores.jsonl"]


def test_score_of_a_missing_file_has_the_exit_code_of_invalid_input(slipway: Slipway) -> None:
    code, _, err = slipway("score", "example", "nowhere.jsonl", "scores.jsonl")
    assert code == 6
    assert "nowhere.jsonl: no such file" in err


def test_demo_without_a_model_says_how_to_get_one(slipway: Slipway, docker: Engine) -> None:
    code, _, err = slipway("demo", "example")
    assert code == 1
    assert "first: make run JOB=example" in err


def test_clean_removes_the_jobs_images_and_keeps_bases(slipway: Slipway, docker: Engine) -> None:
    slipway("build", "example")
    code, out, _ = slipway("clean", "example")
    assert (code, out) == (0, "removed slipway/example\n")


def test_clean_removes_artifacts_when_told(slipway: Slipway, docker: Engine, root: Path) -> None:
    (root / "artifacts" / "example" / "data").mkdir(parents=True)
    slipway("clean", "example", "--artifacts")
    assert not (root / "artifacts" / "example").exists()


def test_images_over_budget_fail(
    slipway: Slipway, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.host import build

    slipway("build", "example")
    monkeypatch.setitem(build.BUDGETS, "base", 1)
    code, _, err = slipway("images-sizes")
    assert code == 1
    assert "over budget: slipway/base" in err


def test_test_says_what_it_could_not_run_and_why(
    slipway: Slipway, no_docker: None, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    (root / "tests" / "conformance").mkdir(parents=True)
    monkeypatch.setattr(environment, "make", lambda *_: Path("/venv/bin/python"))
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: 0)
    code, out, _ = slipway("test")
    assert code == 0
    assert re.search(r"conformance \(\d+ s\), job example \(\d+ s\)", out)
    assert "not run: containers: no Docker engine answers" in out
    assert "not run: accept: no Docker engine answers" in out


def test_a_failing_step_fails_the_whole(
    slipway: Slipway, no_docker: None, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    (root / "tests" / "conformance").mkdir(parents=True)
    monkeypatch.setattr(environment, "make", lambda *_: Path("/venv/bin/python"))
    monkeypatch.setattr(subprocess, "call", lambda command, **_: int("conformance" in command[-1]))
    code, out, _ = slipway("test", "example")
    assert code == 1
    assert "FAILED: conformance" in out


def test_a_jobs_tests_run_in_its_image_offline(root: Path, docker: Engine) -> None:
    check.in_image(docker, root, catalog.find_job(root, "example"))
    options = docker.created[0].options
    assert options["image"].tags == ["slipway/example-test:latest"]
    assert options["network_mode"] == "none"


@pytest.mark.parametrize("asked", [0, 1])
def test_the_tests_of_cuda_run_there_with_the_gpu_of_this_machine_if_any(
    asked: int, root: Path, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_has_gpu", lambda: bool(asked))
    check.in_image(docker, root, catalog.find_job(root, "example"), gpu=True)
    options = docker.created[0].options
    assert options["image"].tags == ["slipway/example-test:cuda"]
    assert len(options["device_requests"]) == asked


def test_a_process_runs_on_the_lock_of_its_base() -> None:
    assert process.LOCKS["torch"] == ["base", "torch"]
    assert process.REPLACED["cuda"] == ["onnxruntime"]


def test_help_needs_neither_docker_nor_a_second(root: Path) -> None:
    code = "import sys, slipway.host.cli; sys.exit('docker' in sys.modules)"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, check=True)
    assert time.perf_counter() - started < 1
