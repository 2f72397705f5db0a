"""Measure one job's score function where it runs: load time, latency and rows a second.

Times are of this machine and this moment; they go to ``bench.json``, never into a test.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import store
from slipway.data import written
from slipway.types import example

if TYPE_CHECKING:
    from slipway.job import Job

BATCHES = (1, 8, 64, 512)


def measure(job: Job, out: Path, seconds: float, form: str) -> str:
    """Time score() for each batch size during ``seconds``; write ``bench.json``, return a table.

    No batch is larger than a request may be.
    """
    started = time.perf_counter()
    model = job.load(out / "model", form)
    loaded = time.perf_counter() - started
    row = job.row(**example(job.row))
    job.answers(model, [row])
    sizes = [size for size in BATCHES if size <= job.row.max_rows]
    figures = [_timed(job, model, [row] * size, seconds) for size in sizes]
    result = {
        "model": store.identity(out / "model"),
        "form": job.form(model),
        "load_seconds": round(loaded, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "cpus": os.cpu_count(),
        "score": figures,
    }
    with written(out / "bench.json") as part:
        part.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    lines = [
        f"load {loaded:.2f} s, peak memory {result['peak_memory_mb']} MB, {result['form']} model"
    ]
    lines += [f"{'rows':>5} {'p50 ms':>9} {'p99 ms':>9} {'rows/s':>10}"]
    for entry in figures:
        lines.append(
            f"{entry['rows']:>5} {entry['p50_ms']:>9.3f} {entry['p99_ms']:>9.3f}"
            f" {entry['rows_per_second']:>10.0f}"
        )
    return "\n".join(lines)


def _timed(job: Job, model: Any, rows: list[Any], seconds: float) -> dict[str, float]:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        job.answers(model, rows)
        took.append(time.perf_counter() - started)
    took.sort()
    return {
        "rows": len(rows),
        "calls": len(took),
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
        "rows_per_second": len(rows) * len(took) / sum(took),
    }
