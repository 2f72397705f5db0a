"""The chapters of the report: the problem, the districts, the models tried, and their errors.

Data:    the split, the trials, and estimates of held-out districts.
Source:  the order of work: Géron, Hands-On Machine Learning, chapter 2 and appendix B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway import Run

from . import charts, districts, measures
from .districts import TARGET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from .trials import Trial

FRAMING = (
    ("Who asks", "An investor's model of districts needs the price of each as one of its inputs"),
    ("Today", "Experts estimate by hand; a quarter of their estimates is off by 30 % or more"),
    ("Task", "Supervised regression with one target, learned in one batch; data fit in memory"),
    ("Success", "RMSE at most 43,000 dollars on a held-out fifth; MAE beside it (28,500)"),
    ("Why RMSE", "A district that is 100,000 dollars off costs more than ten that are 10,000 off"),
    ("To doubt", "Prices are cut off at 500,001, data are of 1990, a district is no house"),
)


def frame(run: Run, table: pd.DataFrame) -> None:
    """Put the problem, and what the split does, into the report."""
    rows = [{"question": question, "answer": answer} for question, answer in FRAMING]
    run.table("framing", rows, "The problem")
    run.table(
        "split", districts.compared_splits(table, run.seed),
        "Income speaks most for price, so the split keeps its shares; a random fifth strays",
    )  # fmt: skip


def look(run: Run, train: pd.DataFrame) -> None:
    """Put profile, histograms, scatter matrix and map of the training part into the report."""
    run.table("profile", districts.profile(train), "Columns of the training part")
    run.figure("histograms", charts.histograms(train), "Every number of the training part.")
    run.figure("scatter", charts.scatter_matrix(train), "Training part, a point a district.")
    run.figure("map", charts.price_map(train), "Training part; the area of a point is its people.")


def show_comparison(run: Run, done: list[Trial], table: pd.DataFrame) -> None:
    """Put the models at their usual settings into the report."""
    from .trials import compared

    rows = compared(done, table)
    run.table("comparison", rows, "Three folds of the training part, dollars; best first")
    run.figure("comparison", charts.compared(rows), "Cross-validation on the training part.")


def show_search(run: Run, done: list[Trial], table: pd.DataFrame) -> None:
    """Put the settings that were tried into the report."""
    from .trials import searched

    tried = searched(done, table)
    run.table("search", tried, "A grid for extra trees, random settings for boosting, dollars")
    run.figure("search", charts.searched(tried), "Every setting on the first fold.")


def show_errors(run: Run, table: pd.DataFrame, estimated: np.ndarray, ends: np.ndarray) -> None:
    """Put errors, by region and by price, and the intervals into the report."""
    price = table[TARGET].to_numpy(float)
    drawn = charts.predicted_against_actual(price, estimated)
    run.figure("predicted", drawn, "Held-out districts.")
    groups = {
        "region": table["ocean_proximity"].to_numpy(str),
        "price": measures.price_bands(price),
    }
    for what, names in groups.items():
        rows = measures.by_group(names, price, estimated, ends)
        run.table(f"by-{what}", rows, f"Errors by {what}, dollars")
        run.figure(f"by-{what}", charts.errors_by(rows, what), "Held-out districts.")
    run.figure("error-map", charts.error_map(table, estimated - price), "Held-out districts.")
    drawn = charts.intervals(estimated, price, ends)
    run.figure("intervals", drawn, "Intervals were set on estimates out of fold, not on these.")
