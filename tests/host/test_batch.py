"""Batches by the command line, with processes in place of containers, and by an engine that is told
what to do."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import CapReached, SlipwayError, Stopped
from slipway.host import batch, process
from slipway.host.engines import Ended, Work
from slipway.spec import Resources
from tests.host.conftest import Slipway

PROGRAM = Path(__file__).with_name("scoring.py")


@pytest.fixture
def rows(root: Path) -> list[int]:
    """Write ten rows to rows.jsonl in the working folder."""
    numbers = list(range(10))
    (root / "rows.jsonl").write_text("".join(f'{{"id": {number}}}\n' for number in numbers))
    return numbers


@pytest.fixture
def slipway(
    slipway: Slipway, root: Path, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> Slipway:
    """Return a function that runs the command line; a job's process is the stand-in of an image."""
    python = root / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -IS {PROGRAM} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(process, "python_of", lambda *_: python)
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("RUNNER", "process")
    monkeypatch.setenv("FAULTS", str(root / "faults"))
    (root / "faults").mkdir()
    return slipway


def scored(path: Path) -> list[int]:
    return sorted(json.loads(line)["line"] for line in path.read_text().splitlines())


def states(root: Path) -> dict[int, tuple[str, int]]:
    """Return state and attempts of each shard of the one batch there is."""
    [path] = root.glob("artifacts/example/batches/*/state.json")
    table = json.loads(path.read_text())["table"]
    return {row["shard"]: (row["state"], row["attempts"]) for row in table}


def test_every_row_is_in_the_merged_file_once(
    slipway: Slipway, root: Path, rows: list[int]
) -> None:
    code, out, err = slipway("batch", "example", "rows.jsonl", "out.jsonl", "--shards", "4")
    assert code == 0, err
    assert scored(root / "out.jsonl") == rows
    assert out.splitlines()[0].split() == list(batch.COLUMNS)
    assert out.splitlines()[5].split()[:5] == ["all", "done", "4", "10", "0"]
    assert "4 of 4 shards done" in err


def test_a_folder_as_output_keeps_the_parts(slipway: Slipway, root: Path) -> None:
    assert slipway("batch", "example", "rows.jsonl", "parts", "--shards", "2")[0] == 0
    assert len(list((root / "parts").glob("part-*-of-00002.jsonl"))) == 2


@pytest.mark.parametrize("code", [33, 143, -signal.SIGKILL])
def test_what_may_go_well_is_tried_again(
    slipway: Slipway, root: Path, rows: list[int], code: int
) -> None:
    (root / "faults" / "1").write_text(f"{code}\n{code}")
    assert slipway("batch", "example", "rows.jsonl", "out.jsonl", "--shards", "2")[0] == 0
    assert states(root) == {0: ("done", 1), 1: ("done", 3)}
    assert scored(root / "out.jsonl") == rows


@pytest.mark.parametrize("code", [1, 2, 4, 5, 6])
def test_what_cannot_go_well_is_not_and_gives_its_exit_code(
    slipway: Slipway, root: Path, code: int
) -> None:
    (root / "faults" / "0").write_text(str(code))
    found, _, err = slipway("batch", "example", "rows.jsonl", "out.jsonl", "--shards", "1")
    assert found == code
    assert states(root) == {0: ("failed", 1)}
    assert f"the fault that was asked for: {code}" in err
    assert not (root / "out.jsonl").exists()


def test_after_the_last_try_the_code_says_that_a_later_one_may_go_well(
    slipway: Slipway, root: Path
) -> None:
    (root / "faults" / "0").write_text("143\n" * 5)
    given = ("batch", "example", "rows.jsonl", "out", "--shards", "1", "--retries", "2")
    assert slipway(*given)[0] == 33
    assert states(root) == {0: ("failed", 3)}


def test_the_others_go_on_while_few_have_failed(slipway: Slipway, root: Path) -> None:
    (root / "faults" / "0").write_text("5")
    given = ("batch", "example", "rows.jsonl", "out", "--shards", "4", "--max-failed", "1")
    assert slipway(*given, "--parallel", "1")[0] == 5
    assert [state for state, _ in states(root).values()] == ["failed", "done", "done", "done"]


def test_the_same_command_goes_on(slipway: Slipway, root: Path, rows: list[int]) -> None:
    (root / "faults" / "3").write_text("5")
    given = ("batch", "example", "rows.jsonl", "out.jsonl", "--shards", "4", "--parallel", "1")
    assert slipway(*given)[0] == 5
    assert slipway(*given)[0] == 0
    assert scored(root / "out.jsonl") == rows
    [log] = root.glob("artifacts/example/batches/*/logs/00000.log")
    assert log.read_text().endswith("finished; skipped\n")


def test_submit_runs_one_verb(slipway: Slipway, root: Path) -> None:
    (root / "parts").mkdir()
    code, out, _ = slipway("submit", "example", "merge", "parts", "rows.jsonl", "out.jsonl")
    assert code == 6  # no part is there: the verb ran, and its code is ours
    assert out.splitlines()[1].split()[:3] == ["0", "failed", "1"]


def test_a_variable_is_passed_on_and_written_nowhere(
    slipway: Slipway, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD_OF_STORE", "open-sesame")
    given = ("batch", "example", "rows.jsonl", "out.jsonl", "--env", "PASSWORD_OF_STORE")
    code, out, err = slipway(*given)
    assert code == 0
    files = [path for path in (root / "artifacts").rglob("*") if path.is_file()]
    assert files
    assert not any("open-sesame" in text for text in (out, err, *map(Path.read_text, files)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--max-cost", "1"], "--price-per-hour"),
        (["--env", "NOT_SET_ANYWHERE"], "--env NOT_SET_ANYWHERE: not set here"),
        (["--dry-run"], "hands over no file"),
        (["--memory", "much"], "--memory much"),
        (["--engine", "kubernetes", "--runner", "docker"], "do not see this disk"),
        (["--engine", "ray", "--address", "10.0.0.9:6379", "--runner", "docker"], "this disk"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    slipway: Slipway, root: Path, given: list[str], wanted: str
) -> None:
    code, _, err = slipway("batch", "example", "rows.jsonl", "out.jsonl", *given)
    assert code == 2
    assert wanted in err
    assert not (root / "out.jsonl.parts").exists()


def test_an_absent_input_is_told(slipway: Slipway) -> None:
    code, _, err = slipway("batch", "example", "nothing.jsonl", "out.jsonl")
    assert code == 6
    assert "nothing.jsonl: no such file" in err


def test_batches_are_listed(slipway: Slipway) -> None:
    slipway("batch", "example", "rows.jsonl", "out.jsonl", "--shards", "2")
    _, out, _ = slipway("batches", "example")
    assert out.splitlines()[1].endswith("local   done   2/2   score rows.jsonl out.jsonl")


def test_cancel_says_what_it_did(slipway: Slipway, root: Path, docker: object) -> None:
    slipway("batch", "example", "rows.jsonl", "out.jsonl")
    [folder] = root.glob("artifacts/example/batches/*")
    code, _, err = slipway("batch-cancel", "example", "absent")
    assert code == 2
    assert "no such batch" in err
    with batch.owned(folder):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            code, out, _ = slipway("batch-cancel", "example", folder.name)
        finally:
            signal.signal(signal.SIGTERM, before)
    assert (code, out) == (0, f"told process {os.getpid()} to stop\n")


def test_a_batch_has_one_command_at_a_time(tmp_path: Path) -> None:
    with batch.owned(tmp_path), pytest.raises(SlipwayError, match=f"process {os.getpid()}"):
        batch.owned(tmp_path).__enter__()


class Told:
    """An engine that ends shards as it is told, and never runs anything."""

    handle = "a handle"

    def __init__(self, *rounds: list[Ended], retries_itself: bool = False) -> None:
        self.rounds, self.retries_itself = list(rounds), retries_itself
        self.started: list[list[int]] = []
        self.stopped = False

    def start(self, shards: Sequence[int]) -> None:
        self.started.append(list(shards))

    def wait(self, seconds: float) -> list[Ended]:
        return self.rounds.pop(0) if self.rounds else []

    def running(self) -> int:
        return 1000

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        pass


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., batch.Drive]:
    """Return a function that makes the drive of a batch of three shards on an engine."""
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.0)

    def make(engine: Told, caps: batch.Caps | None = None, **more: Any) -> batch.Drive:
        work = Work("slipway-x", "image", ("score",), 3, Resources(), logs=tmp_path, **more)
        state = batch.open_batch(tmp_path, 3, facts())
        return batch.Drive(state, engine, work, caps or batch.Caps(), "")

    return make


def facts(fingerprint: str = "") -> dict[str, Any]:
    return {"fingerprint": fingerprint, "started": "2020-01-01T00:00:00Z"}


def ends(*codes: int | None) -> list[Ended]:
    return [Ended(shard, code, "somewhere", 1.0) for shard, code in enumerate(codes)]


def test_a_lost_worker_costs_its_shard_only(drive: Callable[..., batch.Drive]) -> None:
    engine = Told(ends(0, None, 0), [Ended(1, 0, "elsewhere", 2.0)])
    drive(engine).run([])
    assert engine.started == [[0, 1, 2], [1]]
    assert not engine.stopped


def test_a_platform_that_tries_again_is_not_asked_to(drive: Callable[..., batch.Drive]) -> None:
    engine = Told(ends(0, 33, 0), retries_itself=True)
    with pytest.raises(batch.ShardsFailed) as error:
        drive(engine).run([])
    assert (error.value.exit_code, engine.started) == (33, [[0, 1, 2]])


@pytest.mark.parametrize(
    ("caps", "told"),
    [
        (batch.Caps(minutes=1e-12), "--max-minutes"),
        (batch.Caps(price=1e12, cost=0.01), "--max-cost 0.01"),
    ],
)
def test_past_a_cap_everything_is_stopped(
    drive: Callable[..., batch.Drive], tmp_path: Path, caps: batch.Caps, told: str
) -> None:
    engine = Told(ends(0))
    with pytest.raises(CapReached, match=told) as error:
        drive(engine, caps).run([])
    assert (error.value.exit_code, engine.stopped) == (7, True)
    state = batch.read_state(tmp_path)
    assert state["state"] == "capped"
    assert [row["state"] for row in state["table"]] == ["done", "stopped", "stopped"]


def test_what_was_paid_counts_for_the_next_command_too(
    drive: Callable[..., batch.Drive], tmp_path: Path
) -> None:
    batch.Batch(tmp_path, {"paid": 3600.0, "table": []}).save()
    engine = Told(ends(0))
    with pytest.raises(CapReached):
        drive(engine, batch.Caps(price=2.0, cost=1.99)).run([])


def test_no_cap_holds_for_what_is_over(drive: Callable[..., batch.Drive]) -> None:
    drive(Told(ends(0, 0, 0)), batch.Caps(minutes=1e-12)).run([])


def test_sigterm_stops_everything(drive: Callable[..., batch.Drive], tmp_path: Path) -> None:
    engine = Told()
    with pytest.raises(Stopped):
        drive(engine).run([signal.SIGTERM])
    assert engine.stopped
    assert batch.read_state(tmp_path)["state"] == "stopped"


def test_what_was_done_from_the_same_bytes_is_not_started_again(tmp_path: Path) -> None:
    old = batch.open_batch(tmp_path, 3, facts("same"))
    old.table[1]["state"] = "done"
    old.save()
    assert batch.open_batch(tmp_path, 3, facts("same")).todo() == [0, 2]
    assert batch.open_batch(tmp_path, 3, facts("other")).todo() == [0, 1, 2]
    assert batch.open_batch(tmp_path, 3, facts("")).todo() == [0, 1, 2]
