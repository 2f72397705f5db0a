"""Turn a chunk into rows of the job's type, and tell of every other line what is wrong with it.

A chunk is checked at once, which takes a microsecond a row; only where that fails row by row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from slipway.scoring import folders
from slipway.scoring.readers import LONGEST, Chunk, csv_lines, untied
from slipway.types import Problem, known_fields, media_fields, problems

if TYPE_CHECKING:
    from slipway.job import Job

Row = dict[str, Any]


@dataclass
class Checked:
    """The good rows of a chunk with their numbers and files, and records of the bad ones."""

    numbers: list[int] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    bad: list[Row] = field(default_factory=list)


def columns(job: Job) -> dict[str, bool]:
    """Return the fields of a job's row, and whether each is required."""
    return {name: entry.is_required() for name, entry in job.row.model_fields.items()}


def longest_line(job: Job) -> int:
    """Return the bytes that a line may have."""
    return max(LONGEST, int(job.row.max_bytes))


def raw_field(job: Job) -> str:
    """Return the field that a raw file fills: the only required one, if it is text or media.

    Nothing where the type has none such.
    """
    needed = [name for name, required in columns(job).items() if required]
    if len(needed) != 1:
        return ""
    text = job.row.model_fields[needed[0]].annotation is str
    return needed[0] if text or needed[0] in media_fields(job.row) else ""


class Checker:
    """Checks chunks against one job's type of row."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.kind = job.row
        self.field = raw_field(job)
        self.is_text = self.field not in media_fields(job.row)
        # A table may carry further columns, like a label; a request may not.
        lenient: Any = type("Row", (self.kind,), {"model_config": ConfigDict(extra="ignore")})
        self.one: TypeAdapter[Any] = TypeAdapter(lenient)
        self.many: TypeAdapter[list[Any]] = TypeAdapter(list[lenient])
        self.read = {
            ".jsonl": self._jsonl,
            ".csv": self._csv,
            ".parquet": self._parquet,
            "raw": self._raw,
            "folder": self._folder,
        }

    def __call__(self, chunk: Chunk) -> Checked:
        """Return what is in a chunk."""
        found = Checked()
        if chunk.wrong:
            self._bad(found, chunk, chunk.first, chunk.wrong)
        else:
            self.read[chunk.kind](chunk, found)
        if chunk.file:
            found.files = [chunk.file] * len(found.rows)
        return found

    def _jsonl(self, chunk: Chunk, found: Checked) -> None:
        content = chunk.content.rstrip(b"\r\n")
        count = content.count(b"\n") + 1
        # One brace a line, the first of each: then no line can hold a part of another's row.
        plain = content[:1] == b"{" and content.count(b"{") == count == content.count(b"\n{") + 1
        if plain and len(content) <= LONGEST:
            try:
                rows = self.many.validate_json(b"[" + content.replace(b"\n", b",") + b"]")
            except ValidationError:
                rows = []
            if len(rows) == count:
                found.rows, found.numbers = rows, list(range(chunk.first, chunk.first + count))
                return
        for number, line in enumerate(chunk.content.split(b"\n"), start=chunk.first):
            if line.strip():
                self._line(chunk, found, number, line)

    def _line(self, chunk: Chunk, found: Checked, number: int, line: bytes) -> None:
        if len(line) > longest_line(self.job):
            self._bad(found, chunk, number, f"a line of over {longest_line(self.job)} bytes")
            return
        try:
            found.rows.append(self.one.validate_json(line))
            found.numbers.append(number)
        except ValidationError as error:
            kind = error.errors(include_url=False)[0]
            if kind["type"] == "json_invalid":
                self._bad(found, chunk, number, _no_json(line, kind["msg"]))
            elif not kind["loc"] and kind["type"] == "model_type":
                value = type(kind["input"]).__name__
                self._bad(found, chunk, number, f"{value}; wanted an object")
            else:
                self._bad(found, chunk, number, problems(error))

    def _csv(self, chunk: Chunk, found: Checked) -> None:
        csv.field_size_limit(longest_line(self.job))
        reader = csv.reader(csv_lines(chunk.content), strict=True)
        numbers, rows = [], []
        before = chunk.first - 1
        while True:
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                self._bad(found, chunk, before + reader.line_num, f"no CSV: {error}")
                continue
            if len(row) == len(chunk.header):
                numbers.append(before + reader.line_num)
                rows.append(dict(zip(chunk.header, row, strict=True)))
            elif row:
                told = f"{len(row)} fields; wanted the header's {len(chunk.header)}"
                self._bad(found, chunk, before + reader.line_num, told)
        self._validate(chunk, found, numbers, rows, utf8=_succeeds(chunk.content.decode))

    def _parquet(self, chunk: Chunk, found: Checked) -> None:
        batch = _unpacked(chunk.content)
        numbers = list(range(chunk.first, chunk.first + batch.num_rows))
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            numbers, rows = [], []
            for place in range(batch.num_rows):
                try:
                    rows += batch.slice(place, 1).to_pylist()
                    numbers.append(chunk.first + place)
                except UnicodeDecodeError:
                    self._bad(found, chunk, chunk.first + place, "bytes that are no UTF-8")
        self._validate(chunk, found, numbers, rows, utf8=True)

    def _raw(self, chunk: Chunk, found: Checked) -> None:
        files = list(untied(chunk.content))
        with suppress(ValueError):  # all at once; else each alone, to tell which is wrong
            found.rows = self.many.validate_python([self._file_row(told) for _, told in files])
            found.numbers = [1] * len(files)
            found.files = [name for name, _ in files]
            return
        for name, content in files:
            own = Chunk("raw", name, 1, b"")
            before = len(found.rows)
            try:
                self._validate(own, found, [1], [self._file_row(content)], utf8=True)
            except ValueError as error:
                self._bad(found, own, 1, str(error))
            found.files += [name] * (len(found.rows) - before)

    def _file_row(self, content: bytes) -> Row:
        """Return the row that a file is; ValueError where it is text and the bytes are none."""
        if not self.is_text:
            return {self.field: content}
        try:
            return {self.field: content.decode("utf-8-sig")}
        except UnicodeDecodeError as error:
            raise ValueError(f"bytes that are no UTF-8 ({error.reason} at {error.start})") from None

    def _folder(self, chunk: Chunk, found: Checked) -> None:
        try:
            row = folders.row_of(untied(chunk.content), self.kind)
        except ValueError as error:
            self._bad(found, chunk, 1, str(error))
            return
        self._validate(chunk, found, [1], [row], utf8=True)

    def _validate(
        self, chunk: Chunk, found: Checked, numbers: list[int], rows: list[Row], utf8: bool
    ) -> None:
        if utf8:
            try:
                found.rows += self.many.validate_python(rows)
                found.numbers += numbers
                return
            except ValidationError:
                pass
        for number, row in zip(numbers, rows, strict=True):
            if not utf8 and not _succeeds("".join(row.values()).encode):
                self._bad(found, chunk, number, "bytes that are no UTF-8")
                continue
            try:
                found.rows.append(self.kind(**known_fields(self.kind, row)))
                found.numbers.append(number)
            except ValidationError as error:
                self._bad(found, chunk, number, problems(error))

    def _bad(self, found: Checked, chunk: Chunk, number: int, wrong: str | list[Problem]) -> None:
        if isinstance(wrong, str):
            wrong = [{"path": "/", "found": wrong, "wanted": "a row"}]
        place = {"file": chunk.file} if chunk.file else {}
        found.bad.append({**place, "line": number, "problems": wrong})


def _unpacked(content: bytes) -> Any:
    import pyarrow

    return pyarrow.ipc.open_stream(content).read_next_batch()


def _no_json(line: bytes, message: str) -> str:
    """Return what Python's own reader says of a line, which tells half a surrogate pair apart."""
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"
    if b"\\ud" in line.lower():
        return "half of a surrogate pair, which is no text"
    return f"no JSON: {message}"


def _succeeds(conversion: Callable[[], object]) -> bool:
    """Tell whether bytes are UTF-8, or UTF-8 can hold a text; pydantic lets pass what cannot be."""
    try:
        conversion()
    except UnicodeError:
        return False
    return True
