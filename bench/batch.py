"""Score a million rows in several ways: `make bench JOB=NAME SUITE=batch`.

Each contestant is a program that reads a file and writes one, or a folder of parts. Wall time
counts from its start to its end. Answers are compared with our own, row by row where a
program numbers its rows, else number by number in order of size.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.serving import Failed, reason, stop

ENGINES = {
    "ours": "Slipway score",
    "pandas": "pandas, chunks of 50,000",
    "joblib": "joblib, loky",
    "ray": "Ray Data map_batches",
    "spark": "PySpark pandas UDF",
}
MODULES = {"pandas": "pandas_chunks", "joblib": "joblib_loky", "ray": "ray_data",
           "spark": "spark_udf"}  # fmt: skip
FOLDERS = ("ray", "spark")  # these write a folder of parts
KINDS = ("jsonl", "parquet")
PATIENCE = 600.0
STARTED = 1024  # bytes of output that are more than a file's head


@dataclass
class Plan:
    """What a run of the suite measures."""

    contestants: list[str]
    repeats: int
    rows: int
    growth: list[int]
    folder: Path


def command(name: str, source: Path, target: Path) -> list[str]:
    """Return how a contestant is started."""
    ways = ["slipway", "score"] if name == "ours" else [f"bench.engines.{MODULES[name]}"]
    return [sys.executable, "-m", *ways, str(source), str(target)]


def measure(name: str, source: Path, target: Path) -> dict[str, float]:
    """Run one contestant once and return its figures."""
    remove(target)
    log = target.with_name("log.txt")
    before = machine.read()
    with machine.Watch(0.25) as memory, log.open("wb") as output:
        process = subprocess.Popen(command(name, source, target), stdout=output, stderr=output)
        try:
            first = attend(process, target)
        finally:
            ended = machine.read()
            stop(process)
    used = machine.between(before, ended)
    if process.returncode:
        told = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
        raise Failed(f"exit code {process.returncode}: {' | '.join(told)[-400:]}")
    return {**used, "peak_mb": memory.peak * 2**20 / 1e6, "first": first}


def attend(process: subprocess.Popen[bytes], target: Path) -> float:
    """Wait for the end; return the seconds until the first result was on disk."""
    began, first = time.perf_counter(), 0.0
    while process.poll() is None:
        now = time.perf_counter() - began
        if not first and written(target) > STARTED:
            first = now
        if now > PATIENCE:
            process.kill()
            raise Failed(f"not done after {PATIENCE:.0f} s")
        time.sleep(0.02)
    return first or time.perf_counter() - began


def written(target: Path) -> int:
    """Return the bytes of output on disk, unfinished files too, which have other names."""
    sizes = [0]
    for path in target.parent.rglob("*"):
        try:
            if path.is_file() and path.name != "log.txt":
                sizes.append(path.stat().st_size)
        except OSError:  # renamed meanwhile
            continue
    return max(sizes)


def remove(target: Path) -> None:
    """Empty the folder of the output."""
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir(parents=True)


def compare(found: Path, reference: Path) -> float:
    """Return how far two outputs' numbers are apart at most; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.compare", str(found), str(reference)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"other answers than ours: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def suite(plan: Plan, say: Any) -> dict[str, Any]:
    """Measure all contestants on both formats, then ours on growing inputs."""
    inputs, outputs = plan.folder / "inputs", plan.folder / "output"
    reference = plan.folder / "reference"
    inputs.mkdir(parents=True, exist_ok=True)
    try:
        say(f"writing {plan.rows:,} rows")
        make(inputs, "jsonl,parquet", plan.rows)
        runs, failed = contest(plan, inputs, outputs, reference, say)
        growth = grow(plan, inputs, outputs, say) if "ours" in plan.contestants else []
    finally:
        for folder in (inputs, outputs, reference):
            shutil.rmtree(folder, ignore_errors=True)
    return {"runs": runs, "failed": failed, "growth": growth, "rows": plan.rows}


def make(inputs: Path, kinds: str, rows: int) -> None:
    """Write an input, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "bench.rows", "files", str(inputs), kinds, str(rows)], check=True
    )


def contest(plan: Plan, inputs: Path, outputs: Path, reference: Path, say: Any) -> Any:
    """Measure the contestants in turn; one that fails is named, the others go on."""
    runs: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    reference.mkdir(parents=True, exist_ok=True)
    for repeat in range(plan.repeats):
        for kind in KINDS:
            for name in plan.contestants:
                label = f"{name} {kind}"
                if label in failed:
                    continue
                target = outputs / ("parts" if name in FOLDERS else f"found.{kind}")
                try:
                    found = measure(name, inputs / f"{plan.rows}.{kind}", target)
                    found["apart"] = check(name, target, reference / f"ours.{kind}", repeat)
                except Exception as error:  # whatever a rival does, the others are measured
                    failed[label] = reason(error)
                    say(f"{ENGINES[name]}, {kind}: FAILED, {failed[label]}")
                    continue
                rate = plan.rows / found["wall"]
                runs.append(
                    {"repeat": repeat, "contestant": name, "phase": kind, "rate": rate, **found}
                )
                say(f"{repeat + 1}/{plan.repeats}  {ENGINES[name]}, {kind}: {found['wall']:.1f} s")
    return runs, failed


def check(name: str, target: Path, reference: Path, repeat: int) -> float:
    """Compare the first repeat's output with ours; ours becomes what others are compared with."""
    if repeat:
        return 0.0
    if name == "ours" and not reference.exists():
        shutil.move(target, reference)
        return 0.0
    return compare(target, reference) if reference.exists() else 0.0


def grow(plan: Plan, inputs: Path, outputs: Path, say: Any) -> list[dict[str, Any]]:
    """Measure ours on inputs of growing length."""
    found = []
    for rows in plan.growth:
        if rows != plan.rows:
            say(f"writing {rows:,} rows")
            make(inputs, "jsonl", rows)
        source = inputs / f"{rows}.jsonl"
        try:
            figures = measure("ours", source, outputs / "found.jsonl")
        except Failed as error:
            say(f"ours, {rows:,} rows: FAILED, {error}")
            continue
        found.append({"rows": rows, **figures})
        say(f"ours, {rows:,} rows: {figures['wall']:.1f} s")
        source.unlink()
    return found
