"""``python -m bench SUITE``: measure inside the container, and write what was found.

Results go to ``bench/`` below the artifacts: SUITE.json, SUITE.md and SUITE.png.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from bench import batch, contestants, pictures, serving, soak, tables
from bench.work import OUT
from slipway import store
from slipway.job import Job, load_job
from slipway.machine import on_gpu
from slipway.run import read_json

VERSIONS = {
    "serving": ("scikit-learn", "granian", "flask", "gunicorn", "fastapi", "uvicorn", "litserve"),
    "batch": ("scikit-learn", "pandas", "pyarrow", "joblib", "ray", "pyspark"),
    "soak": ("scikit-learn", "granian"),
}
REPEATS = {"serving": 5, "batch": 3, "soak": 1}
APART = ("bentoml", "mlflow")
CONTENT = {"serving": tables.serving_text, "batch": tables.batch_text, "soak": tables.soak_text}


def say(text: str) -> None:
    """Tell of progress, on stderr."""
    click.echo(text, err=True)


def cores() -> int:
    """Return the cores that this container may use."""
    return len(os.sched_getaffinity(0))


@click.command()
@click.argument("suite", type=click.Choice([*CONTENT, "contestants"]))
@click.option("--port", default=serving.PORT)
@click.option("--seconds", type=click.FloatRange(1), default=3.0)
@click.option("--repeats", type=click.IntRange(1))
@click.option("--minutes", type=click.FloatRange(0.05), default=10.0)
@click.option("--rows", type=click.IntRange(1), default=1_000_000)
@click.option("--growth", default="10000,100000,1000000,10000000")
@click.option("--only", multiple=True)
def main(suite: str, port: int, only: tuple[str, ...], **given: Any) -> None:
    """Measure one suite, or tell which servers there are and how each is started."""
    if suite == "contestants":
        return click.echo(json.dumps(described(port, only)))
    given["repeats"] = given["repeats"] or REPEATS[suite]
    name_the_user()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out = OUT / "bench"
    out.mkdir(parents=True, exist_ok=True)
    told = about(suite, given)  # first: what is wrong with it shall not end a long measurement
    result, titles = RUN[suite](out, only, given)
    cold = out / "cold.json"
    result |= told | {"titles": titles}
    if suite == "serving" and cold.is_file():
        result["cold"] = json.loads(cold.read_text("utf-8"))
    (out / f"{suite}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (out / f"{suite}.md").write_text(CONTENT[suite](result), "utf-8")
    pictures.draw(suite, result, out / f"{suite}.png")


def described(port: int, only: Iterable[str]) -> list[dict[str, Any]]:
    """Return for each server what starts it anywhere, and one request."""
    row = serving.prepare()["rows"][0]
    entries = contestants.everyone(only)
    failed = serving.set_up(entries)
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "ours": entry.ours,
            "command": entry.started(port, cores()),
            "environ": entry.environ,
            "path": entry.path,
            "ready": entry.ready,
            "body": entry.body(row),
        }
        for entry in entries
        if entry.name not in failed
    ]


def run_serving(_out: Path, only: Iterable[str], given: dict[str, Any]) -> Any:
    """Measure the servers."""
    entries = contestants.everyone(only)
    plan = serving.Plan(entries, given["repeats"], given["seconds"], cores())
    return serving.suite(plan, say), {entry.name: entry.title for entry in entries}


def run_batch(out: Path, only: Iterable[str], given: dict[str, Any]) -> Any:
    """Measure the ways to score a file."""
    names = [name for name in batch.ENGINES if not only or name in only]
    growth = [int(number) for number in given["growth"].split(",") if number]
    plan = batch.Plan(names, given["repeats"], given["rows"], growth, out)
    return batch.suite(plan, say), batch.ENGINES


def run_soak(_out: Path, only: Iterable[str], given: dict[str, Any]) -> Any:
    """Load our server: as it serves by default, or the row of `FORMS` that ``--only`` names."""
    default = contestants.Contestant(
        "default", "Slipway", [*contestants.OURS, "--port", "PORT"], ready="/readyz", ours=True
    )
    entry = contestants.everyone(only)[0] if only else default
    plan = soak.Plan(entry, given["minutes"], given["seconds"], cores())
    return soak.suite(plan, say), {entry.name: entry.title}


RUN = {"serving": run_serving, "batch": run_batch, "soak": run_soak}


def about(suite: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return where, when and with what it was measured."""
    folder = Path(os.environ["SLIPWAY_JOB"])
    build = folder / "build.json"
    commit = json.loads(build.read_text("utf-8"))["commit"] if build.is_file() else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "job": folder.name,
        "commit": commit[:12],
        "seconds": given["seconds"],
        "repeats": given["repeats"],
        "model": model(suite, load_job(folder)),
        "machine": {"cpus": cores(), "processor": processor(), "kernel": platform.release()},
        "versions": versions(suite),
    }


def model(suite: str, job: Job) -> dict[str, str]:
    """Return which model was measured: data tier, id, form and device."""
    default = job.chosen_form(OUT / "model", "auto")
    forms = {
        "serving": "trained unless a row says exported",
        "batch": f"{default} for ours, trained for the others",
        "soak": default,
    }
    return {
        "tier": read_json(OUT / "run.json").get("train", {}).get("tier", "unknown"),
        "id": store.identity(OUT / "model"),
        "form": forms[suite],
        "device": "gpu" if on_gpu(job.spec) else "cpu",
    }


def processor() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "?")


def versions(suite: str) -> dict[str, str]:
    """Return the versions of what was measured, from both environments."""
    found = {}
    for name in VERSIONS[suite]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if suite == "serving":
        places = Path("/opt/apart/lib").glob("python*/site-packages/*.dist-info")
        named = dict(path.name.removesuffix(".dist-info").split("-", 1) for path in places)
        found |= {name: named[name] for name in APART if name in named}
    return found


def name_the_user() -> None:
    """Give our uid a name where it has none: Spark's client refuses a user without one."""
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        with Path("/etc/passwd").open("a") as file:
            file.write(f"bench:x:{os.getuid()}:{os.getgid()}::/tmp:/bin/sh\n")


if __name__ == "__main__":
    main()
