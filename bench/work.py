"""The work that every contestant does: one job's trained model, asked for rows.

All of them load the model that `train` saved, with the loader of the job's own server, and
call the same function.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway import store
from slipway.job import Job, load_job
from slipway.types import example

OUT = Path(os.environ.get("SLIPWAY_OUT", "/artifacts"))
WORKERS = len(os.sched_getaffinity(0))


@dataclass
class Work:
    """A job with its trained model in memory."""

    job: Job
    model: Any

    def __post_init__(self) -> None:
        """Keep the type of a row, which takes 40 us to find: no rival shall pay it."""
        self.row = self.job.row

    def answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Check rows and score them in one call; what a server does for one batch."""
        return self.answer_checked([self.row(**row) for row in rows])

    def answer_checked(self, rows: list[Any]) -> list[dict[str, Any]]:
        """Score rows of the job's own type, which the server has checked."""
        return [found.model_dump(mode="json") for found in self.job.answers(self.model, rows)]

    def columns(self, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """Score many rows as a batch program would: straight into columns, nothing checked.

        A classifier of one text is called itself, which is what its user would write.
        """
        texts = self._texts(rows)
        if texts is not None:
            return {"propensity": self.model.predict_proba(texts)[:, 1].tolist()}
        answers = self.answer_checked([self.row.model_construct(**row) for row in rows])
        return {name: [answer[name] for answer in answers] for name in self.job.answer.model_fields}

    def _texts(self, rows: list[dict[str, Any]]) -> list[str] | None:
        fields, answer = list(self.job.row.model_fields), self.job.answer.model_fields
        plain = len(fields) == 1 and isinstance(rows[0][fields[0]], str)
        if plain and "propensity" in answer and hasattr(self.model, "predict_proba"):
            return [row[fields[0]] for row in rows]
        return None


def load() -> Work:
    """Load job and model, warm; marks tell when the libraries and the model were in memory."""
    job = load_job(Path(os.environ["SLIPWAY_JOB"]))
    if (OUT / "model" / store.SKOPS).is_file():
        import skops.io  # noqa: F401
    mark("imported")
    work = Work(job, store.load(OUT / "model", job.trusted))
    work.answer([example(job.row)])
    mark("loaded")
    return work


def mark(name: str) -> None:
    """Append name and time to the file that BENCH_MARKS names."""
    path = os.environ.get("BENCH_MARKS")
    if path:
        with Path(path).open("a") as file:
            file.write(f"{name} {time.time():.6f}\n")
