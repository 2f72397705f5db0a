"""Shards, their records, and the merge that proves them: every row once, or a clear error."""

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.errors import DataUnavailable, InputInvalid, Retryable
from slipway.scoring import parts, pool, stores
from slipway.scoring.merge import merge_parts
from slipway.scoring.score import Wishes, score_file
from slipway.scoring.shards import COUNT_VARIABLES, INDEX_VARIABLES, parse_shard

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def no_platform(monkeypatch):
    for name in (*INDEX_VARIABLES, *COUNT_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def model(finished_run) -> Path:
    return finished_run / "out" / "model"


@pytest.fixture
def shard_all(toy, model):
    job = toy.job

    def score(source, folder, count, **more):
        for index in range(count):
            score_file(job, model, str(source), str(folder), Wishes(f"{index}/{count}", 2, **more))

    score.job = job
    return score


def write_input(path: Path, texts: list[str]) -> Path:
    rows = [json.dumps({"text": text}) for text in texts]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=4)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(rows).encode()))
    else:
        path.write_text("\n".join(rows), "utf-8")
    return path


TEXTS = [f"text {n}" if n % 3 else f'quoted "{n}",\nover two lines' for n in range(23)]


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.csv", "in.parquet"])
@pytest.mark.parametrize("count", [1, 4, 40])
def test_merged_shards_are_byte_for_byte_the_whole(
    shard_all, model, tmp_path, capsys, name, count
) -> None:
    source = write_input(tmp_path / name, [*TEXTS, "x" * 60])
    suffix = ".jsonl" if name.endswith(".gz") else source.suffix
    score_file(
        shard_all.job, model, str(source), str(tmp_path / f"whole{suffix}"), Wishes(batch_size=2)
    )
    shard_all(source, tmp_path / "parts", count)
    merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), str(tmp_path / f"all{suffix}"))
    errors = [json.loads(line) for line in (tmp_path / "all.errors.jsonl").read_text().splitlines()]

    assert (tmp_path / "whole.errors.jsonl").read_text() == (
        tmp_path / "all.errors.jsonl"
    ).read_text()
    assert 1 == len(errors)
    assert "1 bad, by the trained model" in capsys.readouterr().err
    if suffix == ".parquet":
        from pyarrow import parquet

        assert parquet.read_table(tmp_path / "whole.parquet").equals(
            parquet.read_table(tmp_path / "all.parquet")
        )
    else:
        assert (tmp_path / f"whole{suffix}").read_bytes() == (
            tmp_path / f"all{suffix}"
        ).read_bytes()


@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    lines=st.lists(st.sampled_from([b'{"text":"a"}', b"", b"rubbish", b'{"text":"\xc3\xa9"}\r',
                                    b'{"text":"a"},{"text":"b"}', b'{"text":"a"', b'"b":1}']),
                   max_size=14),
    count=st.integers(1, 6),
    end=st.booleans(),
)  # fmt: skip
def test_any_lines_in_any_number_of_shards_are_each_there_once(
    shard_all, tmp_path_factory, lines, count, end
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    source = folder / "in.jsonl"
    source.write_bytes(b"\n".join(lines) + (b"\n" if end else b""))
    shard_all(source, folder / "parts", count)
    merge_parts(shard_all.job, str(folder / "parts"), str(source), str(folder / "all.jsonl"))
    good = [json.loads(line)["line"] for line in (folder / "all.jsonl").read_text().splitlines()]
    wanted = [
        n
        for n, line in enumerate(lines, 1)
        if line.startswith(b'{"text":"') and line.rstrip().endswith(b'"}') and b"," not in line
    ]

    assert wanted == good


def test_a_folder_of_files_is_split_and_a_row_is_named_by_its_file(shard_all, tmp_path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("b.jsonl", "a.csv", "c.parquet"):
        write_input(source / name, TEXTS[:5])
    (source / "_SUCCESS").write_text("")
    shard_all(source, tmp_path / "parts", 3, format=".jsonl")
    merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), str(tmp_path / "all.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]

    assert [5, 5, 5] == [
        sum(row["file"] == name for row in rows) for name in ("a.csv", "b.jsonl", "c.parquet")
    ]


def test_raw_files_are_one_row_each(shard_all, tmp_path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(5):
        (source / f"{number}.txt").write_text(f"text {number}")
    (source / "5.txt").write_bytes(b"\xff")
    shard_all(source, tmp_path / "parts", 2)
    merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), str(tmp_path / "all.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    errors = [json.loads(line) for line in (tmp_path / "all.errors.jsonl").read_text().splitlines()]

    assert [f"{number}.txt" for number in range(5)] == [row["file"] for row in rows]
    assert ["5.txt"] == [row["file"] for row in errors]


def harmed(folder: Path, change) -> None:
    """Change the lines of the second part, and its record as if it had been written so."""
    path = folder / "part-00001-of-00003.jsonl"
    lines = change(path.read_text().splitlines(keepends=True))
    path.write_text("".join(lines))
    record = path.with_suffix(".json")
    kept = json.loads(record.read_text())
    kept["output"]["bytes"] = path.stat().st_size
    record.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:2] + lines[3:], r"line \d+ missing; they belong to shard 1"),
        (lambda lines: [], r"line \d+ to line \d+ missing; they belong to shard 0 and 2"),
        (lambda lines: lines[:2] + lines[1:], r"line \d+ is there twice \(shards 1 and 1\)"),
        (lambda lines: [*lines, '{"line":99,"x":1}\n'], r"missing|no row of the input"),
        (lambda lines: ["rubbish\n"], "wanted an answer with its line"),
    ],
)
def test_a_missing_or_doubled_row_is_told_with_its_shard(shard_all, tmp_path, change, told) -> None:
    source = write_input(tmp_path / "in.jsonl", TEXTS)
    shard_all(source, tmp_path / "parts", 3)
    harmed(tmp_path / "parts", change)

    with pytest.raises(InputInvalid, match=told):
        merge_parts(
            shard_all.job, str(tmp_path / "parts"), str(source), str(tmp_path / "all.jsonl")
        )
    assert {"in.jsonl", "parts"} == {
        path.name for path in tmp_path.iterdir() if path.name not in ("jobs", "out")
    }


def test_parts_that_are_not_of_one_run_are_told(shard_all, tmp_path) -> None:
    source = write_input(tmp_path / "in.jsonl", TEXTS)
    shard_all(source, tmp_path / "parts", 3)
    target = str(tmp_path / "all.jsonl")
    record = tmp_path / "parts" / "part-00001-of-00003.json"
    kept = record.read_text()
    record.unlink()
    with pytest.raises(InputInvalid, match="1 of 3 shards are not finished: 1"):
        merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), target)
    record.write_text(kept)
    (tmp_path / "parts" / "part-00002-of-00003.jsonl").write_text("")
    with pytest.raises(InputInvalid, match="shard 2 has a record, but not the files"):
        merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), target)
    write_input(source, TEXTS[1:])
    shard_all(source, tmp_path / "parts", 2)
    with pytest.raises(DataUnavailable, match="parts of 2 and 3 shards"):
        merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), target)


def test_each_platform_tells_its_index_and_count(monkeypatch) -> None:
    monkeypatch.setenv("SKYPILOT_NODE_RANK", "1")
    monkeypatch.setenv("SKYPILOT_NODE_IPS", "10.0.0.1\n10.0.0.2\n")

    assert [(1, 2)] * 3 == [
        (shard.index, shard.count) for shard in map(parse_shard, (None, "auto", "/2"))
    ]
    with pytest.raises(click.UsageError, match="this platform runs 2 tasks; wanted /2"):
        parse_shard("/3")


def test_many_tasks_do_not_write_one_file(shard_all, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLOUD_RUN_TASK_INDEX", "1")
    monkeypatch.setenv("CLOUD_RUN_TASK_COUNT", "2")
    source = write_input(tmp_path / "in.jsonl", TEXTS)
    with pytest.raises(click.UsageError, match="2 shards need a folder"):
        score_file(shard_all.job, model, str(source), str(tmp_path / "out.jsonl"), Wishes())
    score_file(shard_all.job, model, str(source), str(tmp_path / "out"), Wishes())

    assert (tmp_path / "out" / "part-00001-of-00002.jsonl").is_file()


def test_several_processes_give_what_one_gives(shard_all, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("slipway.scoring.readers.SMALL", 64)
    monkeypatch.setattr("slipway.scoring.readers.LARGE", 256)
    source = write_input(tmp_path / "in.jsonl", [*TEXTS * 20, "x" * 60])
    for workers in (1, 3):
        target = str(tmp_path / f"out{workers}.jsonl")
        score_file(shard_all.job, model, str(source), target, Wishes(None, 7, workers))

    assert (tmp_path / "out1.jsonl").read_bytes() == (tmp_path / "out3.jsonl").read_bytes()


def test_what_fails_in_a_process_is_told_and_nothing_is_left(shard_all, model, tmp_path) -> None:
    source = write_input(tmp_path / "in.jsonl", ["a", "explode"])
    (tmp_path / "results").mkdir()
    with pytest.raises(RuntimeError, match="a secret in the message"):
        score_file(
            shard_all.job, model, str(source), str(tmp_path / "results" / "o.jsonl"),
            Wishes(None, 2, 2),
        )  # fmt: skip

    assert not list((tmp_path / "results").iterdir())


def test_a_process_that_is_killed_is_retryable(tmp_path) -> None:
    def start():
        os.kill(os.getpid(), signal.SIGKILL)

    group = pool.Pool(start, 1)
    try:
        chunk = pool.Chunk(".jsonl", "", 1, b"{}")
        with pytest.raises(Retryable, match="a scoring process was killed"):
            list(group.results(iter([chunk])))
    finally:
        group.close()


def test_a_full_disk_is_retryable_and_nothing_is_left(
    shard_all, model, tmp_path, monkeypatch
) -> None:
    source = write_input(tmp_path / "in.jsonl", TEXTS)
    (tmp_path / "results").mkdir()
    real = stores.Staged.__init__

    def full(self, address: str) -> None:
        real(self, address)
        self.file.close()
        self.file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115

    monkeypatch.setattr(stores.Staged, "__init__", full)
    with pytest.raises(Retryable, match="no space left; nothing was written"):
        score_file(
            shard_all.job, model, str(source), str(tmp_path / "results" / "o.jsonl"), Wishes()
        )

    assert not list((tmp_path / "results").iterdir())


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path) -> None:
    left = tmp_path / ".o.jsonl.0123abcd.part"
    left.write_text("half")
    target = str(tmp_path / "o.jsonl")
    living = stores.Staged(target)
    code = f"from slipway.scoring.stores import Staged; Staged({target!r}).discard()"
    environ = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)

    assert [living.part] == list(tmp_path.glob(".*"))
    living.discard()


def test_killed_at_random_moments_and_run_again_each_row_is_there_once(
    shard_all, finished_run, tmp_path
) -> None:
    source = write_input(tmp_path / "in.jsonl", [f"text {n}" for n in range(4000)])
    environ = os.environ | {
        "SLIPWAY_JOB": str(finished_run / "jobs" / "toy"), "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    chance = random.Random(7)
    command = [sys.executable, "-m", "slipway", "score", str(source), str(tmp_path / "parts"),
               "--out", str(finished_run / "out"), "--workers", "2"]  # fmt: skip
    for index in range(2):
        for kind in (signal.SIGKILL, signal.SIGTERM):
            run = subprocess.Popen([*command, "--shard", f"{index}/2"], env=environ,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
            try:
                code = run.wait(chance.uniform(0.2, 3))
            except subprocess.TimeoutExpired:
                run.send_signal(kind)
                code = run.wait(10)
            assert code in (0, 143, -signal.SIGKILL, -signal.SIGTERM)
    shard_all(source, tmp_path / "parts", 2)
    for path in (tmp_path / "parts").glob("*.json"):
        record = parts.read_record(str(path))
        assert (tmp_path / "parts" / f"{path.stem}.jsonl").stat().st_size == record["output"][
            "bytes"
        ]
    merge_parts(shard_all.job, str(tmp_path / "parts"), str(source), str(tmp_path / "all.jsonl"))

    assert 4000 == len((tmp_path / "all.jsonl").read_text().splitlines())
    assert not list((tmp_path / "parts").glob(".*"))
