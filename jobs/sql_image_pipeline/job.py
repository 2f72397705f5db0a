"""Pictures in a database: what does this picture show, and what has been shown so far?

A classifier as people run one: pictures, labels, model versions and predictions are rows of a
relational database; a compact residual network is trained on what is in it, or the exported model
of another job is taken; and a picture that is sent over HTTP is labelled and kept in one
transaction. PostgreSQL is the database of record, MariaDB works as well, SQLite needs nothing.

Data:    MNIST as PNG files, or the user's folder, zip or s3:// address of pictures (job.toml).
Source:  He, Zhang, Ren and Sun, CVPR 2016 (the network); Winand, SQL Performance Explained (pages
         and indexes).
"""

from __future__ import annotations

import base64
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from slipway import Content, Field, Input, Job, Media, Output, Run

from . import collection, pixels
from .ingest import BATCH

if TYPE_CHECKING:
    import numpy as np
    from flask import Blueprint
    from onnxruntime import InferenceSession

    from slipway.scorer import Service

job = Job.here(__file__, trusted=["jobs.sql_image_pipeline.network.ResNet"], tolerance=1e-4)
SPLIT = "split.json"
SENT = 1000
"""Pictures that `measure_uploads` sends, again and again with other bytes."""


@job.prepare
@click.option(
    "--corrected", is_flag=True,
    help="Train on uploads, too, that a person has given their label.",
)  # fmt: skip
def prepare(run: Run, corrected: bool, seed: int, data: str) -> None:
    """Bring the schema up to date, ingest the pictures, and split them by seed."""
    from . import database

    with database.using(run.out) as engine:
        database.upgrade(engine)
        name = collection.fill(run, engine, data)
        split = collection.split(engine, name, seed, corrected)
        pictures = collection.contents(engine, split["train"][:40])
    folder = run.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPLIT).write_text(json.dumps({"collection": name} | split, indent=0), "utf-8")
    run.log(**{f"{part}_pictures": len(split[part]) for part in collection.PARTS})
    from . import charts

    shown = [pixels.opened(content).pixels for content in pictures]
    title = f"The first {len(shown)} of {len(split['train']):,} pictures to train on"
    labels = [label for _, label in split["train"][:40]]
    told = "Read from the database, in the order of their hashes; above each its label."
    run.figure("pictures", charts.gallery(title, shown, labels), told)


@job.train
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True, file_okay=True), default=None,
    help="Take this exported model, a folder with model.onnx, instead of training one.",
)  # fmt: skip
@click.option("--flips/--no-flips", default=False, help="Mirror half of the training pictures.")
def train(run: Run, model: Path | None, flips: bool) -> Any:
    """Train a residual network on the pictures of the database, or take an exported model."""
    if model is not None:
        from . import adopted

        return adopted.read(model)
    from . import database, learning

    split = json.loads(run.prepared(SPLIT).read_text("utf-8"))
    with database.using(run.out) as engine:
        parts = {
            part: (collection.contents(engine, split[part]), [label for _, label in split[part]])
            for part in ("train", "validation")
        }
    return learning.trained(run, parts["train"], parts["validation"], flips)


@job.evaluate
def evaluate(run: Run, model: Any) -> None:
    """Label the held-out pictures, keep the predictions, and ask the database about them."""
    from . import chapters, database

    split = json.loads(run.prepared(SPLIT).read_text("utf-8"))
    with database.using(run.out) as engine:
        chapters.held_out(run, engine, model, split["test"])
        chapters.questions(run, engine)
        chapters.schema(run, engine)


@job.command
@click.option(
    "--source", required=True, help="A folder, a zip, or an address like s3://bucket/path."
)
@click.option(
    "--collection", "name", default="", help="Name of these pictures; default: the source's."
)
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True,
              help="Files in one transaction; after a kill the last is done again.")  # fmt: skip
def ingest(run: Run, source: str, name: str, batch: int = BATCH) -> None:
    """Write the pictures of a folder, a zip or s3:// into the database; goes on where it ended."""
    from . import database

    with database.using(run.out) as engine:
        database.upgrade(engine)
        collection.fill_from(run, engine, source, name or collection.name_of(source), batch)


@job.command
@click.option("--to", default="head", show_default=True, help="A revision, head or base.")
@click.option("--down", is_flag=True, help="Go down to it; pictures and corrections are kept.")
def migrate(run: Run, to: str, down: bool) -> None:
    """Bring the schema of the database to a revision."""
    from . import database

    with database.using(run.out) as engine:
        after = (database.downgrade if down else database.upgrade)(engine, to)
    run.note(f"The schema is at revision {after or 'base'}.")


@job.command
@click.option("--rows", type=click.IntRange(1000), default=200_000, show_default=True,
              help="Pictures' metadata to write in each way.")  # fmt: skip
@click.option("--predictions", type=click.IntRange(1000), default=1_000_000, show_default=True,
              help="Predictions to ask about.")  # fmt: skip
def measure_database(run: Run, rows: int, predictions: int, seed: int) -> None:
    """Measure ingest beside plain inserts and plain COPY, and each question; empties nothing."""
    from . import database, measuring

    with database.using(run.out) as engine:
        database.upgrade(engine)
        measuring.ingest_rates(run, engine, rows)
        measuring.question_times(run, engine, predictions, seed)


@job.command
@click.option("--url", required=True, help="Address of a running scorer of this job.")
@click.option("--source", default="", help="Folder, zip or s3://; default: what is held out.")
@click.option("--split", type=click.Choice(["train", "test"]), default=None,
              help="Only files below a folder of this name; default: all.")  # fmt: skip
@click.option("--clients", type=click.IntRange(1, 256), default=16, show_default=True)
def upload(run: Run, url: str, source: str, split: str | None, clients: int) -> None:
    """Upload pictures to a running scorer, and tell how many labels are those of their names."""
    from . import sending

    files = collection.source_of(run, source)
    named = [found for found in files if found.label and split in (None, found.split)]
    sending.accuracy(run, url, named, clients)


@job.command
@click.option("--url", required=True, help="Address of a running scorer of this job.")
@click.option("--source", default="", help="Folder, zip or s3://; default: what is held out.")
@click.option("--clients", type=click.IntRange(1, 256), default=32, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=15.0, show_default=True)
def measure_uploads(run: Run, url: str, source: str, clients: int, seconds: float) -> None:
    """Measure uploads that end in a committed row beside plain scoring of the same pictures."""
    from . import sending

    files = [found.content for found in islice(collection.source_of(run, source), SENT)]
    files = [content for content in files if content.startswith(sending.REMARKED)]
    sending.rates(run, url, clients, seconds, files)


EXAMPLE = base64.b64encode(Path(__file__).with_name("sample").joinpath("seven.png").read_bytes())


class Picture(Input):
    """A picture: a PNG, JPEG, WebP, GIF or BMP file."""

    max_rows = 64
    image: Annotated[Content, Media(*pixels.KINDS, reader=pixels.opened)] = Field(
        examples=[EXAMPLE.decode()]
    )


class Verdict(Output):
    """The likeliest label, its probability, and the probabilities of all labels by their name."""

    label: str
    confidence: float = Field(ge=0, le=1)
    probabilities: dict[str, float]


def verdicts(labels: list[str], chances: np.ndarray) -> list[Verdict]:
    """Return the answers for chances (n, labels)."""
    return [
        Verdict(
            label=labels[int(row.argmax())],
            confidence=float(row.max()),
            probabilities=dict(zip(labels, row.tolist(), strict=True)),
        )
        for row in chances.clip(0, 1)
    ]


@job.score
def score(model: Any, rows: list[Picture]) -> list[Verdict]:
    """Label the pictures with the network, or with the model that was taken in its place."""
    if hasattr(model, "get_modelmeta"):
        return score_exported(model, rows)
    from . import learning

    known = model.settings
    given = pixels.stacked([row.image.read for row in rows], known["channels"], known["side"])
    return verdicts(known["labels"], learning.chances(model, given))


@job.export
def export(model: Any, folder: Path) -> None:
    """Write the network, softmax included, as ONNX that knows its labels."""
    from . import adopted

    adopted.write(model, folder)


@job.exported
def score_exported(session: InferenceSession, rows: list[Picture]) -> list[Verdict]:
    """Label the pictures without PyTorch."""
    from . import adopted

    known = adopted.facts(session)
    given = pixels.stacked([row.image.read for row in rows], known["channels"], known["side"])
    return verdicts(known["labels"], adopted.chances(session, given))


@job.held_out
def held_out(run: Run) -> list[Picture]:
    """Return held-out pictures, 500 at most."""
    from . import database

    split = json.loads(run.prepared(SPLIT).read_text("utf-8"))
    with database.using(run.out) as engine:
        found = collection.contents(engine, split["test"][:500])
    return [Picture(image=content) for content in found]


@job.routes
def routes(routes: Blueprint, scorer: Service) -> None:
    """Add uploads, questions, pictures and the review page to the scorer."""
    from .service import add_routes

    add_routes(routes, scorer)
