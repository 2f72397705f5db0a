"""The models that are compared, their grids, and how each is tuned and measured.

Data:    frames of `columns.expanded`: floats with NaN, and categories as text.
Source:  elastic net: Zou and Hastie, JRSS B 2005; grids in steps of ten around a standardised
         target, so that one grid fits every table.
"""

from __future__ import annotations

import itertools
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import columns
from .tables import Table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

FOLDS = 5
TUNED_ON = 4000
"""Rows that settings are tuned on; the chosen ones are fitted on all."""
WIDEST = 40
"""Floats up to which products of two are tried."""
REFERENCE, GUESS = "forest, for reference", "constant guess"
GRIDS: dict[str, dict[str, dict[str, list[Any]]]] = {
    "regression": {
        GUESS: {},
        "least squares": {},
        "ridge": {"alpha": [0.1, 1.0, 10.0, 100.0, 1000.0]},
        "lasso": {"alpha": [0.0003, 0.001, 0.003, 0.01, 0.03]},
        "elastic net": {"alpha": [0.0003, 0.001, 0.003, 0.01, 0.03], "l1_ratio": [0.2, 0.8]},
        "SGD": {"alpha": [0.0001, 0.001, 0.01]},
        "ridge on products": {"alpha": [1.0, 10.0, 100.0, 1000.0]},
        REFERENCE: {},
    },
    "classification": {
        GUESS: {},
        "logistic": {"C": [0.01, 0.1, 1.0, 10.0]},
        "logistic, one against the rest": {"estimator__C": [0.1, 1.0]},
        "SGD": {"alpha": [0.001, 0.01, 0.1]},
        "logistic on products": {"C": [0.001, 0.01, 0.1]},
        REFERENCE: {},
    },
}


def estimator(name: str, task: str, seed: int) -> BaseEstimator:
    """Return an unfitted model of one name."""
    from sklearn import dummy, ensemble, linear_model, multiclass

    forest = {"n_estimators": 100, "min_samples_leaf": 2, "random_state": seed}
    if task == "regression":
        made = {
            GUESS: dummy.DummyRegressor,
            "least squares": linear_model.LinearRegression,
            "ridge": linear_model.Ridge,
            "lasso": lambda: linear_model.Lasso(precompute=True, max_iter=5000),
            "elastic net": lambda: linear_model.ElasticNet(precompute=True, max_iter=5000),
            "SGD": lambda: linear_model.SGDRegressor(
                eta0=0.002, max_iter=200, tol=1e-4, random_state=seed),
            "ridge on products": linear_model.Ridge,
            REFERENCE: lambda: ensemble.RandomForestRegressor(max_features=0.4, **forest),
        }  # fmt: skip
        return made[name]()
    logistic = {"max_iter": 1000, "tol": 1e-4}
    made = {
        GUESS: lambda: dummy.DummyClassifier(strategy="prior"),
        "logistic": lambda: linear_model.LogisticRegression(**logistic),
        "logistic, one against the rest": lambda: multiclass.OneVsRestClassifier(
            linear_model.LogisticRegression(**logistic)),
        "SGD": lambda: linear_model.SGDClassifier(
            loss="log_loss", max_iter=200, tol=1e-4, random_state=seed),
        "logistic on products": lambda: linear_model.LogisticRegression(**logistic),
        REFERENCE: lambda: ensemble.RandomForestClassifier(**forest),
    }  # fmt: skip
    return made[name]()


def candidates(table: Table) -> list[str]:
    """Return the models that a table can have."""
    left_out = (
        set() if len(table.kinds[0]) <= WIDEST else {"ridge on products", "logistic on products"}
    )
    if len(table.classes) < 3:
        left_out.add("logistic, one against the rest")
    return [name for name in GRIDS[table.task] if name not in left_out]


def features(table: Table, degree: int = 1) -> Pipeline:
    """Return what turns expanded rows into a design: imputed, unskewed, standardised, one-hot.

    Numbers get their median where missing, and a flag that they were; a skewed one that is never
    negative its log(1 + x). ``degree`` 2 adds squares and products of numbers.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import (
        FunctionTransformer,
        OneHotEncoder,
        PolynomialFeatures,
        StandardScaler,
    )

    (floats, texts), skewed, rows = table.kinds, table.skewed, table.rows("train")
    even = [name for name in floats if name not in skewed]
    log = FunctionTransformer(columns.logged, feature_names_out="one-to-one")
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    unskewed = ColumnTransformer(
        [("even", fill, even), ("skewed", make_pipeline(fill, log), skewed)],
        verbose_feature_names_out=False,
    )
    powers = [PolynomialFeatures(degree, include_bias=False)] if degree > 1 else []
    numbers = make_pipeline(
        unskewed, StandardScaler(), *powers, *([StandardScaler()] * len(powers))
    )
    gaps = [name for name in floats if rows[name].isna().any()]
    hot = OneHotEncoder(handle_unknown="ignore", min_frequency=5, max_categories=columns.LEVELS,
                        sparse_output=False)  # fmt: skip
    flags = SimpleImputer(strategy="constant", fill_value=0, add_indicator=True)
    parts = [("number", numbers, floats), ("category", hot, texts)]
    return ColumnTransformer(
        parts + ([("missing", make_pipeline(flags, last(len(gaps))), gaps)] if gaps else []),
        verbose_feature_names_out=False,
    )


def last(number: int) -> BaseEstimator:
    """Return what keeps the last columns of an imputer: its flags."""
    from sklearn.compose import ColumnTransformer

    keep = slice(-number, None)
    return ColumnTransformer([("flags", "passthrough", keep)], verbose_feature_names_out=False)


def degree_of(name: str) -> int:
    """Return the degree of the numbers in a model's design."""
    return 2 if name.endswith("products") else 1


def model(table: Table, name: str, seed: int, log: bool) -> Pipeline:
    """Return an unfitted model of expanded rows."""
    from sklearn.pipeline import Pipeline

    inner = Pipeline([
        ("features", features(table, degree_of(name))), ("fit", estimator(name, table.task, seed))
    ])  # fmt: skip
    return scaled_target(inner, log) if table.task == "regression" else inner


def scaled_target(inner: BaseEstimator, log: bool) -> BaseEstimator:
    """Return a regression of the standardised target, so that penalties mean the same everywhere.

    With ``log`` of log(1 + target): for amounts that err by shares rather than by units.
    """
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    unlog = FunctionTransformer(columns.logged, columns.unlogged, check_inverse=False)
    scale = make_pipeline(*([unlog] if log else []), StandardScaler())
    return TransformedTargetRegressor(inner, transformer=scale, check_inverse=False)


def sampled(table: Table, seed: int, most: int = TUNED_ON) -> tuple[pd.DataFrame, np.ndarray]:
    """Return at most so many training rows with their targets."""
    import numpy as np

    rows, target = table.rows("train"), table.targets("train")
    order = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
    return rows.iloc[order], target[order]


def folds(table: Table, seed: int, number: int = FOLDS) -> Any:
    """Return the cut of the training rows for cross-validation; classes in equal shares."""
    from sklearn.model_selection import KFold, StratifiedKFold

    kind = KFold if table.task == "regression" else StratifiedKFold
    return kind(number, shuffle=True, random_state=seed)


class Tuning:
    """Cross-validation of one table: the design of each fold is made once for all settings."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table, self.seed = table, seed
        self.rows, self.target = sampled(table, seed)
        self.cuts = list(folds(table, seed).split(self.rows, self.target))
        self.designs: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self.log = self._wants_log()

    def design(self, degree: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return of each fold the design of its training and of its left-out rows."""
        if degree not in self.designs:
            self.designs[degree] = []
            for fit, left_out in self.cuts:
                made = features(self.table, degree).fit(self.rows.iloc[fit])
                pair = made.transform(self.rows.iloc[fit]), made.transform(self.rows.iloc[left_out])
                self.designs[degree].append(pair)
        return self.designs[degree]

    def losses(self, name: str, settings: Mapping[str, Any], log: bool) -> list[float]:
        """Return the loss of each fold: the RMSE, or the log loss of classes."""
        told = {"model": name, "settings": settings, "log": log}
        pairs = zip(self.cuts, self.design(degree_of(name)), strict=True)
        return [
            losses_of(self.table, told, self.seed, designs, [self.target[part] for part in cut])[1]
            for cut, designs in pairs
        ]

    def _wants_log(self) -> bool:
        """Tell whether ridge regression errs less by the log of a skewed target."""
        if self.table.task != "regression" or not long_tailed(self.target):
            return False
        return sum(self.losses("ridge", {}, True)) < sum(self.losses("ridge", {}, False))

    def best(self, name: str) -> dict[str, Any]:
        """Return the settings of least mean loss over the folds, from the whole grid."""
        with patient():
            log = self.log and name != GUESS
            tried = [(self.losses(name, settings, log), settings)
                     for settings in settings_of(GRIDS[self.table.task][name])]  # fmt: skip
        losses, settings = min(tried, key=lambda one: sum(one[0]))
        return {
            "table": self.table.name, "model": name, "settings": dict(settings), "log": log,
            "loss": statistics.mean(losses), "spread": statistics.pstdev(losses),
            "tried": len(tried),
        }  # fmt: skip


def long_tailed(target: np.ndarray) -> bool:
    """Tell whether targets are never negative and skewed to the right."""
    from scipy.stats import skew

    return bool(target.min() >= 0 and skew(target) >= 0.5)


def settings_of(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's values."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def losses_of(
    table: Table, told: Mapping[str, Any], seed: int,
    designs: Sequence[np.ndarray], targets: Sequence[np.ndarray],
) -> list[float]:  # fmt: skip
    """Fit a model on the first design and return its loss there and on the second."""
    import numpy as np
    from sklearn.metrics import log_loss, root_mean_squared_error

    made = estimator(told["model"], table.task, seed).set_params(**told["settings"])
    pairs = list(zip(designs, targets, strict=True))
    with patient():
        if table.task == "regression":
            made = scaled_target(made, told["log"]).fit(designs[0], targets[0])
            return [float(root_mean_squared_error(aim, made.predict(rows))) for rows, aim in pairs]
        made.fit(designs[0], targets[0])
    known = np.searchsorted(table.classes, made.classes_.astype(str))
    found = []
    for rows, aim in pairs:
        chances = np.zeros((len(aim), len(table.classes)))
        chances[:, known] = made.predict_proba(rows)
        found.append(float(log_loss(aim, chances, labels=table.classes)))
    return found


def fit(table: Table, chosen: Mapping[str, Any], seed: int) -> Pipeline:
    """Fit a model with the settings that `Tuning.best` chose on all training rows."""
    made = model(table, chosen["model"], seed, chosen["log"])
    inner = made.regressor if table.task == "regression" else made
    inner.named_steps["fit"].set_params(**chosen["settings"])
    with patient():
        return made.fit(table.rows("train"), table.targets("train"))


@contextmanager
def patient() -> Iterator[None]:
    """Let a search try settings that do not converge in time: their score tells it."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def served(table: Table, fitted: Pipeline) -> Pipeline:
    """Return a model of raw rows: the table's plan comes first and is saved with it."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    told = {"plan": table.plan, "crosses": table.crosses}
    return Pipeline([("columns", FunctionTransformer(columns.expanded, kw_args=told)),
                     ("model", fitted)])  # fmt: skip


def plan_of(model: Pipeline) -> columns.Plan:
    """Return the plan of the columns that a served model was trained on."""
    return model.named_steps["columns"].kw_args["plan"]  # type: ignore[no-any-return]


def figures(task: str, target: np.ndarray, fitted: Any, rows: pd.DataFrame) -> dict[str, float]:
    """Return the figures of a fitted model on rows that it has not seen."""
    import numpy as np
    from sklearn import metrics

    called = fitted.predict(rows)
    if task == "regression":
        found = {
            "rmse": metrics.root_mean_squared_error(target, called),
            "r2": metrics.r2_score(target, called),
            "mae": metrics.mean_absolute_error(target, called),
        }
        if target.min() >= 0:
            shares = np.log1p(np.maximum(called, 0)) - np.log1p(target)
            found["rmsle"] = np.sqrt(np.mean(shares**2))
        return {name: float(value) for name, value in found.items()}
    chances = fitted.predict_proba(rows)
    labels = list(fitted.classes_)
    truth = chances[:, 1] if len(labels) == 2 else chances
    return {
        "accuracy": float(np.mean(called == target)),
        "f1": float(metrics.f1_score(target, called, average="macro")),
        "auc": float(metrics.roc_auc_score(target, truth, multi_class="ovr", labels=labels)),
        "log_loss": float(metrics.log_loss(target, chances, labels=labels)),
    }


def weights(fitted: Any) -> list[tuple[str, float]]:
    """Return features with their weights, largest first; of several classes the mean size.

    Features are standardised, so sizes compare; of a forest they are its importances.
    """
    import numpy as np

    inner = getattr(fitted, "regressor_", fitted)
    names = inner.named_steps["features"].get_feature_names_out()
    fit = inner.named_steps["fit"]
    if hasattr(fit, "estimators_") and not hasattr(fit, "feature_importances_"):
        values = np.abs([part.coef_[0] for part in fit.estimators_]).mean(axis=0)
    elif hasattr(fit, "feature_importances_"):
        values = fit.feature_importances_
    elif hasattr(fit, "coef_"):
        values = np.atleast_2d(fit.coef_)
        values = values[0] if len(values) == 1 else np.abs(values).mean(axis=0)
    else:
        return []
    pairs = zip(names, np.ravel(values), strict=True)
    return sorted(((str(name), float(value)) for name, value in pairs), key=lambda p: -abs(p[1]))
