"""Read rows out of a request's body, and write answers as the client accepts them.

A body is read by its Content-Type: JSON (a row or a list), lines of JSON, CSV, a multipart form,
plain text, or the raw bytes of an image or a recording. Only what can fill a row of the job's
type is accepted; the rest is a 415 that names what is.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

from flask import Request, Response, stream_with_context
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from slipway.errors import InputInvalid, SlipwayError
from slipway.types import Input, Problem, begins_as, known_fields, media_fields, problems

log = logging.getLogger("slipway.bodies")

JSON, CSV, TEXT, FORM = "application/json", "text/csv", "text/plain", "multipart/form-data"
LINES = ("application/jsonl", "application/jsonlines", "application/x-ndjson")
TOLD = 100
SLICE = 100


class Refused(InputInvalid):
    """A body that cannot be scored: the status, and the fields that are wrong."""

    def __init__(self, code: int, message: str, fields: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.fields = list(fields)[:TOLD]

    def told(self) -> str:
        """Return why, as JSON."""
        return json.dumps({"error": str(self)} | ({"fields": self.fields} if self.fields else {}))

    def answer(self) -> tuple[Response, int]:
        """Return the answer that tells why."""
        return Response(self.told(), mimetype=JSON), self.code


@dataclass(frozen=True)
class Asked:
    """The rows of a request; ``many`` tells a list of one from a lone row."""

    rows: list[Any]
    many: bool


Score = Callable[[list[Any]], list[dict[str, Any]]]


class Row:
    """A row type with its validators, which take long to make and are kept."""

    def __init__(self, kind: Any) -> None:
        self.kind: type[Input] = kind
        self.one: TypeAdapter[Any] = TypeAdapter(kind)
        self.several: TypeAdapter[Any] = TypeAdapter(
            Annotated[list[kind], Field(max_length=kind.max_rows)]
        )

    @property
    def required(self) -> list[str]:
        """The fields without a default."""
        return [name for name, entry in self.kind.model_fields.items() if entry.is_required()]

    @property
    def sole(self) -> str:
        """The only required field, else the only one: what a bare value stands for, or nothing."""
        names = self.required or list(self.kind.model_fields)
        return names[0] if len(names) == 1 else ""


@cache
def row_of(kind: type[Input]) -> Row:
    """Return the validators of a row type, made once."""
    return Row(kind)


def read(request: Request, kind: type[Input]) -> Asked:
    """Return the rows of a request's body; raise Refused with the status that tells why not."""
    body = whole(request)
    row = row_of(kind)
    readers = accepted(kind)
    reader = readers.get(request.mimetype)
    if reader is None:
        raise unknown_type(request, readers)
    return reader(body, request.mimetype_params, row)


def unknown_type(request: Request, wanted: Mapping[str, Any] | Sequence[str]) -> Refused:
    """Return the 415 that names what is accepted."""
    found = request.mimetype or "no content type"
    return Refused(415, f"found {found}; wanted {', '.join(wanted)}")


def whole(request: Request) -> bytes:
    """Return the body: read even to refuse it, for what is unread ends the connection."""
    body = request.get_data()
    if request.content_length is None:
        request.stream.read(1)  # werkzeug cuts such a body at the limit; past it this is a 413
    return body


Reader = Callable[[bytes, Mapping[str, str], Row], Asked]


@cache
def accepted(kind: type[Input]) -> dict[str, Reader]:
    """Return how each Content-Type that can fill a row of this type is read."""
    row = row_of(kind)
    readers: dict[str, Reader] = {JSON: _json, CSV: _csv}
    readers |= dict.fromkeys(LINES, _lines)
    media = media_fields(kind)
    if media:
        readers[FORM] = _form
    lone = row.sole
    if lone in media:
        types = media[lone].types
        readers |= {mime: partial(_raw, name=lone, mime=mime) for mime in types}
    elif lone and kind.model_fields[lone].annotation is str:
        readers[TEXT] = partial(_text, name=lone)
    return readers


def _json(body: bytes, _: Mapping[str, str], row: Row) -> Asked:
    try:
        return rows_of_json(body, row)
    except ValidationError as error:
        raise wrong_json(error) from None


def rows_of_json(body: bytes, row: Row) -> Asked:
    """Return the row or the list of rows of a body of JSON; raise pydantic's ValidationError."""
    many = body.lstrip()[:1] == b"["
    found = (row.several if many else row.one).validate_json(body, strict=True)
    return Asked(found if many else [found], many)


def wrong_json(error: ValidationError, prefix: str = "") -> Refused:
    """Tell what is wrong: 400 where a body is no JSON, else 422 with each field's path."""
    if any(entry["type"] == "json_invalid" for entry in error.errors(include_url=False)):
        place = prefix or "the body"
        return Refused(400, f"{place} is no JSON: {problems(error)[0]['wanted']}")
    return wrong_fields(error, prefix)


def wrong_fields(error: ValidationError, prefix: str = "") -> Refused:
    """Return the 422 with the path of each field that is wrong, below ``prefix``."""
    found = [entry | {"path": prefix + entry["path"]} for entry in problems(error)]
    told = f"{len(found)} field{'s are' if len(found) > 1 else ' is'} wrong"
    return Refused(422, told, found)


def wrong_field(path: str, found: str, wanted: str) -> Refused:
    """Return the 422 of one place in a body."""
    return Refused(422, "1 field is wrong", [{"path": path, "found": found, "wanted": wanted}])


def parsed(body: bytes) -> Any:
    """Return a body's JSON; numbers and text are those that JSON knows."""
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from None


def strict_rows(values: list[Any], row: Row, prefix: str = "") -> list[Any]:
    """Return rows of values that came as JSON, where "1" is no number."""
    try:
        return list(row.several.validate_json(to_json(values), strict=True))
    except ValidationError as error:
        raise wrong_fields(error, prefix) from None


def table_rows(values: list[Any], row: Row, prefix: str = "") -> list[Any]:
    """Return rows of a table, whose cells may be text and whose further columns are left out."""
    cut = [known_fields(row.kind, v) if isinstance(v, Mapping) else v for v in values]
    return lax_rows(cut, row, prefix)


def lax_rows(values: list[Any], row: Row, prefix: str = "") -> list[Any]:
    """Return rows of values whose types the transport may have changed."""
    try:
        return list(row.several.validate_python(values))
    except ValidationError as error:
        raise wrong_fields(error, prefix) from None


def _lines(body: bytes, _: Mapping[str, str], row: Row) -> Asked:
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > row.kind.max_rows:
        raise wrong_field("/", f"{len(lines)} lines", f"at most {row.kind.max_rows}")
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(row.one.validate_json(line, strict=True))
        except ValidationError as error:
            raise wrong_json(error, f"/{number}") from None
    return Asked(rows, many=True)


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is no UTF-8: {error.reason} at byte {error.start}") from None


def _csv(body: bytes, params: Mapping[str, str], row: Row) -> Asked:
    """Read a table with a header; where it can be told, one without (RFC 4180: ``header``)."""
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(_decoded(body), newline=""), strict=True)
            if line
        ]
    except csv.Error as error:
        raise Refused(400, f"the body is no CSV: {error}") from None
    names = list(row.kind.model_fields)
    header = lines[0] if lines else names
    absent = params.get("header") == "absent"
    bare = bool(row.sole) and row.sole not in header and 1 in (len(header), len(names))
    if absent or (bare and params.get("header") != "present"):
        header = [row.sole] if row.sole and len(header) == 1 else names
    else:
        lines = lines[1:]
    missing = set(row.required) - set(header)
    if missing:
        wanted = f"a header with {', '.join(sorted(missing))}, or header=absent in the content type"
        raise wrong_field("/", repr(",".join(header))[:80], wanted)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise Refused(400, f"the header names {twice[0]!r} twice")
    for number, line in enumerate(lines):
        if len(line) != len(header):
            raise wrong_field(f"/{number}", f"{len(line)} cells", f"{len(header)} cells")
    return Asked(table_rows([dict(zip(header, line, strict=True)) for line in lines], row), True)


def _text(body: bytes, _: Mapping[str, str], row: Row, name: str) -> Asked:
    return _one({name: _decoded(body)}, row)


def _raw(body: bytes, _: Mapping[str, str], row: Row, name: str, mime: str) -> Asked:
    _check_signature(body, f"/{name}", mime)
    return _one({name: body}, row)


def _one(values: dict[str, Any], row: Row) -> Asked:
    try:
        return Asked([row.one.validate_python(values)], many=False)
    except ValidationError as error:
        raise wrong_fields(error) from None


def _check_signature(content: bytes, path: str, mime: str) -> None:
    if not begins_as(mime, content):
        raise wrong_field(path, repr(content[:16]), f"content that begins as {mime} does")


def _form(body: bytes, params: Mapping[str, str], row: Row) -> Asked:
    """Read one row of a form: each part fills the field of its name; nothing goes to a disk."""
    parser = FormDataParser(
        stream_factory=lambda *_, **__: io.BytesIO(),
        max_form_memory_size=len(body),
        max_form_parts=2 * len(row.kind.model_fields) + 10,
        silent=False,
    )
    try:
        _, texts, files = parser.parse(io.BytesIO(body), FORM, len(body), dict(params))
    except (ValueError, RequestEntityTooLarge) as error:
        raise Refused(400, f"the body is no multipart form: {error}") from None
    values: dict[str, Any] = {}
    for name, value in [*texts.items(multi=True), *files.items(multi=True)]:
        if name in values:
            raise wrong_field(f"/{name}", "two parts of this name", "one part a field")
        values[name] = _part(name, value, row) if isinstance(value, FileStorage) else value
    return _one(values, row)


def _part(name: str, part: FileStorage, row: Row) -> bytes | str:
    """Return the content of a file in a form: bytes for a media field, else text."""
    content = part.stream.read()
    media = media_fields(row.kind).get(name)
    if media is None:
        return _decoded(content)
    if part.mimetype in media.types:
        _check_signature(content, f"/{name}", part.mimetype)
    elif part.mimetype not in ("", "application/octet-stream"):
        raise Refused(415, f"{name}: found {part.mimetype}; wanted {', '.join(media.types)}")
    return content


def respond(request: Request, asked: Asked, score: Score, *, default: str = JSON) -> Response:
    """Score rows and answer in the form that the Accept header asks for, else ``default``.

    Lines of JSON leave as they are scored, slice by slice.
    """
    kind = negotiated(request, default)
    if kind in LINES:
        return Response(stream_with_context(_streamed(asked.rows, score)), mimetype=kind)
    answers = score(asked.rows)
    if kind == CSV:
        return Response(as_csv(answers), mimetype=CSV)
    return Response(json.dumps(answers if asked.many else answers[0]), mimetype=JSON)


def negotiated(request: Request, default: str) -> str:
    """Return the media type to answer in; Refused (406) where the client accepts none of ours."""
    if not request.accept_mimetypes:
        return default
    offered = list(dict.fromkeys([default, JSON, CSV, *LINES]))
    found = request.accept_mimetypes.best_match(offered)
    if found is None:
        raise Refused(406, f"found Accept: {request.accept_mimetypes}; wanted {', '.join(offered)}")
    return found


def _streamed(rows: list[Any], score: Score) -> Iterator[str]:
    """Return lines of answers; the first slice is scored before the status is sent.

    An error after that cannot be a status any more: it is the last line.
    """
    slices = [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]
    first = _as_lines(score(slices[0])) if slices else ""

    def lines() -> Iterator[str]:
        yield first
        for part in slices[1:]:
            try:
                yield _as_lines(score(part))
            except Exception as error:
                yield json.dumps({"error": _told(error)}) + "\n"
                return

    return lines()


def _told(error: Exception) -> str:
    if isinstance(error, SlipwayError):
        return str(error)
    log.error("score failed", exc_info=error)
    return "the scorer failed; its log has the reason"


def _as_lines(answers: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(answer) + "\n" for answer in answers)


def as_csv(answers: list[dict[str, Any]]) -> str:
    """Return answers as a table with a header; lists and objects are JSON in their cell."""
    text = io.StringIO()
    writer = csv.writer(text)  # ends lines with \r\n: only then a cell with \r alone is quoted
    if answers:
        writer.writerow(answers[0])
    for answer in answers:
        cells = answer.values()
        writer.writerow(json.dumps(c) if isinstance(c, list | dict) else c for c in cells)
    return text.getvalue()
