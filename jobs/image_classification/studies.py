"""Trainings that answer a question: how much luck, which settings, what several networks gain.

All choices are made on validation pictures or by cross-validation; `ensemble` alone looks at the
held-out pictures, to say what it gains.

Data:    the splits that `prepare` wrote.
Source:  cross-validation: Stone, JRSS B 1974. Ensembles: Lakshminarayanan et al., NeurIPS 2017.
         Random search: Bergstra and Bengio, JMLR 2012. TPE: Bergstra et al., NeurIPS 2011.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from slipway import Run, store
from slipway.errors import InputInvalid
from slipway.logs import say

from . import charts, data, measures, recipes, trust, weights

if TYPE_CHECKING:
    import numpy as np

    from .data import Split
    from .model import Classifier

Curve = list[dict[str, float]]
SHORT = 6
"""Epochs of one training in a comparison or a search, unless --epochs says otherwise."""
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "family": {name: {"family": name} for name in recipes.FAMILIES},
    # Without normalisation, which would mend a bad start, and deep.
    "init": {name: {"family": "vgg", "network": {"norm": False, "init": name},
             "given": {"rate": 0.01}} for name in ("he", "xavier", "normal")},
    "augment": {name: {"given": {"augment": told}} for name, told in {
        "none": "none", "flip": "flip", "flip, crop": "flip,crop",
        "flip, crop, cutout": "flip,crop,cutout",
        "turned, zoomed, moved, lit": "flip,rotate,zoom,shift,brightness,contrast,noise",
        "flip, crop, mixup": "flip,crop,mixup", "flip, crop, cutmix": "flip,crop,cutmix",
    }.items()},
    "balance": {name: {"given": told} for name, told in {
        "as it is": {}, "weights": {"balance": "weights"}, "oversample": {"balance": "oversample"},
        "undersample": {"balance": "undersample"}, "focal loss": {"loss": "focal"},
    }.items()},
    "optimizer": {"SGD, Nesterov": {}, "Adam": {"given": {"optimizer": "adam"}}},
    "norm": {"with": {}, "without": {"network": {"norm": False}, "given": {"rate": 0.02}}},
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A training to do: family, settings of the network, weights to start from, options."""

    family: str
    network: dict[str, Any]
    weights: str | None
    epochs: int | None
    given: dict[str, Any]
    seed: int | None = None


def trained(
    run: Run, plan: Plan, fit: Split, validation: Split, state: dict[str, Any] | None,
    outer: dict[str, Any],
) -> tuple[Classifier, Curve]:  # fmt: skip
    """Return a trained network and its curve; ``outer`` is kept with each checkpoint."""
    import torch

    from . import model, training

    family, own = plan.family, dict(plan.network)
    labels = own.pop("labels", None) or classes_of(run)
    if plan.weights:
        family, made = weights.shape_of(run, plan.weights, family)
        own = made | own
    else:
        own = recipes.recipe(family, len(fit.labels)).network | own
    seed = run.seed if plan.seed is None else plan.seed
    torch.manual_seed(seed)
    network = model.make(family, labels=labels, side=fit.images.shape[1], **own)
    if plan.weights:
        weights.put_in(network, weights.tensors_of(run, plan.weights))
    else:
        network.learn_colours(torch.from_numpy(fit.images).permute(0, 3, 1, 2))
    settings = recipes.settings(family, len(fit.labels), plan.epochs, plan.given)
    say(f"{family}: {json.dumps(settings.plain())}")

    def keep(inner: dict[str, Any], tensors: dict[str, Any]) -> None:
        run.checkpoint(outer | inner, tensors)

    curve = training.fit(network, fit, validation, settings, run, state, keep, seed)
    return network, curve


def classes_of(run: Run) -> list[str]:
    """Return the names of the classes."""
    found = json.loads(run.prepared("classes.json").read_text("utf-8"))
    return [str(name) for name in found]


def known(run: Run) -> tuple[Split, Split]:
    """Return the pictures to train on and those to choose by."""
    return data.read(run.prepared("train.npz")), data.read(run.prepared("validation.npz"))


def usual_options() -> dict[str, Any]:
    """Return what the options of a training are when nobody sets them."""
    command = recipes.options(click.command()(lambda **_: None))
    return {str(option.name): option.get_default(click.Context(command))
            for option in command.params}  # fmt: skip


def accuracy_row(name: str, right: int, count: int) -> dict[str, Any]:
    """Return a row with an accuracy and its interval."""
    return {"name": name, "accuracy": right / count,
            "interval": measures.share_interval(right, count)}  # fmt: skip


def tell(run: Run, name: str, rows: list[dict[str, Any]], caption: str) -> None:
    """Put rows into the report, as a person reads them."""
    run.table(name, [measures.shown(row) for row in rows], caption)


@click.option(
    "--folds",
    type=click.IntRange(2, 20),
    default=5,
    show_default=True,
    help="Parts of the training pictures, each measured on once.",
)
@recipes.family("small_cnn")
@recipes.options
def kfold(run: Run, folds: int, family: str, **given: Any) -> None:
    """Train on all parts but one, measure on that one, for each: how much is luck."""
    import numpy as np

    both = known(run)
    every = data.Split(*(np.concatenate([one, other]) for one, other in
                         zip(both[0][:2], both[1][:2], strict=True)),
                       both[0].files + both[1].files)  # fmt: skip
    part = folds_of(every.labels, folds, run.seed)
    state = run.resume() or {}
    done: list[dict[str, Any]] = state.pop("folds", [])
    for number in run.progress(range(len(done), folds), "folds"):
        fit, held = (data.chosen(every, np.flatnonzero(mask))
                     for mask in (part != number, part == number))  # fmt: skip
        plan = Plan(family, {}, None, run.epochs, given)
        _, curve = trained(run, plan, fit, held, state, {"folds": done})
        right = round(curve[-1]["validation accuracy"] * len(held.labels))
        done.append(accuracy_row(f"fold {number + 1}", right, len(held.labels)))
        state = {}
        run.checkpoint({"folds": done})
    shares = [row["accuracy"] for row in done]
    mean, spread = statistics.mean(shares), statistics.stdev(shares)
    run.log(kfold_accuracy=mean, kfold_deviation=spread)
    rows = [row | {"interval": tuple(row["interval"])} for row in done]
    tell(run, "folds", rows, f"{folds} folds: {mean:.4f}, deviation {spread:.4f}")
    figure = charts.compared(rows, "name", "accuracy on the fold that was left out")
    run.figure("folds", figure, "How far folds lie apart is what another draw would change.")


def folds_of(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each picture, (n,); classes are spread evenly."""
    import numpy as np

    draw, found = np.random.default_rng(seed), np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        places = draw.permutation(np.flatnonzero(labels == label))
        if len(places) < folds:
            raise InputInvalid(f"class {label} has {len(places)} pictures; wanted {folds} or more")
        found[places] = np.arange(len(places)) % folds
    return found


@click.option(
    "--members",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Networks to train beside the one of the model.",
)
@recipes.family("small_cnn")
@recipes.options
def ensemble(run: Run, members: int, family: str, **given: Any) -> None:
    """Train networks from other seeds, and average what they say."""
    import numpy as np

    from . import model, training

    fit, validation = known(run)
    state = run.resume() or {}
    done: list[int] = state.pop("members", [])
    for number in run.progress(range(len(done) + 1, members + 1), "members"):
        plan = Plan(family, {}, None, run.epochs, given, run.seed + 1000 * number)
        network, _ = trained(run, plan, fit, validation, state, {"members": done})
        store.save(network, run.out / "members" / str(number))
        done.append(number)
        state = {}
        run.checkpoint({"members": done})
    test = data.read(run.prepared("test.npz"))
    folders = {"the model": run.out / "model"} | {
        f"member {number}": run.out / "members" / str(number) for number in done}  # fmt: skip
    found = {}
    for name, folder in folders.items():
        network = store.load(folder, model.TRUSTED)
        logits = training.logits(network, test.images)
        found[name] = trust.softmax(logits, float(network.temperature))
    found["all together"] = np.mean(list(found.values()), axis=0)
    rows = [
        accuracy_row(name, int((chances.argmax(axis=1) == test.labels).sum()), len(test.labels))
        for name, chances in found.items()
    ]
    run.log(ensemble_accuracy=rows[-1]["accuracy"])
    tell(run, "ensemble", rows, "Networks from other seeds, held-out pictures")
    run.figure("ensemble", charts.compared(rows, "name", "accuracy, held-out pictures"),
               "Networks err on different pictures, so their mean errs less.")  # fmt: skip


@click.option("--what", type=click.Choice(list(QUESTIONS)), default="init", show_default=True,
              help="What is to differ.")  # fmt: skip
def compare(run: Run, what: str) -> None:
    """Train the same network in several ways, and set the ways side by side."""
    fit, validation = known(run)
    state = run.resume() or {}
    done: dict[str, Curve] = state.pop("done", {})
    ways = QUESTIONS[what]
    for name in run.progress([name for name in ways if name not in done], what):
        way = ways[name]
        plan = Plan(way.get("family", "small_cnn"), way.get("network", {}), None,
                    run.epochs or SHORT, usual_options() | way.get("given", {}))  # fmt: skip
        _, done[name] = trained(run, plan, fit, validation, state, {"done": done})
        state = {}
        run.checkpoint({"done": done})
    count = len(validation.labels)
    rows = [accuracy_row(name, round(curve[-1]["validation accuracy"] * count), count)
            for name, curve in done.items()]  # fmt: skip
    tell(run, f"compare-{what}", rows, f"Validation accuracy by {what}")
    best = max(rows, key=lambda row: row["accuracy"])
    title = f"{what.capitalize()}: {best['name']} leads with {best['accuracy']:.1%}"
    side = 100 * (best["interval"][1] - best["accuracy"])
    caption = f"Validation pictures; chance alone explains {side:.1f} points."
    run.figure(f"compare-{what}", charts.courses(done, title), caption)


@click.option(
    "--method",
    type=click.Choice(["grid", "random", "tpe"]),
    default="tpe",
    show_default=True,
    help="How the next trial is chosen.",
)
@click.option(
    "--trials", type=click.IntRange(1), default=20, show_default=True, help="Trials at most."
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Begin no trial after so many.",
)
@recipes.family("small_cnn")
def search(run: Run, method: str, trials: int, minutes: float, family: str) -> None:
    """Look for better settings: on a grid, at random, or where earlier trials were good.

    A search that was stopped begins anew: each trial depends on all before it, and is short.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fit, validation = known(run)
    ends = time.monotonic() + 60 * minutes
    study = optuna.create_study(direction="maximize", sampler=sampler_of(method, run.seed))

    def worth(trial: Any) -> float:
        plan = planned(trial, family, method, run.epochs or SHORT)
        _, curve = trained(run, plan, fit, validation, None, {})
        return curve[-1]["validation accuracy"]

    for number in run.progress(range(trials), "trials"):
        if number and time.monotonic() > ends:
            say(f"search: {minutes:g} minutes are over after {number} of {trials} trials")
            break
        study.optimize(worth, n_trials=1)
        if method == "grid" and len(study.trials) == GRID_SIZE:
            break
    values = [trial.value for trial in study.trials]
    ranked = sorted(study.trials, key=lambda trial: -trial.value)
    rows = [{"trial": trial.number + 1, "validation accuracy": trial.value}
            | {key: float(f"{value:.3g}") for key, value in trial.params.items()}
            for trial in ranked]  # fmt: skip
    tell(run, "search", rows, f"{len(values)} trials ({method}) of {family}, best first")
    told = " ".join(f"--{key} {value:.3g}" for key, value in ranked[0].params.items())
    run.note(f"The best settings, for a full training: train --family {family} {told}")
    run.figure("search", charts.trials(values, method), "Each trial is a short training.")


GRID = {"rate": [0.03, 0.1, 0.3], "decay": [1e-4, 5e-4, 2e-3], "dropout": [0.1, 0.3]}
GRID_SIZE = 18


def sampler_of(method: str, seed: int) -> Any:
    """Return Optuna's way to choose the next trial."""
    from optuna.samplers import GridSampler, RandomSampler, TPESampler

    if method == "grid":
        return GridSampler(GRID, seed=seed)
    return RandomSampler(seed) if method == "random" else TPESampler(seed=seed)


def planned(trial: Any, family: str, method: str, epochs: int) -> Plan:
    """Return the training that a trial asks for."""
    if method == "grid":
        found = {name: trial.suggest_categorical(name, values) for name, values in GRID.items()}
    else:
        found = {"rate": trial.suggest_float("rate", 0.01, 0.5, log=True),
                 "decay": trial.suggest_float("decay", 1e-5, 1e-2, log=True),
                 "dropout": trial.suggest_float("dropout", 0.0, 0.5)}  # fmt: skip
    given = usual_options() | {"rate": found["rate"], "decay": found["decay"]}
    return Plan(family, {"dropout": found["dropout"]}, None, epochs, given)
