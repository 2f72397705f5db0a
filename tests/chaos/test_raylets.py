"""Shards on a real Ray cluster: several raylets, each of which stands for a machine."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.errors import Stopped
from slipway.host import batch
from slipway.host.engines import Work
from tests import batches
from tests.chaos import disorder

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster():
    with batches.cluster(2) as found:
        yield found


@pytest.fixture
def engine_of(cluster):
    """Return a function that connects an engine to the cluster."""
    from slipway.host.engines.ray import open_engine

    def connect(work: Work):
        return open_engine(replace(work, places={"address": cluster.address}))

    return connect


def test_every_row_is_scored_once_and_codes_of_the_contract_are_tried_again(
    tmp_path: Path, engine_of
) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "1").write_text("33")
    (faults / "2").write_text("-9")
    work = batches.work_of(tmp_path, rows=20, shards=4, FAULTS=str(faults))
    state = batches.drive(engine_of(work), work, tmp_path)
    assert batches.rows_in(tmp_path) == list(range(20))
    assert [row["attempts"] for row in state.table] == [1, 2, 2, 1]
    assert "the fault that was asked for: 33" in work.log(1).read_text()


def test_a_final_code_comes_through(tmp_path: Path, engine_of) -> None:
    (tmp_path / "0").write_text("5")
    work = batches.work_of(tmp_path, rows=2, shards=1, FAULTS=str(tmp_path))
    with pytest.raises(batch.ShardsFailed) as error:
        batches.drive(engine_of(work), work, tmp_path)
    assert error.value.exit_code == 5


def test_stopping_ends_what_runs(tmp_path: Path, engine_of) -> None:
    work = batches.work_of(tmp_path, rows=4, shards=2, PAUSE="300")
    engine = engine_of(work)
    state = batch.open_batch(tmp_path, 2, {"fingerprint": ""})
    came: list[int] = []
    threading.Timer(3.0, came.append, (15,)).start()
    with pytest.raises(Stopped):
        batch.Drive(state, engine, work, batch.Caps(), "").run(came)
    engine.close()
    assert not disorder.processes("scoring.py", str(tmp_path))


def test_a_raylet_that_is_killed_costs_its_shards_only(
    tmp_path: Path, cluster, engine_of, figures
) -> None:
    work = batches.work_of(tmp_path, rows=40, shards=8, PAUSE="1.5")
    victim = sorted(cluster.worker_nodes, key=lambda one: one.node_id)[0]
    over = threading.Event()

    def kill_when_both_are_busy() -> None:
        while len(disorder.processes("scoring.py", str(tmp_path))) < 2:
            if over.wait(0.05):
                return
        cluster.remove_node(victim, False)

    killer = threading.Thread(target=kill_when_both_are_busy)
    killer.start()
    try:
        state = batches.drive(engine_of(work), work, tmp_path)
    finally:
        over.set()
        killer.join()
    assert batches.rows_in(tmp_path) == list(range(40))
    assert all(row["state"] == "done" for row in state.table)
    again = [row["shard"] for row in state.table if row["attempts"] > 1]
    assert 1 <= len(again) <= 2  # the one that ran, and one that was on its way there
    figures["8 shards, one of two raylets killed"] = f"{len(again)} started again"
