"""Answers into the database, many in one transaction: what a hundred clients wait for together.

A commit costs one flush to disk however much is in it, so the answers that are ready at the same
time are committed together, and each client is told only then. The picture, its bytes, the
prediction and the sums of the day are in that one transaction. Sent again, a picture gets the row
it has: a client that was not told may simply repeat.

Data:    answers of the scorer.
Source:  group commit: DeWitt et al., Implementation techniques for main memory database systems,
         SIGMOD 1984.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from slipway.errors import NotReady

from .database import writing
from .ingest import Picture, label_ids, load

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

MOST = 256
"""Answers in one transaction."""
TRIES = 8
WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a model said of a picture."""

    picture: Picture
    label: str
    confidence: float


@dataclass(frozen=True)
class Recorded:
    """The row that an answer is kept in; ``known`` where it was there before."""

    id: int
    sha256: str
    label: str
    confidence: float
    created_at: datetime
    known: bool


@dataclass(frozen=True)
class Asked:
    """A question for ``user_queries``."""

    name: str
    parameters: str
    answered: int
    milliseconds: float
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class _Waiting:
    answers: Sequence[Answer]
    done: threading.Event = field(default_factory=threading.Event)
    rows: list[Recorded] = field(default_factory=list)
    error: Exception | None = None


class Recorder:
    """One thread that commits what the others bring; ``version`` is the id of the model's row."""

    def __init__(self, engine: Engine, version: int) -> None:
        self.engine, self.version = engine, version
        self.queue: SimpleQueue[_Waiting | Asked] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="recorder").start()

    def record(self, answers: Sequence[Answer]) -> list[Recorded]:
        """Return the committed row of each answer. Raises NotReady where there is no database."""
        waiting = _Waiting(answers)
        self.queue.put(waiting)
        if not waiting.done.wait(WAIT_SECONDS):
            raise NotReady("the database is slow; send this one again, nothing comes twice")
        if waiting.error:
            raise waiting.error
        return waiting.rows

    def note(self, asked: Asked) -> None:
        """Keep a question with the next commit; nobody waits for that."""
        self.queue.put(asked)

    def _work(self) -> None:
        while True:
            batch = [self.queue.get()]
            count = 0
            try:
                while count < MOST:
                    batch.append(self.queue.get_nowait())
                    count += len(getattr(batch[-1], "answers", ()))
            except Empty:
                pass
            waiting = [entry for entry in batch if isinstance(entry, _Waiting)]
            self._commit(waiting, [entry for entry in batch if isinstance(entry, Asked)])

    def _commit(self, waiting: list[_Waiting], asked: list[Asked]) -> None:
        """Commit a batch; where that fails for one of them, each alone."""
        try:
            answers = [answer for entry in waiting for answer in entry.answers]
            rows = iter(write(self.engine, self.version, answers, asked))
            for entry in waiting:
                entry.rows = [next(rows) for _ in entry.answers]
        except Exception as error:
            if len(waiting) > 1 and not isinstance(error, NotReady):
                for entry in waiting:
                    self._commit([entry], [])
                return
            for entry in waiting:
                entry.error = error
        for entry in waiting:
            entry.done.set()


def write(
    engine: Engine, version: int, answers: Sequence[Answer], asked: Sequence[Asked] = ()
) -> list[Recorded]:
    """Write answers in one transaction and return the row of each, also of one that was there.

    Two processes that write the same picture, or lock the same sums, get in each other's way: then
    the whole transaction is done again, and finds what the other one wrote.
    """
    from sqlalchemy.exc import IntegrityError, OperationalError

    last: Exception | None = None
    for _ in range(TRIES):
        try:
            with writing(engine) as connection:
                return _written(connection, version, answers, asked)
        except IntegrityError as error:
            last = error
        except NotReady as error:
            if not isinstance(error.__context__, OperationalError) or not deadlocked(
                error.__context__
            ):
                raise
            last = error
    raise last or NotReady("the transaction was not done")


def deadlocked(error: Any) -> bool:
    """Tell whether the database ended a transaction in favour of another one."""
    original = error.orig
    codes = {getattr(original, "sqlstate", None), *getattr(original, "args", ())[:1]}
    return bool(codes & {"40001", "40P01", 1213, 1205, 1020})


def _written(
    connection: Connection, version: int, answers: Sequence[Answer], asked: Sequence[Asked]
) -> list[Recorded]:
    from .schema import Prediction, UserQuery

    if asked:
        load(connection, UserQuery.__table__, [vars(entry) for entry in asked])
    if not answers:
        return []
    by_digest = {answer.picture.sha256: answer for answer in answers}
    ordered = [by_digest[digest] for digest in sorted(by_digest)]  # all lock in one order
    named = {answer.label for answer in ordered}
    ids = label_ids(connection, named)
    images = _images(connection, ordered)
    there = _predictions(connection, version, [image for image, _ in images.values()])
    fresh = [answer for answer in ordered if images[answer.picture.sha256][0] not in there]
    now = datetime.now(UTC)
    load(
        connection,
        Prediction.__table__,
        [
            {
                "image_id": images[answer.picture.sha256][0],
                "model_version_id": version,
                "label_id": ids[answer.label],
                "confidence": answer.confidence,
                "created_at": now,
            }
            for answer in fresh
        ],
    )
    _count(connection, version, now, [
        (ids[answer.label], answer.confidence, images[answer.picture.sha256][1])
        for answer in fresh
    ])  # fmt: skip
    new = [images[answer.picture.sha256][0] for answer in fresh]
    rows = there | _predictions(connection, version, new)
    return [_recorded(answer, rows, images, set(new)) for answer in answers]


def _recorded(
    answer: Answer, rows: dict[int, Any], images: dict[str, tuple[int, int | None]], new: set[int]
) -> Recorded:
    digest = answer.picture.sha256
    row = rows[images[digest][0]]
    return Recorded(
        row.id, digest, row.name, row.confidence, row.created_at, row.image_id not in new
    )


def _images(connection: Connection, answers: Sequence[Answer]) -> dict[str, tuple[int, int | None]]:
    """Return id and true label of each picture, written where it is new, and locked.

    The lock keeps a person's correction out until the sums are right.
    """
    from sqlalchemy import select

    from .schema import Content, Image

    def found(digests: list[str]) -> dict[str, tuple[int, int | None]]:
        asked = select(Image.sha256, Image.id, Image.label_id).where(Image.sha256.in_(digests))
        asked = asked.order_by(Image.sha256).with_for_update(read=True)
        return {row.sha256: (row.id, row.label_id) for row in connection.execute(asked)}

    there = found([answer.picture.sha256 for answer in answers])
    fresh = [answer.picture for answer in answers if answer.picture.sha256 not in there]
    if not fresh:
        return there
    ids = label_ids(connection, {picture.label for picture in fresh if picture.label is not None})
    now = datetime.now(UTC)
    load(connection, Image.__table__, [picture.row(ids, now) for picture in fresh])
    contents = [{"sha256": picture.sha256, "content": picture.content} for picture in fresh]
    load(connection, Content.__table__, contents)
    return there | found([picture.sha256 for picture in fresh])


def _predictions(connection: Connection, version: int, images: list[int]) -> dict[int, Any]:
    """Return the rows that a model version has of pictures, by picture."""
    from sqlalchemy import select

    from .schema import Label, Prediction

    if not images:
        return {}
    asked = (
        select(
            Prediction.id, Prediction.image_id, Prediction.confidence, Prediction.created_at,
            Label.name,
        )
        .join(Label, Label.id == Prediction.label_id)
        .where(Prediction.model_version_id == version, Prediction.image_id.in_(images))
    )  # fmt: skip
    return {row.image_id: row for row in connection.execute(asked)}


def _count(
    connection: Connection,
    version: int,
    now: datetime,
    rows: Sequence[tuple[int, float, int | None]],
) -> None:
    """Add predictions (label, confidence, true label) to the sums of the day."""
    sums: dict[int, list[float]] = {}
    for label, confidence, truth in rows:
        total = sums.setdefault(label, [0, 0, 0, 0.0, 0.0])
        more = (1, truth is not None, truth == label, confidence, confidence * confidence)
        for place, value in enumerate(more):
            total[place] += value
    for label in sorted(sums):  # all lock in one order
        add_to_day(connection, (now.date(), version, label), sums[label])


def add_to_day(connection: Connection, key: tuple[Any, int, int], more: Sequence[float]) -> None:
    """Add predictions, labelled, correct, confidence and its squares to one row of the sums."""
    from sqlalchemy import insert, update

    from .schema import DailyCount

    names = ("predictions", "labelled", "correct", "confidence_sum", "confidence_squares")
    day, version, label = key
    columns = DailyCount.__table__.c
    done = connection.execute(
        update(DailyCount)
        .where(columns.day == day, columns.model_version_id == version, columns.label_id == label)
        .values({name: columns[name] + value for name, value in zip(names, more, strict=True)})
    )
    if not done.rowcount:
        row = {"day": day, "model_version_id": version, "label_id": label}
        connection.execute(insert(DailyCount), row | dict(zip(names, more, strict=True)))
