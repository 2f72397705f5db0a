"""joblib with one loky process a core: frames out, columns back, one file written at the end."""

import sys
from typing import Any

import joblib
import pandas

from bench import work
from bench.engines.pandas_chunks import answered, chunks

SUBJECT: list[work.Work] = []


def score(frame: pandas.DataFrame, first: int) -> pandas.DataFrame:
    """Answer one frame; a process loads the model at its first."""
    if not SUBJECT:
        SUBJECT.append(work.load())
    return answered(SUBJECT[0], frame, first)


def numbered(source: str) -> Any:
    """Yield each frame with the number of its first line."""
    first = 1
    for frame in chunks(source):
        yield frame, first
        first += len(frame)


def main() -> None:
    """Score INPUT into OUTPUT, of the same format."""
    from bench.engines import joblib_loky  # by name: loky's processes import it

    source, target = sys.argv[1:]
    parallel = joblib.Parallel(n_jobs=work.WORKERS, backend="loky", return_as="generator")
    parts = parallel(joblib.delayed(joblib_loky.score)(*part) for part in numbered(source))
    found = pandas.concat(parts, ignore_index=True)
    if target.endswith(".jsonl"):
        found.to_json(target, orient="records", lines=True)
    else:
        found.to_parquet(target, index=False)


if __name__ == "__main__":
    main()
