"""``merge PARTS INPUT RESULT``: one file out of all shards, proved to be the input.

The input's rows are counted off in order against the rows of parts and errors, so a row that is
missing, doubled or foreign is found, and named with its shard. Only the place of a row is read
of a line, and only a part or two are open at a time.
"""

from __future__ import annotations

import csv
import heapq
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.errors import DataUnavailable
from slipway.logs import say
from slipway.scoring import readers
from slipway.scoring.parts import Draft, Output, Record, damaged, read_record, require_other
from slipway.scoring.readers import Chunk
from slipway.scoring.score import Input, all_chunks, find_input
from slipway.scoring.shards import Shard, enterable
from slipway.scoring.stores import entries, join, open_input
from slipway.scoring.writers import Sink, schema

if TYPE_CHECKING:
    from slipway.job import Job

NAME = re.compile(r"(?:part|errors)-(\d{5,})-of-(\d{5,})\.(json|jsonl|csv|parquet)")
PLACE = re.compile(rb'\{(?:"file": ?("(?:[^"\\]|\\.)*"), ?)?"line": ?(\d+)')
GROUP = 4096

Place = tuple[str, int]
"""The file of a row, empty where there is one file only, and its line."""


@dataclass
class Found:
    """A row of a part or of its errors: its place, the shard, its bytes or values."""

    place: Place
    shard: int
    bad: bool
    content: Any


def merge_parts(job: Job, folder: str, source: str, target: str) -> None:
    """Write ``target``; InputInvalid where the parts are not each row of ``source`` once."""
    records, suffix = read_parts(folder)
    found = find_input(job, source, Shard())
    output = Output.of(target, "", Shard(), suffix)
    require_other(output.answers, found.files)
    _require_same_input(found, records)
    draft = Draft(output)
    with ExitStack() as stack:
        stack.callback(draft.discard)
        sink = Sink(job, suffix, found.several, draft.write)
        stack.callback(sink.abandon)
        gather = _Gather(job, suffix, found.several, sink)
        for row in _proved(job, found, _rows(folder, suffix, records, found)):
            if row.bad:
                draft.write_errors(row.content)
            else:
                gather.add(row.content)
        gather.flush()
        sink.close()
        good, bad = (sum(record[key] for record in records) for key in ("rows", "bad"))
        draft.publish(records[0] | {"rows": good, "bad": bad, "shard": [0, 1], "input": source})
    by = f"by the {records[0]['options']['form']} model {records[0]['model']}"
    say(f"merge: {good + bad} rows of {len(records)} shards, each once; {bad} bad, {by}")


def read_parts(folder: str) -> tuple[list[Record], str]:
    """Return the records of all shards in order, and the format of the parts."""
    names = [match for entry in entries(folder) if (match := NAME.fullmatch(entry.name))]
    counts = sorted({int(match[2]) for match in names})
    if len(counts) != 1:
        told = f"parts of {' and '.join(map(str, counts))} shards" if counts else "no parts"
        raise DataUnavailable(f"{folder}: holds {told}; wanted those of one run")
    parts = {match[0] for match in names}
    records, missing = [], []
    for index in range(counts[0]):
        name = f"part-{Shard(index, counts[0]).stem}.json"
        record = read_record(join(folder, name)) if name in parts else {}
        records.append(record)
        missing += [] if record else [str(index)]
    if missing:
        shown = ", ".join(missing[:20]) + (" ..." if len(missing) > 20 else "")
        raise damaged(f"{folder}: {len(missing)} of {counts[0]} shards are not finished: {shown}")
    for index, record in enumerate(records):
        if record["fingerprint"] != records[0]["fingerprint"] and _kept(record) != _kept(
            records[0]
        ):
            raise damaged(f"{folder}: shard {index} is of another input, model or option than 0")
        _require_whole(folder, index, record)
    return records, str(records[0]["options"]["format"])


def _kept(record: Record) -> Record:
    """Return what must be equal in all shards; copies of one input have dates of their own."""
    return {key: value for key, value in record["fingerprint"].items() if key != "dates"}


def _require_whole(folder: str, index: int, record: Record) -> None:
    shard = Shard(index, record["options"]["shards"], True)
    output = Output.of(folder, "", shard, record["options"]["format"])
    if not output.finished(record["fingerprint"]):
        raise damaged(
            f"{output.answers}: shard {index} has a record, but not the files it tells of"
        )


def _require_same_input(found: Input, records: list[Record]) -> None:
    from slipway.scoring.parts import fingerprint

    content = fingerprint(found.files, "", {})["content"]
    if content != records[0]["fingerprint"]["content"]:
        raise damaged(f"{found.source}: is not the input that the parts were scored from")


def _rows(folder: str, suffix: str, records: list[Record], found: Input) -> Iterator[Found]:
    """Yield all rows of all parts in the order of the input, if each part is in order."""
    each = (
        _part(folder, suffix, index, len(records), bool(r["bad"]))
        for index, r in enumerate(records)
    )
    if found.kind == "rows" and all(enterable(entry) for entry in found.files):
        for part in each:
            yield from part
        return
    yield from heapq.merge(*each, key=lambda row: row.place)


def _part(folder: str, suffix: str, index: int, count: int, bad: bool) -> Iterator[Found]:
    output = Output.of(folder, "", Shard(index, count, True), suffix)
    read = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[suffix]
    good = (Found(place, index, False, content) for place, content in read(output.answers))
    if not bad:
        return good
    errors = (Found(place, index, True, line) for place, line in _json_rows(output.errors))
    return heapq.merge(good, errors, key=lambda row: row.place)


def _json_rows(address: str) -> Iterator[tuple[Place, bytes]]:
    with open_input(address) as file:
        for line in file:
            match = PLACE.match(line)
            if not match:
                raise damaged(f"{address}: holds {line[:80]!r}; wanted an answer with its line")
            yield (json.loads(match[1]) if match[1] else "", int(match[2])), line


def _csv_rows(address: str) -> Iterator[tuple[Place, list[str]]]:
    import io

    with open_input(address) as file:
        reader = csv.reader(io.TextIOWrapper(file, "utf-8", newline=""))
        named = next(reader, [])[:1] == ["file"]
        for row in reader:
            yield ((row[0] if named else ""), int(row[named])), row


def _parquet_rows(address: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    from pyarrow import parquet

    with open_input(address) as source:
        for batch in parquet.ParquetFile(source).iter_batches(GROUP):
            for row in batch.to_pylist():
                yield (row.get("file", ""), row["line"]), row


class _Gather:
    """Collects rows and hands them to the sink some at a time."""

    def __init__(self, job: Job, suffix: str, several: bool, sink: Sink) -> None:
        self.suffix, self.sink = suffix, sink
        self.schema = schema(job, several) if suffix == ".parquet" else None
        self.rows: list[Any] = []

    def add(self, content: Any) -> None:
        self.rows.append(content)
        if len(self.rows) >= GROUP:
            self.flush()

    def flush(self) -> None:
        import io

        if self.suffix == ".jsonl":
            self.sink.add(b"".join(self.rows))
        elif self.suffix == ".csv":
            text = io.StringIO()
            csv.writer(text).writerows(self.rows)
            self.sink.add(text.getvalue().encode())
        else:
            import pyarrow

            batch = pyarrow.RecordBatch.from_pylist(self.rows, schema=self.schema)
            self.sink.add(readers.packed(batch))
        self.rows = []


def places(job: Job, found: Input) -> Iterator[Place]:
    """Yield the place of each row of an input, in order; nothing of a row is checked."""
    for chunk in all_chunks(job, found):
        for number in _numbers(job, chunk):
            yield number if isinstance(number, tuple) else (chunk.file, number)


def _numbers(job: Job, chunk: Chunk) -> Any:
    if chunk.wrong:
        return [chunk.first]
    if chunk.kind == ".jsonl":
        lines = chunk.content.split(b"\n")
        return [number for number, line in enumerate(lines, chunk.first) if line.strip()]
    if chunk.kind == ".parquet":
        import pyarrow

        batch = pyarrow.ipc.open_stream(chunk.content).read_next_batch()
        return range(chunk.first, chunk.first + batch.num_rows)
    if chunk.kind == "folder":
        return [1]
    if chunk.kind == "raw":
        return [(name, 1) for name, _ in readers.untied(chunk.content)]
    return _csv_numbers(chunk)


def _csv_numbers(chunk: Chunk) -> Iterator[int]:
    reader = csv.reader(readers.csv_lines(chunk.content), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = ["bad"]
        if row:
            yield chunk.first - 1 + reader.line_num


def _proved(job: Job, found: Input, merged: Iterator[Found]) -> Iterator[Found]:
    """Yield the rows of the parts; InputInvalid at the first that is not the input's next one."""
    last: Found | None = None
    wanted = places(job, found)
    for place in wanted:
        row = next(merged, None)
        if row is None or row.place > place:
            _missing(place, row, last, wanted)
        elif row.place < place:
            twice = last is not None and last.place == row.place
            told = (
                f"is there twice (shards {last.shard} and {row.shard})"
                if twice and last
                else (f"of shard {row.shard} is no row of the input, or out of order")
            )
            raise damaged(f"{_shown(row.place)} {told}")
        assert row is not None
        last = row
        yield row
    left = next(merged, None)
    if left:
        raise damaged(
            f"{_shown(left.place)} of shard {left.shard} is there twice or is no row of the input"
        )


def _missing(place: Place, row: Found | None, last: Found | None, wanted: Iterator[Place]) -> None:
    """Tell which rows are missing, and between which shards' rows they should be."""
    end = place
    for following in wanted:
        if row is not None and following >= row.place:
            break
        end = following
    near = sorted({found.shard for found in (last, row) if found})
    shards = " and ".join(map(str, near)) or "0"
    until = f" to {_shown(end)}" if end != place else ""
    raise damaged(f"{_shown(place)}{until} missing; they belong to shard {shards}")


def _shown(place: Place) -> str:
    return f"{place[0]}, line {place[1]}" if place[0] else f"line {place[1]}"
