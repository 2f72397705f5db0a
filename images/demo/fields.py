"""The fields of a form, read from the JSON schema of a scorer's row.

A scorer says all there is to know in ``/openapi.json``: the names of a row's fields, their types
and limits, an example, how many rows one request may hold. Nothing here knows of a job or of a
page's widgets: `Field.kind` is what a person has to do (write, choose, draw, record, ...).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Schema = Mapping[str, Any]

BINARY = ("base64", "binary", "byte")
KINDS = {"boolean": "yes_no", "integer": "whole", "number": "number", "string": "text"}
YES, NO = ("true", "yes", "1"), ("false", "no", "0")
ONE_REQUEST = 500


class NotAValue(ValueError):
    """What was written into a field cannot be sent; the text says why."""


@dataclass(frozen=True)
class Field:
    """One field of a row.

    ``kind`` is text, whole, number, yes_no, choice, image, audio, file or json.
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

    @property
    def binary(self) -> bool:
        """Tell whether the value is a file that travels as base64."""
        return self.kind in ("image", "audio", "file")

    @property
    def step(self) -> float:
        """Return the step of a slider: a power of ten, at least a thousand of them in the range."""
        if self.kind == "whole" or self.low is None or self.high is None:
            return 1
        return float(10 ** (math.ceil(math.log10((self.high - self.low) or 1)) - 4))

    def sent(self, value: Any) -> Any:
        """Return a widget's value as JSON takes it; raise NotAValue where it cannot be."""
        if self.kind == "image" and isinstance(value, dict):
            value = value.get("composite")  # all layers of a drawing as one file
        if value is None or value == "":
            if self.kind == "text" and not self.nullable and value is not None:
                return ""
            return self._absent()
        if self.binary:
            return base64.b64encode(Path(value).read_bytes()).decode()
        try:
            return self._parsed(value)
        except (ValueError, TypeError, KeyError):
            raise NotAValue(f"{self.label}: found {value!r}; wanted {self.wanted}") from None

    def _absent(self) -> None:
        if self.required and not self.nullable:
            raise NotAValue(f"{self.label}: nothing is there; wanted {self.wanted}")

    def _parsed(self, value: Any) -> Any:
        if self.kind == "json" and isinstance(value, str):
            return json.loads(value)
        if self.kind == "whole":
            return _whole(value)
        if self.kind == "number":
            return float(value)
        if self.kind == "yes_no" and isinstance(value, str):
            return _yes_or_no(value)
        if self.kind == "choice":
            return {str(one): one for one in self.choices}[str(value)]
        return value

    @property
    def wanted(self) -> str:
        """Say in words what the field takes."""
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        words = {"whole": "a whole number", "number": "a number", "yes_no": "true or false"}
        words |= {"image": "a picture", "audio": "a recording", "file": "a file", "json": "JSON"}
        return words.get(self.kind, "a text")


@dataclass(frozen=True)
class Description:
    """What a scorer says of itself."""

    title: str
    question: str
    fields: tuple[Field, ...]
    answer: Schema
    most: int

    def row(self, values: Iterable[Any]) -> dict[str, Any]:
        """Return the row of a form's values; what is left empty and not required is not sent."""
        row: dict[str, Any] = {}
        for field, value in zip(self.fields, values, strict=True):
            sent = field.sent(value)
            if sent is not None or (field.required and field.nullable):
                row[field.name] = sent
        return row


def described(document: Schema) -> Description:
    """Read an OpenAPI document; raise NotAValue where it is no scorer's."""
    try:
        post = document["paths"]["/score"]["post"]
        content = post["requestBody"]["content"]["application/json"]
        one, many = _one_and_many(document, content["schema"])
        reply = post["responses"]["200"]["content"]["application/json"]["schema"]
        answer, _ = _one_and_many(document, reply)
    except (KeyError, TypeError):
        raise NotAValue("the scorer's /openapi.json describes no POST /score") from None
    example = content.get("example") or {}
    return Description(
        title=document["info"]["title"],
        question=document["info"].get("description", ""),
        fields=tuple(_fields(document, one, example)),
        answer=answer,
        most=min(many.get("maxItems", ONE_REQUEST), ONE_REQUEST),
    )


def _one_and_many(document: Schema, schema: Schema) -> tuple[Schema, Schema]:
    """Return the schema of one row and that of a list of rows."""
    branches = [resolved(document, entry) for entry in schema.get("oneOf", [schema])]
    many = next((entry for entry in branches if entry.get("type") == "array"), {})
    return next(entry for entry in branches if entry.get("type") == "object"), many


def resolved(document: Schema, schema: Schema) -> Schema:
    """Follow a schema's reference, if it is one; what stands beside the reference stays."""
    found = dict(schema)
    while "$ref" in found:
        target: Any = document
        for step in found.pop("$ref").removeprefix("#/").split("/"):
            target = target[step]
        found = {**target, **found}
    return found


def _fields(document: Schema, row: Schema, example: Schema) -> Iterable[Field]:
    needed = row.get("required", ())
    for name, raw in row["properties"].items():
        schema, nullable = _without_null(document, resolved(document, raw))
        yield Field(
            name=name,
            kind=_kind(schema),
            label=schema.get("title") or name,
            hint=schema.get("description", ""),
            value=example.get(name, schema.get("default")),
            required=name in needed,
            nullable=nullable,
            choices=tuple(schema.get("enum", [schema["const"]] if "const" in schema else [])),
            low=schema.get("minimum", schema.get("exclusiveMinimum")),
            high=schema.get("maximum", schema.get("exclusiveMaximum")),
            longest=schema.get("maxLength"),
        )


def _without_null(document: Schema, schema: Schema) -> tuple[Schema, bool]:
    """Return a schema without its branch ``null``, and whether it had one."""
    branches = [resolved(document, entry) for entry in schema.get("anyOf", [])]
    others = [entry for entry in branches if entry.get("type") != "null"]
    if len(others) == 1:
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**others[0], **rest}, len(branches) > 1
    return schema, False


def _kind(schema: Schema) -> str:
    if "enum" in schema or "const" in schema:
        return "choice"
    media = schema.get("contentMediaType", "")
    if media or schema.get("format") in BINARY or schema.get("contentEncoding") == "base64":
        kind = media.partition("/")[0]
        return kind if kind in ("image", "audio") else "file"
    return KINDS.get(schema.get("type", ""), "json")


def _whole(value: Any) -> float:
    """Return a whole number without loss; 2.5 stays, for the scorer to refuse."""
    try:
        return int(str(value))
    except ValueError:
        number = float(value)
    return int(number) if number.is_integer() else number


def _yes_or_no(text: str) -> bool:
    if text.strip().lower() in YES + NO:
        return text.strip().lower() in YES
    raise ValueError(text)
