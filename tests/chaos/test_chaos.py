"""Batches of 40 shards in disorder: each row once, or a clear error and nothing half-written.

With the stand-in of an image, so that a run takes seconds; tests/chaos/test_containers.py is the
same with a job's image.
"""

import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import SlipwayError
from slipway.host import batch
from slipway.host.engines import Work, local
from tests import batches
from tests.chaos import disorder

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
SHARDS, ROWS, RAYLETS = 40, 400, 4
KILOBYTES = 512  # what the parts need with room to spare, but not beside the ballast


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: a pause would be waited for in every run."""
    monkeypatch.setattr(batch, "FIRST_PAUSE", 0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    with batches.cluster(RAYLETS) as found:
        yield found


def check(folder: Path, work: Work, error: SlipwayError | None) -> None:
    """Hold what a disturbed batch left; after an error the same command must end it."""
    if error:
        assert getattr(error, "exit_code", 1) == 33, error
        assert "shards failed, the first is" in str(error)
        whole = batches.rows_in(folder)
        assert len(whole) == len(set(whole))
        engine = local.open_engine(work)
        batches.drive(engine, work, folder)
    assert batches.rows_in(folder) == list(range(ROWS))


def outcome(engine: Any, work: Work, folder: Path) -> SlipwayError | None:
    """Drive a batch and return its error, if any; anything but an expected one is a failure."""
    try:
        batches.drive(engine, work, folder)
    except SlipwayError as error:
        return error
    return None


def test_processes_are_killed(tmp_path: Path, run: int) -> None:
    rng = random.Random(run)
    work = batches.work_of(tmp_path, ROWS, SHARDS, PAUSE="0.1")
    with disorder.killer(rng, lambda: disorder.processes("scoring.py", str(tmp_path))) as struck:
        error = outcome(local.open_engine(work), work, tmp_path)
    check(tmp_path, work, error)
    assert struck


def test_the_disk_fills(tmp_path: Path, run: int) -> None:
    work = batches.work_of(tmp_path, ROWS, SHARDS)
    work = replace(work, retries=1 + run % 2)
    with ExitStack() as stack:
        try:
            ballast = stack.enter_context(disorder.small_disk(tmp_path / "parts", KILOBYTES))
        except PermissionError as error:
            pytest.skip(f"no file system can be mounted: {error}")
        error = outcome(local.open_engine(work), work, tmp_path)
        assert error is not None
        assert not list((tmp_path / "parts").glob("part-*.jsonl"))
        ballast.unlink()
        check(tmp_path, work, error)


def test_workers_and_raylets_are_killed(tmp_path: Path, run: int, cluster: Any) -> None:
    from slipway.host.engines import ray

    rng = random.Random(run)
    work = batches.work_of(tmp_path, ROWS, SHARDS, PAUSE="0.4")
    while len(cluster.worker_nodes) < RAYLETS:  # the run before lost some
        cluster.add_node(num_cpus=1, **batches.STORE)
    engine = ray.open_engine(replace(work, places={"address": cluster.address}))
    nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
    doomed = rng.sample(nodes, RAYLETS // 2)

    def raylet(sign: signal.Signals) -> None:
        if doomed:
            cluster.remove_node(doomed.pop(), allow_graceful=sign == signal.SIGTERM)

    def victims() -> list[disorder.Blow]:
        inside = disorder.processes("scoring.py", str(tmp_path))
        return [*inside[:1], *disorder.processes(f"ray::{work.name}")[:1], raylet]

    with disorder.killer(rng, victims, apart=1.5) as struck:
        error = outcome(engine, work, tmp_path)
    check(tmp_path, work, error)
    assert struck
