"""Linear models: how well does a linear model predict a column of any table?

Least squares, ridge, lasso, elastic net, SGD, logistic and softmax regression are tuned by
cross-validation and compared on held-out rows, with a forest beside them for reference. Descent
and softmax are written out in NumPy (`descent`), because how they converge is half of the lesson.
The table is a known one (`--preset`) or any CSV (`--csv my.csv --target price`).

Data:    UCI Wine Quality and Bike Sharing (job.toml); the sample is tables of scikit-learn.
Source:  Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, chapters 3-4.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway import Field, Input, Job, Output, Run, store
from slipway.spec import TIERS

from . import columns, lessons, models, studies, tables

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

job = Job.here(__file__, trusted=lessons.TRUSTED)


@job.prepare
@click.option(
    "--preset",
    multiple=True,
    type=click.Choice(sorted(tables.PRESETS)),
    help="A known table; repeatable, the model of the first one is served.",
)
@click.option("--csv", type=click.Path(path_type=Path, dir_okay=False), help="A table of your own.")
@click.option("--target", default="", help="The column to predict.")
@click.option(
    "--task",
    type=click.Choice(["auto", "regression", "classification"]),
    default="auto",
    show_default=True,
    help="What to make of the target; auto decides by its values.",
)
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; repeatable.")
@click.option("--category", multiple=True, metavar="COLUMN", help="Numbers that are names.")
def prepare(
    run: Run, preset: tuple[str, ...], csv: Path | None, target: str, task: str,
    drop: tuple[str, ...], category: tuple[str, ...],
) -> None:  # fmt: skip
    """Find out what each column of each table is, and hold a fifth of the rows out."""
    if csv is None and run.options.data not in TIERS:
        csv = Path(run.options.data)
    if csv and preset:
        raise click.UsageError("--csv and --preset: one of them")
    asked = {"target": target, "task": task, "drop": drop, "category": category}
    order = tables.names(run, preset, csv)
    for name in order:
        table = tables.make(run, name, *tables.sheet_of(run, name, csv), asked)
        for told in tables.suspects(table):
            click.echo(f"warning: {name}: {told}", err=True)
            run.note(f"Warning, a leak? {name}: {told}")
    (run.out / "data" / "tables.json").write_text(json.dumps(order) + "\n", "utf-8")


@job.train
def train(run: Run) -> Pipeline:
    """Tune every model by cross-validation, fit it, and keep the best of the first table."""
    every = tables.all_of(run)
    tried: list[dict[str, Any]] = (run.resume() or {"tried": []})["tried"]
    plans = [(table, name) for table in every for name in models.candidates(table)]
    plans = [plan for plan in plans if plan[1] != models.REFERENCE]
    tuning: models.Tuning | None = None
    for table, name in run.progress(plans[len(tried) :], "tuning"):
        if tuning is None or tuning.table is not table:
            tuning = models.Tuning(table, run.seed)
        tried.append(tuning.best(name))
        run.checkpoint({"tried": tried})
    for told in tried:
        table = next(entry for entry in every if entry.name == told["table"])
        began = time.perf_counter()
        fitted = models.fit(table, told, run.seed)
        told["seconds"] = time.perf_counter() - began
        store.save(fitted, lessons.benchmark(run, told))
    (run.out / "benchmarks" / "tried.json").write_text(json.dumps(tried) + "\n", "utf-8")
    for table in every:
        lessons.show_tuning(run, table, tried)
        run.log(**{f"{table.key}_validation_loss": lessons.best_of(tried, table)["loss"]})
    first = lessons.best_of(tried, every[0])
    return models.served(every[0], store.load(lessons.benchmark(run, first), job.trusted))


@job.evaluate
def evaluate(run: Run, model: Pipeline) -> None:
    """Compare the models on the held-out rows, and show how they learn on the training rows."""
    every, tried = tables.all_of(run), lessons.read_tried(run)
    for table in every:
        lessons.compare_models(run, table, tried)
        if len(table.train) + len(table.test) <= 5000 or len(every) == 1:
            found = studies.repeated(table, run.seed)
            run.log(**{f"{table.key}_cv_{name}": value for name, value in found.items()})
    if run.tier in ("real", "mirror") and len(every[0].train) <= models.TUNED_ON:
        found = studies.nested(every[0], run.seed)
        run.log(**{f"{every[0].key}_nested_{name}": value for name, value in found.items()})
    for task, own in lessons.STUDIES.items():
        for table in [table for table in every if table.task == task][:1]:
            for study in own:
                study(run, table, tried)


def command(name: str, study: lessons.Study, task: str = "") -> None:
    """Register a study as a verb, for every table of a task."""

    def verb(run: Run) -> None:
        tried = lessons.read_tried(run)
        for table in tables.all_of(run):
            if task in ("", table.task):
                study(run, table, tried)

    verb.__name__, verb.__doc__ = name, study.__doc__
    job.command(verb)


command("compare", lessons.compare_models)
command("learning_curves", lessons.study_learning)
command("gd_convergence", lessons.study_descent, "regression")
command("regularisation_path", lessons.study_paths, "regression")
command("poly_degree", lessons.study_degrees, "regression")
command("bias_variance", lessons.study_parts, "regression")
command("calibrate", lessons.study_calibration, "classification")
command("decision_boundary", lessons.study_boundaries, "classification")
command("softmax", lessons.study_softmax, "classification")


class Row(Input):
    """A row of the table that the model was trained on; its columns come with the model."""


class Prediction(Output):
    """The number that is predicted, or the class and the chance of each."""

    prediction: float | str
    probabilities: dict[str, float] | None = Field(default=None)


@job.rows_of
def rows_of(model: Pipeline) -> type[Input]:
    """Return the type of the rows that a model takes."""
    return columns.row_type(models.plan_of(model))


@job.score
def score(model: Pipeline, rows: list[Row]) -> list[Prediction]:
    """Predict the target of each row."""
    import pandas as pd

    cells = pd.DataFrame([row.model_dump() for row in rows])
    called = model.predict(cells)
    if not hasattr(model, "predict_proba"):
        return [Prediction(prediction=rounded(value)) for value in called]
    labels = [str(label) for label in model.classes_]
    chances = [map(rounded, row) for row in model.predict_proba(cells)]
    return [
        Prediction(prediction=str(label), probabilities=dict(zip(labels, row, strict=True)))
        for label, row in zip(called, chances, strict=True)
    ]


def rounded(value: float) -> float:
    """Return ten digits of a number: sums of a batch and of one row differ in the last ones."""
    return float(f"{value:.10g}")
