"""The districts: what a row may hold, reading a table, and the split into train and test.

The split is stratified by bins of median income. Income speaks most for price, and few districts
are rich: a random fifth may hold too few of them to tell how well they are estimated.

Data:    a census block group of 1990 a row (job.toml), prices capped at 500,001 dollars.
Source:  Géron, Hands-On Machine Learning, chapter 2; Pace and Barry, 1997.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slipway import Field, Input
from slipway.errors import InputInvalid
from slipway.types import problems

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CAP = 500_001.0
"""What the census wrote for every price above half a million dollars."""

HELD_OUT = 0.2
INCOME_BINS = (1.5, 3.0, 4.5, 6.0)
"""Upper edges of the strata, in tens of thousands of dollars; the last one is open."""

FEWEST = 100
"""Districts that a split into strata and folds needs."""

Proximity = Literal["INLAND", "<1H OCEAN", "NEAR BAY", "NEAR OCEAN", "ISLAND"]


class District(Input):
    """A census block group: 600 to 3,000 people who live near each other."""

    longitude: float = Field(
        ge=-124.6, le=-114.0, description="Degrees east, so below 0.", examples=[-122.25]
    )
    latitude: float = Field(ge=32.3, le=42.1, description="Degrees north.", examples=[37.85])
    housing_median_age: float = Field(
        ge=0, le=100, description="Median age of a house, in years; 52 is 52 or more.",
        examples=[30],
    )  # fmt: skip
    total_rooms: float = Field(ge=1, le=100_000, description="Rooms of all homes.", examples=[2100])
    total_bedrooms: float | None = Field(
        None, ge=1, le=50_000, description="Bedrooms of all homes, where known.", examples=[430]
    )
    population: float = Field(ge=1, le=100_000, description="People.", examples=[1170])
    households: float = Field(ge=1, le=50_000, description="Households.", examples=[410])
    median_income: float = Field(
        ge=0, le=20, description="Median income of a household, in 10,000 dollars of 1990.",
        examples=[4.5],
    )  # fmt: skip
    ocean_proximity: Proximity = Field(
        description="Where the district lies to the ocean.", examples=["NEAR BAY"]
    )


class Sold(District):
    """A district with its price, as the table has it."""

    median_house_value: float = Field(gt=0, le=CAP, description="Dollars of 1990, 500,001 at most.")


FEATURES = tuple(District.model_fields)
NUMBERS = FEATURES[:-1]
TARGET = "median_house_value"
COLUMNS = (*NUMBERS, TARGET, "ocean_proximity")


def read_raw(path: Path) -> pd.DataFrame:
    """Read a raw table; raise InputInvalid at the first line or column that is wrong."""
    import pandas as pd

    return pd.DataFrame(list(checked_rows(path)), columns=list(COLUMNS))


def checked_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV file, each held to `Sold`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                found = f"found columns {', '.join(reader.fieldnames or ())[:200]}"
                raise InputInvalid(f"{path}, line 1: {found}; wanted also {', '.join(missing)}")
            for row in reader:
                yield checked(row, f"{path}, line {reader.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputInvalid(f"{path}: found {error}; wanted a CSV file in UTF-8") from None


def checked(row: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a row with its numbers as such; InputInvalid names place, column, found, wanted."""
    from pydantic import ValidationError

    if None in row or None in row.values():
        raise InputInvalid(f"{place}: found too many or too few cells; wanted one a column")
    # An empty cell is a missing value, which only total_bedrooms may have.
    known = {name: row[name] or None for name in COLUMNS}
    try:
        return Sold.model_validate(known).model_dump()
    except ValidationError as error:
        wrong = problems(error)[0]
        told = f"found {wrong['found']}; wanted {wrong['wanted']}"
        raise InputInvalid(f"{place}, column {wrong['path'][1:]}: {told}") from None


def read_split(path: Path) -> pd.DataFrame:
    """Read a split file that `prepare` wrote."""
    import pandas as pd

    return pd.read_csv(path)


def as_table(rows: list[District]) -> pd.DataFrame:
    """Return rows to be scored as a table of FEATURES."""
    import pandas as pd

    table = pd.DataFrame([row.model_dump() for row in rows], columns=list(FEATURES))
    return table.astype(dict.fromkeys(NUMBERS, float))  # None becomes NaN


def income_bin(table: pd.DataFrame) -> np.ndarray:
    """Return the stratum of each district, (n,) int from 0 to 4."""
    import numpy as np

    return np.digitize(table["median_income"], INCOME_BINS, right=True)


def split(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return train and test, 80/20, with the same share of each income bin in both."""
    from sklearn.model_selection import train_test_split

    strata = income_bin(table)
    if len(table) < FEWEST:
        raise InputInvalid(f"found {len(table)} districts; wanted at least {FEWEST} to split them")
    for stratum in range(len(INCOME_BINS) + 1):
        if (strata == stratum).sum() == 1:  # one district cannot be on both sides
            strata[strata == stratum] += 1 if stratum < len(INCOME_BINS) else -1
    return tuple(train_test_split(table, test_size=HELD_OUT, stratify=strata, random_state=seed))


def compared_splits(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return each income bin's share of all districts and of two held-out parts.

    The random part is drawn from 20 seeds: its row tells the largest deviation among them.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    def shares(part: pd.DataFrame) -> np.ndarray:
        return np.bincount(income_bin(part), minlength=len(INCOME_BINS) + 1) / len(part)

    whole, stratified = shares(table), shares(split(table, seed)[1])
    drawn = [
        shares(train_test_split(table, test_size=HELD_OUT, random_state=seed + n)[1])
        for n in range(20)
    ]
    off = np.abs(np.array(drawn) / np.maximum(whole, 1e-9) - 1).max(axis=0)
    edges = ["0", *map(str, INCOME_BINS), "more"]
    return [
        {
            "median income, 10,000 $": f"{edges[n]} to {edges[n + 1]}",
            "all districts": f"{whole[n]:.1%}",
            "stratified fifth": f"{stratified[n]:.1%}",
            "off by": f"{abs(stratified[n] / max(whole[n], 1e-9) - 1):.1%}",
            "random fifth": f"{drawn[0][n]:.1%}",
            "worst of 20 off by": f"{off[n]:.1%}",
        }
        for n in range(len(whole))
    ]


def profile(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe each column: missing values, least, median, mean, largest; classes by count."""
    rows: list[dict[str, Any]] = []
    for name in (*NUMBERS, TARGET):
        column = table[name]
        rows.append(
            {
                "column": name,
                "missing": int(column.isna().sum()),
                "least": round(column.min(), 2),
                "median": round(column.median(), 2),
                "mean": round(column.mean(), 2),
                "largest": round(column.max(), 2),
                "at the largest": f"{(column == column.max()).mean():.1%}",
            }
        )
    return rows
