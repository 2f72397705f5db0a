"""Write places.csv, which the page's map is made of: the typical district of each small cell.

    python places.py housing.csv

Data:    the table of job.toml; medians of its columns over each cell, prices left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

CELL = 0.16


def typical(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a cell: its centre of settlement, medians, and its commonest class."""
    cells = [(table[name] / CELL).round() for name in ("longitude", "latitude")]
    numbers = table.drop(columns=["median_house_value", "ocean_proximity"])
    found = numbers.groupby(cells).median().round(2)
    counts = ["total_rooms", "total_bedrooms", "population", "households"]
    found[counts] = found[counts].round()
    classes = table["ocean_proximity"].groupby(cells).agg(lambda column: column.mode()[0])
    return found.assign(ocean_proximity=classes).dropna()


if __name__ == "__main__":
    place = Path(__file__).with_name("places.csv")
    typical(pd.read_csv(sys.argv[1])).to_csv(place, index=False)
