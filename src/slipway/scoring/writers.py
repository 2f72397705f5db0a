"""Write answers: encoded by the processes that made them, put together by one.

The columns of a Parquet file come from the job's type of answer, so that every part of it, an
empty one too, has the same schema.
"""

from __future__ import annotations

import csv
import io
import json
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slipway.scoring.readers import FIRST_ROWS, packed
from slipway.scoring.rows import Checked

if TYPE_CHECKING:
    from slipway.job import Job

GROUP_ROWS, GROUP_BYTES = 131_072, 32 * 2**20
"""Rows and bytes of one row group of Parquet; the first has `FIRST_ROWS`, each next one doubles."""


def encoder(job: Job, suffix: str) -> Callable[[Checked, list[Any]], bytes]:
    """Return a function that turns the answers of a chunk into bytes of the output's format."""
    if suffix == ".jsonl":
        return _jsonl
    if suffix == ".csv":
        return lambda found, answers: _csv(list(job.answer.model_fields), found, answers)
    return lambda found, answers: _arrow(job, found, answers)


def _jsonl(found: Checked, answers: list[Any]) -> bytes:
    bodies = [answer.__pydantic_serializer__.to_json(answer)[1:] for answer in answers]
    comma = b"," if bodies and len(bodies[0]) > 1 else b""
    places = [b'{"line":%d%s' % (number, comma) for number in found.numbers]
    if found.files:
        names = [json.dumps(name).encode() for name in found.files]
        places = [b'{"file":%s,%s' % (n, p[1:]) for n, p in zip(names, places, strict=True)]
    lines = [place + body for place, body in zip(places, bodies, strict=True)]
    return b"\n".join([*lines, b""])


def _csv(names: list[str], found: Checked, answers: list[Any]) -> bytes:
    """Return CSV records without a header; lists and objects are JSON."""
    text = io.StringIO()
    writer = csv.writer(text)
    for place, answer in enumerate(answers):
        row = answer.model_dump(mode="json")
        values = [row.get(name) for name in names]
        writer.writerow(
            [
                *([found.files[place]] if found.files else []),
                found.numbers[place],
                *(json.dumps(v) if isinstance(v, list | dict) else v for v in values),
            ]
        )
    return text.getvalue().encode()


def schema(job: Job, files: bool) -> Any:
    """Return the Arrow schema of an output: file, line, then the fields of an answer."""
    import pyarrow

    places = [("file", pyarrow.string())] if files else []
    fields = [
        (name, arrow_type(entry.annotation)) for name, entry in job.answer.model_fields.items()
    ]
    return pyarrow.schema([*places, ("line", pyarrow.int64()), *fields])


def arrow_type(annotation: Any) -> Any:
    """Return the Arrow type of a field; what has none is kept as JSON text."""
    import pyarrow

    simple = {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
    }
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        return arrow_type(kinds[0]) if len(kinds) == 1 else pyarrow.string()
    if origin is list:
        return pyarrow.list_(arrow_type(inner[0]))
    return simple.get(annotation, pyarrow.string())


def _arrow(job: Job, found: Checked, answers: list[Any]) -> bytes:
    import pyarrow

    wanted = schema(job, bool(found.files))
    places = {"file": found.files, "line": found.numbers}
    arrays = []
    for entry in wanted:
        values = places.get(entry.name) or [getattr(answer, entry.name) for answer in answers]
        try:
            arrays.append(pyarrow.array(values, entry.type))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            dumped = [answer.model_dump(mode="json")[entry.name] for answer in answers]
            texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in dumped]
            arrays.append(
                pyarrow.array(texts if entry.type == pyarrow.string() else dumped, entry.type)
            )
    return packed(pyarrow.record_batch(arrays, schema=wanted))


class Sink:
    """Appends the encoded answers of chunks to a file, with what its format needs around them."""

    def __init__(self, job: Job, suffix: str, files: bool, write: Callable[[bytes], Any]) -> None:
        self.suffix, self.write = suffix, write
        self.tables: list[Any] = []
        self.writer: Any = None
        if suffix == ".csv":
            names = [*(["file"] if files else []), "line", *job.answer.model_fields]
            text = io.StringIO()
            csv.writer(text).writerow(names)
            write(text.getvalue().encode())
        elif suffix == ".parquet":
            from pyarrow import parquet

            self.rows = FIRST_ROWS
            self.out = _Out(write)
            self.writer = parquet.ParquetWriter(self.out, schema(job, files))

    def add(self, content: bytes) -> None:
        """Append what `encoder` returned."""
        if self.writer is None:
            self.write(content)
            return
        import pyarrow

        self.tables.append(pyarrow.ipc.open_stream(content).read_all())
        rows = sum(table.num_rows for table in self.tables)
        if rows >= self.rows or sum(table.nbytes for table in self.tables) >= GROUP_BYTES:
            self._group()

    def close(self) -> None:
        """Write what the format has at its end."""
        if self.writer is not None:
            self._group()
            self.writer.close()

    def abandon(self) -> None:
        """Write no more: a Parquet writer that is dropped writes its footer."""
        if self.writer is not None:
            self.out.wanted = False
            self.writer.close()

    def _group(self) -> None:
        import pyarrow

        if self.tables:
            table = pyarrow.concat_tables(self.tables)
            self.writer.write_table(table, row_group_size=max(1, table.num_rows))
            self.tables = []
            self.rows = min(2 * self.rows, GROUP_ROWS)


class _Out(io.RawIOBase):
    """What pyarrow needs of a file, over a function that takes bytes."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write, self._at, self.wanted = write, 0, True

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if self.wanted:
            self._write(bytes(content))
        self._at += len(content)
        return len(content)

    def tell(self) -> int:
        return self._at
