"""How much of a figure is luck: every fifth of the sentences held out once, and all measured alike.

A fold is learned anew, with nothing of the model that `train` made. Its figures are those of
`evaluate`, which is fold 0 of the same seed.

Data:    the prepared pairs of `preparing`, those that evaluate holds out among them.
Source:  Stone, Cross-validatory choice and assessment of statistical predictions, JRSS B 1974.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import charts, cloning, preparing

if TYPE_CHECKING:
    from slipway import Run

    from .learning import Seen

SHOWN = {
    "similarity": ("similarity", 3), "similarity_gain": ("gain on the source", 3),
    "similarity_new": ("new: similarity", 3), "distortion": ("distortion (dB)", 2),
    "distortion_gain": ("below the source (dB)", 2), "word_errors_new": ("new: words wrong", 3),
    "word_errors": ("words wrong", 3), "equal_error_rate": ("meter's equal-error rate", 4),
}  # fmt: skip


@click.option("--method", type=click.Choice(cloning.METHODS), default="ridge", show_default=True,
              help="How frames are mapped.")  # fmt: skip
@click.option("--new", type=click.IntRange(1, 12), default=None,
              help="New sentences to say; default 12, and 3 on the sample.")  # fmt: skip
def folds(run: Run, method: str, new: int | None) -> None:
    """Learn and measure five times, each fifth of the sentences held out once: means, spread."""
    from . import learning

    pairs = preparing.pairs(run, "train", "choose", "held_out")
    clips = [learning.seen(pair) for pair in run.progress(pairs, "analysed")]
    rows: list[dict[str, float]] = (run.resume() or {}).get("rows", [])
    for fold in run.progress(range(len(rows), preparing.FOLDS), "folds"):
        rows.append(measured(run, clips, method, fold, new or preparing.new_count(run)))
        run.checkpoint({"rows": rows})
    told(run, rows, method)


def measured(run: Run, clips: Sequence[Seen], method: str, fold: int, new: int) -> dict[str, float]:
    """Learn from all sentences but those of one fold, and return what `evaluate` says of those."""
    from . import learning, outcomes

    parts = preparing.parts_of([clip.pair.text for clip in clips], run.seed, fold)
    own = [clip._replace(pair=clip.pair._replace(part=part))
           for clip, part in zip(clips, parts, strict=True)]  # fmt: skip
    learned = learning.learned([clip for clip in own if clip.pair.part != "held_out"], method,
                               run.seed, passes(run, method))  # fmt: skip
    held = [clip.pair for clip in own if clip.pair.part == "held_out"]
    said = outcomes.collected(run, learned.model, held, ["source", method], new)
    rows = outcomes.summary(said, ["source", method, "real"], method)
    by = {row["way"]: row for row in rows}
    found = outcomes.figures(by, method, preparing.meter(run))
    return {"held out": float(len(held))} | {name: float(found[name]) for name in SHOWN}


def passes(run: Run, method: str) -> int:
    """Return how often the network sees the pairs; the linear map needs none."""
    from . import learning

    return 0 if method == "ridge" else run.epochs or learning.EPOCHS


def told(run: Run, rows: Sequence[dict[str, float]], method: str) -> None:
    """Put figures, means and spread into the report, beside the bars of this data."""
    means = {name: statistics.mean(row[name] for row in rows) for name in SHOWN}
    spreads = {name: statistics.stdev(row[name] for row in rows) for name in SHOWN}
    run.log(**{f"folds_{name}": value for name, value in means.items()},
            **{f"folds_{name}_spread": value for name, value in spreads.items()})  # fmt: skip
    bars = run.spec.accept.get({"mirror": "real"}.get(run.tier, run.tier), {})
    table = [_row(f"fold {number}", row) for number, row in enumerate(rows)]
    table += [_row("mean", means), _row("standard deviation", spreads)]
    table.append({"": "bar"} | {label: str(bars.get(name, "")) for name, (label, _) in
                                SHOWN.items()})  # fmt: skip
    meter = preparing.meter(run)
    run.table("folds", table, f"Method {method}, seed {run.seed}: {len(rows)} folds by sentence, "
              "each learned anew and measured on sentences that it did not learn from. "
              f"{meter.told}")  # fmt: skip
    run.figure("folds", charts.folds(rows, SHOWN, bars),
               "A dot is a fold, the thick line their mean, the dashed one the bar.")  # fmt: skip


def _row(name: str, found: dict[str, float]) -> dict[str, Any]:
    return {"": name} | {label: f"{found[key]:.{digits}f}"
                         for key, (label, digits) in SHOWN.items()}  # fmt: skip
