"""Pictures into the database: checked, each file once, a thousand in a transaction.

A file is known by the sha256 of its bytes. One that is there already is passed over before it is
decoded, so the same command goes on where it was killed. One that comes twice in a source, or is no
whole picture, goes to the report with its name and the reason.

Data:    the files of `sources`.
Source:  PostgreSQL's COPY, postgresql.org/docs/15/sql-copy.html.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import InputInvalid

from . import pixels
from .database import writing
from .sources import Found

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

BATCH = 1000
"""Files in one transaction."""
TRIES = 5
"""Of a transaction that another one got in the way of."""
HELD_OUT = 5
"""Of so many pictures that name no split, one is for testing."""


@dataclass
class Report:
    """What became of the files of a source."""

    files: int = 0
    added: int = 0
    known: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)

    def reject(self, found: Found, reason: str, told: str) -> None:
        """Note a file that is left out."""
        name = found.name.encode("utf-8", "backslashreplace").decode()
        self.rejected.append({"file": name[:300], "reason": reason, "told": told[:300]})

    def write(self, path: Path) -> None:
        """Write the files that were left out, a JSON object a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(entry)}\n" for entry in self.rejected), "utf-8")


@dataclass(frozen=True)
class Picture:
    """A whole picture, ready to be written."""

    sha256: str
    content: bytes
    media_type: str
    width: int
    height: int
    label: str | None
    collection: str
    split: str

    def row(self, label_ids: Mapping[str, int], now: datetime) -> dict[str, Any]:
        """Return the picture as a row of ``images``."""
        return {
            "sha256": self.sha256,
            "label_id": None if self.label is None else label_ids[self.label],
            "collection": self.collection,
            "split": self.split,
            "media_type": self.media_type,
            "width": self.width,
            "height": self.height,
            "size_bytes": len(self.content),
            "created_at": now,
        }


def ingest(engine: Engine, collection: str, files: Iterable[Found], at_once: int = BATCH) -> Report:
    """Write the pictures of a source that are not in the database yet; tell of all others."""
    report, seen = Report(), dict[str, str]()
    for batch in batches(files, at_once):
        report.files += len(batch)
        fresh = dict[str, Found]()
        for found in batch:
            digest = hashlib.sha256(found.content).hexdigest()
            if found.problem:
                report.reject(found, "unreadable", found.problem)
            elif digest in seen:
                report.reject(found, "duplicate", f"the same bytes as {seen[digest]}")
            else:
                seen[digest] = found.name
                fresh[digest] = found
        _ingest_batch(engine, collection, fresh, report)
    return report


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of so many items; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _ingest_batch(
    engine: Engine, collection: str, fresh: Mapping[str, Found], report: Report
) -> None:
    with writing(engine) as connection:
        there = known(connection, list(fresh))
    report.known += len(there)
    pictures = []
    for digest, found in fresh.items():
        if digest in there:
            continue
        try:
            pictures.append(checked(digest, found, collection))
        except ValueError as error:
            report.reject(found, "corrupt", f"wanted {error}")
    report.added += add(engine, pictures)


def checked(digest: str, found: Found, collection: str) -> Picture:
    """Return a file as a picture. Raises ValueError, with what was wanted, where it is none."""
    decoded = pixels.opened(found.content)
    height, width = decoded.pixels.shape[:2]
    split = found.split or ("test" if int(digest[:8], 16) % HELD_OUT == 0 else "train")
    return Picture(
        digest, found.content, decoded.media_type, width, height, found.label, collection, split
    )


def known(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Return which of these pictures the database has."""
    from sqlalchemy import select, text

    from .schema import Image

    if not digests:
        return set()
    if connection.dialect.name == "postgresql":  # one parameter, whatever their number
        asked = text("SELECT sha256 FROM images WHERE sha256 = ANY(:digests)")
        return set(connection.scalars(asked, {"digests": list(digests)}))
    return set(connection.scalars(select(Image.sha256).where(Image.sha256.in_(digests))))


def add(engine: Engine, pictures: Sequence[Picture], contents: bool = True) -> int:
    """Write pictures that were not `known`, with their bytes, in one transaction; return how many.

    Where another process writes the same picture at the same time, one of the two is told that it
    is there already and looks again.
    """
    from sqlalchemy.exc import IntegrityError

    for attempt in range(TRIES):
        try:
            with writing(engine) as connection:
                there = known(connection, [entry.sha256 for entry in pictures]) if attempt else ()
                fresh = [entry for entry in pictures if entry.sha256 not in there]
                _add(connection, fresh, contents)
                return len(fresh)
        except IntegrityError:
            if attempt == TRIES - 1:
                raise
    raise InputInvalid("no picture was written")


def _add(connection: Connection, pictures: Sequence[Picture], contents: bool) -> None:
    from .schema import Content, Image

    ids = label_ids(connection, {entry.label for entry in pictures if entry.label is not None})
    now = datetime.now(UTC)
    load(connection, Image.__table__, [entry.row(ids, now) for entry in pictures])
    if contents:
        files = [{"sha256": entry.sha256, "content": entry.content} for entry in pictures]
        load(connection, Content.__table__, files)


def label_ids(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the ids of labels, made where they are new."""
    from sqlalchemy import insert, select

    from .schema import Label

    wanted = sorted(set(names))
    asked = select(Label.name, Label.id).where(Label.name.in_(wanted))
    found = dict(connection.execute(asked).all())
    missing = [{"name": name} for name in wanted if name not in found]
    if missing:
        connection.execute(insert(Label), missing)
        found = dict(connection.execute(asked).all())
    return found


def load(connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write many rows of equal keys: by COPY where the database has it."""
    from sqlalchemy import insert

    if not rows:
        return
    if connection.dialect.name == "postgresql":
        copy(connection, table, rows)
    else:
        connection.execute(insert(table), list(rows))


def copy(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by PostgreSQL's COPY, within the transaction of the connection."""
    import psycopg
    from psycopg import sql
    from sqlalchemy.exc import IntegrityError

    columns = list(rows[0])
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    command = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)
    cursor = connection.connection.cursor()
    try:
        with cursor.copy(command) as stream:
            for row in rows:
                stream.write_row([row[name] for name in columns])
    except psycopg.IntegrityError as error:
        raise IntegrityError("COPY", None, error) from None
    finally:
        cursor.close()
