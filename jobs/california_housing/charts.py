"""The figures of the report; each title says what is to be seen, from the figures drawn.

Prices are in dollars of 1990, drawn in thousands.

Data:    the tables of `districts`, estimates and errors of `measures`.
Source:  the map of prices: Géron, Hands-On Machine Learning, figure 2-13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .districts import CAP, NUMBERS, TARGET

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

DARK, BRIGHT, PALE = "#17456e", "#e07b00", "#9aa5b1"
UNITS = {
    "longitude": "longitude (degrees)",
    "latitude": "latitude (degrees)",
    "housing_median_age": "median age of houses (years)",
    "total_rooms": "rooms",
    "total_bedrooms": "bedrooms",
    "population": "people",
    "households": "households",
    "median_income": "median income (10,000 \\$)",
    TARGET: "median price (1,000 \\$)",
}


def sheet(title: str, across: str = "", up: str = "", size: tuple[float, float] = (9, 6)) -> Any:
    """Return a figure and its axes with title and labels."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.add_subplot()
    axes.set_title(title, fontsize=17, loc="left")
    axes.set_xlabel(across, fontsize=15)
    axes.set_ylabel(up, fontsize=15)
    axes.tick_params(labelsize=13)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return drawn, axes


def in_units(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column in the unit of its label."""
    column: np.ndarray = table[name].to_numpy(float)
    return column / 1000 if name == TARGET else column


def histograms(table: pd.DataFrame) -> Figure:
    """Draw the distribution of every number."""
    from matplotlib.figure import Figure

    capped = (table[TARGET] >= CAP).mean()
    tail = table["total_rooms"].max() / table["total_rooms"].median()
    drawn = Figure(figsize=(12, 10), layout="constrained")
    drawn.suptitle(
        f"The largest count of rooms is {tail:.0f} times the median; {capped:.1%} of prices are "
        "cut off",
        fontsize=19, x=0.02, ha="left",
    )  # fmt: skip
    for axes, name in zip(drawn.subplots(3, 3).flat, (*NUMBERS, TARGET), strict=True):
        axes.hist(in_units(table, name)[~table[name].isna()], bins=50, color=DARK)
        axes.set_xlabel(UNITS[name], fontsize=14)
        axes.set_ylabel("districts", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def scatter_matrix(table: pd.DataFrame) -> Figure:
    """Draw price, income, rooms and age against each other."""
    from matplotlib.figure import Figure

    names = [TARGET, "median_income", "total_rooms", "housing_median_age"]
    closest = table[names].corr()[TARGET].drop(TARGET)
    best = closest.abs().idxmax()
    drawn = Figure(figsize=(12, 11), layout="constrained")
    drawn.suptitle(
        f"Of these, {best.replace('_', ' ')} goes with price most: "
        f"correlation {closest[best]:.2f}",
        fontsize=19, x=0.02, ha="left",
    )  # fmt: skip
    grid = drawn.subplots(len(names), len(names))
    for row, down in enumerate(names):
        for column, across in enumerate(names):
            axes = grid[row, column]
            if row == column:
                axes.hist(in_units(table, down), bins=40, color=PALE)
            else:
                points = (in_units(table, across), in_units(table, down))
                axes.plot(*points, ".", ms=2, alpha=0.15, color=DARK, rasterized=True)
            axes.tick_params(labelsize=11)
            axes.locator_params(nbins=4)
            axes.set_xlabel(UNITS[across] if row == len(names) - 1 else "", fontsize=12)
            axes.set_ylabel(UNITS[down] if column == 0 else "", fontsize=12)
    return drawn


def price_map(table: pd.DataFrame) -> Figure:
    """Draw every district at its place, its price as colour and its people as area."""
    by_class = table.groupby("ocean_proximity")[TARGET].median().drop("ISLAND", errors="ignore")
    inland, dear = by_class.get("INLAND", by_class.min()), by_class.idxmax()
    drawn, axes = sheet(
        f"Dearest is {dear.lower()}: median {by_class[dear] / 1000:,.0f}k \\$, "
        f"against {inland / 1000:,.0f}k \\$ inland",
        UNITS["longitude"], UNITS["latitude"], (10, 9),
    )  # fmt: skip
    ordered = table.sort_values(TARGET)
    points = axes.scatter(
        ordered["longitude"], ordered["latitude"], s=ordered["population"] / 80, lw=0, alpha=0.6,
        c=ordered[TARGET] / 1000, cmap="viridis",
    )  # fmt: skip
    bar = drawn.colorbar(points, ax=axes, shrink=0.7)
    bar.set_label(UNITS[TARGET], fontsize=15)
    bar.ax.tick_params(labelsize=13)
    axes.set_aspect(1.24)  # a degree north is so much longer than one east at 36 degrees
    return drawn


def compared(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the cross-validated RMSE of each model; rows hold model, RMSE and its spread."""
    ranked = sorted(rows, key=lambda row: -row["RMSE"])
    last = next(row for row in ranked if row["model"].startswith("linear"))
    gain = 1 - ranked[-1]["RMSE"] / last["RMSE"]
    drawn, axes = sheet(
        f"{ranked[-1]['model'].capitalize()}: {gain:.0%} less error than linear regression",
        "RMSE over the folds (1,000 \\$), with the spread between folds", "", (10, 6),
    )  # fmt: skip
    axes.barh(
        [row["model"] for row in ranked], [row["RMSE"] / 1000 for row in ranked],
        xerr=[row["spread"] / 1000 for row in ranked], color=DARK, ecolor=BRIGHT, capsize=5,
    )  # fmt: skip
    for place, row in enumerate(ranked):
        axes.text(1, place, f"{row['RMSE'] / 1000:.1f}", va="center", fontsize=13, color="white")
    return drawn


def searched(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the settings tried, best first; rows hold kind and first-fold RMSE."""
    found = {
        kind: sorted(row["RMSE"] / 1000 for row in rows if row["kind"] == kind)
        for kind in ("boosting", "extra trees")
    }
    best = min(found, key=lambda kind: found[kind][0])
    drawn, axes = sheet(
        f"{best.capitalize()} leads; its worst setting costs "
        f"{found[best][-1] - found[best][0]:.1f}k \\$ more than its best",
        "settings tried, best first", "RMSE on the first fold (1,000 \\$)",
    )  # fmt: skip
    for (kind, tried), mark, colour in zip(found.items(), "os", (DARK, BRIGHT), strict=True):
        label = f"{kind}: {tried[0]:.1f} to {tried[-1]:.1f}"
        axes.plot(range(1, len(tried) + 1), tried, mark + "-", color=colour, ms=9, label=label)
    axes.legend(fontsize=14)
    return drawn


def predicted_against_actual(price: np.ndarray, estimated: np.ndarray) -> Figure:
    """Draw estimates over prices, the number of districts as colour."""
    import numpy as np

    within = (np.abs(estimated / price - 1) <= 0.2).mean()
    drawn, axes = sheet(
        f"{within:.0%} of estimates are within a fifth of the price",
        "price (1,000 \\$)", "estimate (1,000 \\$)", (9, 8),
    )  # fmt: skip
    cells = axes.hexbin(
        price / 1000, estimated / 1000, gridsize=45, bins="log", mincnt=1, cmap="viridis"
    )
    axes.axline((0, 0), slope=1, color=BRIGHT, lw=2.5, label="estimate = price")
    axes.axvline(CAP / 1000, color=PALE, ls="--", lw=2, label="the census' cap")
    axes.legend(fontsize=14, loc="upper left")
    drawn.colorbar(cells, ax=axes).set_label("districts", fontsize=15)
    axes.set(xlim=(0, 515), ylim=(0, 515))
    return drawn


def errors_by(rows: Sequence[dict[str, Any]], what: str) -> Figure:
    """Draw RMSE and bias of each group of districts as `measures.by_group` has them."""
    common = [row for row in rows if row["districts"] >= 20] or list(rows)
    worst = max(common, key=lambda row: row["RMSE"])
    few = ", of groups of 20 or more" if len(common) < len(rows) else ""
    drawn, axes = sheet(
        f"By {what}: RMSE is highest {worst['group'].lower()}, {worst['RMSE'] / 1000:.0f}k \\$"
        f"{few}",
        "error (1,000 \\$); bias above 0: estimates too high", "", (10, 6),
    )  # fmt: skip
    names = [f"{row['group']} (n={row['districts']})" for row in rows]
    places = range(len(rows))
    axes.barh([p + 0.2 for p in places], [r["RMSE"] / 1000 for r in rows], 0.38, color=DARK,
              label="RMSE")  # fmt: skip
    axes.barh([p - 0.2 for p in places], [r["bias"] / 1000 for r in rows], 0.38, color=BRIGHT,
              label="bias")  # fmt: skip
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(list(places), names, fontsize=14)
    axes.legend(fontsize=14)
    return drawn


def error_map(table: pd.DataFrame, off: np.ndarray) -> Figure:
    """Draw the mean error of the held-out districts in cells of the map; ``off`` in dollars."""
    import numpy as np

    north = table["latitude"].to_numpy() > 36
    parts = [
        float(np.abs(off[here]).mean()) / 1000 if here.any() else 0 for here in (north, ~north)
    ]
    drawn, axes = sheet(
        f"Mean absolute error: {parts[0]:.0f}k \\$ in the north, {parts[1]:.0f}k \\$ in the south",
        UNITS["longitude"], UNITS["latitude"], (10, 9),
    )  # fmt: skip
    cells = axes.hexbin(
        table["longitude"], table["latitude"], C=off / 1000, gridsize=40, cmap="PuOr",
        vmin=-80, vmax=80, edgecolors="#cccccc", linewidths=0.3,
    )  # fmt: skip
    bar = drawn.colorbar(cells, ax=axes, shrink=0.7, extend="both")
    bar.set_label("estimate - price, mean of a cell (1,000 \\$)", fontsize=15)
    axes.set_aspect(1.24)
    return drawn


def importance(rows: Sequence[tuple[str, float, float]]) -> Figure:
    """Draw by how much RMSE grows when a column is shuffled, as `measures.importances` has it."""
    first, second = (row[0].replace("_", " ") for row in rows[:2])
    drawn, axes = sheet(
        f"Most is told by {first}, then {second}",
        "RMSE added by shuffling the column (1,000 \\$)", "", (10, 6),
    )  # fmt: skip
    names, grown, spread = zip(*reversed(rows), strict=True)
    axes.barh(
        [name.replace("_", " ") for name in names], [value / 1000 for value in grown],
        xerr=[value / 1000 for value in spread], color=DARK, ecolor=BRIGHT,
    )  # fmt: skip
    return drawn


def intervals(estimated: np.ndarray, price: np.ndarray, ends: np.ndarray) -> Figure:
    """Draw the intervals of every few districts in the order of their estimates."""
    import numpy as np

    held = (ends[:, 0] <= price) & (price <= ends[:, 1])
    drawn, axes = sheet(
        f"{held.mean():.1%} of held-out prices lie in their interval (promised: 90 %)",
        "held-out districts, from cheap to dear (by estimate)", "price (1,000 \\$)", (11, 6),
    )  # fmt: skip
    shown = np.argsort(estimated, kind="stable")[:: max(1, len(price) // 150)]
    across = np.arange(len(shown))
    axes.vlines(across, *(ends[shown] / 1000).T, color=PALE, lw=3, label="interval")
    marks = ((held, "o", DARK, "price inside"), (~held, "X", BRIGHT, "price outside"))
    for which, mark, colour, label in marks:
        here = which[shown]
        axes.plot(across[here], price[shown][here] / 1000, mark, color=colour, ms=6, label=label)
    axes.legend(fontsize=14, loc="upper left")
    return drawn
