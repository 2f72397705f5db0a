"""The verbs `score` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.verbs import FORM, MODEL_OUT

if TYPE_CHECKING:
    from slipway.job import Job


def score_verb(job: Job) -> click.Command:
    """Make the verb `score` of a job."""

    @click.command("score")
    @click.argument("source", metavar="INPUT")
    @click.argument("target", metavar="OUTPUT")
    @click.option(
        "--shard", metavar="I/N", default=None,
        help="Score the i-th of n parts (from 0); /N: the platform tells which, auto: of how many.",
    )  # fmt: skip
    @click.option("--batch-size", type=click.IntRange(1), default=None, help="Rows in one call.")
    @click.option("--workers", type=click.IntRange(1), default=None, help="Default: one a core.")
    @click.option(
        "--format", "kind", type=click.Choice(["jsonl", "csv", "parquet"]), default=None,
        help="Of the parts; default as the input.",
    )  # fmt: skip
    @FORM
    @MODEL_OUT
    def score(
        source: str,
        target: str,
        shard: str | None,
        batch_size: int | None,
        workers: int | None,
        kind: str | None,
        form: str,
        out: Path,
    ) -> None:
        """Score JSONL, CSV or Parquet, a folder of files, s3://..., or - for lines of JSON."""
        from slipway.scoring.score import Wishes, score_file

        wishes = Wishes(shard, batch_size, workers, kind and f".{kind}", form)
        score_file(job, out / "model", source, target, wishes)

    return score


def merge_verb(job: Job) -> click.Command:
    """Make the verb `merge` of a job."""

    @click.command("merge")
    @click.argument("parts")
    @click.argument("source", metavar="INPUT")
    @click.argument("result")
    def merge(parts: str, source: str, result: str) -> None:
        """Join the parts of all shards, and prove that each row of INPUT is there once."""
        from slipway.scoring.merge import merge_parts

        merge_parts(job, parts, source, result)

    return merge
