"""Trials: one model with one setting on one fold, which all choices are made by.

A search is a race: every setting runs on the first fold, and the best two of a kind on the
others, too. A trial keeps its estimates, so that whatever is asked later is asked of estimates
of districts that the model did not see.

Data:    the training part.
Source:  races: Maron and Moore, The Racing Algorithm, Artificial Intelligence Review 11 (1997).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from .districts import TARGET, income_bin
from .measures import mae
from .models import COMPARED, MODELS, Settings, candidates, estimates, fitted

Trial = dict[str, Any]
FOLDS, SVR_ROWS, SURVIVORS = 3, 2000, 2


def folds(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the places of train and validation rows of each fold, stratified by income."""
    cut = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return list(cut.split(table, np.minimum(income_bin(table), 3)))


def trial(name: str, params: Settings, fold: int, table: pd.DataFrame, seed: int) -> Trial:
    """Fit one model without one fold and estimate the districts in it, to the dollar."""
    fit, held = folds(table)[fold]
    rows = fit[:SVR_ROWS] if name == "support vectors" else fit
    model = fitted(MODELS[name](seed, **params), table.iloc[rows])
    found = estimates(model, table.iloc[held]).round().astype(int).tolist()
    return {"model": name, "params": dict(params), "fold": fold, "estimates": found}


def comparison(table: pd.DataFrame, seed: int, done: list[Trial]) -> Iterator[Trial]:
    """Yield the trials of the comparison, each model on every fold."""
    for name, params in COMPARED:
        for fold in range(FOLDS):
            yield from missing(name, params, fold, table, seed, done)


def remaining(table: pd.DataFrame, seed: int, search: str, done: list[Trial]) -> Iterator[Trial]:
    """Yield every trial that is not among ``done``: the comparison, then the search."""
    yield from comparison(table, seed, done)
    settings = candidates(search, len(table), seed)
    for name, params in settings:
        yield from missing(name, params, 0, table, seed, done)
    for kind in ("extra trees", "boosting"):
        entered = [of(done, name, params) for name, params in settings if name == kind]
        entered.sort(key=lambda runs: rmse_of(runs[:1], table))
        for runs in entered[:SURVIVORS]:
            for fold in range(1, FOLDS):
                yield from missing(kind, runs[0]["params"], fold, table, seed, done)


def missing(
    name: str, params: Settings, fold: int, table: pd.DataFrame, seed: int, done: list[Trial]
) -> Iterator[Trial]:
    """Run a trial unless it is among ``done``, to which its caller adds what is yielded."""
    if not any(run["fold"] == fold for run in of(done, name, params)):
        yield trial(name, params, fold, table, seed)


def of(done: list[Trial], name: str, params: Settings) -> list[Trial]:
    """Return the trials of one model with one setting, by fold."""
    found = [run for run in done if run["model"] == name and run["params"] == dict(params)]
    return sorted(found, key=lambda run: run["fold"])


def rmse_of(runs: list[Trial], table: pd.DataFrame) -> float:
    """Return the RMSE over the folds of some trials, dollars."""
    cut, price = folds(table), table[TARGET].to_numpy(float)
    squares = [(price[cut[run["fold"]][1]] - run["estimates"]) ** 2 for run in runs]
    return float(np.sqrt(np.concatenate(squares).mean()))


def out_of_fold(runs: list[Trial], table: pd.DataFrame) -> np.ndarray:
    """Return the estimate of each training district by models that did not see it, (n,)."""
    found = np.full(len(table), np.nan)
    for run in runs:
        found[folds(table)[run["fold"]][1]] = run["estimates"]
    return found


def winner(done: list[Trial], name: str, table: pd.DataFrame) -> list[Trial]:
    """Return the trials of a model's best setting among those measured on every fold."""
    settings = [run["params"] for run in done if run["model"] == name and run["fold"] == FOLDS - 1]
    entered = [of(done, name, params) for params in settings]
    return min(entered, key=lambda runs: rmse_of(runs, table))


def best_weight(boosted: np.ndarray, grown: np.ndarray, price: np.ndarray) -> float:
    """Return the weight of ``boosted`` beside ``grown`` of least RMSE, in steps of 0.05."""
    steps = np.arange(21) / 20
    errors = [((w * boosted + (1 - w) * grown - price) ** 2).mean() for w in steps]
    return float(steps[int(np.argmin(errors))])


def compared(done: list[Trial], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return RMSE, spread between folds and MAE of each model of the comparison."""
    rows = []
    price = table[TARGET].to_numpy(float)
    for name, params in COMPARED:
        runs = of(done, name, params)
        found = out_of_fold(runs, table)
        settings = ", ".join(f"{key} {value}" for key, value in params.items())
        rows.append(
            {
                "model": f"{name} ({settings})" if settings else name,
                "RMSE": round(rmse_of(runs, table)),
                "spread": round(float(np.std([rmse_of([r], table) for r in runs]))),
                "MAE": round(mae(price, found)),
            }
        )
    return sorted(rows, key=lambda row: row["RMSE"])


def searched(done: list[Trial], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the settings that were searched with their RMSE on the folds they were tried on."""
    rows = []
    for first in (one for one in done if one["fold"] == 0):
        if (first["model"], first["params"]) in COMPARED:
            continue
        runs = of(done, first["model"], first["params"])
        settings = ", ".join(f"{key} {value}" for key, value in first["params"].items())
        rows.append(
            {
                "kind": first["model"],
                "settings": settings,
                "RMSE": round(rmse_of([first], table)),
                "all folds": round(rmse_of(runs, table)) if len(runs) > 1 else None,
            }
        )
    return sorted(rows, key=lambda row: row["RMSE"])
