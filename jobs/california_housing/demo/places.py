"""Write places.csv, which the page's map is made of: the typical district of each small cell.

    python places.py housing.csv

Data:    the table of job.toml; medians of its columns around each cell, prices left out. No row is
         one of the table: a cell is told of by several districts, and lies where its middle is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

CELL = 0.16
AROUND = 6
"""Districts that speak for a cell: those nearest to its middle."""
COUNTS = ["housing_median_age", "total_rooms", "total_bedrooms", "population", "households"]


def typical(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each cell with districts: its middle, medians, and the commonest class."""
    table = table.dropna()
    places = table[["longitude", "latitude"]].to_numpy()
    rows = []
    for middle in np.unique((places / CELL).round() * CELL, axis=0):
        near = table.iloc[np.square(places - middle).sum(axis=1).argsort(kind="stable")[:AROUND]]
        row = near[[*COUNTS, "median_income"]].median().round(2)
        row[COUNTS] = row[COUNTS].round()
        lon, lat = middle.round(2)
        commonest = near["ocean_proximity"].mode()[0]
        rows.append({"longitude": lon, "latitude": lat, **row, "ocean_proximity": commonest})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    place = Path(__file__).with_name("places.csv")
    typical(pd.read_csv(sys.argv[1])).to_csv(place, index=False)
