"""Hold the bars of [accept.mean]: five seeds on the mirrored real data, in containers."""

from __future__ import annotations

import gc
import json
import os
import statistics
import warnings
from pathlib import Path

import pytest
from docker import DockerClient
from docker.models.images import Image

from slipway.host import catalog, container, engine
from slipway.host.build import build_job
from slipway.spec import JobSpec

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(5)
MEASURED = [spec for spec in catalog.read_jobs(ROOT) if "mean" in spec.accept]

pytestmark = [pytest.mark.accept, pytest.mark.docker]


@pytest.mark.parametrize("spec", MEASURED, ids=lambda spec: spec.name)
def test_the_mean_over_five_seeds_reaches_its_bars(
    spec: JobSpec, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    for dataset in spec.data.values():
        if not (Path(os.environ.get("SLIPWAY_MIRROR", "")) / dataset.file).is_file():
            pytest.skip(f"no {dataset.file} in SLIPWAY_MIRROR")
    client = engine.connect()
    image = build_job(client, ROOT, spec)
    runs = [figures_of(client, image, spec, tmp_path / str(seed), seed) for seed in SEEDS]
    client.close()

    missed = []
    for metric, bar in spec.accept["mean"].items():
        values = [run[metric] for run in runs]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        told = f"{metric} {mean:.4f} ± {spread:.4f} over {len(runs)} seeds, wanted {bar}"
        print(told)
        record_property(metric, told)
        missed += [] if bar.holds(mean) else [told]
    assert missed == []


def figures_of(
    client: DockerClient, image: Image, spec: JobSpec, out: Path, seed: int
) -> dict[str, float]:
    """Run the job once on real data in its container and return the figures of evaluate."""
    out.mkdir()
    usual = container.usual_place(ROOT, spec)
    mounts = {
        path: to for path, to in usual.mounts.items() if to[0] not in ("/artifacts", "/data")
    } | {out: ("/artifacts", "rw")}
    place = container.Place(mounts, usual.environ)
    made = container.create(
        client,
        image,
        spec,
        place,
        ["run", "--seed", str(seed), "--data", "mirror"],
        network_mode="none",
    )
    with warnings.catch_warnings():
        # docker's SDK leaves the socket of a stream that it attached to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        code = container.attend(made)
        gc.collect()
    assert code == 0
    return dict(json.loads((out / "metrics.json").read_text("utf-8"))["evaluate"])
