"""What the models are seen to do: convergence, overfit, shrinkage, bias and variance, calibration.

Every study works on training rows, and what it measures on rows that were left out of the fit.

Data:    a `tables.Table`; at most `FEW` of its training rows.
Source:  bias and variance by bootstrap: Domingos, ICML 2000; calibration error: Naeini, Cooper and
         Hauskrecht, AAAI 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import descent, models
from .tables import Table

if TYPE_CHECKING:
    import numpy as np

FEW = 1500
EPOCHS = 60
GAP = 1e-6
OWN_SHARE = 0.02
"""Of a column: with less, others make it up, and descent along it would take for ever."""
RESAMPLES = 30
Curves = dict[str, "descent.Trace"]


def standardised(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return a design with a first column of ones, independent columns only, and a target.

    Targets are standardised; (n, p), (n,) and the p names.
    """
    import numpy as np

    rows, target = models.sampled(table, seed, FEW)
    made = models.features(table).fit(rows)
    design = np.column_stack([np.ones(len(rows)), made.transform(rows)])
    names = ["intercept", *map(str, made.get_feature_names_out())]
    places = descent.independent(design, OWN_SHARE)
    scaled = (target - target.mean()) / target.std()
    return design[:, places], scaled, [names[place] for place in places]


def convergence(table: Table, seed: int) -> dict[str, Any]:
    """Descend in batches of all, 32 and one row, by four schedules, and with too large a step.

    ``gap`` is the largest difference of a weight of batch descent from the normal equation's.
    """
    import numpy as np

    design, target, _ = standardised(table, seed)
    best = descent.normal_equation(design, target)
    low, high = descent.curvature(design)
    step = {"optimum": best, "seed": seed}
    exact = descent.descend(design, target, rate=2 / (low + high), epochs=10_000,
                            tolerance=GAP / 10 * low, optimum=best)  # fmt: skip
    size = float((design**2).sum(axis=1).mean())  # of a row: what bounds a stochastic step
    modes = {
        "batch: all rows a step": {"rate": 1 / high},
        "mini-batch: 32 rows": {"rate": 0.5 / high, "batch": 32},
        "stochastic: one row": {"rate": 0.2 / size, "batch": 1},
    }
    schedules = {
        name: descent.descend(design, target, rate=0.2 / size, batch=1, epochs=EPOCHS,
                              schedule=schedule, **step)
        for name, schedule in descent.SCHEDULES.items()
    }  # fmt: skip
    return {
        "gap": float(np.abs(exact.weights - best).max()), "epochs": len(exact.loss) - 1,
        "ended": exact.ended, "condition": high / low, "columns": design.shape[1],
        "modes": {name: descent.descend(design, target, epochs=EPOCHS, **how, **step)
                  for name, how in modes.items()},
        "schedules": schedules,
        "too far": descent.descend(design, target, rate=2.1 / high, epochs=400, **step),
    }  # fmt: skip


def diagnostics(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each descent: loss, gradient and distance at its end, and why it ended."""
    schedules = {f"one row, {name}": trace for name, trace in found["schedules"].items()}
    runs = {**found["modes"], **schedules, "step 2.1 / L": found["too far"]}
    return [
        {
            "descent": name, "epochs": len(trace.loss) - 1, "loss": trace.loss[-1],
            "gradient": trace.gradient[-1], "distance to the optimum": trace.distance[-1],
            "ended": trace.ended,
        }
        for name, trace in runs.items()
    ]  # fmt: skip


def least_squares(table: Table, seed: int) -> list[dict[str, Any]]:
    """Return weights with standard errors, t and p values, the surest first."""
    found = descent.inference(*(parts := standardised(table, seed))[:2])
    rows = [
        {"feature": name} | {key: float(values[place]) for key, values in found.items()}
        for place, name in enumerate(parts[2])
    ]
    return sorted(rows, key=lambda row: -abs(row["t"]))


def degrees(table: Table, seed: int) -> dict[str, Any]:
    """Fit polynomials of degree 1 to 6 in the strongest numbers, with and without shrinkage.

    RMSE on the fitted rows and, by cross-validation, on rows left out, in units of the target.
    """
    import numpy as np
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.model_selection import cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rows, target = models.sampled(table, seed, 300)
    names = strongest(table, 4)
    numbers = rows[names].fillna(rows[names].median())
    found: dict[str, Any] = {"names": names, "rows": len(rows), "degrees": list(range(1, 7))}
    for name, kind in {"least squares": LinearRegression(), "ridge": Ridge(10.0)}.items():
        parts = []
        for degree in found["degrees"]:
            fit = make_pipeline(StandardScaler(), PolynomialFeatures(degree, include_bias=False),
                                StandardScaler(), models.scaled_target(kind, False))  # fmt: skip
            scores = cross_validate(fit, numbers, target, cv=models.folds(table, seed),
                                    scoring="neg_root_mean_squared_error",
                                    return_train_score=True)  # fmt: skip
            parts.append([-np.mean(scores[f"{part}_score"]) for part in ("train", "test")])
        found[name] = np.array(parts)
    return found


def strongest(table: Table, number: int) -> list[str]:
    """Return the number columns of the largest squared correlation with target or any class."""
    import numpy as np

    rows, target = table.rows("train"), table.targets("train")
    aims = [target] if table.task == "regression" else [target == name for name in table.classes]
    strength = {}
    for name in table.kinds[0]:
        cells = rows[name].fillna(rows[name].median()).to_numpy()
        if cells.std() > 0:
            strength[name] = max(np.corrcoef(cells, aim.astype(float))[0, 1] ** 2 for aim in aims)
    return sorted(strength, key=lambda name: -strength[name])[:number]


def paths(table: Table, tuning: models.Tuning) -> dict[str, Any]:
    """Return weights and cross-validated error over the penalty, for ridge, lasso and elastic net.

    Of each: penalties (m,), weights (m, p), RMSE of rows left out (m,).
    """
    import numpy as np

    design, target, names = standardised(table, tuning.seed)
    kinds = {
        "ridge": ("ridge", {}, np.logspace(-1, 4.5, 12)),
        "lasso": ("lasso", {}, np.logspace(-3.5, 0, 12)),
        "elastic net": ("elastic net", {"l1_ratio": 0.5}, np.logspace(-3.5, 0, 12)),
    }
    found: dict[str, Any] = {"names": names[1:]}
    with models.patient():
        for label, (name, more, penalties) in kinds.items():
            weights, errors = [], []
            for penalty in penalties:
                settings = {"alpha": float(penalty), **more}
                fit = models.estimator(name, "regression", 0).set_params(**settings)
                weights.append(fit.fit(design[:, 1:], target).coef_)
                errors.append(np.mean(tuning.losses(name, settings, tuning.log)))
            found[label] = penalties, np.array(weights), np.array(errors)
    return found


def learning(table: Table, chosen: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Return the mean loss on rows left out of each model over the number of rows it is fitted on.

    Of three cuts each; the fitted rows' own loss beside it.
    """
    import numpy as np

    rows, target = models.sampled(table, seed, FEW)
    sizes = sorted({int(share * 0.75 * len(rows)) for share in (0.1, 0.2, 0.4, 0.7, 1.0)})
    cuts = [shuffled(target, len(table.classes), [seed, cut]) for cut in range(3)]
    found: dict[str, Any] = {"sizes": sizes}
    for told in chosen:
        losses = np.zeros((len(cuts), len(sizes), 2))
        for number, order in enumerate(cuts):
            out = order[int(0.75 * len(rows)) :]
            for place, size in enumerate(sizes):
                fit = order[:size]
                made = models.features(table, models.degree_of(told["model"])).fit(rows.iloc[fit])
                designs = [made.transform(rows.iloc[part]) for part in (fit, out)]
                losses[number, place] = models.losses_of(
                    table, told, seed, designs, [target[fit], target[out]]
                )
        found[told["model"]] = losses.mean(axis=0)
    return found


def shuffled(target: np.ndarray, classes: int, seed: Sequence[int]) -> np.ndarray:
    """Return rows in random order; of classes the first one of each stands in front."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(target))
    if classes:
        _, firsts = np.unique(target[order].astype(str), return_index=True)
        order = np.concatenate([order[firsts], np.delete(order, firsts)])
    return order


def bias_variance(table: Table, seed: int) -> list[dict[str, Any]]:
    """Split the squared error of models into bias and variance, by fits on bootstrap resamples.

    At a row left out, variance is that of the predictions over the fits; what their mean misses is
    bias squared and noise, which data alone cannot tell apart. In units of the target's variance.
    """
    import numpy as np
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.tree import DecisionTreeRegressor

    rows, target = models.sampled(table, seed, 600)
    half = len(rows) * 2 // 3
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(rows))
    inside, outside = order[:half], order[half:]
    products = 2 if "ridge on products" in models.candidates(table) else 1
    kinds = {
        "constant guess": (1, None), "least squares": (1, LinearRegression()),
        "ridge": (1, Ridge(100.0)),
        **({"least squares on products": (2, LinearRegression()),
            "ridge on products": (2, Ridge(100.0))} if products == 2 else {}),
        "5 neighbours": (1, KNeighborsRegressor(5)),
        "deep tree": (1, DecisionTreeRegressor(random_state=seed)),
    }  # fmt: skip
    designs = {}
    for degree in range(1, products + 1):
        made = models.features(table, degree).fit(rows.iloc[inside])
        designs[degree] = made.transform(rows.iloc[inside]), made.transform(rows.iloc[outside])
    called = {name: np.zeros((RESAMPLES, len(outside))) for name in kinds}
    known = (target - target[inside].mean()) / target[inside].std()
    for number in range(RESAMPLES):
        drawn = chance.integers(0, half, half)
        for name, (degree, kind) in kinds.items():
            fit, out = designs[degree]
            aim = known[inside][drawn]
            called[name][number] = kind.fit(fit[drawn], aim).predict(out) if kind else aim.mean()
    return [
        {
            "model": name,
            "bias_and_noise": float(np.mean((given.mean(axis=0) - known[outside]) ** 2)),
            "variance": float(given.var(axis=0).mean()),
            "error": float(np.mean((given - known[outside]) ** 2)),
        }
        for name, given in called.items()
    ]  # fmt: skip


def early_stopping(table: Table, seed: int) -> tuple[descent.Softmax, float]:
    """Fit softmax regression in NumPy on squares and products until rows left out get worse.

    Returns the fit, and its accuracy on further rows that decided nothing.
    """
    import numpy as np

    rows, target = models.sampled(table, seed, FEW)
    labels = np.searchsorted(table.classes, target.astype(str))
    order = np.random.default_rng(seed).permutation(len(rows))
    fit, held, rest = np.split(order, [len(rows) // 2, len(rows) * 3 // 4])
    degree = 2 if "logistic on products" in models.candidates(table) else 1
    made = models.features(table, degree).fit(rows.iloc[fit])
    design = {n: np.column_stack([np.ones(len(part)), made.transform(rows.iloc[part])])
              for n, part in enumerate((fit, held, rest))}  # fmt: skip
    found = descent.fit_softmax(design[0], labels[fit], (design[1], labels[held]))
    called = found.probabilities(design[2]).argmax(axis=1)
    return found, float(np.mean(called == labels[rest]))


def calibrations(table: Table, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare the chances of classifiers before and after calibration, on rows left out.

    Of each: accuracy, log loss, Brier score, and the expected calibration error of the chance of
    the class that was called, in ten bins of equal width.
    """
    import numpy as np
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.metrics import log_loss
    from sklearn.naive_bayes import GaussianNB

    rows, target = models.sampled(table, seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    fit, out = np.split(order, [len(rows) * 7 // 10])
    made = models.features(table).fit(rows.iloc[fit])
    inside, outside = made.transform(rows.iloc[fit]), made.transform(rows.iloc[out])
    hinge = SGDClassifier(loss="hinge", alpha=0.01, random_state=seed)
    kinds = {
        "logistic": LogisticRegression(max_iter=1000),
        "naive Bayes": GaussianNB(),
        "naive Bayes, isotonic": CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=3),
        "SVM by SGD, sigmoid": CalibratedClassifierCV(hinge, method="sigmoid", cv=3),
    }
    told, curves = [], {}
    scored = {"y_true": target[out], "labels": table.classes}
    truth = np.array(table.classes)[:, None] == target[out].astype(str)
    for name, kind in kinds.items():
        chances = kind.fit(inside, target[fit]).predict_proba(outside)
        surest, right = chances.max(axis=1), np.array(table.classes)[chances.argmax(axis=1)]
        right = right == target[out]
        curves[name] = surest, right
        told.append({
            "model": name, "accuracy": float(right.mean()),
            "log_loss": float(log_loss(y_proba=np.clip(chances, 1e-15, 1), **scored)),
            "brier": float(((chances - truth.T) ** 2).sum(axis=1).mean()),
            "calibration_error": calibration_error(surest, right),
        })  # fmt: skip
    return told, curves


def calibration_error(surest: np.ndarray, right: np.ndarray) -> float:
    """Return the mean gap of confidence and accuracy over ten bins, weighted by their rows."""
    import numpy as np

    bins = np.minimum((surest * 10).astype(int), 9)
    gaps = [abs(surest[bins == n].sum() - right[bins == n].sum()) for n in np.unique(bins)]
    return float(sum(gaps) / len(surest))


def boundaries(table: Table, seed: int) -> dict[str, Any]:
    """Fit classifiers on the two strongest numbers and call every point of a grid.

    Returns the names, the rows, and of each classifier its classes on the grid and its accuracy by
    cross-validation; nothing where the table has fewer than two numbers.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    names = strongest(table, 2)
    if len(names) < 2:
        return {}
    rows, target = models.sampled(table, seed, 600)
    points = rows[names].fillna(rows[names].median()).to_numpy()
    labels = np.searchsorted(table.classes, target.astype(str))
    edges = np.quantile(points, [0.005, 0.995], axis=0)
    margin = 0.05 * (edges[1] - edges[0])
    edges = edges[0] - margin, edges[1] + margin
    across, up = (np.linspace(low, high, 200) for low, high in zip(*edges, strict=True))
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    kinds = {
        "SGD, hinge loss": (1, SGDClassifier(alpha=0.01, random_state=seed)),
        "logistic": (1, LogisticRegression()),
        "logistic, degree 4": (4, LogisticRegression(C=10, max_iter=2000)),
    }
    found: dict[str, Any] = {"names": names, "points": points, "labels": labels,
                             "across": across, "up": up, "called": {}}  # fmt: skip
    with models.patient():
        for name, (degree, kind) in kinds.items():
            fit = make_pipeline(StandardScaler(), PolynomialFeatures(degree, include_bias=False),
                                StandardScaler(), kind)  # fmt: skip
            right = cross_val_score(fit, points, labels, cv=models.folds(table, seed)).mean()
            called = fit.fit(points, labels).predict(grid).reshape(200, 200)
            found["called"][name] = called, float(right)
    return found


def nested(table: Table, seed: int) -> dict[str, float]:
    """Measure the whole procedure, choice included, by cross-validation over all rows.

    In each of five cuts every model is tuned and the best one chosen on the training rows of the
    cut alone, as `train` does, and measured on the rows left out.
    """
    import numpy as np
    import pandas as pd

    every = pd.concat([table.train, table.test], ignore_index=True)
    found = []
    for fit, out in models.folds(table, seed).split(every, every[table.target]):
        part = replace(table, train=every.iloc[fit], test=every.iloc[out])
        tuning = models.Tuning(part, seed)
        names = [name for name in models.candidates(part) if name != models.REFERENCE]
        best = min(map(tuning.best, names), key=lambda told: told["loss"])
        rows, target = part.rows("test"), part.targets("test")
        found.append(models.figures(table.task, target, models.fit(part, best, seed), rows))
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}


def repeated(table: Table, seed: int) -> dict[str, float]:
    """Measure the plain model by repeated cross-validation over all rows: nothing is chosen by it.

    Least squares or logistic regression with the library's penalty; 10 folds three times, and of
    a table of 1,000 rows or more 5 folds five times. Tables over 5,000 rows once.
    """
    import numpy as np
    import pandas as pd

    rows = pd.concat([table.rows("train"), table.rows("test")], ignore_index=True)
    target = np.concatenate([table.targets("train"), table.targets("test")])
    number, times = (10, 3) if len(rows) < 1000 else (5, 5 if len(rows) <= 5000 else 1)
    name = "least squares" if table.task == "regression" else "logistic"
    found: list[dict[str, float]] = []
    for again in range(times):
        for fit, out in models.folds(table, seed * 100 + again, number).split(rows, target):
            made = models.model(table, name, seed, False).fit(rows.iloc[fit], target[fit])
            found.append(models.figures(table.task, target[out], made, rows.iloc[out]))
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]}
