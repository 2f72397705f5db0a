"""Rows the model has not learned from: the job's held-out split, or its type's example.

A million rows are those again with one word in each text swapped for another row's word, so
that no program gains by answering copies.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slipway.job import Job
from slipway.types import example, known_fields

Row = dict[str, Any]
PART = 50_000


def held_out(job: Job, out: Path) -> list[Row]:
    """Return the rows of ``out/data/test.*`` that the job's type takes, else its example."""
    found = []
    for path in sorted((out / "data").glob("test.*")):
        for row in _read(path):
            try:
                found.append(job.row(**known_fields(job.row, row)).model_dump(mode="json"))
            except ValidationError:
                continue
    return found or [example(job.row)]


def _read(path: Path) -> Iterator[Row]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        yield from parquet.read_table(path).to_pylist()


def varied(job: Job, rows: list[Row], number: int, seed: int = 0) -> Iterator[Row]:
    """Yield ``number`` rows drawn from ``rows``, each text with one word swapped."""
    draw = random.Random(seed)
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    words = [word for text in texts for word in text.split()]
    for _ in range(number):
        row = draw.choice(rows)
        other = {name: swapped(value, words, draw) for name, value in row.items()}
        try:
            job.row(**other)
        except ValidationError:  # not every text is prose
            other = row
        yield other


def swapped(value: Any, words: list[str], draw: random.Random) -> Any:
    """Return a text with one word replaced; anything else, and a single word, as it is."""
    if not isinstance(value, str) or " " not in value:
        return value
    parts = value.split(" ")
    parts[draw.randrange(len(parts))] = draw.choice(words)
    return " ".join(parts)


def write_files(job: Job, rows: list[Row], number: int, folder: Path, kinds: list[str]) -> None:
    """Write ``number`` varied rows to ``folder/NUMBER.jsonl`` and ``.parquet``."""
    import pyarrow
    from pyarrow import parquet

    writer = None
    made = varied(job, rows, number)
    with (folder / f"{number}.jsonl").open("w", encoding="utf-8") as file:
        while part := list(itertools.islice(made, PART)):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
            table = pyarrow.Table.from_pylist(part)
            if "parquet" in kinds:
                writer = writer or parquet.ParquetWriter(folder / f"{number}.parquet", table.schema)
                writer.write_table(table)
    if writer:
        writer.close()


def main() -> None:
    """``rows bodies FILE`` writes the held-out rows; ``rows files FOLDER KIND,.. N..`` many."""
    from bench import work

    subject = work.load()
    rows = held_out(subject.job, work.OUT)
    if sys.argv[1] == "bodies":
        wanted = {"rows": rows, "answers": subject.answer(rows[:20])}
        Path(sys.argv[2]).write_text(json.dumps(wanted), "utf-8")
        return
    for number in map(int, sys.argv[4:]):
        write_files(subject.job, rows, number, Path(sys.argv[2]), sys.argv[3].split(","))


if __name__ == "__main__":
    main()
