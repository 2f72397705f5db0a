"""Collections: which pictures are ingested, and how those of one are split.

A collection's own ``test`` pictures are held out. A tenth of the others, by seed, is for choosing.
Uploads are no part of a split, unless a person has labelled them and ``--corrected`` says so.

Data:    files of `sources`; the split is a list of (sha256, label) for each part.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from slipway import Run
from slipway.errors import DataUnavailable, InputInvalid
from slipway.spec import TIERS

from .ingest import BATCH, Report, batches, ingest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from .sources import Found

PARTS = ("train", "validation", "test")
Entries = list[tuple[str, str]]
FEWEST = 10
"""Pictures to train on."""


def fill(run: Run, engine: Engine, wish: str) -> str:
    """Ingest what ``--data`` says, the declared data set by default; return the collection."""
    if wish not in TIERS:
        name = name_of(wish)
        fill_from(run, engine, wish, name)
        return name
    from . import sources

    files = {name: run.data(name) for name in run.spec.data}
    if run.tier == "sample":
        found = islice(sources.digits(files["train_images"]), run.limit)
        _ingest(run, engine, "sample", found, min(1797, run.limit or 1797))
        return "sample"
    _ingest(run, engine, "mnist", _mnist(files, run.limit), None)
    return "mnist"


def source_of(run: Run, source: str) -> Iterator[Found]:
    """Return the files of a source, or of the declared data what is held out."""
    from . import sources

    if source:
        return islice(sources.files_of(source), run.limit)
    files = {name: run.data(name) for name in run.spec.data}
    found = sources.digits(files["train_images"]) if run.tier == "sample" else _mnist(files, None)
    return islice((entry for entry in found if entry.split == "test"), run.limit)


def _mnist(files: dict[str, Path], limit: int | None) -> Iterator[Found]:
    """Yield the digits to train on and to test with, of each so many at most."""
    from . import sources

    for split in ("train", "test"):
        found = sources.mnist(files[f"{split}_images"], files[f"{split}_labels"], split)
        yield from islice(found, limit)


def name_of(source: str) -> str:
    """Return the name of a source: its last step without the ending."""
    name = source.rstrip("/").rpartition("/")[2].removesuffix(".zip")
    if name in ("", "upload"):
        raise InputInvalid(f"{source}: found the name {name!r}; choose another one")
    return name[:64]


def fill_from(run: Run, engine: Engine, source: str, name: str, at_once: int = BATCH) -> None:
    """Ingest a source of the user's own, so many files in a transaction."""
    from . import sources

    if "://" not in source:
        if not Path(source).exists():
            raise DataUnavailable(f"{source}: no such file or folder; wanted pictures")
        if Path(source).is_file():
            run.note_source(name, Path(source), "own")
    _ingest(run, engine, name, islice(sources.files_of(source), run.limit), run.limit, at_once)


def _ingest(
    run: Run,
    engine: Engine,
    name: str,
    files: Iterator[Found],
    total: int | None,
    at_once: int = BATCH,
) -> Report:
    """Ingest with progress; what was left out is in ``ingest.jsonl``, summed up in the report."""
    report = ingest(engine, name, run.progress(files, f"ingest {name}", total), at_once)
    report.write(run.out / "ingest.jsonl")
    reasons = [entry["reason"] for entry in report.rejected]
    row = {"collection": name, "files": report.files}
    counts = {reason: reasons.count(reason) for reason in ("duplicate", "corrupt", "unreadable")}
    run.table("ingest", [row | counts], "Files of the source; the report ingest.jsonl names each "
              "that was left out")  # fmt: skip
    return report


def split(engine: Engine, name: str, seed: int, corrected: bool) -> dict[str, Entries]:
    """Return sha256 and label of each picture to train on, to choose by and to test with."""
    import numpy as np

    known = labelled(engine, name, "train")
    if corrected:
        known = sorted(known + labelled(engine, "upload", "new"))
    order = np.random.default_rng(seed).permutation(len(known)).tolist()
    held = len(order) // 10
    found = {
        "train": [known[place] for place in sorted(order[held:])],
        "validation": [known[place] for place in sorted(order[:held])],
        "test": labelled(engine, name, "test"),
    }
    labels = {label for _, label in found["train"]}
    if len(found["train"]) < FEWEST or len(labels) < 2:
        raise InputInvalid(
            f"{name}: found {len(found['train'])} labelled pictures of {len(labels)} labels to "
            f"train on; wanted {FEWEST} of 2 at least: a folder for each label"
        )
    return found


def labelled(engine: Engine, name: str, part: str) -> Entries:
    """Return sha256 and label of the labelled pictures of a collection, by sha256."""
    from sqlalchemy import select

    from .database import reading
    from .schema import Image, Label

    asked = (
        select(Image.sha256, Label.name)
        .join(Label, Label.id == Image.label_id)
        .where(Image.collection == name, Image.split == part)
        .order_by(Image.sha256)
    )
    with reading(engine) as connection:
        return [(row.sha256, row.name) for row in connection.execute(asked)]


def contents(engine: Engine, entries: Sequence[Sequence[str]]) -> list[bytes]:
    """Return the files of pictures, in the order of the entries."""
    from sqlalchemy import select

    from .database import reading
    from .schema import Content

    found: list[bytes] = []
    with reading(engine) as connection:
        for batch in batches([entry[0] for entry in entries], 1000):
            asked = select(Content.sha256, Content.content).where(Content.sha256.in_(batch))
            by_digest = dict(connection.execute(asked).all())
            found += [by_digest[digest] for digest in batch]
    return found
