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

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from slipway.errors import NotReady

from .database import writing
from .ingest import Picture, label_ids, load
from .one_statement import OneStatement

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from slipway.batching import Ticket

log = logging.getLogger("slipway.sql_image_pipeline")

Key = tuple[date, int, int]
"""Day, model version and label: a row of ``daily_counts``."""
KEY = ("day", "model_version_id", "label_id")
SUMS = ("predictions", "labelled", "correct", "confidence_sum", "confidence_squares")
AT = tuple(f"at_{name}" for name in KEY)
ADDED = tuple(f"added_{name}" for name in SUMS)
MOST = 256
"""Answers in one transaction."""
TRIES = 8


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


@dataclass(eq=False)
class _Waiting:
    """Pictures of one request; ``then`` is told once their answers are committed."""

    pictures: Sequence[Picture]
    then: Callable[[list[Recorded], Exception | None], None]
    answers: Sequence[Answer] = ()
    ticket: Ticket | None = None
    rows: list[Recorded] = field(default_factory=list)
    error: Exception | None = None

    def release(self) -> None:
        """Let the client go on, and the model wait for its next picture."""
        if self.ticket:
            self.ticket.held = False
        try:
            self.then(self.rows, self.error)
        except Exception:  # the others of the commit are told all the same
            log.exception("what is committed was not told")


class Recorder:
    """One thread that commits what the others bring; ``version`` is the id of the model's row."""

    def __init__(self, engine: Engine, version: int) -> None:
        self.engine, self.version = engine, version
        self.one = OneStatement(engine, version)
        self.queue: SimpleQueue[_Waiting | Asked] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="recorder").start()

    def record(
        self,
        pictures: Sequence[Picture],
        ask: Callable[[Callable[[Ticket], None]], None],
        then: Callable[[list[Recorded], Exception | None], None],
    ) -> None:
        """Call ``then`` with the committed row of each picture, or with the error.

        ``ask`` has them labelled and calls what it is given with the answers, in whatever thread:
        those that are ready together go on together. The error is what labelling raised, or
        NotReady where there is no database.
        """
        if pictures:
            ask(partial(self._labelled, _Waiting(pictures, then)))
        else:
            then([], None)

    def _labelled(self, waiting: _Waiting, ticket: Ticket) -> None:
        """Queue what was labelled for the next commit; called in the scoring thread."""
        waiting.error = ticket.error
        if ticket.error:
            waiting.release()
            return
        waiting.ticket, ticket.held = ticket, True
        waiting.answers = [
            Answer(picture, verdict.label, verdict.confidence)
            for picture, verdict in zip(waiting.pictures, ticket.answers, strict=True)
        ]
        self.queue.put(waiting)

    def note(self, asked: Asked) -> None:
        """Keep a question with the next commit; nobody waits for that."""
        self.queue.put(asked)

    def _work(self) -> None:
        while True:
            batch = self._gathered()
            waiting = [entry for entry in batch if isinstance(entry, _Waiting)]
            self._commit(waiting, [entry for entry in batch if isinstance(entry, Asked)])

    def _gathered(self) -> list[_Waiting | Asked]:
        """Return what is to be committed together: what came while the last commit was under way.

        Those whom the model labels together come together.
        """
        batch = [self.queue.get()]
        count = len(getattr(batch[0], "answers", ()))
        with suppress(Empty):
            while count < MOST:
                batch.append(self.queue.get_nowait())
                count += len(getattr(batch[-1], "answers", ()))
        return batch

    def _commit(self, waiting: list[_Waiting], asked: list[Asked]) -> None:
        """Commit a batch; where that fails for one of them, each alone, and the questions too."""
        try:
            answers = [answer for entry in waiting for answer in entry.answers]
            rows = self.one.write(answers)
            rest = [answer for answer in answers if answer.picture.sha256 not in rows]
            if rest or asked:
                more = write(self.engine, self.version, rest, asked)
                rows |= {row.sha256: row for row in more}
            for entry in waiting:
                entry.rows = [rows[answer.picture.sha256] for answer in entry.answers]
        except Exception as error:
            if len(waiting) > 1 and not isinstance(error, NotReady):
                for entry in waiting:
                    self._commit([entry], [])
                if asked:
                    self._commit([], asked)
                return
            if asked:
                log.warning("questions that are not kept: %d (%s)", len(asked), error)
            for entry in waiting:
                entry.error = error
        for entry in waiting:
            entry.release()


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
    from .schema import UserQuery

    if asked:
        load(connection, UserQuery.__table__, [vars(entry) for entry in asked])
    if not answers:
        return []
    by_digest = {answer.picture.sha256: answer for answer in answers}
    ordered = [by_digest[digest] for digest in sorted(by_digest)]  # all lock in one order
    ids = label_ids(connection, {answer.label for answer in ordered})
    pictures = [answer.picture for answer in ordered]
    there = _images(connection, [picture.sha256 for picture in pictures])
    images = there | _new_images(connection, [one for one in pictures if one.sha256 not in there])
    old = _predictions(connection, version, [number for number, _ in there.values()])
    fresh = [answer for answer in ordered if images[answer.picture.sha256][0] not in old]
    now = datetime.now(UTC)
    new = _new_predictions(connection, version, now, fresh, images, ids)
    counted = [(ids[one.label], one.confidence, images[one.picture.sha256][1]) for one in fresh]
    add_to_days(connection, sums_of((now.date(), version), counted))
    rows = old | new
    return [_recorded(answer.picture.sha256, rows, images, old) for answer in answers]


def _recorded(
    digest: str, rows: dict[int, Any], images: dict[str, tuple[int, Any]], old: dict[int, Any]
) -> Recorded:
    number = images[digest][0]
    row, label, confidence, moment = rows[number]
    return Recorded(row, digest, label, confidence, moment, number in old)


def _images(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """Return id and true label of the pictures that are there, locked.

    The lock keeps a person's correction out until the sums are right.
    """
    from sqlalchemy import select

    from .schema import Image

    asked = select(Image.sha256, Image.id, Image.label_id).where(Image.sha256.in_(digests))
    asked = asked.order_by(Image.sha256).with_for_update(read=True)
    return {row.sha256: (row.id, row.label_id) for row in connection.execute(asked)}


def _new_images(
    connection: Connection, pictures: Sequence[Picture]
) -> dict[str, tuple[int, int | None]]:
    """Write pictures with their bytes; return id and true label of each."""
    from sqlalchemy import insert

    from .schema import Content, Image

    if not pictures:
        return {}
    ids = label_ids(
        connection, {picture.label for picture in pictures if picture.label is not None}
    )
    now = datetime.now(UTC)
    asked = insert(Image).returning(Image.sha256, Image.id, Image.label_id)
    found = connection.execute(asked, [picture.row(ids, now) for picture in pictures]).all()
    contents = [{"sha256": picture.sha256, "content": picture.content} for picture in pictures]
    load(connection, Content.__table__, contents)
    return {row.sha256: (row.id, row.label_id) for row in found}


def _predictions(connection: Connection, version: int, images: list[int]) -> dict[int, Any]:
    """Return id, label, confidence and time of what a model version said, by picture."""
    from sqlalchemy import select

    from .schema import Label, Prediction

    if not images:
        return {}
    asked = (
        select(
            Prediction.image_id, Prediction.id, Label.name, Prediction.confidence,
            Prediction.created_at,
        )
        .join(Label, Label.id == Prediction.label_id)
        .where(Prediction.model_version_id == version, Prediction.image_id.in_(images))
    )  # fmt: skip
    return {row[0]: tuple(row[1:]) for row in connection.execute(asked)}


def _new_predictions(
    connection: Connection,
    version: int,
    now: datetime,
    answers: Sequence[Answer],
    images: dict[str, tuple[int, Any]],
    ids: dict[str, int],
) -> dict[int, Any]:
    """Write answers; return id, label, confidence and time of each, by picture."""
    from sqlalchemy import insert

    from .schema import Prediction

    if not answers:
        return {}
    by_image = {images[answer.picture.sha256][0]: answer for answer in answers}
    rows = [
        {
            "image_id": number, "model_version_id": version, "label_id": ids[answer.label],
            "confidence": answer.confidence, "created_at": now,
        }
        for number, answer in by_image.items()
    ]  # fmt: skip
    asked = insert(Prediction).returning(Prediction.image_id, Prediction.id)
    found = connection.execute(asked, rows).all()
    return {
        row.image_id: (row.id, by_image[row.image_id].label, by_image[row.image_id].confidence, now)
        for row in found
    }


def sums_of(
    place: tuple[date, int], rows: Sequence[tuple[int, float, int | None]]
) -> dict[Key, list[float]]:
    """Return what predictions (label, confidence, true label) add to a day and model version."""
    sums: dict[Key, list[float]] = {}
    for label, confidence, truth in rows:
        total = sums.setdefault((*place, label), [0, 0, 0, 0.0, 0.0])
        more = (1, truth is not None, truth == label, confidence, confidence * confidence)
        for at, value in enumerate(more):
            total[at] += value
    return sums


def add_to_days(connection: Connection, sums: Mapping[Key, Sequence[float]]) -> None:
    """Add predictions, labelled, correct, confidence and its squares to rows of the sums."""
    from sqlalchemy import insert, select

    from .schema import DailyCount

    if not sums:
        return
    rows = [
        dict(zip(ADDED, sums[key], strict=True)) | dict(zip(AT, key, strict=True))
        for key in sorted(sums)  # all lock in one order
    ]
    if connection.execute(_addition(), rows).rowcount == len(rows):
        return
    columns = DailyCount.__table__.c
    asked = select(columns.day, columns.model_version_id, columns.label_id).where(
        columns.day.in_({key[0] for key in sums}),
        columns.model_version_id.in_({k[1] for k in sums}),
    )
    there = {tuple(row) for row in connection.execute(asked)}
    missing = [
        dict(zip((*KEY, *SUMS), (*key, *sums[key]), strict=True))
        for key in sorted(sums)
        if key not in there
    ]
    if missing:
        connection.execute(insert(DailyCount), missing)


@cache
def _addition() -> Any:
    """Return the statement that adds to one row; made once, for making it takes long."""
    from sqlalchemy import bindparam, update

    from .schema import DailyCount

    columns = DailyCount.__table__.c
    changed = update(DailyCount.__table__)
    for name, given in zip(KEY, AT, strict=True):
        changed = changed.where(columns[name] == bindparam(given, type_=columns[name].type))
    return changed.values(
        {
            name: columns[name] + bindparam(given, type_=columns[name].type)
            for name, given in zip(SUMS, ADDED, strict=True)
        }
    )
