"""The figures of the report, large enough to be read across a desk.

Data:    labels ``spam`` (n,) bool and propensities (n,) of a split.
Source:  calibration: Niculescu-Mizil and Caruana, ICML 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#1f5fa8", "#c8372d", "#777777"
COLOURS = ("#1f5fa8", "#e08a00", "#2f8f4e", "#777777")


def canvas(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """Return an empty figure with its texts in place."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=18, loc="left")
    axes.set_xlabel(across, fontsize=16)
    axes.set_ylabel(up, fontsize=16)
    axes.tick_params(labelsize=14)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def precision_recall(
    spam: np.ndarray, curves: Mapping[str, np.ndarray], point: tuple[float, float], wanted: float
) -> Figure:
    """Draw precision against recall of each model; ``point`` is (recall, precision) in use."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, axes = canvas(
        "How much spam is caught, and how sure a catch is", "recall (share of spam caught)",
        "precision (share of catches\nthat are spam)",
    )  # fmt: skip
    for (name, propensity), colour in zip(curves.items(), COLOURS, strict=False):
        precisions, recalls, _ = precision_recall_curve(spam, propensity)
        label = f"{name} ({average_precision_score(spam, propensity):.3f})"
        axes.step(recalls, precisions, where="post", lw=2.5, color=colour, label=label)
    axes.plot(*point, "o", ms=13, color=RED, label="threshold in use")
    axes.axhline(wanted, color=GREY, ls=":", label=f"goal: precision {wanted:g}")
    axes.set(xlim=(0, 1.02), ylim=(0.4, 1.02))
    axes.legend(fontsize=14, loc="lower left", title="model (average precision)", title_fontsize=14)
    return figure


def confusion(spam: np.ndarray, called: np.ndarray) -> Figure:
    """Draw the four counts of true label against decision."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(spam, called)
    title = f"{counts[0, 1]} good messages lost, {counts[1, 0]} spam let through"
    figure, axes = canvas(title, "decision", "label")
    axes.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        colour = "white" if row == column else "black"
        count = str(counts[row, column])
        axes.text(column, row, count, ha="center", va="center", fontsize=28, color=colour)
    axes.set_xticks([0, 1], ["ham", "spam"], fontsize=16)
    axes.set_yticks([0, 1], ["ham", "spam"], fontsize=16)
    return figure


def cost_against_threshold(
    thresholds: np.ndarray, costs: np.ndarray, used: float, cheapest: float
) -> Figure:
    """Draw the cost of errors over the threshold."""
    figure, axes = canvas(
        "A lost message costs ten spams: where errors are cheapest",
        "threshold (propensity)", "cost per 1,000 messages\n(1 = one spam let through)",
    )  # fmt: skip
    axes.step(thresholds, costs, where="pre", lw=2.5, color=BLUE)
    axes.axvline(used, color=RED, lw=2.5, label=f"in use: {used:.3f}")
    axes.axvline(cheapest, color=GREY, ls="--", lw=2.5, label=f"cheapest: {cheapest:.3f}")
    axes.set_yscale("symlog", linthresh=10)
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend(fontsize=14)
    return figure


def words(weights: Sequence[tuple[str, float]]) -> Figure:
    """Draw words with their weights, the most spammy at the top."""
    figure, axes = canvas("Words for spam (red) and for ham (blue)", "weight (log odds)", "")
    figure.set_size_inches(9, 9)
    names, values = zip(*sorted(weights, key=lambda pair: pair[1]), strict=True)
    axes.barh(names, values, color=[RED if value > 0 else BLUE for value in values])
    return figure


def calibration(spam: np.ndarray, propensity: np.ndarray) -> Figure:
    """Draw the share of spam against the propensity, in ten bins of equal width."""
    import numpy as np

    figure, axes = canvas(
        "Does a propensity of 0.8 mean 8 in 10?", "mean propensity of a bin",
        "share of spam in the bin",
    )  # fmt: skip
    bins = np.minimum((propensity * 10).astype(int), 9)
    axes.plot([0, 1], [0, 1], ls=":", color=GREY, label="perfectly calibrated")
    for number in np.unique(bins):
        inside = bins == number
        across, up = propensity[inside].mean(), spam[inside].mean()
        axes.plot(across, up, "o", ms=10, color=BLUE)
        axes.annotate(f" n={inside.sum()}", (across, up), fontsize=13, ha="left", va="top")
    axes.set(xlim=(-0.02, 1.12), ylim=(-0.05, 1.05))
    axes.legend(fontsize=14, loc="upper left")
    return figure


def learning(sizes: Sequence[int], fitted: Sequence[float], held: Sequence[float]) -> Figure:
    """Draw average precision on the fitted and on the validation messages over their number."""
    figure, axes = canvas(
        "Would more messages help? The gap is the overfit", "training messages",
        "average precision",
    )  # fmt: skip
    axes.plot(sizes, fitted, "o-", lw=2.5, color=GREY, label="training")
    axes.plot(sizes, held, "o-", lw=2.5, color=BLUE, label="validation")
    axes.set_xlim(0, None)
    axes.legend(fontsize=14, loc="lower right")
    return figure
