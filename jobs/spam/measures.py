"""What a filter's figures are made of: precision, recall and the cost of errors.

In all of them ``spam`` is a bool array (n,) and ``propensity`` a float array (n,); a message
is called spam where its propensity is at or above the threshold.

Data:    none.
Source:  the case study's goals: precision >= 0.90, a lost message costs ten spams let through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np

FALSE_POSITIVE, FALSE_NEGATIVE = 10, 1
CLIP = 1e-6
"""Distance that a propensity keeps from 0 and 1, so that thresholds 0 and 1 mean always, never."""


def propensity_of(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Return P(spam) of each text under a classifier, shape (n,), strictly inside (0, 1)."""
    import numpy as np

    return np.clip(model.predict_proba(list(texts))[:, 1], CLIP, 1 - CLIP)


def threshold_at_precision(spam: np.ndarray, propensity: np.ndarray, precision: float) -> float:
    """Return the threshold of highest recall whose precision is at least ``precision``.

    Of equal recalls the one of highest precision. Raises InputInvalid where none gets there.
    """
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    precisions, recalls, thresholds = precision_recall_curve(spam, propensity)
    able = np.flatnonzero(precisions[:-1] >= precision)
    if not len(able):
        best = precisions[:-1].max()
        raise InputInvalid(f"--precision {precision}: validation reaches {best:.3f} at most")
    top = able[recalls[able] == recalls[able].max()]
    return float(thresholds[top[-1]])


def recall_at_precision(spam: np.ndarray, propensity: np.ndarray, precision: float) -> float:
    """Return the highest recall at a precision of at least ``precision``; 0 where none is."""
    from sklearn.metrics import precision_recall_curve

    precisions, recalls, _ = precision_recall_curve(spam, propensity)
    return float(recalls[precisions >= precision].max())


def cost(spam: np.ndarray, called: np.ndarray) -> float:
    """Return the cost of errors per 1,000 messages, in units of one spam let through."""
    wrong = FALSE_POSITIVE * (called & ~spam).sum() + FALSE_NEGATIVE * (spam & ~called).sum()
    return float(1000 * wrong / len(spam))


def cost_curve(spam: np.ndarray, propensity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every threshold that changes a decision, rising, and its cost."""
    import numpy as np

    thresholds = np.append(np.unique(propensity), 1.0)
    return thresholds, np.array([cost(spam, propensity >= cut) for cut in thresholds])


def cheapest_threshold(spam: np.ndarray, propensity: np.ndarray) -> float:
    """Return the threshold of least cost, the highest of equals."""
    thresholds, costs = cost_curve(spam, propensity)
    return float(thresholds[costs == costs.min()][-1])


def figures(spam: np.ndarray, propensity: np.ndarray, threshold: float) -> dict[str, float]:
    """Return the figures that the models are compared by."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support

    called = propensity >= threshold
    precision, recall, f1, _ = precision_recall_fscore_support(
        spam, called, average="binary", zero_division=0.0
    )
    return {
        "average_precision": float(average_precision_score(spam, propensity)),
        "recall_at_precision_98": recall_at_precision(spam, propensity, 0.98),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "accuracy": float((called == spam).mean()),
        "cost_per_1000": cost(spam, called),
    }
