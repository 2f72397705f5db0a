"""Where the networks of a run come from: the folder's weights, or a training by this job.

Data:    phantoms by seed, or the prepared patients to train on.
Source:  `training` for the small SAM 2, `baseline` for the U-Net.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import store
from slipway.data import written
from slipway.run import read_json

from . import baseline, brats, charts, cohort, network

if TYPE_CHECKING:
    from torch.nn import Module

    from slipway import Run

    from .predictor import Segmenter
    from .training import Stage, Volume

CHECKED = 3
"""Steps that are taken from nothing, as a check that training runs here."""
PHANTOMS = 100_000
LATELY = 50
"""Steps at the end of a training whose means are logged."""
OFTEN = 10
"""Steps between two checkpoints: 25 s must be enough for them."""


def small(run: Run, start: str, steps: int | None) -> Segmenter:
    """Return the small SAM 2: the shipped one, or one that was trained ``steps`` further."""
    from slipway import networks

    from . import training

    networks.settle(run)
    make, count = source(run)
    shipped = None if start == "nothing" else network.shipped()
    if shipped is not None and not steps:
        check(run, make)
        run.note(f"The weights are those of the job's folder: {shipped.name}. {CHECKED} steps were "
                 "taken from nothing, as a check, and thrown away.")  # fmt: skip
        return shipped
    recipe = scaled(training.RECIPE if shipped is None else training.RECIPE[-1:], steps)
    begun = None if shipped is None else as_state(shipped)
    total = sum(stage.steps for stage in recipe)
    state = run.resume() or begun
    curve: list[list[float]] = [*(state or {}).get("curve", [])]

    def keep(state: dict[str, Any], tensors: dict[str, Any]) -> None:
        curve[:] = state["curve"]
        run.checkpoint(state, tensors)

    settings = None if shipped is None else shipped.settings
    found = training.fit(make, count, recipe, seed=run.seed, settings=settings,
                         state=state, keep=keep, every=min(OFTEN, total),
                         device=run.device)  # fmt: skip
    run.log(train_loss=curve[-1][1], train_steps=total, **lately(curve))
    title = f"After {len(curve)} steps the loss is {curve[-1][1]:.2f}"
    run.figure("loss", charts.curve([row[1] for row in curve], title), "Loss of each step.")
    return found


def lately(curve: list[list[float]]) -> dict[str, float]:
    """Return the means of the last steps: the loss, and each region's Dice in clips."""
    import numpy as np

    names = ("loss", *(f"{name}_dice_in_clips".lower() for name in brats.REGIONS))
    last = np.mean(np.array(curve[-LATELY:])[:, 1:], axis=0)
    return {f"train_late_{name}": float(mean) for name, mean in zip(names, last, strict=True)}


def keep(run: Run, found: Segmenter, folder: Path) -> Path:
    """Write weights as 16-bit numbers, and beside them the record of the train that made them."""
    store.save(found.half(), folder)
    told = {name: read_json(run.out / f"{name}.json").get("train", {})
            for name in ("run", "metrics")}  # fmt: skip
    with written(folder / "run.json") as path:
        path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return folder


def as_state(found: Segmenter) -> dict[str, Any]:
    """Return weights as the state of a training that has not taken a step."""
    weights = found.state_dict()
    tensors = {f"{kind}.{name}": value.clone() for kind in ("network", "average")
               for name, value in weights.items()}  # fmt: skip
    return {"curve": [], "step": 0, "tensors": tensors}


def source(run: Run) -> tuple[Callable[[int], Volume], int]:
    """Return what makes a volume to train on, and how many there are."""
    from . import training

    files = cohort.read(run, "train")
    if not files:
        return training.phantom_volume, PHANTOMS

    def make(number: int) -> Volume:
        case = brats.read(files[number])
        if case.segmentation is None:
            raise ValueError(f"case {case.name} has no labels")
        return training.volume_of(brats.channels(case), case.segmentation.transpose(2, 1, 0))

    return make, len(files)


def check(run: Run, make: Callable[[int], Volume]) -> None:
    """Take a few steps from nothing on one volume and log the first and the last loss."""
    from . import training

    losses: list[float] = []

    def keep(state: dict[str, Any], _: dict[str, Any]) -> None:
        losses[:] = [row[1] for row in state["curve"]]

    recipe = (replace(training.RECIPE[0], steps=CHECKED),)
    training.fit(make, 1, recipe, clips=1, seed=run.seed, keep=keep, every=CHECKED)
    run.log(check_loss_first=losses[0], check_loss_last=losses[-1])


def scaled(recipe: tuple[Stage, ...], steps: int | None) -> tuple[Stage, ...]:
    """Return a recipe of ``steps`` in all, each stage with its share."""
    total = sum(stage.steps for stage in recipe)
    return tuple(
        replace(stage, steps=max(1, round(stage.steps * (steps or total) / total)))
        for stage in recipe
    )


def unet(run: Run) -> Module | None:
    """Return the U-Net: that of this run's `baseline-unet`, else the folder's, else none."""
    for folder in (run.out / "benchmarks" / "unet", network.WEIGHTS / "unet"):
        if any(folder.glob("model.*")):
            found: Module = store.load(folder, (baseline.UNET,))
            return found.float()
    return None


def fit_unet(run: Run, steps: int, phantoms: int) -> Module:
    """Train the U-Net on the prepared patients, or on the first phantoms of the training."""
    files = cohort.read(run, "train")
    cases = (brats.read(entry) for entry in files) if files else some_phantoms(phantoms)
    state = run.resume() or {}
    return baseline.trained(run, cases, steps, state, run.checkpoint)


def some_phantoms(count: int) -> Iterator[brats.Case]:
    """Yield the phantoms of the first seeds, which the small SAM 2 is trained on too."""
    from . import phantom

    for seed in range(count):
        yield phantom.case(seed)
