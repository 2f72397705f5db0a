"""Batches of the stand-in of an image, and a Ray cluster of several raylets to run them on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slipway.errors import SlipwayError
from slipway.host import batch
from slipway.host.engines import Engine, Work, local
from slipway.spec import Resources

PROGRAM = Path(__file__).parent / "host" / "scoring.py"
# A raylet that was killed is to be missed within seconds, not within half a minute.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}
PATIENCE = 10
STORE = {"object_store_memory": 80 * 2**20, "memory": 2**30}


@contextmanager
def cluster(raylets: int) -> Iterator[Any]:
    """Give a cluster of so many raylets with one CPU each, beside a head without any."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK, **STORE}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(raylets):
            made.add_node(num_cpus=1, **STORE)
        made.wait_for_nodes()
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def work_of(folder: Path, rows: int, shards: int, **environ: str) -> Work:
    """Write an input and return the work that scores it."""
    source, parts, logs = folder / "rows.jsonl", folder / "parts", folder / "logs"
    for path in (parts, logs):
        path.mkdir(parents=True, exist_ok=True)
    source.write_text("".join(f'{{"id": {number}}}\n' for number in range(rows)))
    return Work(
        name=f"slipway-test-{os.getpid()}-{folder.name.replace('_', '-')}",
        image="",
        arguments=("score", str(source), str(parts)),
        shards=shards,
        needs=Resources(memory="10m", cpus=1),
        environ=environ,
        program=(sys.executable, "-IS", str(PROGRAM)),
        logs=logs,
        retries=8,
    )


def drive(engine: Engine, work: Work, folder: Path) -> batch.Batch:
    """Bring a batch to its end and return its state."""
    state = batch.open_batch(folder, work.count, {"fingerprint": ""})
    try:
        caps = batch.Caps(minutes=PATIENCE)  # a batch that hangs is a failure, not a wait
        batch.Drive(state, engine, work, caps, str(folder / "parts")).run([])
    finally:
        engine.close()
    return state


def rows_in(folder: Path) -> list[int]:
    """Return the rows that stand in finished parts, sorted; a row twice is there twice."""
    parts = (record.with_suffix(".jsonl") for record in folder.glob("parts/part-*.json"))
    return sorted(
        json.loads(line)["line"] for part in parts for line in part.read_text().splitlines()
    )


def finish(work: Work, folder: Path, allowed: tuple[int, ...] = (0,)) -> SlipwayError | None:
    """Bring a batch to an end and return its error, if any; another than an expected one fails."""
    state = batch.open_batch(folder, work.count, {"fingerprint": ""})
    running = local.open_engine(work)
    try:
        batch.Drive(state, running, work, batch.Caps(minutes=PATIENCE), "").run([])
    except SlipwayError as error:
        if error.exit_code in (33, *allowed):
            return error
        raise
    finally:
        running.close()
    return None
