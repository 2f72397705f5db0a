"""What a scorer takes and gives: one pydantic model drives JSON, CSV, OpenAPI and the form.

A job subclasses `Input` and `Output`. The limits of a request are part of the type:
`max_rows` and `max_bytes` of the body, and each field's own (``max_length``, ``ge``, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["Field", "Input", "Output", "Problem", "example", "problems"]

Problem = dict[str, str]
"""A field that is wrong: ``path`` (a JSON pointer), ``found`` and ``wanted``."""

SHOWN = 80


class Input(BaseModel):
    """One row to score. Unknown fields are refused, so a misspelt one cannot pass unseen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    max_rows: ClassVar[int] = 1_000
    """Rows in one request."""

    max_bytes: ClassVar[int] = 8 * 2**20
    """Bytes in the body of one request."""


class Output(BaseModel):
    """The answer for one row. NaN and infinity are refused: JSON has no word for them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


def problems(error: ValidationError) -> list[Problem]:
    """Tell field by field where a row is wrong, as ``/2/text: found 7, wanted a string``."""
    found = error.errors(include_url=False, include_context=False)
    return [
        {
            "path": "".join(f"/{step}" for step in entry["loc"]) or "/",
            "found": _shown(entry["input"]),
            "wanted": entry["msg"],
        }
        for entry in found
    ]


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = "a value nested too deeply to show"
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def example(kind: type[Input]) -> dict[str, Any]:
    """Return a row made of the first example of each field; KeyError names a field without."""
    row = {}
    for name, entry in kind.model_fields.items():
        if not entry.examples:
            if not entry.is_required():
                continue
            raise KeyError(f"{kind.__name__}.{name} has no examples=[...]")
        row[name] = entry.examples[0]
    return row


def known_fields(kind: type[Input], row: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a row what the type knows: a table may carry further columns, like a label."""
    wanted: Iterable[str] = kind.model_fields
    return {name: row[name] for name in wanted if name in row}
