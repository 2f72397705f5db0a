"""Columns that a schema does not name: one object, written as JSON or as a header and a line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def has_numbers(schema: Schema) -> bool:
    """Tell whether the columns of an object may hold numbers; so they may where nothing is said."""
    inner = schema.get("additionalProperties")
    if not isinstance(inner, dict) or not inner:
        return True
    branches = [inner, *inner.get("anyOf", ())]
    return any(branch.get("type") in ("number", "integer") for branch in branches)


def read(text: Any, numbers: bool) -> dict[str, Any]:
    """Return the columns of a JSON object or of a CSV header and one line; else a ValueError."""
    if isinstance(text, str) and not text.lstrip().startswith("{"):
        lines = _lines(text)
        if len(lines) != 2 or len(lines[0]) != len(lines[1]):
            raise ValueError(text)
        return typed(dict(zip(*lines, strict=True)), numbers)
    found = parsed(text) if isinstance(text, str) else text
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


def _lines(text: str) -> list[list[str]]:
    try:
        rows = csv.reader(io.StringIO(text.strip(), newline=None), strict=True)
        return [line for line in rows if line]
    except csv.Error as error:
        raise ValueError(str(error)) from None


def parsed(text: str) -> Any:
    """Return what JSON says; it has no word for infinity."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def typed(cells: Mapping[str, str], numbers: bool) -> dict[str, Any]:
    """Return the cells of a CSV line that hold something, as numbers where they may be and are."""
    return {
        name: _number(cell) if numbers else cell for name, cell in cells.items() if cell.strip()
    }


def _number(cell: str) -> Any:
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def written(value: Any) -> str:
    """Return an object of plain values as CSV, any other as JSON; nothing where there is none."""
    if not value:
        return ""
    if any(isinstance(cell, list | dict) for cell in value.values()):
        return json.dumps(value, ensure_ascii=False, indent=1)
    buffer = io.StringIO()
    cells = ["" if cell is None else cell for cell in value.values()]
    csv.writer(buffer, lineterminator="\n").writerows([list(value), cells])
    return buffer.getvalue().strip()
