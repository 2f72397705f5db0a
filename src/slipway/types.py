"""What a scorer takes and gives: one pydantic model drives JSON, CSV, OpenAPI and the form.

A job subclasses `Input` and `Output`. The limits of a request are part of the type:
`max_rows` and `max_bytes` of the body, and each field's own (``max_length``, ``ge``, ...).
Bytes are base64 in JSON; `Media` says which kinds of file a field of bytes may hold.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

__all__ = [
    "Content",
    "Field",
    "Input",
    "Media",
    "Output",
    "Problem",
    "example",
    "model_validator",
    "problems",
]

Problem = dict[str, str]
"""A field that is wrong: ``path`` (a JSON pointer), ``found`` and ``wanted``."""

SHOWN = 80

# How files of a media type begin: (offset, bytes), one of them; a type not named here is taken
# as it is.
SIGNATURES: Mapping[str, tuple[tuple[int, bytes], ...]] = {
    "application/dicom": ((128, b"DICM"),),
    "application/gzip": ((0, b"\x1f\x8b"),),
    "application/pdf": ((0, b"%PDF-"),),
    "application/x-nifti": ((344, b"n+1\0"), (4, b"n+2\0")),
    "application/zip": ((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
    "audio/flac": ((0, b"fLaC"),),
    "audio/mpeg": ((0, b"ID3"), (0, b"\xff\xfb"), (0, b"\xff\xf3"), (0, b"\xff\xf2")),
    "audio/ogg": ((0, b"OggS"),),
    "audio/wav": ((8, b"WAVE"),),
    "image/bmp": ((0, b"BM"),),
    "image/gif": ((0, b"GIF87a"), (0, b"GIF89a")),
    "image/jpeg": ((0, b"\xff\xd8\xff"),),
    "image/png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "image/tiff": ((0, b"II*\0"), (0, b"MM\0*")),
    "image/webp": ((8, b"WEBP"),),
    "video/mp4": ((4, b"ftyp"),),
}


class Content(bytes):
    """The content of a file beside what the reader of its `Media` made of it: decoded once."""

    read: Any


class Media:
    """The media types that a field of bytes accepts: ``Annotated[bytes, Media("image/png")]``.

    The content must begin as one of them does. In JSON and in a table it is base64; raw and
    multipart bodies bring it as it is. The schema names all types as ``accept`` where there are
    several; ``drawn`` tells in it that a person may draw the picture: a page shows a sheet for it.
    ``reader`` decodes the content when a row is checked: its ValueError refuses the field by name,
    saying what was wanted, and what it returns is the field's `Content.read`.
    """

    def __init__(
        self, *types: str, drawn: bool = False, reader: Callable[[bytes], Any] | None = None
    ) -> None:
        self.types = types
        self.drawn = drawn
        self.reader = reader

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        checked = core_schema.no_info_after_validator_function(self._checked, handler(bytes))
        encode = core_schema.plain_serializer_function_ser_schema(
            lambda content: base64.b64encode(content).decode(), when_used="json"
        )
        return core_schema.no_info_before_validator_function(
            _decoded, checked, serialization=encode
        )

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": self.types[0],
            "description": f"One of {', '.join(self.types)}, as base64.",
        }
        if len(self.types) > 1:
            told["accept"] = list(self.types)
        return told | ({"drawn": True} if self.drawn else {})

    def _checked(self, content: bytes) -> bytes:
        if not any(begins_as(kind, content) for kind in self.types):
            raise ValueError(f"content that begins as {' or '.join(self.types)} does")
        if self.reader is None:
            return content
        found = Content(content)
        found.read = self.reader(content)
        return found


def begins_as(kind: str, content: bytes) -> bool:
    """Tell whether content begins like a file of a media type; true where none is known."""
    known = SIGNATURES.get(kind)
    return known is None or any(content.startswith(mark, at) for at, mark in known)


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError("base64") from None


def media_fields(kind: type[BaseModel]) -> dict[str, Media]:
    """Return the fields of bytes that a raw body may fill, by name."""
    found = {
        name: [entry for entry in field.metadata if isinstance(entry, Media)]
        for name, field in kind.model_fields.items()
    }
    return {name: entries[0] for name, entries in found.items() if entries}


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
