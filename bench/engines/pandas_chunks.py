"""Plain chunked pandas in one process: the script that a user writes first."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
from pyarrow import Table, parquet

from bench import work

CHUNK = 50_000


def chunks(source: str) -> Iterator[pandas.DataFrame]:
    """Yield the input in frames of 50,000 rows."""
    if source.endswith(".jsonl"):
        yield from pandas.read_json(source, lines=True, chunksize=CHUNK)
        return
    for batch in parquet.ParquetFile(source).iter_batches(CHUNK):
        yield batch.to_pandas()


def answered(subject: work.Work, frame: pandas.DataFrame, first: int) -> pandas.DataFrame:
    """Return the answers of a frame, each with the number of its line."""
    found = subject.columns(frame.to_dict("records"))
    return pandas.DataFrame({"line": range(first, first + len(frame)), **found})


def main() -> None:
    """Score INPUT into OUTPUT, of the same format."""
    source, target = sys.argv[1:]
    subject = work.load()
    first, writer = 1, None
    with Path(target).open("wb") as file:
        for frame in chunks(source):
            found = answered(subject, frame, first)
            first += len(frame)
            if target.endswith(".jsonl"):
                found.to_json(file, orient="records", lines=True)
                continue
            table = Table.from_pandas(found, preserve_index=False)
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
        close(writer)


def close(writer: Any) -> None:
    """Write the footer of a Parquet file."""
    if writer:
        writer.close()


if __name__ == "__main__":
    main()
