"""California housing: what does a house cost in this district?

The end-to-end project of a price model: look at the districts, split them by income, compare
linear, tree, forest and boosting by cross-validation, search settings, and judge the best one
on districts that no choice has seen. Trees win because prices follow places and combinations
that no sum of columns expresses; a mean of two kinds of trees wins over each. Success is an RMSE
below 43,000 dollars, since one bad estimate costs more than several small ones.

Data:    20,640 block groups of the 1990 census, prices capped at 500,001 dollars (job.toml).
Source:  Géron, Hands-On Machine Learning, chapter 2; Pace and Barry, 1997.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slipway import Field, Job, Output, Run, store

from . import chapters, charts, districts, generator, measures
from .districts import TARGET, District

if TYPE_CHECKING:
    import pandas as pd

    from .models import Appraiser
    from .trials import Trial

TRUSTED = (
    "jobs.california_housing.features.ClusterSimilarity",
    "jobs.california_housing.features.Neighbourhood",
    "jobs.california_housing.features.combined",
    "jobs.california_housing.features.turned",
    "jobs.california_housing.models.Appraiser",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
job = Job.here(__file__, trusted=TRUSTED)
BENCHMARKS, BLENDED = ("forest", "linear"), ("boosting", "extra trees")
SEARCH = click.option(
    "--search", type=click.Choice(["quick", "full"]), default="quick", show_default=True,
    help="How many settings of boosting to try, 6 or 60; below 5,000 districts always 4.",
)  # fmt: skip


@job.prepare
def prepare(run: Run, seed: int) -> None:
    """Check the table, split it by income, and look at its training part."""
    table = districts.read_raw(run.data("districts")).iloc[: run.limit]
    folder = run.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    train, test = districts.split(table, seed)
    for name, part in (("train", train), ("test", test)):
        part.to_csv(folder / f"{name}.csv", index=False)
    run.log(train_districts=len(train), test_districts=len(test))
    chapters.frame(run, table)
    chapters.look(run, train)


@job.train
@SEARCH
def train(run: Run, seed: int, search: str) -> Appraiser:
    """Compare models by cross-validation, search settings and fit the best blend of two."""
    from . import models, trials

    table = districts.read_split(run.prepared("train.csv"))
    price = table[TARGET].to_numpy(float)
    done = all_trials(run, table, search)
    chapters.show_comparison(run, done, table)
    chapters.show_search(run, done, table)
    best = {name: trials.winner(done, name, table) for name in (*BENCHMARKS, *BLENDED)}
    boosted, grown = (trials.out_of_fold(best[name], table) for name in BLENDED)
    weight = trials.best_weight(boosted, grown, price)
    blended = weight * boosted + (1 - weight) * grown
    run.log(cv_rmse=measures.rmse(price, blended), cv_mae=measures.mae(price, blended))
    run.log(boosting_weight=weight)

    params = {name: runs[0]["params"] for name, runs in best.items()}
    for name in BENCHMARKS:
        run.track(name, params[name], {"cv_rmse": trials.rmse_of(best[name], table)})
        model = models.fitted(models.MODELS[name](seed, **params[name]), table)
        store.save(model, run.out / "benchmarks" / name)
    blend = models.blend(params["boosting"], params["extra trees"], weight, seed)
    return models.fitted(models.Appraiser(blend), table).calibrate(blended, price)


def all_trials(run: Run, table: pd.DataFrame, search: str) -> list[Trial]:
    """Run every trial of comparison and search; resumes after the last one."""
    from . import trials

    done: list[Trial] = (run.resume() or {"done": []})["done"]
    for found in run.progress(trials.remaining(table, run.seed, search, done), "trials"):
        done.append(found)
        run.checkpoint({"done": done})
    return done


@job.evaluate
def evaluate(run: Run, model: Appraiser, seed: int) -> None:
    """Judge the blend, a forest and linear regression on the held-out fifth."""
    from . import models

    table = districts.read_split(run.prepared("test.csv"))
    price, estimated = table[TARGET].to_numpy(float), models.estimates(model, table)
    others = {
        name: models.estimates(store.load(run.out / "benchmarks" / name, TRUSTED), table)
        for name in BENCHMARKS
    }
    run.log(rmse=measures.rmse(price, estimated), mae=measures.mae(price, estimated))
    for name, found in others.items():
        run.log(**{f"{name}_rmse": measures.rmse(price, found)})
        run.log(**{f"{name}_mae": measures.mae(price, found)})
    run.log(forest_gain=1 - run.metrics["forest_rmse"] / run.metrics["linear_rmse"])
    if run.tier == "sample":
        mean, median = generator.optimum(table)
        others["the optimum"] = mean
        run.log(optimum_rmse=measures.rmse(price, mean), optimum_mae=measures.mae(price, median))
        run.log(rmse_of_optimum=run.metrics["rmse"] / run.metrics["optimum_rmse"])
    ends = model.interval(estimated)
    run.log(interval_coverage=measures.coverage(price, ends))

    judged = {"blend of boosting and extra trees": estimated} | others
    rows = [measures.figures(name, price, found, seed) for name, found in judged.items()]
    run.table("held-out", rows, "The held-out fifth, dollars, with 95 % confidence intervals")
    chapters.show_errors(run, table, estimated, ends)
    grown = measures.importances(model, table[list(districts.FEATURES)], price, seed)
    run.figure("importance", charts.importance(grown), "Held-out districts, three shuffles each.")


class Appraisal(Output):
    """The median price of a house in the district, in dollars of 1990, 500,001 at most."""

    price: float = Field(ge=0, le=districts.CAP)
    low: float = Field(ge=0, le=districts.CAP, description="The price is above it in 19 of 20.")
    high: float = Field(ge=0, le=districts.CAP, description="The price is below it in 19 of 20.")


@job.score
def score(model: Appraiser, rows: list[District]) -> list[Appraisal]:
    """Estimate the price of each district, with an interval that holds 9 of 10 prices."""
    estimated = model.predict(districts.as_table(rows))
    ends = model.interval(estimated)
    return [
        Appraisal(price=price, low=low, high=high)
        for price, (low, high) in zip(estimated.tolist(), ends.tolist(), strict=True)
    ]


@job.command
def explore(run: Run) -> None:
    """Print the profile of the training part and draw it anew."""
    chapters.look(run, districts.read_split(run.prepared("train.csv")))


@job.command
def compare(run: Run) -> None:
    """Cross-validate every model at its usual settings and print RMSE and MAE."""
    from . import trials

    table = districts.read_split(run.prepared("train.csv"))
    done: list[Trial] = []
    for found in run.progress(trials.comparison(table, run.seed, done), "trials"):
        done.append(found)
    chapters.show_comparison(run, done, table)


@job.command
@SEARCH
def tune(run: Run, search: str) -> None:
    """Search settings by cross-validation and print them, best first."""

    table = districts.read_split(run.prepared("train.csv"))
    chapters.show_search(run, all_trials(run, table, search), table)


@job.command
def predict_vs_actual(run: Run) -> None:
    """Print the errors of the held-out districts by region and by price."""
    from . import models

    table = districts.read_split(run.prepared("test.csv"))
    model = job.load(run.out / "model")
    estimated = models.estimates(model, table)
    chapters.show_errors(run, table, estimated, model.interval(estimated))
