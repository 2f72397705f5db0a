"""How far estimates are from prices, and how sure that figure is.

In all of them ``price`` and ``estimated`` are float arrays (n,) of dollars.

Data:    none.
Source:  percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .districts import CAP

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

RESAMPLES, SURE = 2000, 0.95
BANDS = (100_000, 200_000, 300_000, 400_000, CAP)
"""Upper edges of the bands of price; districts at the cap are the last one."""


def rmse(price: np.ndarray, estimated: np.ndarray) -> float:
    """Return the root of the mean squared error, dollars."""
    return float(((price - estimated) ** 2).mean() ** 0.5)


def mae(price: np.ndarray, estimated: np.ndarray) -> float:
    """Return the mean absolute error, dollars."""
    return float(abs(price - estimated).mean())


def bootstrapped(
    price: np.ndarray, estimated: np.ndarray, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % confidence intervals of RMSE and MAE over resampled districts."""
    import numpy as np

    off = np.abs(price - estimated)
    dice = np.random.default_rng(seed)
    drawn = [off[dice.integers(0, len(off), len(off))] for _ in range(RESAMPLES)]
    tails = (50 * (1 - SURE), 50 * (1 + SURE))
    squared = np.sqrt([(part**2).mean() for part in drawn])
    low, high = np.percentile(squared, tails)
    least, most = np.percentile([part.mean() for part in drawn], tails)
    return {"rmse": (float(low), float(high)), "mae": (float(least), float(most))}


def price_bands(price: np.ndarray) -> np.ndarray:
    """Return the name of each price's band, (n,) str."""
    import numpy as np

    names = ["below 100k", "100k to 200k", "200k to 300k", "300k to 400k", "400k to 500k"]
    return np.array([*names, "at the cap"])[np.digitize(price, BANDS)]


def by_group(
    groups: np.ndarray, price: np.ndarray, estimated: np.ndarray, interval: np.ndarray
) -> list[dict[str, Any]]:
    """Return the errors of each group of districts; a positive bias is an estimate too high."""
    import numpy as np

    rows = []
    for name in dict.fromkeys(groups[np.argsort(price, kind="stable")].tolist()):
        here = groups == name
        held = (interval[here, 0] <= price[here]) & (price[here] <= interval[here, 1])
        rows.append(
            {
                "group": name,
                "districts": int(here.sum()),
                "mean price": round(float(price[here].mean())),
                "RMSE": round(rmse(price[here], estimated[here])),
                "MAE": round(mae(price[here], estimated[here])),
                "bias": round(float((estimated - price)[here].mean())),
                "in the interval": round(float(held.mean()), 3),
            }
        )
    return rows


def coverage(price: np.ndarray, interval: np.ndarray) -> float:
    """Return the share of prices inside their intervals; ``interval`` is (n, 2)."""
    return float(((interval[:, 0] <= price) & (price <= interval[:, 1])).mean())


def importances(
    model: Any, table: pd.DataFrame, price: np.ndarray, seed: int
) -> list[tuple[str, float, float]]:
    """Return by how many dollars RMSE grows when a column is shuffled: name, mean, deviation.

    Longitude and latitude are shuffled together: one without the other is a place in the sea.
    """
    import numpy as np

    dice = np.random.default_rng(seed)
    before = rmse(price, model.predict(table))
    places = ["longitude", "latitude"]
    columns = [places, *([name] for name in table.columns if name not in places)]
    found = []
    for names in columns:
        grown = []
        for _ in range(3):
            shuffled = table.copy()
            shuffled[names] = table[names].to_numpy()[dice.permutation(len(table))]
            grown.append(rmse(price, model.predict(shuffled)) - before)
        found.append((" and ".join(names), float(np.mean(grown)), float(np.std(grown))))
    return sorted(found, key=lambda entry: -entry[1])


def figures(name: str, price: np.ndarray, found: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the errors of one model with their confidence intervals."""
    sure = bootstrapped(price, found, seed)
    told = {key: f"{low:,.0f} to {high:,.0f}" for key, (low, high) in sure.items()}
    return {
        "model": name,
        "RMSE": round(rmse(price, found)),
        "RMSE, 95 %": told["rmse"],
        "MAE": round(mae(price, found)),
        "MAE, 95 %": told["mae"],
    }
