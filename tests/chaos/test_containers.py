"""The same with a job's own image: killed containers, a disk that fills, a store that fails."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import SlipwayError
from slipway.host import batch, build, engine
from slipway.host.engines import LABEL, Work, local
from slipway.spec import JobSpec
from tests.chaos import disorder

SHARDS, ROWS = 40, 400
BUCKET = "rows"
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    try:
        found = engine.connect()
    except engine.EngineAbsent as error:
        pytest.skip(str(error))
    yield found
    found.close()


@pytest.fixture(scope="session")
def work(folder: Path, root: Path, client: Any, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A trained job and rows to score; each test adds where its parts go."""
    spec = JobSpec.read(folder)
    image = build.build_job(client, root, spec)
    place = tmp_path_factory.mktemp(spec.name)
    common: dict[str, Any] = {"image": image.id, "needs": spec.resources, "logs": place}
    artifacts = {place / "artifacts": ("/artifacts", "rw")}
    (place / "artifacts").mkdir()
    name = f"slipway-chaos-{os.getpid()}"
    train = Work(f"{name}-run", arguments=("run", "--data", "sample"), shards=None,
                 mounts=artifacts, **common)  # fmt: skip
    finish(train, place / "run", allowed=(0, 3))
    row = example(client, image)
    source = place / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for _ in range(ROWS)))
    mounts = {**artifacts, source: ("/input/rows.jsonl", "ro")}
    return Work(name, arguments=(), shards=SHARDS, mounts=mounts, retries=8, **common)


def example(client: Any, image: Any) -> dict[str, Any]:
    """Return a row made of the schema's examples."""
    shown = json.loads(client.containers.run(image.id, ["show"], remove=True))
    fields = shown["input"]["properties"].items()
    return {name: entry["examples"][0] for name, entry in fields if "examples" in entry}


def finish(work: Work, folder: Path, allowed: tuple[int, ...] = (0,)) -> SlipwayError | None:
    """Bring a batch to an end and return its error, if any; another than an expected one fails."""
    state = batch.open_batch(folder, work.count, {"fingerprint": ""})
    running = local.open_engine(work)
    try:
        batch.Drive(state, running, work, batch.Caps(), "").run([])
    except SlipwayError as error:
        if error.exit_code in (33, *allowed):
            return error
        raise
    finally:
        running.close()
    return None


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
    boto3 = pytest.importorskip("boto3")
    network = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    with disorder.store(random.Random(run), network["Gateway"]) as (steady, unreliable):
        s3 = boto3.client("s3", endpoint_url=steady, region_name="us-east-1",
                          aws_access_key_id="x", aws_secret_access_key="x")  # fmt: skip
        s3.create_bucket(Bucket=BUCKET)
        source = next(path for path in work.mounts if path.name == "rows.jsonl")
        s3.upload_file(str(source), BUCKET, "rows.jsonl")
        names = {"AWS_ENDPOINT_URL": unreliable, **KEYS}
        address = f"s3://{BUCKET}"
        here = placed(work, f"{address}/rows.jsonl", f"{address}/parts", tmp_path, environ=names)
        error = finish(here, tmp_path / "state")
        assert error is None or finish(here, tmp_path / "state") is None
        calm = replace(here, environ={"AWS_ENDPOINT_URL": steady, **KEYS})
        merged(calm, f"{address}/parts", f"{address}/rows.jsonl", f"{address}/all.jsonl", tmp_path)
        s3.download_file(BUCKET, "all.jsonl", str(tmp_path / "all.jsonl"))
        s3.close()
    assert lines(tmp_path / "all.jsonl") == list(range(1, ROWS + 1))
