"""How good a classifier is, with intervals: a held-out part of some hundred pictures says little.

Data:    labels (n,) and chances (n, k) of the held-out pictures.
Source:  interval of a share: Wilson, JASA 1927. Bootstrap: Efron and Tibshirani, 1993. Areas below
         the ROC and the precision-recall curve: Fawcett, Pattern Recognition Letters 2006.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200
"""Samples of the bootstrap."""
Z = 1.959964


def share_interval(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share, extra = right / count, Z * Z / count
    half = Z * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    return (share + extra / 2 - half) / (1 + extra), (share + extra / 2 + half) / (1 + extra)


def bootstrap(
    labels: np.ndarray,
    values: np.ndarray,
    measure: Callable[[np.ndarray, np.ndarray], float],
    seed: int,
) -> tuple[float, float]:
    """Return the middle 95 % of a measure over samples drawn with replacement."""  # fmt: skip
    import numpy as np

    draw = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        chosen = draw.integers(0, len(labels), len(labels))
        if 0 < labels[chosen].sum() < len(labels):  # without both kinds there is no area
            found.append(measure(labels[chosen], values[chosen]))
    low, high = np.quantile(found, [0.025, 0.975]) if found else (math.nan, math.nan)
    return float(low), float(high)


def roc_area(positive: np.ndarray, values: np.ndarray) -> float:
    """Return the chance that a positive has the larger value, ties counting half."""
    from scipy.stats import rankdata

    ranks = rankdata(values)
    here = int(positive.sum())
    above = ranks[positive.astype(bool)].sum() - here * (here + 1) / 2
    return float(above / (here * (len(positive) - here)))


def average_precision(positive: np.ndarray, values: np.ndarray) -> float:
    """Return the area below the precision-recall curve, in steps of the recall.

    Equal values are one step. scikit-learn's gives the same and takes ten times as long, which
    a bootstrap feels.
    """
    import numpy as np

    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    gained = np.diff(hits[last], prepend=0) / hits[-1]
    return float((gained * hits[last] / (last + 1)).sum())


def by_class(
    labels: np.ndarray, chances: np.ndarray, names: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Return a row a class: precision, recall, F1 and both areas, the last with intervals."""
    called = chances.argmax(axis=1)
    rows = []
    for number, name in enumerate(names):
        mine, told = labels == number, called == number
        both = int((mine & told).sum())
        precision, recall = both / max(1, told.sum()), both / max(1, mine.sum())
        row = {"class": name, "pictures": int(mine.sum()), "precision": precision, "recall": recall,
               "F1": 2 * precision * recall / max(1e-12, precision + recall)}  # fmt: skip
        row["recall, 95 %"] = share_interval(both, max(1, int(mine.sum())))
        for key, measure in (("ROC-AUC", roc_area), ("PR-AUC", average_precision)):
            if 0 < mine.sum() < len(mine):
                row[key] = measure(mine, chances[:, number])
                row[f"{key}, 95 %"] = bootstrap(mine, chances[:, number], measure, seed)
        rows.append(row)
    return rows


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a table shows it: three digits, intervals as text."""
    told: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, tuple):
            told[key] = f"{value[0]:.3f} to {value[1]:.3f}"
        else:
            told[key] = round(value, 3) if isinstance(value, float) else value
    return told


def overall(labels: np.ndarray, chances: np.ndarray) -> dict[str, float]:
    """Return the figures of all classes together; macro means that each class counts alike."""
    import numpy as np
    from sklearn.metrics import precision_recall_fscore_support

    called = chances.argmax(axis=1)
    known = list(range(chances.shape[1]))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, called, labels=known, average="macro", zero_division=0
    )
    right = int((called == labels).sum())
    low, high = share_interval(right, len(labels))
    mine = chances[np.arange(len(labels)), labels]
    return {
        "accuracy": right / len(labels), "accuracy_low": low, "accuracy_high": high,
        "macro_precision": float(precision), "macro_recall": float(recall), "macro_f1": float(f1),
        "log_loss": float(-np.log(mine.clip(1e-12)).mean()),
    }  # fmt: skip


def better(labels: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Return the chance that two classifiers that are equally good differ so much (McNemar)."""
    from scipy.stats import binomtest

    first, second = one == labels, other == labels
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
