"""Hold the bars of [accept.real] and [accept.mean] on the mirrored real data, in containers.

Each job has SLIPWAY_ACCEPT_MINUTES: as many of the mean's five seeds run as its
``resources.minutes`` lets fit, and one seed of a job without such bars; less where ``--minutes``
limits all of them. Every run must reach [accept.real]; the bars of the mean are held where all
five ran: the mean of fewer spreads more.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from docker import DockerClient
from docker.models.images import Image

from slipway.host import catalog, container, engine
from slipway.host.build import build_job
from slipway.spec import JobSpec

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(5)
MINUTES = 8.0
MEASURED = [spec for spec in catalog.read_jobs(ROOT) if {"real", "mean"} & set(spec.accept)]

pytestmark = [pytest.mark.accept, pytest.mark.docker]


def seeds_that_fit(spec: JobSpec, minutes: float) -> list[int]:
    """Return the seeds whose runs, one after the other, take no more than so many minutes."""
    wanted = SEEDS if "mean" in spec.accept else SEEDS[:1]
    return [seed for seed in wanted if (seed + 1) * spec.resources.minutes <= minutes]


@pytest.fixture(scope="session")
def left(pytestconfig: pytest.Config) -> Callable[[], float]:
    """Tell how many of ``--minutes`` are left."""
    end = time.monotonic() + 60 * pytestconfig.getoption("--minutes")
    return lambda: (end - time.monotonic()) / 60


def skip_where_it_cannot_run(spec: JobSpec, seeds: list[int], minutes: float) -> None:
    """Skip without the real data, and where not one run fits; tell what would run them all."""
    for dataset in (entry for entry in spec.data.values() if entry.sample):
        if not (Path(os.environ.get("SLIPWAY_MIRROR", "")) / dataset.file).is_file():
            pytest.skip(f"no {dataset.file} in SLIPWAY_MIRROR")
    if not seeds:
        needed = spec.resources.minutes
        pytest.skip(
            f"{spec.name}: a run takes up to {needed:g} minutes, {minutes:.1f} are left; "
            f"SLIPWAY_ACCEPT_MINUTES={needed * len(SEEDS):g} pytest tests/accept -k {spec.name}"
        )


@pytest.mark.parametrize("spec", MEASURED, ids=lambda spec: spec.name)
def test_real_data_reaches_the_bars(
    spec: JobSpec, tmp_path: Path, figures: dict[str, str], left: Callable[[], float]
) -> None:
    minutes = min(left(), float(os.environ.get("SLIPWAY_ACCEPT_MINUTES", MINUTES)))
    seeds = seeds_that_fit(spec, minutes)
    skip_where_it_cannot_run(spec, seeds, minutes)
    client = engine.connect()
    image = build_job(client, ROOT, spec)
    started = time.monotonic()
    runs = [figures_of(client, image, spec, tmp_path / str(seed), seed) for seed in seeds]
    took = (time.monotonic() - started) / len(runs) / 60
    client.close()

    judged = len(runs) == len(SEEDS)
    bars = spec.accept.get("mean", {})
    told = {
        metric: f"{mean_of(runs, metric)}, mirror, {len(runs)} of {len(SEEDS)} seeds, wanted {bar}"
        + ("" if judged else " of all five: not judged")
        for metric, bar in bars.items()
    }
    figures |= {f"{spec.name} {metric}": text for metric, text in told.items()}
    said = spec.resources.minutes
    figures[f"{spec.name} run"] = f"{took:.1f} minutes, {len(runs)} seeds; job.toml says {said:g}"
    missed = [
        text
        for metric, text in told.items()
        if not bars[metric].holds(statistics.mean(run[metric] for run in runs))
    ]
    assert not judged or missed == []


def mean_of(runs: list[dict[str, float]], metric: str) -> str:
    """Return the mean of a metric, and its standard deviation where there are several runs."""
    values = [run[metric] for run in runs]
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


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
