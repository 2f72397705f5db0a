"""Say in words what the figures of a run mean; every sentence is made of what was measured.

Data:    the rows of the comparison and what the studies found.
Source:  Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, chapters 3, 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .models import GUESS, REFERENCE
from .tables import Table

CLOSE = 0.01
"""Of R2 or accuracy: a smaller difference is not told apart on one held-out split."""


def of_models(table: Table, rows: Sequence[Mapping[str, Any]], best: str) -> str:
    """Tell which model is better or worse and what that says of the table."""
    metric, told = ("r2", "R2") if table.task == "regression" else ("accuracy", "accuracy")
    value = {row["model"]: row[metric] for row in rows}
    plain = "least squares" if table.task == "regression" else "logistic"
    parts = [
        f"{table.name}: {best!r} was chosen by cross-validation and reaches {told} "
        f"{value[best]:.3f} on {len(table.test)} held-out rows; a constant guess has "
        f"{value[GUESS]:.3f}."
    ]
    products = next((value[name] for name in value if name.endswith("products")), None)
    if products is not None:
        gain = products - value[plain]
        parts.append(
            f"Products of features give {gain:+.3f} over {plain!r}: "
            + ("effects depend on one another" if gain > CLOSE
               else "they add more noise than knowledge" if gain < -CLOSE
               else "effects add up, a plain sum will do") + "."
        )  # fmt: skip
    shrunk = [name for name in ("ridge", "lasso", "elastic net") if name in value]
    if shrunk:
        gain = max(value[name] for name in shrunk) - value[plain]
        parts.append(
            f"Shrinkage gives {gain:+.3f}: "
            + ("the features are many or alike for the rows there are" if gain > CLOSE
               else "there are rows enough for the plain fit") + "."
        )  # fmt: skip
    if REFERENCE in value:
        gap = value[REFERENCE] - value[best]
        parts.append(
            f"A forest, which bends freely, is {abs(gap):.3f} "
            + ("better: there are thresholds and bends that no linear model of these features sees"
               if gap > CLOSE else "worse: nothing is lost by a model that can be read"
               if gap < -CLOSE else "off: a model that can be read loses nothing") + "."
        )  # fmt: skip
    return " ".join(parts)


def of_degrees(found: Mapping[str, Any]) -> str:
    """Tell how degree and overfit go together."""
    plain, ridge = found["least squares"], found["ridge"]
    best = int(plain[:, 1].argmin())
    return (
        f"Degree against overfit, on {found['rows']} rows and {len(found['names'])} features: on "
        f"rows left out least squares errs least at degree {best + 1} (RMSE {plain[best, 1]:.3g}). "
        f"From degree 1 to 6 its error on the fitted rows falls from {plain[0, 0]:.3g} to "
        f"{plain[-1, 0]:.3g}, on rows left out it goes from {plain[0, 1]:.3g} to "
        f"{plain[-1, 1]:.3g}: past degree {best + 1} it learns the noise. Ridge keeps degree 6 at "
        f"{ridge[-1, 1]:.3g}."
    )


def of_parts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tell what bias and variance say."""
    value = {row["model"]: row for row in rows}
    plain, tree = value["least squares"], value["deep tree"]
    return (
        f"Bias and variance over {len(rows)} kinds of model: least squares varies by "
        f"{plain['variance']:.3f} of the target's variance from sample to sample, "
        f"{plain['variance'] / plain['error']:.0%} of its error; a deep tree by "
        f"{tree['variance']:.3f}, {tree['variance'] / tree['error']:.0%} of its error. "
        + ("More features or products can pay: its error is bias and noise."
           if plain["variance"] < plain["error"] / 5 else
           "More rows or shrinkage pay more than further features.")
    )  # fmt: skip


def of_use(table: Table, figures: Mapping[str, float], guess: Mapping[str, float]) -> str:
    """Tell what the model is good enough for."""
    if table.task == "regression":
        cut = 1 - figures["rmse"] / guess["rmse"]
        single = (
            f"a single prediction of {table.target!r} is off by {figures['mae']:.3g} on average, "
            f"{cut:.0%} less than without a model"
        )
        sure = figures["r2"]
    else:
        wrong, idle = 1 - figures["accuracy"], 1 - guess["accuracy"]
        single = f"{wrong:.1%} of single calls are wrong, of a constant guess {idle:.1%}"
        sure = figures["auc"]
    good = (
        "single decisions that tolerate this error, planning and what-if questions" if sure >= 0.8
        else "ranking, screening and to see what moves the target; not for single decisions"
        if sure >= 0.3 else "a baseline only: other features are needed first"
    )  # fmt: skip
    return f"Use of {table.name}: {single}. That is enough for {good}."
