"""A batch of four shards in containers, one of which is killed on the way."""

import itertools
import json
import os

import pytest

from slipway.host import batch
from slipway.host.engines import Work, local

pytestmark = pytest.mark.once


def test_a_killed_container_costs_its_shard_only(
    subject, trained, rows, write_rows, make_folder, out, monkeypatch
):
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.1)
    source = write_rows(out / "rows.jsonl", rows)
    logs = out / "logs"
    logs.mkdir()
    work = Work(
        name=f"slipway-test-batch-{os.getpid()}",
        image=subject.image.id,
        arguments=("score", "/out/rows.jsonl", "/out/parts"),
        shards=4,
        needs=subject.spec.resources,
        mounts={make_folder(trained): ("/artifacts", "rw"), out: ("/out", "rw")},
        logs=logs,
    )

    create, made = local.create, itertools.count()

    def first_one_too_small(*arguments):
        container = create(*arguments)
        if next(made) == 0:  # the kernel kills it: a kill from here may come after its end
            container.update(mem_limit="16m", memswap_limit="16m")
        return container

    monkeypatch.setattr(local, "create", first_one_too_small)
    state = finish(work, out)
    assert [row["state"] for row in state.table] == ["done"] * 4
    assert sorted(row["attempts"] for row in state.table) == [1, 1, 1, 2]
    assert [row["rows"] for row in state.table] == [8, 8, 7, 7]

    arguments = ("merge", "/out/parts", "/out/rows.jsonl", "/out/all.jsonl")
    merge = Work(**{**vars(work), "arguments": arguments, "shards": None})
    finish(merge, out)
    merged = [json.loads(line) for line in source.with_name("all.jsonl").read_text().splitlines()]
    assert [answer["line"] for answer in merged] == list(range(1, len(rows) + 1))


def finish(work, out):
    """Bring a batch to its end and return its state."""
    state = batch.open_batch(out / "state", work.count, {"fingerprint": ""})
    engine = local.open_engine(work)
    try:
        batch.Drive(state, engine, work, batch.Caps(), str(out / "parts")).run([])
    finally:
        engine.close()
    return state
