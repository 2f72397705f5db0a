"""The models that are compared, the settings that are tried, and the estimate with its interval.

Every pipeline takes a table of `District` and answers in dollars. Trees of the extremely
randomised kind and of gradient boosting err in different ways, so a weighted mean of both is
better than each; its weight comes from estimates made out of fold.

Data:    the training part, with its folds.
Source:  random forest: Breiman, 2001; extremely randomised trees: Geurts, Ernst and Wehenkel, 2006;
         histogram boosting: Ke et al., LightGBM, NeurIPS 2017; intervals: Vovk, Gammerman and
         Shafer, Algorithmic Learning in a Random World, 2005 (Mondrian conformal prediction).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from joblib import cpu_count, parallel_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from . import features
from .districts import CAP, FEATURES, TARGET

Settings = Mapping[str, Any]

FLOOR = 14_999.0
"""What the census wrote for every price below 15,000 dollars."""

BOOSTERS = 3
SEARCHES = {"least": 4, "quick": 6, "full": 60}
"""Random settings of boosting that are tried."""

SMALL = 5000
"""Districts below which only the least is searched: so few do not tell settings apart."""


def on_logarithm(regressor: Any) -> TransformedTargetRegressor:
    """Return a regressor that learns the logarithm of the price: errors count by share."""
    return TransformedTargetRegressor(regressor, func=np.log, inverse_func=np.exp)


def linear(seed: int, scaler: str = "standard") -> Pipeline:
    """Linear regression on scaled columns."""
    return make_pipeline(features.scaled(scaler, seed), LinearRegression())


def support_vectors(seed: int, scaler: str = "standard", c: float = 3.0) -> Pipeline:
    """Support vector regression of the log price, with a radial kernel, on 2,000 districts."""
    machine = on_logarithm(SVR(C=c, epsilon=0.1))
    return make_pipeline(features.scaled(scaler, seed), machine)


def tree(seed: int, leaf: int = 10) -> Pipeline:
    """One decision tree."""
    regressor = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=seed)
    return make_pipeline(features.scaled("standard", seed), regressor)


def forest(seed: int, columns: int | None = None) -> Pipeline:
    """Random forest, on all columns or on the most important ones."""
    kept = features.chosen(features.scaled("standard", seed), columns, seed)
    regressor = RandomForestRegressor(100, max_features=0.6, min_samples_leaf=2, random_state=seed)
    return make_pipeline(*(step for _, step in kept.steps), regressor)


def extra_trees(seed: int, max_features: float = 0.7, leaf: int = 3) -> Pipeline:
    """Extremely randomised trees of the log price."""
    regressor = ExtraTreesRegressor(
        60, max_features=max_features, min_samples_leaf=leaf, random_state=seed
    )
    return make_pipeline(features.for_trees(around=False), on_logarithm(regressor))


def boosting(
    seed: int,
    around: bool = True,
    rounds: int = 200,
    rate: float = 0.1,
    leaves: int = 31,
    max_features: float = 0.4,
    leaf: int = 20,
    l2: float = 5.0,
) -> Pipeline:
    """Gradient boosting over histograms."""
    regressor = HistGradientBoostingRegressor(
        max_iter=rounds, learning_rate=rate, max_leaf_nodes=leaves, max_features=max_features,
        min_samples_leaf=leaf, l2_regularization=l2, early_stopping=False, random_state=seed,
    )  # fmt: skip
    return make_pipeline(features.for_trees(around), regressor)


MODELS: dict[str, Callable[..., Pipeline]] = {
    "linear": linear,
    "support vectors": support_vectors,
    "tree": tree,
    "forest": forest,
    "extra trees": extra_trees,
    "boosting": boosting,
}
COMPARED: tuple[tuple[str, Settings], ...] = (
    ("linear", {"scaler": "standard"}),
    ("linear", {"scaler": "min-max"}),
    ("support vectors", {"scaler": "standard"}),
    ("support vectors", {"scaler": "min-max"}),
    ("tree", {}),
    ("forest", {}),
    ("forest", {"columns": 8}),
    ("extra trees", {}),
    ("boosting", {"around": False}),
    ("boosting", {}),
)
GRID = {"max_features": (0.4, 0.7), "leaf": (3, 5)}
RANDOM = {
    "rounds": (600,),
    "rate": (0.03, 0.04, 0.06, 0.08),
    "leaves": (23, 31, 47, 63),
    "max_features": (0.15, 0.25, 0.4, 0.6),
    "leaf": (5, 10, 20, 30),
    "l2": (0.0, 1.0, 5.0, 20.0),
}

FEW = RANDOM | {
    "rounds": (200,),
    "rate": (0.06, 0.08),
    "leaves": (5, 7),
    "leaf": (20,),
    "around": (False, True),
}
"""For few districts: small trees."""


def candidates(search: str, districts: int, seed: int) -> list[tuple[str, Settings]]:
    """Return the settings to search: a grid for extra trees, random ones for boosting."""
    ranges, grid = RANDOM, GRID
    if districts < SMALL:
        search, ranges, grid = "least", FEW, GRID | {"leaf": (5,)}
    drawn = ParameterSampler(ranges, SEARCHES[search], random_state=seed)
    grown = [("extra trees", dict(params)) for params in ParameterGrid(grid)]
    return grown + [("boosting", dict(params)) for params in drawn]


def fitted(model: Any, table: pd.DataFrame) -> Any:
    """Fit a model on all cores; it predicts on one, because the order of a sum is part of it."""
    with parallel_config("threading", n_jobs=cpu_count()):
        return model.fit(table[list(FEATURES)], table[TARGET].to_numpy(float))


def estimates(model: Any, table: pd.DataFrame) -> np.ndarray:
    """Return estimated prices, (n,) dollars between FLOOR and CAP."""
    return np.clip(model.predict(table[list(FEATURES)]), FLOOR, CAP)


def blend(boosted: Settings, grown: Settings, weight: float, seed: int) -> VotingRegressor:
    """Return the weighted mean of three boosted models of different seeds and extra trees."""
    members = [(f"boosting {n}", boosting(seed + n, **boosted)) for n in range(BOOSTERS)]
    weights = [weight / BOOSTERS] * BOOSTERS + [1 - weight]
    return VotingRegressor([*members, ("extra trees", extra_trees(seed, **grown))], weights=weights)


class Appraiser(RegressorMixin, BaseEstimator):
    """A regressor of prices with an interval that holds the true price in 9 of 10 districts.

    The interval is conformal: the 0.9 quantile of the relative error of estimates out of fold,
    by band of the estimate, because dear districts are estimated less well.
    """

    def __init__(self, estimator: Any, coverage: float = 0.9, bands: int = 5) -> None:
        self.estimator = estimator
        self.coverage = coverage
        self.bands = bands

    def fit(self, table: pd.DataFrame, price: np.ndarray) -> Self:
        """Fit the regressor; `calibrate` makes the interval."""
        self.estimator_ = self.estimator.fit(table, price)
        return self

    def calibrate(self, estimated: np.ndarray, price: np.ndarray) -> Self:
        """Set the width of each band from estimates of districts that were not fitted."""
        shares = np.arange(1, self.bands) / self.bands
        self.edges_ = np.quantile(estimated, shares)
        off = np.abs(np.log(price / estimated))
        band = np.digitize(estimated, self.edges_)
        self.widths_ = np.array(
            [conformal_quantile(off[band == n], self.coverage) for n in range(self.bands)]
        )
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Return estimated prices, (n,) dollars."""
        return np.clip(self.estimator_.predict(table), FLOOR, CAP)

    def interval(self, estimated: np.ndarray) -> np.ndarray:
        """Return the ends of the interval about each estimate, (n, 2) dollars."""
        factor = np.exp(self.widths_[np.digitize(estimated, self.edges_)])
        ends = np.column_stack([estimated / factor, estimated * factor])
        return np.clip(ends, FLOOR, CAP)


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest of n scores, the largest where n is small."""
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])
