"""A CSV file of rows, scored request by request; a bad row keeps its reason and spoils no other."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import columns
from .fields import Description, NotAValue
from .scorer import Refused, Scorer, Waiting

MOST_LINES = 20_000
ERROR = "error"


@dataclass
class Line:
    """One line of the file: what stood there, and its answer or what is wrong."""

    given: dict[str, str]
    answer: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def read(content: bytes, description: Description) -> list[Line]:
    """Read a CSV file with a header; raise NotAValue where it cannot hold rows of this scorer."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        lines = [Line({k: v or "" for k, v in row.items() if k is not None}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise NotAValue(f"the file is no CSV in UTF-8: {error}") from None
    found = reader.fieldnames or []
    missing = [
        one.name
        for one in description.fields
        if one.required and one.name not in found and one.kind != "columns"
    ]
    if missing:
        has = ", ".join(found) or "nothing"
        raise NotAValue(f"the header lacks {', '.join(missing)}; found {has}")
    if not 0 < len(lines) <= MOST_LINES:
        raise NotAValue(f"the file has {len(lines)} rows; wanted 1 to {MOST_LINES}")
    return lines


def scored(lines: list[Line], description: Description, scorer: Scorer) -> Iterator[Waiting | int]:
    """Fill in answers and errors; yield how many lines are done, and each time one had to wait."""
    for start in range(0, len(lines), description.most):
        part = lines[start : start + description.most]
        good: list[tuple[Line, dict[str, Any]]] = []
        for line in part:
            try:
                good.append((line, _row(line.given, description)))
            except NotAValue as error:
                line.error = str(error)
        yield from _ask(good, scorer)
        yield start + len(part)


def _row(given: dict[str, str], description: Description) -> dict[str, Any]:
    """Return the row of a line; cells without a field of their own go into a field of columns."""
    known = [one for one in description.fields if not one.binary]
    row: dict[str, Any] = {}
    for one in known:
        if one.kind == "columns" and one.name not in given:
            named = {other.name for other in known}
            spare = {name: cell for name, cell in given.items() if name not in named}
            found = columns.typed(spare, one.numbers)
            row |= found if one.free else {one.name: found}
        else:
            row[one.name] = one.sent(given.get(one.name))
    return {name: value for name, value in row.items() if value is not None}


def _ask(good: list[tuple[Line, dict[str, Any]]], scorer: Scorer) -> Iterator[Waiting]:
    """Score rows; those that the scorer names as wrong are left out and the rest is asked again."""
    while good:
        try:
            for step in scorer.answers([row for _, row in good]):
                if isinstance(step, Waiting):
                    yield step
                else:
                    for (line, _), answer in zip(good, step, strict=True):
                        line.answer = answer
            return
        except Refused as refusal:
            bad = _reasons(refusal)
            if not bad:
                raise
            for number, reason in bad.items():
                good[number][0].error = reason
            good = [entry for number, entry in enumerate(good) if number not in bad]


def _reasons(refusal: Refused) -> dict[int, str]:
    """Return by number of the row what is wrong with it, from paths like ``/3/age``."""
    reasons: dict[int, str] = {}
    for entry in refusal.fields:
        number, _, name = entry.get("path", "").strip("/").partition("/")
        if number.isdecimal():
            told = f"{name or 'the row'}: found {entry.get('found')}; wanted: {entry.get('wanted')}"
            reasons.setdefault(int(number), told)
    return reasons


def table(lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: what was given, the answers, and the errors where there are any."""
    given = list(dict.fromkeys(name for line in lines for name in line.given))
    answers = list(dict.fromkeys(name for line in lines for name in line.answer))
    errors = [ERROR] if any(line.error for line in lines) else []
    cells = [
        [
            *(line.given.get(name, "") for name in given),
            *(_text(line.answer.get(name)) for name in answers),
            *([line.error] if errors else []),
        ]
        for line in lines
    ]
    return [*given, *answers, *errors], cells


def written(lines: list[Line]) -> str:
    """Return the scored file as CSV."""
    buffer = io.StringIO()
    header, cells = table(lines)
    csv.writer(buffer, lineterminator="\n").writerows([header, *cells])
    return buffer.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
