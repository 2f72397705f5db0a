"""The fields of a form, read from the JSON schema of a scorer's row.

A scorer says all there is to know in ``/openapi.json``: the names of a row's fields, their types
and limits, an example, how many rows one request may hold. Nothing here knows of a job or of a
page's widgets: `Field.kind` is what a person has to do (write, choose, draw, record, ...).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from . import columns, media

Schema = Mapping[str, Any]
Wrong = dict[str, str]
"""A field that is wrong: ``path``, ``found`` and ``wanted``, as a scorer's 422 has them."""

JSON = "application/json"
BINARY = ("base64", "binary", "byte")
FILES = ("image", "sheet", "audio", "video", "file")
KINDS = {"boolean": "yes_no", "integer": "whole", "number": "number", "string": "text"}
DATES = {"date": "date", "date-time": "moment"}
YES, NO = ("true", "yes", "1"), ("false", "no", "0")
ONE_REQUEST = 500
FREE = "columns"  # the name on the page of columns that have no name in the schema
WORDS = {
    "whole": "a whole number",
    "number": "a number",
    "yes_no": "true or false",
    "image": "a picture",
    "sheet": "a drawing or a picture",
    "audio": "a recording",
    "video": "a video",
    "file": "a file",
    "json": "JSON",
    "columns": "a JSON object, or a line of CSV below its header",
    "date": "a date like 2026-01-31",
    "moment": "a date and time like 2026-01-31 12:00:00",
}


class NotAValue(ValueError):
    """What was written into a form cannot be sent; the text says why, ``fields`` where."""

    def __init__(self, told: str, fields: Iterable[Wrong] = ()) -> None:
        super().__init__(told)
        self.fields = list(fields)


@dataclass(frozen=True)
class Field:
    """One field of a row.

    ``kind`` is text, whole, number, yes_no, choice, date, moment, one of `FILES`, columns or json.
    ``accept`` are a file's media types. The columns of a free field are the row's own.
    """

    name: str
    kind: str
    label: str
    hint: str = ""
    value: Any = None
    required: bool = True
    nullable: bool = False
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    longest: int | None = None
    accept: tuple[str, ...] = ()
    numbers: bool = False
    free: bool = False

    @property
    def binary(self) -> bool:
        """Tell whether the value is a file."""
        return self.kind in FILES

    @property
    def step(self) -> float:
        """Return the step of a slider: a power of ten, at least a thousand of them in the range."""
        if self.kind == "whole" or self.low is None or self.high is None:
            return 1
        return float(10 ** (math.ceil(math.log10((self.high - self.low) or 1)) - 4))

    def sent(self, value: Any) -> Any:
        """Return a widget's value as JSON takes it; raise NotAValue where it cannot be."""
        if self.binary:
            found = self.file(value)
            return base64.b64encode(found[1]).decode() if found else None
        if value is None or value == "":
            if self.kind == "text" and not self.nullable and value is not None:
                return ""
            return self._absent()
        try:
            return self._parsed(value)
        except (ValueError, TypeError, KeyError):
            raise self._wrong(repr(value)) from None

    def file(self, value: Any) -> tuple[str, bytes] | None:
        """Return media type and bytes of a file's widget, None where there is none."""
        if isinstance(value, dict):
            value = value.get("composite")  # all layers of a drawing as one file
        if not value or (self.kind == "sheet" and media.is_blank(Path(value))):
            return self._absent()
        return media.content_of(Path(value), self.accept)

    def _wrong(self, found: str) -> NotAValue:
        entry = {"path": f"/{self.name}", "found": found, "wanted": self.wanted}
        return NotAValue(f"{self.label}: found {found}; wanted {self.wanted}", [entry])

    def _absent(self) -> None:
        if self.required and not self.nullable:
            raise self._wrong("nothing")

    def _parsed(self, value: Any) -> Any:
        match self.kind:
            case "json" if isinstance(value, str):
                return columns.parsed(value)
            case "columns":
                return columns.read(value, self.numbers)
            case "whole":
                return _whole(value)
            case "number":
                return _finite(value)
            case "yes_no" if isinstance(value, str):
                return _yes_or_no(value)
            case "choice":
                return {str(one): one for one in self.choices}[str(value)]
            case "date":
                return date.fromisoformat(str(value)[:10]).isoformat()
            case "moment":
                return datetime.fromisoformat(str(value)).isoformat()
        return value

    @property
    def wanted(self) -> str:
        """Say in words what the field takes."""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        return WORDS.get(self.kind, "a text")


@dataclass(frozen=True)
class Description:
    """What a scorer says of itself; ``raw`` are media types that it takes as a whole body."""

    title: str
    question: str
    fields: tuple[Field, ...]
    answer: Schema
    most: int
    raw: tuple[str, ...] = ()

    def row(self, values: Iterable[Any]) -> dict[str, Any]:
        """Return the row of a form's values; what is left empty and not required is not sent.

        Raise NotAValue with every field that cannot be sent.
        """
        row: dict[str, Any] = {}
        wrong: list[NotAValue] = []
        for field, value in zip(self.fields, values, strict=True):
            try:
                sent = field.sent(value)
            except NotAValue as error:
                wrong.append(error)
                continue
            if sent is not None or (field.required and field.nullable):
                row |= sent if field.free else {field.name: sent}
        if wrong:
            told = str(wrong[0]) if len(wrong) == 1 else f"{len(wrong)} fields are wrong"
            raise NotAValue(told, [entry for error in wrong for entry in error.fields])
        return row

    def body(self, values: Iterable[Any]) -> tuple[str, bytes]:
        """Return content type and bytes of a request for one row.

        A lone file goes as it is where the scorer says that it takes that: base64 would be a
        third longer. Everything else is JSON.
        """
        given = list(values)
        filled = [(f, v) for f, v in zip(self.fields, given, strict=True) if v not in (None, "")]
        if len(filled) == 1 and filled[0][0].binary:
            field, value = filled[0]
            found = field.file(value)
            if found and found[0] in self.raw:
                return found
        return JSON, json.dumps(self.row(given), allow_nan=False).encode()

    def binary(self, values: Iterable[Any]) -> Iterator[tuple[Field, bytes]]:
        """Yield the files of a form's values, each with its field."""
        for field, value in zip(self.fields, values, strict=True):
            found = field.file(value) if field.binary else None
            if found:
                yield field, found[1]


def described(document: Schema) -> Description:
    """Read an OpenAPI document; raise NotAValue where it is no scorer's."""
    try:
        post = document["paths"]["/score"]["post"]
        content = post["requestBody"]["content"]
        rows = content[JSON]
        one, many = _one_and_many(document, rows["schema"])
        reply = post["responses"]["200"]["content"][JSON]["schema"]
        answer, _ = _one_and_many(document, reply)
    except (KeyError, TypeError, StopIteration):
        raise NotAValue("the scorer's /openapi.json describes no POST /score") from None
    return Description(
        title=document["info"]["title"],
        question=document["info"].get("description", ""),
        fields=tuple(_fields(document, one, rows.get("example") or {})),
        answer=_answer(document, answer),
        most=min(many.get("maxItems", ONE_REQUEST), ONE_REQUEST),
        raw=tuple(kind for kind in content if kind != JSON),
    )


def _one_and_many(document: Schema, schema: Schema) -> tuple[Schema, Schema]:
    """Return the schema of one row and that of a list of rows."""
    branches = [resolved(document, entry) for entry in schema.get("oneOf", [schema])]
    many = next((entry for entry in branches if entry.get("type") == "array"), {})
    return next(entry for entry in branches if entry.get("type") == "object"), many


def _answer(document: Schema, schema: Schema) -> Schema:
    """Return the schema of an answer, its fields without references and without null."""
    properties = {
        name: _without_null(document, resolved(document, raw))[0]
        for name, raw in schema.get("properties", {}).items()
    }
    for entry in properties.values():
        if isinstance(entry.get("items"), dict):
            entry["items"] = resolved(document, entry["items"])
    return {**schema, "properties": properties}


def resolved(document: Schema, schema: Schema) -> dict[str, Any]:
    """Follow a schema's reference, if it is one; what stands beside the reference stays."""
    found = dict(schema)
    while "$ref" in found:
        target: Any = document
        for step in found.pop("$ref").removeprefix("#/").split("/"):
            target = target[step]
        found = {**target, **found}
    return found


def _fields(document: Schema, row: Schema, example: Schema) -> Iterable[Field]:
    needed, named = row.get("required", ()), row.get("properties", {})
    for name, raw in named.items():
        schema, nullable = _without_null(document, resolved(document, raw))
        choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
        value = example.get(name, (schema.get("examples") or [schema.get("default")])[0])
        yield Field(
            name=name,
            kind=_kind(schema),
            label=schema.get("title") or name,
            hint=schema.get("description", ""),
            value=value,
            required=name in needed,
            nullable=nullable or None in choices,
            choices=tuple(one for one in choices if one is not None),
            low=schema.get("minimum", schema.get("exclusiveMinimum")),
            high=schema.get("maximum", schema.get("exclusiveMaximum")),
            longest=schema.get("maxLength"),
            accept=tuple(schema.get("accept") or filter(None, [schema.get("contentMediaType")])),
            numbers=columns.has_numbers(schema),
        )
    if row.get("additionalProperties"):
        spare = {name: value for name, value in example.items() if name not in named}
        yield Field(
            name=FREE,
            kind="columns",
            label="Columns",
            value=spare,
            required=not named,
            numbers=columns.has_numbers(row),
            free=True,
        )


def _without_null(document: Schema, schema: Schema) -> tuple[dict[str, Any], bool]:
    """Return a schema without its branch ``null``, and whether it had one."""
    branches = [resolved(document, entry) for entry in schema.get("anyOf", [])]
    others = [entry for entry in branches if entry.get("type") != "null"]
    if len(others) == 1:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**others[0], **rest}, len(branches) > 1
    return dict(schema), False


def _kind(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return "choice"
    media_type = schema.get("contentMediaType", "")
    if media_type or schema.get("format") in BINARY or schema.get("contentEncoding") == "base64":
        return _kind_of_file(schema, media_type)
    if schema.get("format") in DATES:
        return DATES[schema["format"]]
    if "properties" not in schema and schema.get("additionalProperties"):
        return "columns"
    return KINDS.get(schema.get("type", ""), "json")


def _kind_of_file(schema: Schema, media_type: str) -> str:
    kind = media_type.partition("/")[0]
    if kind == "image" and schema.get("drawn"):
        return "sheet"
    if kind == "image" and media_type not in media.SHOWN:
        return "file"
    return kind if kind in FILES else "file"


def _whole(value: Any) -> float:
    """Return a whole number without loss; 2.5 stays, for the scorer to refuse."""
    try:
        return int(str(value))
    except ValueError:
        number = _finite(value)
    return int(number) if number.is_integer() else number


def _finite(value: Any) -> float:
    """Return a number that JSON can say."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _yes_or_no(text: str) -> bool:
    if text.strip().lower() in YES + NO:
        return text.strip().lower() in YES
    raise ValueError(text)
