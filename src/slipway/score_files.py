"""Score a file: JSONL, CSV or Parquet in, the same out; ``-`` is lines of JSON on the streams.

An output is written whole or not at all. A bad row goes to ``errors.jsonl`` beside the output,
with its line and reason, and the rest is scored. A shard's name tells its place, and a rerun
skips a shard that was finished from the same input, model and options.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from slipway import store
from slipway.data import sha256_of, written
from slipway.errors import DataUnavailable, InputInvalid
from slipway.logs import say
from slipway.types import Problem, known_fields, problems

if TYPE_CHECKING:
    from slipway.job import Job

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".csv", ".parquet")
INDEX_VARIABLES = ("JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "CLOUD_RUN_TASK_INDEX")


@dataclass
class Line:
    """One row of the input: its number from 1, and its content or what is wrong with it."""

    number: int
    row: Row
    wrong: str = ""


def score_file(
    job: Job,
    model_folder: Path,
    source: str,
    target: str,
    shard: str | None,
    batch_size: int,
    form: str = "auto",
) -> None:
    """Score ``source`` into ``target``; raise InputInvalid when not one row could be scored."""
    part, parts = parse_shard(shard)
    output = place(target, source, part, parts)
    mark = _mark(source, model_folder, parts, batch_size, form)
    if output and output.resolve() == Path(source).resolve():
        raise click.UsageError(f"{target}: OUTPUT is INPUT; wanted another file")
    if output and source != "-" and finished(output, mark):
        say(f"score: {output} is finished; skipped")
        return
    model = job.load(model_folder, form)
    say(f"score: with the {job.form(model)} model")
    lines = itertools.islice(_read(source), part, None, parts)
    scored = wrong = 0
    with _writer(output, ["line", *job.answer.model_fields]) as write:
        with ExitStack() as stack:
            errors = _Errors(output, stack)
            for batch in _batches(lines, batch_size):
                good, bad = _checked(job, batch)
                answers = job.answers(model, [row for _, row in good]) if good else []
                for (line, _), answer in zip(good, answers, strict=True):
                    write({"line": line.number} | answer.model_dump(mode="json"))
                errors.write(bad)
                scored, wrong = scored + len(good), wrong + len(bad)
        say(f"score: {scored} rows scored, {wrong} bad{f' (see {errors.path})' if wrong else ''}")
        if wrong and not scored:  # errors.jsonl stays, an output without a row does not
            raise InputInvalid(f"{source}: not one of {wrong} rows could be scored; {errors.first}")
    if output:
        with written(_done(output)) as note:
            note.write_text(json.dumps(mark), "utf-8")


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return (index, count) from ``i/n``; the index may come from a platform's variable."""
    if text is None:
        return 0, 1
    index, _, count = text.rpartition("/")
    found = index or next(filter(None, map(os.environ.get, INDEX_VARIABLES)), "")
    if not (found.isdecimal() and count.isdecimal() and int(found) < int(count)):
        raise click.UsageError(
            f"--shard {text}: wanted I/N with I from 0 to N-1, or /N with the index in one of "
            f"{', '.join(INDEX_VARIABLES)}"
        )
    return int(found), int(count)


def place(target: str, source: str, part: int, parts: int) -> Path | None:
    """Return the output file; of shards, one in the folder ``target``; None for stdout."""
    if target == "-":
        return None
    if parts == 1:
        path = Path(target)
    else:
        suffix = Path(source).suffix if Path(source).suffix in SUFFIXES else ".jsonl"
        path = Path(target) / f"part-{part:05d}-of-{parts:05d}{suffix}"
    if path.suffix not in SUFFIXES:
        raise click.UsageError(f"{target}: wanted a name that ends in {', '.join(SUFFIXES)}, or -")
    return path


def finished(output: Path, mark: Row) -> bool:
    """Tell whether this very output was written before from the same input, model and options."""
    done = _done(output)
    return output.is_file() and done.is_file() and done.read_text("utf-8") == json.dumps(mark)


def _done(output: Path) -> Path:
    return output.with_name(f".{output.name}.done")


def _mark(source: str, model_folder: Path, parts: int, batch_size: int, form: str) -> Row:
    content = sha256_of(Path(source)) if source != "-" and Path(source).is_file() else ""
    options = f"{parts} {batch_size} {form}"
    return {"input": content, "model": store.identity(model_folder), "options": options}


def _batches(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _checked(job: Job, batch: list[Line]) -> tuple[list[tuple[Line, Any]], list[Row]]:
    """Split a batch into rows of the job's type and records of what is wrong with the others."""
    from pydantic import ValidationError

    good: list[tuple[Line, Any]] = []
    bad: list[Row] = []
    for line in batch:
        reasons: list[Problem] = [{"path": "/", "found": line.wrong, "wanted": "a row"}]
        if not line.wrong:
            try:
                good.append((line, job.row(**known_fields(job.row, line.row))))
                continue
            except ValidationError as error:
                reasons = problems(error)
        bad.append({"line": line.number, "problems": reasons})
    return good, bad


class _Errors:
    """``errors.jsonl`` beside the output, made when the first bad row comes."""

    def __init__(self, output: Path | None, stack: ExitStack) -> None:
        name = (
            "errors.jsonl"
            if not output or "part-" not in output.name
            else f"errors-{output.stem}.jsonl"
        )
        self.path = output.with_name(name) if output else None
        self.stack = stack
        self.file: IO[str] | None = None
        self.first = ""
        if self.path:
            self.path.unlink(missing_ok=True)

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            self.first = self.first or f"line {row['line']}: {row['problems'][0]}"
            if self.file is None:
                self.file = self._open()
            self.file.write(json.dumps(row) + "\n")

    def _open(self) -> IO[str]:
        if self.path is None:
            return sys.stderr
        part = self.stack.enter_context(written(self.path))
        return self.stack.enter_context(part.open("w", encoding="utf-8"))


def _read(source: str) -> Iterator[Line]:
    if source == "-":
        return _read_jsonl(sys.stdin.buffer)
    path = Path(source)
    readers: dict[str, Callable[[Path], Iterator[Line]]] = {
        ".jsonl": _jsonl_file,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise click.UsageError(f"{source}: wanted a name that ends in {', '.join(SUFFIXES)}, or -")
    if not path.is_file():
        raise DataUnavailable(f"{source}: no such file")
    return readers[path.suffix](path)


def _jsonl_file(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        yield from _read_jsonl(file)


def _read_jsonl(file: Iterable[bytes]) -> Iterator[Line]:
    for number, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield Line(number, {}, f"no JSON: {error}")
            continue
        if not isinstance(row, dict):
            yield Line(number, {}, f"{type(row).__name__}; wanted an object")
        elif b"\\ud" in text.lower() and not _is_text(json.dumps(row, ensure_ascii=False)):
            yield Line(number, {}, "half of a surrogate pair, which is no text")
        else:
            yield Line(number, row)


def _is_text(text: str) -> bool:
    """Tell whether UTF-8 can hold a text; pydantic lets pass what a model then stumbles over."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path) -> Iterator[Line]:
    """Yield the rows under a header; the number is that of the line where the row ends."""
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.reader(file, strict=True)
        header = _header(path, reader)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Line(reader.line_num, {}, f"no CSV: {error}")
                continue
            if row:
                yield _csv_line(reader.line_num, header, row)


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputInvalid(f"{path}, line 1: no CSV header ({error})") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputInvalid(f"{path}, line 1: found column {twice[0]!r} twice; wanted it once")
    return header


def _csv_line(number: int, header: list[str], row: list[str]) -> Line:
    if len(row) != len(header):
        return Line(number, {}, f"{len(row)} fields; wanted the header's {len(header)}")
    if not _is_text("".join(row)):
        return Line(number, {}, "bytes that are no UTF-8")
    return Line(number, dict(zip(header, row, strict=True)))


def _read_parquet(path: Path) -> Iterator[Line]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(8192):
                for row in batch.to_pylist():
                    number += 1
                    yield Line(number, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{path}, after row {number}: no Parquet file ({error})") from None


@contextmanager
def _writer(output: Path | None, columns: list[str]) -> Iterator[Callable[[Row], Any]]:
    """Give a function that takes a row; the file takes the output's place when all went well."""
    if output is None:
        yield lambda row: print(json.dumps(row))
        return
    with written(output) as part:
        if output.suffix == ".parquet":
            import pyarrow
            from pyarrow import parquet

            rows: list[Row] = []
            yield rows.append
            empty = pyarrow.table({name: [] for name in columns})
            parquet.write_table(pyarrow.Table.from_pylist(rows) if rows else empty, part)
            return
        with part.open("w", encoding="utf-8", newline="") as file:
            if output.suffix == ".csv":
                yield _csv_writer(file, columns)
            else:
                yield lambda row: file.write(json.dumps(row) + "\n")


def _csv_writer(file: IO[str], columns: list[str]) -> Callable[[Row], Any]:
    """Write the header, and give a function that writes a row; lists and objects are JSON."""
    writer = csv.writer(file)
    writer.writerow(columns)

    def write(row: Row) -> None:
        values = (row.get(name) for name in columns)
        writer.writerow(
            json.dumps(value) if isinstance(value, list | dict) else value for value in values
        )

    return write
