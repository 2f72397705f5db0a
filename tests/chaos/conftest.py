"""Batches that are disturbed: by signals, a full disk, a store that fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build
from slipway.host.engines import Work
from slipway.spec import JobSpec
from tests.batches import finish

ROWS = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder, and nothing of another."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chaos)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``run`` as often as ``--runs`` says; its number seeds the disorder."""
    if "run" in metafunc.fixturenames:
        metafunc.parametrize("run", range(metafunc.config.getoption("--runs")))


@pytest.fixture(scope="session")
def work(
    folder: Path,
    root: Path,
    client: Any,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Work:
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
    return Work(
        name,
        arguments=(),
        shards=pytestconfig.getoption("--shards"),
        mounts=mounts,
        retries=8,
        **common,
    )


def example(client: Any, image: Any) -> dict[str, Any]:
    """Return a row made of the schema's examples."""
    shown = json.loads(client.containers.run(image.id, ["show"], remove=True))
    fields = shown["input"]["properties"].items()
    return {name: entry["examples"][0] for name, entry in fields if "examples" in entry}
