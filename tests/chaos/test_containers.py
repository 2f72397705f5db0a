"""The same with a job's own image: killed containers, a disk that fills, a store that fails."""

import json
import random
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.host.engines import LABEL, Work
from tests import running
from tests.batches import finish
from tests.chaos import disorder

pytestmark = pytest.mark.once
ROWS = 400  # as tests/chaos/conftest.py writes
BUCKET = "rows"


def placed(work: Work, source: str, parts: str, folder: Path, **more: Any) -> Work:
    """Return the work that scores ``source`` into ``parts``; its model is only read."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return replace(work, arguments=("score", source, parts), logs=logs, **more)


def merged(work: Work, parts: str, source: str, result: str, folder: Path) -> None:
    """Merge the parts, which proves that each row is in them once."""
    arguments = ("merge", parts, source, result)
    one = replace(work, name=f"{work.name}-merge", arguments=arguments, shards=None)
    assert finish(one, folder / "merge") is None


def lines(path: Path) -> list[int]:
    return [json.loads(line)["line"] for line in path.read_text("utf-8").splitlines()]


def test_containers_are_killed(work: Work, client: Any, tmp_path: Path, run: int) -> None:
    mounts = {**work.mounts, tmp_path: ("/out", "rw")}
    here = placed(work, "/input/rows.jsonl", "/out/parts", tmp_path, mounts=mounts)
    label = f"{LABEL}={work.name}"
    with disorder.killer(
        random.Random(run), lambda: disorder.containers(client, label), most=10, apart=4
    ) as struck:
        error = finish(here, tmp_path / "state")
    assert struck
    assert error is None or finish(here, tmp_path / "state") is None
    merged(here, "/out/parts", "/input/rows.jsonl", "/out/all.jsonl", tmp_path)
    assert lines(tmp_path / "all.jsonl") == list(range(1, ROWS + 1))


def test_the_disk_fills(work: Work, tmp_path: Path, run: int) -> None:
    with ExitStack() as stack:
        try:
            ballast = stack.enter_context(disorder.small_disk(tmp_path / "disk", 2048))
        except PermissionError as error:
            pytest.skip(f"no file system can be mounted: {error}")
        mounts = {**work.mounts, tmp_path / "disk": ("/out", "rw")}
        here = placed(
            work, "/input/rows.jsonl", "/out/parts", tmp_path, mounts=mounts, retries=run % 2
        )
        assert finish(here, tmp_path / "state") is not None
        assert not list((tmp_path / "disk").rglob("part-*.jsonl"))
        ballast.unlink()
        assert finish(replace(here, retries=8), tmp_path / "state") is None
        merged(here, "/out/parts", "/input/rows.jsonl", "/out/all.jsonl", tmp_path)
        shutil.copy(tmp_path / "disk" / "all.jsonl", tmp_path)
    assert lines(tmp_path / "all.jsonl") == list(range(1, ROWS + 1))


def test_the_store_fails(work: Work, client: Any, tmp_path: Path, run: int) -> None:
    with (
        disorder.store(random.Random(run), running.gateway(client)) as (steady, unreliable),
        disorder.bucket(steady, BUCKET) as s3,
    ):
        source = next(path for path in work.mounts if path.name == "rows.jsonl")
        s3.upload_file(str(source), BUCKET, "rows.jsonl")
        names = {"AWS_ENDPOINT_URL": unreliable, **disorder.KEYS}
        address = f"s3://{BUCKET}"
        here = placed(work, f"{address}/rows.jsonl", f"{address}/parts", tmp_path, environ=names)
        error = finish(here, tmp_path / "state")
        assert error is None or finish(here, tmp_path / "state") is None
        calm = replace(here, environ={"AWS_ENDPOINT_URL": steady, **disorder.KEYS})
        merged(calm, f"{address}/parts", f"{address}/rows.jsonl", f"{address}/all.jsonl", tmp_path)
        s3.download_file(BUCKET, "all.jsonl", str(tmp_path / "all.jsonl"))
    assert lines(tmp_path / "all.jsonl") == list(range(1, ROWS + 1))
