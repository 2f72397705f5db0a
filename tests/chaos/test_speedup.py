"""The same batch on one raylet and on four: with shards that only wait, then with containers.

The first tells what the engine costs, since four may be four times as fast; the second is held by
the cores of this machine.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.host.engines import Work
from tests import batches

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def seconds_on(raylets: int, work: Work, folder: Path) -> float:
    """Return how long a batch takes on a cluster that is warm."""
    from slipway.host.engines.ray import open_engine

    folder.mkdir(exist_ok=True)
    with batches.cluster(raylets) as cluster:
        there = replace(work, places={"address": cluster.address})
        engine = open_engine(there)
        started = time.monotonic()
        state = batches.drive(engine, there, folder)
        took = time.monotonic() - started
    assert state.count("done") == work.count
    return took


def test_four_raylets_against_one_with_shards_that_wait(
    tmp_path: Path, figures: dict[str, str]
) -> None:
    took = {}
    for raylets in (1, 4):
        folder = tmp_path / str(raylets)
        folder.mkdir()
        work = batches.work_of(folder, rows=80, shards=8, PAUSE="1")
        took[raylets] = seconds_on(raylets, work, folder)
        assert batches.rows_in(folder) == list(range(80))
    figures["8 shards that wait 1 s"] = told(took)
    assert took[1] / took[4] > 1.5


@pytest.mark.once
def test_four_raylets_against_one_with_containers(
    work: Work, tmp_path: Path, figures: dict[str, str]
) -> None:
    took = {}
    for raylets in (1, 4):
        parts, logs = tmp_path / f"parts-{raylets}", tmp_path / f"logs-{raylets}"
        parts.mkdir()
        logs.mkdir()
        here = replace(
            work,
            arguments=("score", "/input/rows.jsonl", "/parts"),
            shards=8,
            needs=replace(work.needs, cpus=1, memory="512m"),
            mounts={**work.mounts, parts: ("/parts", "rw")},
            logs=logs,
        )
        took[raylets] = seconds_on(raylets, here, tmp_path / f"state-{raylets}")
        assert len(list(parts.glob("part-*.json"))) == 8
    figures[f"8 containers on {os.cpu_count()} cores"] = told(took)


def told(took: dict[int, float]) -> str:
    return f"{took[1]:.1f} s on one raylet, {took[4]:.1f} s on four: {took[1] / took[4]:.1f} times"
