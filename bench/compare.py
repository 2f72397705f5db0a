"""Compare what two programs wrote: by line where both have it, else as sorted columns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pandas


def read(path: Path) -> pandas.DataFrame:
    """Read a file, or a folder of parts in the order of their names."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json*")) + sorted(
        path.rglob("*.parquet")
    )  # fmt: skip
    frames = [
        pandas.read_parquet(file)
        if file.suffix == ".parquet"
        else pandas.read_json(file, lines=True)
        for file in files
        if not file.name.startswith((".", "_")) and file.stat().st_size
    ]
    return pandas.concat(frames, ignore_index=True)


def apart(found: pandas.DataFrame, reference: pandas.DataFrame) -> float:
    """Return the largest difference of a number; ValueError for missing rows or other values."""
    if len(found) != len(reference):
        raise ValueError(f"found {len(found)} rows; wanted {len(reference)}")
    ordered = "line" in found and "line" in reference
    if ordered:
        found, reference = found.sort_values("line"), reference.sort_values("line")
    worst = 0.0
    for name in set(found) & set(reference) - {"line"}:
        one, other = found[name].to_numpy(), reference[name].to_numpy()
        if one.dtype.kind == "f":
            if not ordered:
                one, other = numpy.sort(one), numpy.sort(other)
            worst = max(worst, float(numpy.abs(one - other).max()))
        elif ordered and not (one == other).all():
            raise ValueError(f"column {name} differs")
    if worst > 1e-5:
        raise ValueError(f"numbers differ by {worst:.1e}")
    return worst


if __name__ == "__main__":
    print(apart(*(read(Path(path)) for path in sys.argv[1:3])))
