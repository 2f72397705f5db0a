"""One run: what it records, how it stops and goes on, and what it refuses."""

import json
import math
import os
import signal
from pathlib import Path

import pytest

from slipway import data
from slipway import run as run_module
from slipway.errors import DataUnavailable, DeviceAbsent, InputInvalid, Stopped
from slipway.run import Options, Run, pick_device, plain, read_json
from slipway.spec import JobSpec


@pytest.fixture
def make_run(toy):
    """Make a run of a verb with options, sharing one folder of artifacts."""

    def make(verb: str = "train", **options: object) -> Run:
        run = Run(JobSpec.read(toy.folder), toy.out, verb, Options(data="sample", **options))
        run.start()
        return run

    return make


def test_each_verb_has_its_own_metrics(make_run) -> None:
    for verb, value in (("prepare", 1), ("train", 2), ("evaluate", 3)):
        run = make_run(verb)
        run.log(rows=value)
        run.finish()

    assert {
        "evaluate": {"rows": 3.0},
        "prepare": {"rows": 1.0},
        "train": {"rows": 2.0},
    } == read_json(run.out / "metrics.json")


def test_an_earlier_stage_drops_what_later_ones_recorded(make_run) -> None:
    for verb in ("prepare", "train", "evaluate", "errors", "train"):
        make_run(verb).finish()

    for name in ("run.json", "report.json"):
        assert {"errors", "prepare", "train"} == set(read_json(make_run().out / name))
    assert {"prepare", "train"} == set(read_json(make_run().out / "metrics.json"))


def test_equal_runs_give_equal_bytes_of_metrics(make_run) -> None:
    written = set()
    for names in (("a", "b"), ("b", "a")):
        run = make_run("train")
        for name in names:
            run.log(**{name: 0.1})
        run.finish()
        written.add((run.out / "metrics.json").read_bytes())

    assert 1 == len(written)


def test_a_figure_that_is_no_number_is_null_in_valid_json(make_run) -> None:
    run = make_run()
    run.log(loss=float("nan"), gain=float("inf"))
    run.finish()

    assert '"loss": null' in (run.out / "metrics.json").read_text("utf-8")
    assert {"gain": None, "loss": None} == read_json(run.out / "metrics.json")["train"]


def test_a_table_keeps_its_columns_in_order_and_takes_numpys_numbers(make_run) -> None:
    import numpy as np

    run = make_run()
    run.table("t", [{"word": "z", "count": np.int64(3), "art": np.bool_(True)}], "caption")
    run.finish()
    row = read_json(run.out / "report.json")["train"][0]["rows"][0]

    assert [("word", "z"), ("count", 3), ("art", True)] == list(row.items())


def test_plain_makes_any_value_fit_for_json() -> None:
    import numpy as np

    found = plain({1: (Path("a"), np.float32(0.5), [np.array([1, 2])], math.inf, None, True)})

    assert {"1": ["a", 0.5, [[1, 2]], None, None, True]} == found


def test_the_record_tells_how_a_run_came_about(make_run, monkeypatch) -> None:
    monkeypatch.setenv("SLIPWAY_IMAGE", "slipway/toy@sha256:1")
    run = make_run("prepare", seed=3)
    run.data("messages")
    run.finish()
    record = read_json(run.out / "run.json")["prepare"]

    assert ("sample", 3, "slipway/toy@sha256:1", "cpu") == (
        record["tier"],
        record["options"]["seed"],
        record["image"],
        record["device"],
    )
    assert 64 == len(record["data"]["messages"]["sha256"])
    assert {"commit": "unknown"} == record["built"]
    assert record["versions"]["click"]
    assert record["wall_seconds"] >= 0
    assert record["peak_memory_mb"] > 1


def test_a_run_resumes_from_its_checkpoint(make_run) -> None:
    make_run().checkpoint({"done": 2, "loss": float("nan")})
    state = make_run().resume()

    assert 2 == state["done"]
    assert math.isnan(state["loss"])


def test_a_finished_run_leaves_no_checkpoint(make_run) -> None:
    run = make_run()
    run.checkpoint({"done": 2})
    run.finish()

    assert make_run().resume() is None


def test_another_seed_starts_afresh_and_says_so(make_run, capsys) -> None:
    make_run(seed=1).checkpoint({"done": 2})

    assert make_run(seed=2).resume() is None
    assert "is of other options, data or code: starting afresh" in capsys.readouterr().err


def test_another_split_starts_afresh(make_run, toy) -> None:
    make_run().checkpoint({"done": 2})
    (toy.out / "data" / "deep").mkdir(parents=True)
    (toy.out / "data" / "deep" / "fit.tsv").write_text("new")

    assert make_run().resume() is None


def test_other_code_starts_afresh(make_run, toy) -> None:
    make_run().checkpoint({"done": 2})
    (toy.folder / "job.py").write_text("pass")

    assert make_run().resume() is None


def test_options_that_json_does_not_have_resume_all_the_same(make_run) -> None:
    first = make_run()
    first.extra = {"tag": ("a", "b"), "words": Path("words.txt")}
    first.checkpoint({"done": 1})
    second = make_run()
    second.extra = dict(first.extra)

    assert {"done": 1} == second.resume()


def test_the_split_is_hashed_once_a_run(make_run, toy, monkeypatch) -> None:
    hashed = []
    (toy.out / "data").mkdir()
    (toy.out / "data" / "fit.tsv").write_text("x")
    whole = run_module.data.sha256_of
    monkeypatch.setattr(
        run_module.data, "sha256_of", lambda path: hashed.append(path.name) or whole(path)
    )
    run = make_run()
    for step in range(5):
        run.checkpoint({"done": step})

    assert 1 == hashed.count("fit.tsv")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"state": {}}', "\0"])
def test_a_damaged_checkpoint_is_told_and_never_guessed_at(make_run, toy, text) -> None:
    (toy.out / "checkpoints").mkdir()
    (toy.out / "checkpoints" / "train.json").write_text(text)

    with pytest.raises(InputInvalid, match=r"train\.json: damaged checkpoint .*; delete it"):
        make_run().resume()


def test_after_sigterm_a_checkpoint_is_kept_and_the_run_leaves(make_run) -> None:
    run = make_run()
    os.kill(os.getpid(), signal.SIGTERM)

    assert run.stopping
    assert 25 == run_module.Timer.made[-1]
    with pytest.raises(Stopped, match="train stopped by SIGTERM; kept in"):
        run.checkpoint({"done": 1})

    assert {"done": 1} == make_run().resume()


def test_without_a_checkpoint_in_time_the_process_leaves_with_143(
    make_run, monkeypatch, capsys
) -> None:
    left = []
    monkeypatch.setattr(run_module.os, "_exit", left.append)
    make_run()._leave()

    assert [143] == left
    assert (
        "no checkpoint was reached within 25 s; kept from before: nothing"
        in capsys.readouterr().err
    )


def test_a_second_sigterm_leaves_at_once(make_run, monkeypatch) -> None:
    left = []
    monkeypatch.setattr(run_module.os, "_exit", left.append)
    run = make_run()
    run.stopping = True
    os.kill(os.getpid(), signal.SIGTERM)

    assert [143] == left


def test_a_split_that_changed_since_train_is_refused(make_run, toy) -> None:
    (toy.out / "data").mkdir()
    (toy.out / "data" / "held.tsv").write_text("before")
    make_run("train").finish()
    make_run("evaluate").check_split()
    (toy.out / "data" / "held.tsv").write_text("after")

    with pytest.raises(InputInvalid, match="the split has changed since train"):
        make_run("evaluate").check_split()


def test_tiers_may_not_mix_in_one_run(make_run, toy) -> None:
    (toy.folder / "mine.tsv").write_text("x")
    run = make_run("prepare")
    run.sources["other"] = run_module.data.find(run.spec, "messages", str(toy.folder / "mine.tsv"))

    with pytest.raises(DataUnavailable, match="tiers own, sample may not mix in one run"):
        run.data("messages")


def test_a_stage_may_not_read_another_tier_than_prepare_did(make_run, toy) -> None:
    run = make_run("prepare")
    run.data("messages")
    run.finish()
    (toy.folder / "mine.tsv").write_text("x")
    later = make_run("train")
    later.options.data = str(toy.folder / "mine.tsv")

    assert "sample" == make_run("train").tier
    with pytest.raises(DataUnavailable, match="may not mix"):
        later.data("messages")


def test_a_file_that_prepare_did_not_write_is_told(make_run) -> None:
    with pytest.raises(DataUnavailable, match=r"fit\.tsv: no such file; run prepare first"):
        make_run().prepared("fit.tsv")


def test_progress_is_plain_lines_where_there_is_no_terminal(make_run, capsys) -> None:
    assert [0, 1, 2] == list(make_run().progress(range(3), "fits"))

    told = capsys.readouterr().err.splitlines()

    assert "fits: 3 of 3" == told[-1]
    assert not any("\r" in line or "\x1b" in line for line in told)


def test_progress_of_unknown_length_counts(make_run, capsys) -> None:
    assert 3 == len(list(make_run().progress(iter("abc"), "letters")))
    assert "letters: 1" in capsys.readouterr().err


def test_progress_on_a_terminal_is_a_bar(make_run, monkeypatch, capsys) -> None:
    monkeypatch.setattr(run_module.sys.stderr, "isatty", lambda: True, raising=False)

    assert [0, 1] == list(make_run().progress(range(2), "fits"))
    assert "fits" in capsys.readouterr().err


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has the device")
def test_a_device_that_is_absent_is_never_replaced() -> None:
    assert "cpu" == pick_device("auto") == pick_device("cpu")
    with pytest.raises(DeviceAbsent, match="--gpus all"):
        pick_device("cuda")


def test_a_folder_that_cannot_be_made_or_written_is_told(make_run, toy, monkeypatch) -> None:
    spec = JobSpec.read(toy.folder)
    with pytest.raises(DataUnavailable, match=r"job\.py: cannot be written"):
        Run(spec, toy.folder / "job.py", "train").start()
    monkeypatch.setattr(run_module.os, "access", lambda *_: False)
    with pytest.raises(DataUnavailable, match="out: cannot be written"):
        make_run()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_damaged_record_is_told(tmp_path, content) -> None:
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(InputInvalid, match=r"run\.json: "):
        read_json(tmp_path / "run.json")


def test_a_checkpoint_is_json_on_disk(make_run, toy) -> None:
    make_run().checkpoint({"done": 1})

    assert {"fingerprint", "state"} == set(
        json.loads((toy.out / "checkpoints" / "train.json").read_text("utf-8"))
    )


def test_a_file_that_is_no_declared_dataset_is_on_record(make_run, tmp_path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("a,b\n")
    run = make_run("prepare")
    run.part = "preset x"

    assert path == run.note_source("csv", path, "own")
    assert ("own", "preset x") == (run.tier, run.record()["part"])
    assert data.sha256_of(path) == run.record()["data"]["csv"]["sha256"]
    with pytest.raises(DataUnavailable, match="no such file"):
        run.note_source("csv", tmp_path / "none.csv", "own")
