"""The questions that are asked over HTTP: what each takes, what it gives, and its statement.

A question is a pydantic model, so a value of the wrong kind is refused by the name of its field
before the database hears of it; every value is bound, none is put into the text of a statement.
Pages are told apart by the last row seen (keyset), not by an offset: the hundredth page costs what
the first does, and a row that comes in between shifts nothing.

Data:    the tables of `schema`.
Source:  Winand, SQL Performance Explained, chapter 7 (the seek method).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from slipway.errors import InputInvalid

from .statements import statement

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause

LARGEST = 2**63 - 1
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]+$")]
"""A label; PostgreSQL knows no text with the byte 0."""
END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)
MOST_ROWS, MOST_DAYS = 200, 3650


class Row(BaseModel):
    """One row of an answer."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Sighting(Row):
    """One prediction; ``true_label`` is null where nobody has said."""

    id: int
    sha256: str
    label: str
    confidence: float
    created_at: datetime
    model_version: int
    true_label: str | None


class Count(Row):
    """How often a label was predicted."""

    label: str
    predictions: int
    share: float
    place: int


class Accuracy(Row):
    """How many predictions of a day were right, of those whose truth is known."""

    day: date
    model_version: int
    labelled: int
    accuracy: float
    accuracy_of_seven: float


class Drift(Row):
    """How sure the model was on a day, beside its first seven days."""

    day: date
    model_version: int
    predictions: int
    confidence: float
    since_day_before: float | None
    baseline: float
    standard_errors: float | None


class Question(BaseModel):
    """One question; its fields are the query of the address."""

    model_config = ConfigDict(extra="forbid")
    row: ClassVar[type[Row]]
    name: ClassVar[str]
    place: ClassVar[tuple[str, ...]] = ()
    """The columns that tell one page from the next."""

    def values(self, now: datetime) -> dict[str, Any]:
        """Return what the statement's names stand for."""
        raise NotImplementedError

    def next_page(self, rows: list[Row]) -> str | None:
        """Return the cursor after a full page."""
        if not self.place or len(rows) < getattr(self, "limit", 0):
            return None
        last = rows[-1].model_dump(mode="json")
        told = json.dumps([last[name] for name in self.place])
        return base64.urlsafe_b64encode(told.encode()).decode()


class Recent(Question):
    """Predictions of a label in the last hours, the newest first."""

    row, name, place = Sighting, "recent", ("created_at", "id")
    label: Name
    hours: float = Field(default=24, gt=0, le=24 * MOST_DAYS)
    limit: int = Field(default=50, ge=1, le=MOST_ROWS)
    cursor: str = Field(default="", max_length=200)

    def values(self, now: datetime) -> dict[str, Any]:
        """Return label, start, page and length."""
        moment, number = seen(self.cursor, datetime, (END_OF_TIME, LARGEST))
        since = now - timedelta(hours=self.hours)
        page = {"after_moment": moment, "after_id": number, "limit": self.limit}
        return {"label": self.label, "since": since} | page


class Uncertain(Question):
    """Predictions that nobody has reviewed, the least sure first."""

    row, name, place = Sighting, "uncertain", ("confidence", "id")
    below: float = Field(default=0.9, gt=0, le=1.01)
    limit: int = Field(default=50, ge=1, le=MOST_ROWS)
    cursor: str = Field(default="", max_length=200)

    def values(self, now: datetime) -> dict[str, Any]:
        """Return bar, page and length."""
        confidence, number = seen(self.cursor, float, (-1.0, 0))
        page = {"after_confidence": confidence, "after_id": number, "limit": self.limit}
        return {"below": self.below} | page


class _Days(Question):
    days: int = Field(default=30, ge=1, le=MOST_DAYS)

    def values(self, now: datetime) -> dict[str, Any]:
        """Return the first day."""
        return {"since_day": now.date() - timedelta(days=self.days - 1)}


class Counts(_Days):
    """How often each label was predicted in the last days."""

    row, name = Count, "counts"


class Accuracies(_Days):
    """The share of right predictions by day and model version."""

    row, name = Accuracy, "accuracy"


class Drifts(_Days):
    """The mean confidence by day, and how far from the first seven days it is."""

    row, name = Drift, "drift"


QUESTIONS: tuple[type[Question], ...] = (Recent, Uncertain, Counts, Accuracies, Drifts)


def seen(cursor: str, kind: type, start: tuple[Any, int]) -> tuple[Any, int]:
    """Return the last row of the page before. Raises InputInvalid for what is no cursor."""
    if not cursor:
        return start
    wrong = InputInvalid(f"cursor: found {cursor!r:.80}; wanted one that a page gave")
    try:
        told = base64.b64decode(cursor.encode(), b"-_", validate=True)
        value, number = TypeAdapter(tuple[kind, int]).validate_json(told)  # type: ignore[valid-type]
        if kind is datetime:
            value = value.astimezone(UTC)  # the year 1 of Samoa is no year of UTC
    except (ValidationError, ValueError, OverflowError, binascii.Error):
        raise wrong from None
    if not 0 <= number <= LARGEST:
        raise wrong
    return value, number


def answered(connection: Connection, question: Question, now: datetime) -> list[Row]:
    """Return the rows of a question."""
    found = asked(connection, question.name, question.values(now))
    return [question.row(**row) for row in found]


def asked(connection: Connection, name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a named statement; its values are bound."""
    result = connection.execute(bound(name, values))
    return [dict(row) for row in result.mappings()]


def bound(name: str, values: Mapping[str, Any]) -> TextClause:
    """Return a named statement with its values and with the types that databases tell apart."""
    from sqlalchemy import Date, bindparam, text

    from .schema import Moment

    content = statement(name)
    clause = text(content)
    for key, value in values.items():
        kinds = {datetime: Moment(), date: Date()}
        clause = clause.bindparams(bindparam(key, value, type_=kinds.get(type(value))))
    typed = {"created_at": Moment(), "day": Date()}
    given = {key: kind for key, kind in typed.items() if f".{key}" in content}
    return clause.columns(**given)  # type: ignore[return-value]
