"""What the database costs: ingest beside plain ways, questions at a million rows.

All are measured in one run on one machine, in an empty database that is named by DATABASE_URL.

Data:    rows made for the purpose, as many and as long as real ones.
Source:  none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from slipway import Run
from slipway.errors import InputInvalid

from . import charts, questions
from .database import reading, writing
from .ingest import Picture, add, batches, copy, known, label_ids, load
from .statements import statement

if TYPE_CHECKING:
    import numpy as np
    from sqlalchemy import Connection, Engine

AT_ONCE = 10_000
DAYS, VERSIONS, LABELS = 90, 3, 10
TURNS = 3
RIGHT = (0.90, 0.93, 0.96)
"""The share of right labels of each model version in the made history."""
ASKED = 200
"""Times that each question is asked, each time with other values."""
BAR = 20.0
"""Milliseconds for 95 of 100 answers."""


def ingest_rates(run: Run, engine: Engine, number: int) -> None:
    """Write metadata of pictures by this job, by plain COPY and by plain inserts."""
    with reading(engine) as connection:
        if connection.exec_driver_sql("SELECT 1 FROM images LIMIT 1").first():
            raise InputInvalid("found pictures; wanted an empty database to measure in")
    ways: dict[str, Callable[[Engine, Sequence[Picture]], None]] = {
        "this job: known ones left out, labels, one transaction a batch": _ours,
        "SQLAlchemy Core, many rows an insert": _core,
        "SQLAlchemy ORM, add_all": _orm,
    }
    if engine.dialect.name == "postgresql":
        ways["COPY, nothing looked up"] = _plain_copy
    with writing(engine) as connection:
        label_ids(connection, map(str, range(LABELS)))
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS):  # in turns, so that a slow minute of the machine hits all of them
        for way, write in ways.items():
            pictures = list(_pictures(number, turn))
            began = time.perf_counter()
            write(engine, pictures)
            taken[way].append(time.perf_counter() - began)
            with writing(engine) as connection:
                _emptied(connection)
    rows: list[dict[str, Any]] = [
        {"way": way, "rate": number / statistics.median(each)} for way, each in taken.items()
    ]
    ours = rows[0]["rate"]
    for row in rows:
        row["this job, of it"] = ours / row["rate"]
    told = engine.dialect.name
    run.table(
        "ingest", rows, f"Rows of metadata a second on {told}, median of {TURNS} times {number:,}"
    )
    best = max(rows[1:], key=lambda row: row["rate"])
    title = f"Ingest reaches {ours / best['rate']:.0%} of: {best['way']}"
    run.figure("ingest", charts.rates(rows, title, "rows a second"), f"Metadata only, on {told}.")


def _pictures(number: int, seed: int) -> Iterator[Picture]:
    for place in range(number):
        digest = f"{seed:08x}{place * 2654435761 % 2**32:08x}{place:048x}"
        yield Picture(digest, b"x", "image/png", 28, 28, str(place % LABELS), "measured", "train")


def _emptied(connection: Connection) -> None:
    for table in ("contents", "images"):
        truncate = connection.dialect.name == "postgresql"
        command = f"TRUNCATE {table} CASCADE" if truncate else f"DELETE FROM {table}"
        connection.exec_driver_sql(command)


def _ours(engine: Engine, pictures: Sequence[Picture]) -> None:
    for batch in batches(pictures, AT_ONCE):
        with writing(engine) as connection:
            there = known(connection, [entry.sha256 for entry in batch])
        fresh = [entry for entry in batch if entry.sha256 not in there]
        add(engine, fresh, contents=False)


def _plain_copy(engine: Engine, pictures: Sequence[Picture]) -> None:
    from .schema import Image

    for batch in batches(pictures, AT_ONCE):
        with writing(engine) as connection:
            copy(connection, Image.__table__, _rows(batch))  # type: ignore[arg-type]


def _core(engine: Engine, pictures: Sequence[Picture]) -> None:
    from sqlalchemy import insert

    from .schema import Image

    for batch in batches(pictures, AT_ONCE):
        with writing(engine) as connection:
            connection.execute(insert(Image), _rows(batch))


def _orm(engine: Engine, pictures: Sequence[Picture]) -> None:
    from sqlalchemy.orm import Session

    from .schema import Image

    for batch in batches(pictures, AT_ONCE):
        with Session(engine) as session:
            session.add_all([Image(**row) for row in _rows(batch)])
            session.commit()


def _rows(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    ids = {str(label): label + 1 for label in range(LABELS)}
    return [picture.row(ids, now) for picture in pictures]


def fill_history(engine: Engine, number: int, seed: int) -> None:
    """Write so many predictions over ninety days, by three model versions, and their pictures."""
    import numpy as np

    from . import schema
    from .versions import registered

    draw = np.random.default_rng(seed)
    versions = [registered(engine, f"measured {version}") for version in range(VERSIONS)]
    with writing(engine) as connection:
        ids = label_ids(connection, map(str, range(LABELS)))
    labels, now = list(ids.values()), datetime.now(UTC)
    pictures = -(-number // VERSIONS)
    for batch in batches(range(pictures), AT_ONCE):
        add(engine, list(_pictures_of(batch)), contents=False)
        asked = "SELECT id, label_id FROM images WHERE collection = 'measured' AND sha256 >= :first"
        with writing(engine) as connection:
            images = _ids_of(connection, asked, f"{batch[0]:064x}", f"{batch[-1]:064x}")
            rows = list(_predictions(draw, images, versions, labels, now))
            load(connection, schema.Prediction.__table__, rows)
    with writing(engine) as connection:
        connection.exec_driver_sql("DELETE FROM daily_counts")
        connection.exec_driver_sql(statement("recount"))
    with engine.connect() as connection:
        raw = connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in ("images", "predictions", "daily_counts"):
            word = "ANALYZE TABLE" if engine.dialect.name == "mariadb" else "ANALYZE"
            raw.exec_driver_sql(f"{word} {table}")


def _pictures_of(places: Sequence[int]) -> Iterator[Picture]:
    for place in places:
        label = str(place % LABELS) if place % 4 == 0 else None
        yield Picture(f"{place:064x}", b"x", "image/png", 28, 28, label, "measured", "new")


def _ids_of(connection: Connection, asked: str, first: str, last: str) -> list[tuple[int, Any]]:
    from sqlalchemy import text

    found = connection.execute(text(f"{asked} AND sha256 <= :last"), {"first": first, "last": last})
    return [(row.id, row.label_id) for row in found]


def _predictions(
    draw: np.random.Generator,
    known: Sequence[tuple[int, int | None]],
    versions: Sequence[int],
    labels: Sequence[int],
    now: datetime,
) -> Iterator[dict[str, Any]]:
    """Yield a prediction of each version for each picture: mostly right, and mostly sure."""
    for image, truth in known:
        moment = now - timedelta(days=float(draw.random() * DAYS))
        for version, share in zip(versions, RIGHT, strict=True):
            right = truth and draw.random() < share
            yield {
                "image_id": image, "model_version_id": version,
                "label_id": truth if right else labels[draw.integers(len(labels))],
                "confidence": float(1 - draw.beta(1, 12)), "reviewed": truth is not None,
                "created_at": moment,
            }  # fmt: skip


def question_times(run: Run, engine: Engine, number: int, seed: int) -> None:
    """Ask each question with many values, at a history of so many predictions."""
    import numpy as np

    fill_history(engine, number, seed)
    draw = np.random.default_rng(seed)
    rows = []
    for kind in questions.QUESTIONS:
        taken, cursor = [], ""
        for _ in range(ASKED):
            given = _asked(kind, draw, cursor)
            began = time.perf_counter()
            with reading(engine) as connection:
                found = questions.answered(connection, given, datetime.now(UTC))
            taken.append((time.perf_counter() - began) * 1e3)
            cursor = given.next_page(found) or "" if draw.random() < 0.7 else ""
        p50, p95 = np.percentile(taken, [50, 95])
        rows.append({"question": kind.name, "asked": ASKED, "rows": len(found),
                     "p50 ms": float(p50), "p95 ms": float(p95)})  # fmt: skip
    told = engine.dialect.name
    run.table(
        "questions", rows, f"Questions at {number:,} predictions on {told}; bar: p95 {BAR:g} ms"
    )
    run.figure(
        "questions", charts.times(rows, number, BAR), f"Each asked {ASKED} times, on {told}."
    )
    with reading(engine) as connection:
        since = {"since_day": (datetime.now(UTC) - timedelta(days=DAYS)).date()}
        days, drift = (questions.asked(connection, name, since) for name in ("accuracy", "drift"))
    run.figure("days", charts.days(days), "Made history; a point is a day of a model version.")
    run.figure("drift", charts.drift(drift), "Made history; a point is a day of a model version.")


def _asked(kind: type[questions.Question], draw: np.random.Generator, cursor: str) -> Any:
    if kind is questions.Recent:
        label, hours = str(draw.integers(LABELS)), float(draw.choice([1, 24, 24 * 30]))
        return kind(label=label, hours=hours, cursor=cursor)
    if kind is questions.Uncertain:
        return kind(below=float(draw.uniform(0.5, 1)), cursor=cursor)
    return kind(days=int(draw.integers(1, DAYS)))
