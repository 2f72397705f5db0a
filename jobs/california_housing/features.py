"""What the models see of a district: combined columns, place, and the districts around it.

Counts alone say how large a district is; their ratios say how people live. Prices follow coasts
and valleys that run aslant, so trees are given the coordinates turned by several angles, and the
means of the nearest training districts' columns (never of their prices, so that nothing leaks).

Data:    tables with the columns of `District`.
Source:  combined columns and similarity to centres: Géron, Hands-On Machine Learning, chapter 2;
         turned axes: Rodríguez, Kuncheva and Alonso, Rotation Forest, IEEE TPAMI 28 (2006).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
)

from .districts import NUMBERS

PLACE = ["longitude", "latitude"]
COUNTS = ["total_rooms", "total_bedrooms", "population", "households"]
OTHERS = ["housing_median_age", "median_income"]
CLASSES = [["INLAND", "<1H OCEAN", "NEAR BAY", "NEAR OCEAN", "ISLAND"]]
SCALERS = {"standard": StandardScaler, "min-max": MinMaxScaler}
ANGLES = (15, 30, 45, 60, 75, 105, 120, 135, 150, 165)
KM_PER_DEGREE, MIDDLE = 111.2, 36.0


def kilometres(places: Any) -> np.ndarray:
    """Return longitudes and latitudes (n, 2) as kilometres east and north, about California."""
    east = KM_PER_DEGREE * np.cos(np.radians(MIDDLE))
    return np.asarray(places, float) * (east, KM_PER_DEGREE)


def combined(table: pd.DataFrame) -> np.ndarray:
    """Return rooms, bedrooms and people by household or room, (n, 4); unknown stays NaN."""
    people, rooms = table["population"], table["total_rooms"]
    return np.column_stack(
        [
            rooms / table["households"],
            people / table["households"],
            people / rooms,
            table["total_bedrooms"] / rooms,
        ]
    )


def turned(places: pd.DataFrame) -> np.ndarray:
    """Return the position along axes turned by ANGLES, (n, 10) kilometres."""
    angles = np.radians(ANGLES)
    return kilometres(places) @ np.array([np.cos(angles), np.sin(angles)])


class ClusterSimilarity(TransformerMixin, BaseEstimator):
    """Similarity of places to centres of settlement: exp(-d^2 / (2 width^2)), d in kilometres.

    The centres are those of k-means over the training districts.
    """

    def __init__(self, clusters: int = 10, width: float = 60.0, random_state: int = 0) -> None:
        self.clusters = clusters
        self.width = width
        self.random_state = random_state

    def fit(self, places: pd.DataFrame, price: Any = None) -> Self:
        """Find the centres; ``price`` is not looked at."""
        number = min(self.clusters, len(places))
        found = KMeans(number, n_init=3, random_state=self.random_state).fit(kilometres(places))
        self.centres_ = found.cluster_centers_
        return self

    def transform(self, places: pd.DataFrame) -> np.ndarray:
        """Return the similarities, (n, clusters) in [0, 1]."""
        apart = kilometres(places)[:, None, :] - self.centres_[None]
        return np.exp(-(apart**2).sum(axis=2) / (2 * self.width**2))


class Neighbourhood(TransformerMixin, BaseEstimator):
    """Means of the nearest training districts' columns, and how far away they are.

    A training district is no neighbour of its own.
    """

    def __init__(self, sizes: tuple[int, ...] = (5, 15, 50)) -> None:
        self.sizes = sizes

    def fit(self, table: pd.DataFrame, price: Any = None) -> Self:
        """Keep the districts; ``price`` is not looked at."""
        self.columns_ = self._columns(table)
        search = NearestNeighbors(algorithm="kd_tree")
        self.nearest_ = search.fit(kilometres(table[PLACE]))
        return self

    def fit_transform(self, table: pd.DataFrame, price: Any = None) -> np.ndarray:
        """Return what `transform` does, each district left out of its own neighbourhood."""
        self.fit(table)
        return self._means(None)

    def transform(self, table: pd.DataFrame) -> np.ndarray:
        """Return means and distances for each size of neighbourhood, (n, 6 sizes)."""
        return self._means(kilometres(table[PLACE]))

    def _columns(self, table: pd.DataFrame) -> np.ndarray:
        homes = table["households"]
        return np.column_stack(
            [
                table[OTHERS],
                table["total_rooms"] / homes,
                table["population"] / homes,
                np.log(homes),
            ]
        )

    def _means(self, places: np.ndarray | None) -> np.ndarray:
        known = len(self.columns_) - (places is None)
        distances, numbers = self.nearest_.kneighbors(places, min(max(self.sizes), known))
        parts = []
        for size in self.sizes:
            parts += [self.columns_[numbers[:, :size]].mean(axis=1), distances[:, :size][:, -1:]]
        return np.hstack(parts)


def scaled(scaler: str, seed: int) -> ColumnTransformer:
    """Return columns imputed, combined and scaled, for models to which scales matter."""
    rescale = SCALERS[scaler]
    median = SimpleImputer(strategy="median")
    logarithm = FunctionTransformer(np.log)
    return ColumnTransformer(
        [
            ("counts", make_pipeline(median, logarithm, rescale()), COUNTS),
            ("others", make_pipeline(median, rescale()), OTHERS),
            ("combined", make_pipeline(FunctionTransformer(combined), median, rescale()), COUNTS),
            ("similarity", ClusterSimilarity(random_state=seed), PLACE),
            ("ocean", OneHotEncoder(categories=CLASSES), ["ocean_proximity"]),
        ]
    )


def for_trees(around: bool) -> ColumnTransformer:
    """Return columns for trees, which split at missing values and need no scale.

    ``around`` adds the neighbourhood.
    """
    neighbourhood = [("around", Neighbourhood(), list(NUMBERS))] if around else []
    return ColumnTransformer(
        [
            ("numbers", "passthrough", list(NUMBERS)),
            ("combined", FunctionTransformer(combined), COUNTS),
            ("turned", FunctionTransformer(turned), PLACE),
            ("ocean", OrdinalEncoder(categories=CLASSES), ["ocean_proximity"]),
            *neighbourhood,
        ]
    )


def chosen(columns: ColumnTransformer, number: int | None, seed: int) -> Pipeline:
    """Return columns of which only the ``number`` most important to a small forest are kept."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.feature_selection import SelectFromModel

    if number is None:
        return make_pipeline(columns)
    judge = RandomForestRegressor(20, min_samples_leaf=5, max_features=0.5, random_state=seed)
    return make_pipeline(columns, SelectFromModel(judge, threshold=-np.inf, max_features=number))
