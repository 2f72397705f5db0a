"""The lessons of a run: each study put into the report, with its rows, charts and words.

Data:    the tables that `prepare` wrote and the models that `train` kept.
Source:  see `studies` for what is measured and `summary` for what is said of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slipway import Run, store

from . import charts, models, studies, summary
from .tables import Table

TRUSTED = (
    "jobs.linear_models.columns.expanded",
    "jobs.linear_models.columns.logged",
    "jobs.linear_models.columns.unlogged",
    "numpy.dtype",
)
Tried = list[dict[str, Any]]


def benchmark(run: Run, told: dict[str, Any]) -> Path:
    """Return the folder of a fitted model."""
    return run.out / "benchmarks" / told["table"] / told["model"].replace(" ", "-")


def best_of(tried: Tried, table: Table) -> dict[str, Any]:
    """Return the model of least loss in cross-validation."""
    own = [told for told in tried if told["table"] == table.name]
    return min(own, key=lambda told: told["loss"])


def read_tried(run: Run) -> Tried:
    """Return what `train` tried."""
    found: Tried = json.loads((run.out / "benchmarks/tried.json").read_text("utf-8"))
    return found


def show_tuning(run: Run, table: Table, tried: Tried) -> None:
    """Put the settings that grid search chose into the report, best first."""
    loss = f"RMSE ({table.target})" if table.task == "regression" else "log loss"
    rows = [
        {
            "model": told["model"], f"{loss}, rows left out": told["loss"], "± over folds":
            told["spread"], "chosen": ", ".join(f"{k} {v:g}" for k, v in told["settings"].items()),
            "settings tried": told["tried"],
        }
        for told in sorted(tried, key=lambda told: told["loss"]) if told["table"] == table.name
    ]  # fmt: skip
    log = any(told["log"] for told in tried if told["table"] == table.name)
    more = f", of log(1 + {table.target}), which errs less" if log else ""
    run.table(f"tuning-{table.name}", rows, f"{table.name}: cross-validation{more}")


def compare_models(run: Run, table: Table, tried: Tried) -> None:
    """Measure every model of a table on its held-out rows, and show the best one."""
    rows, target, best = table.rows("test"), table.targets("test"), best_of(tried, table)
    fitted = {told["model"]: store.load(benchmark(run, told), TRUSTED)
              for told in tried if told["table"] == table.name}  # fmt: skip
    seconds = {told["model"]: told["seconds"] for told in tried if told["table"] == table.name}
    began = time.perf_counter()
    plain = {"model": models.REFERENCE, "settings": {}, "log": best["log"]}
    fitted[models.REFERENCE] = models.fit(table, plain, run.seed)
    seconds[models.REFERENCE] = time.perf_counter() - began
    found = {name: models.figures(table.task, target, one, rows) for name, one in fitted.items()}
    run.log(**{f"{table.key}_{name}": value for name, value in found[best["model"]].items()})
    told = [
        {"model": name, **found[name], "seconds to fit": round(seconds[name], 3),
         "weigh most": ", ".join(feature for feature, _ in models.weights(one)[:3])}
        for name, one in fitted.items()
    ]  # fmt: skip
    metric, label = ("r2", "R²") if table.task == "regression" else ("accuracy", "accuracy")
    told.sort(key=lambda row: -row[metric])
    run.table(
        f"comparison-{table.name}", told, f"{table.name}: models on {len(rows)} held-out rows"
    )
    run.note(summary.of_models(table, told, best["model"]))
    run.note(summary.of_use(table, found[best["model"]], found[models.GUESS]))
    show(
        run,
        table,
        "models",
        charts.compared(told, metric, f"{label} on held-out rows", best["model"]),
    )
    called = fitted[best["model"]].predict(rows)
    if table.task == "regression":
        show(run, table, "held-out", charts.against_truth(target, called, table.target))
    else:
        show(run, table, "held-out", charts.confusion(target, called, table.classes))
    if models.weights(fitted[best["model"]]):
        weights = models.weights(fitted[best["model"]])
        told_of = f"the odds of {table.classes[1]!r}" if len(table.classes) == 2 else table.target
        show(run, table, "weights", charts.influence(weights, told_of))


def show(run: Run, table: Table, name: str, figure: Any, told: str = "") -> None:
    """Put a figure of a table into the report."""
    run.figure(f"{name}-{table.name}", figure, f"{table.name}. {told}".strip())


def unit_of(table: Table) -> str:
    """Return the name of a loss with its unit."""
    return f"RMSE ({table.target})" if table.task == "regression" else "log loss (nats)"


def study_descent(run: Run, table: Table, tried: Tried) -> None:
    """Compare descents with the normal equation, and tell the inference of least squares."""
    found = studies.convergence(table, run.seed)
    run.log(descent_gap=found["gap"], descent_epochs=found["epochs"])
    rows = studies.diagnostics(found)
    run.note(
        f"{table.name}: batch descent meets the normal equation to {found['gap']:.1e} after "
        f"{found['epochs']} epochs ({found['ended']}); the condition number of X'X with its "
        f"{found['columns']} columns is {found['condition']:.0f}, so the step may not "
        "pass 2 / L and the flattest way is slow."
    )
    run.table(f"descent-{table.name}", rows, f"{table.name}: convergence, {studies.EPOCHS} epochs")
    show(run, table, "descent", charts.descents(found), "Standardised features and target.")
    show(run, table, "step", charts.blown_up(found), "L is the largest eigenvalue of X'X / n.")
    told = f"{table.name}: least squares, standardised; two-sided p of t"
    run.table(f"inference-{table.name}", studies.least_squares(table, run.seed)[:15], told)


def study_learning(run: Run, table: Table, tried: Tried) -> None:
    """Show the loss of each model over the rows it is fitted on."""
    chosen = [
        told for told in tried if told["table"] == table.name and told["model"] != models.GUESS
    ]
    found = studies.learning(table, chosen, run.seed)
    show(run, table, "learning", charts.learned(found, unit_of(table)), "Mean of three cuts.")
    sizes = [f"{size} rows" for size in found.pop("sizes")]
    rows = [
        {"model": name} | dict(zip(sizes, map(float, losses[:, 1]), strict=True))
        for name, losses in found.items()
    ]
    told = f"{table.name}: {unit_of(table)} on rows left out, over the rows fitted on"
    run.table(f"learning-{table.name}", rows, told)


def study_paths(run: Run, table: Table, tried: Tried) -> None:
    """Show weights and error over the penalty."""
    found = studies.paths(table, models.Tuning(table, run.seed))
    show(run, table, "paths", charts.shrinkage(found, table.target), "Dotted: least error.")
    found.pop("names")
    rows = [
        {"model": name, "penalty": float(penalties[errors.argmin()]), "RMSE": float(errors.min()),
         "features at zero": int((abs(weights[errors.argmin()]) < 1e-9).sum())}
        for name, (penalties, weights, errors) in found.items()
    ]  # fmt: skip
    run.table(f"paths-{table.name}", rows, f"{table.name}: the penalty of least error")


def study_degrees(run: Run, table: Table, tried: Tried) -> None:
    """Show how the degree of a polynomial goes with overfit."""
    found = studies.degrees(table, run.seed)
    run.note(summary.of_degrees(found))
    show(run, table, "degree", charts.overfit(found, table.target), f"{found['rows']} rows.")
    rows = [
        {"degree": degree, "least squares": float(found["least squares"][place, 1]),
         "its fitted rows": float(found["least squares"][place, 0]),
         "ridge": float(found["ridge"][place, 1])}
        for place, degree in enumerate(found["degrees"])
    ]  # fmt: skip
    run.table(f"degree-{table.name}", rows, f"{table.name}: {unit_of(table)} on rows left out")


def study_parts(run: Run, table: Table, tried: Tried) -> None:
    """Show bias and variance."""
    rows = studies.bias_variance(table, run.seed)
    run.note(summary.of_parts(rows))
    told = f"{studies.RESAMPLES} bootstrap samples"
    run.table(f"bias-{table.name}", rows, f"{table.name}: parts of the error, {told}")
    show(run, table, "bias", charts.parts_of_error(rows), f"{told}.")


def study_softmax(run: Run, table: Table, tried: Tried) -> None:
    """Show where softmax regression is stopped."""
    found, accuracy = studies.early_stopping(table, run.seed)
    show(run, table, "softmax", charts.stopped(found, accuracy), "Softmax regression in NumPy.")
    row = {"epoch kept": found.kept, "loss": found.validation[found.kept], "accuracy": accuracy}
    run.table(f"softmax-{table.name}", [row], f"{table.name}: where validation loss is least")


def study_calibration(run: Run, table: Table, tried: Tried) -> None:
    """Show whether chances can be trusted."""
    rows, curves = studies.calibrations(table, run.seed)
    run.table(f"calibration-{table.name}", rows, f"{table.name}: chances, before and after")
    show(run, table, "calibration", charts.reliability(rows, curves), "Bins of ten rows or more.")


def study_boundaries(run: Run, table: Table, tried: Tried) -> None:
    """Show which class is called where."""
    found = studies.boundaries(table, run.seed)
    if found:
        show(
            run, table, "boundary", charts.regions(found, table.classes), "Up to 120 rows a class."
        )
        rows = [{"model": name, "accuracy": right} for name, (_, right) in found["called"].items()]
        run.table(f"boundary-{table.name}", rows, f"{table.name}: accuracy with two features")


Study = Callable[[Run, Table, Tried], None]
STUDIES: dict[str, tuple[Study, ...]] = {
    "regression": (study_descent, study_learning, study_paths, study_degrees, study_parts),
    "classification": (study_softmax, study_learning, study_boundaries, study_calibration),
}
