"""The figures of the report.

Data:    digits of a split, what models call them, and what was measured of it.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAVY, ORANGE, SLATE = "#21468b", "#e67700", "#6c757d"
LINES = {"color": ORANGE, "ls": "--", "lw": 2.5}, {"color": NAVY, "ls": "-", "lw": 2.5}


def drawn(
    title: str, across: str = "", up: str = "", size: tuple[float, float] = (9, 5.5)
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes that says what to see."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=17, loc="left")
    axes.set(xlabel=across, ylabel=up)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(15)
        axis.set_tick_params(labelsize=14)
    axes.spines[:].set_visible(False)
    return figure, axes


def class_counts(labels: np.ndarray) -> Figure:
    """Draw how many training digits each class has."""
    import numpy as np

    counts = np.bincount(labels, minlength=10)
    ratio = counts.max() / max(counts.min(), 1)
    figure, axes = drawn(
        f"The commonest digit, {counts.argmax()}, is {ratio:.2f} times as frequent as the rarest, "
        f"{counts.argmin()}",
        "digit", "training digits",
    )  # fmt: skip
    axes.bar_label(axes.bar(range(10), counts, color=NAVY), fontsize=12)
    axes.set_xticks(range(10))
    return figure


def gallery(
    images: Sequence[np.ndarray], captions: Sequence[str], title: str, columns: int = 10
) -> Figure:
    """Draw pictures in rows, each with a caption, ink dark."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(images) // columns))
    caption_height = 0.3 * (1 + max((text.count("\n") for text in captions), default=0))
    size = 1.15 * columns, 0.7 + rows * (1.15 + caption_height)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=17, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=max(image.max(), 1))
        axes.set_title(caption, fontsize=12)
    return figure


def curves(curve: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss and accuracy of a network over the epochs, on training and validation digits."""
    from matplotlib.figure import Figure

    epochs = range(1, len(curve) + 1)
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    last = curve[-1]
    gap = 100 * (last["training accuracy"] - last["validation accuracy"])
    figure.suptitle(
        f"After {len(curve)} epochs validation is {100 * last['validation accuracy']:.2f} % right, "
        f"{gap:.2f} points behind training",
        fontsize=17, x=0.01, ha="left",
    )  # fmt: skip
    panels = figure.subplots(1, 2)
    shown = (("training", SLATE, "o"), ("validation", NAVY, "s"))
    for axes, what, scale in zip(panels, ("loss", "accuracy"), ("log", "linear"), strict=True):
        for name, colour, mark in shown:
            values = [entry[f"{name} {what}"] for entry in curve]
            axes.plot(epochs, values, mark + "-", color=colour, lw=2.5, label=name)
        axes.set_xlabel("epoch", fontsize=15)
        axes.set_ylabel("cross-entropy (nats)" if what == "loss" else "accuracy", fontsize=15)
        axes.set_yscale(scale)
        axes.tick_params(labelsize=13, which="both")
    panels[0].legend(fontsize=14)
    return figure


def comparison(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the share of errors of each model, best at the bottom."""
    ranked = sorted(rows, key=lambda row: row["accuracy"])
    shares = [100 * (1 - row["accuracy"]) for row in ranked]
    ratio = shares[0] / max(shares[-1], 0.01)
    figure, axes = drawn(
        f"The best model errs {ratio:.0f} times less often than the worst",
        "errors on the held-out digits (%), logarithmic",
    )
    bars = axes.barh([row["model"] for row in ranked], shares, color=NAVY)
    axes.bar_label(bars, [f"{share:.2f} %" for share in shares], fontsize=13, padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(shares) / 2 or 0.01, max(shares) * 1.8)
    axes.invert_yaxis()
    return figure


def confusion(labels: np.ndarray, called: np.ndarray) -> Figure:
    """Draw how often each digit was taken for another; what is right is left out."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, called, labels=range(10))
    right = counts.trace()
    wrong = counts.copy()
    for digit in range(10):
        wrong[digit, digit] = 0
    row, column = divmod(int(wrong.argmax()), 10)
    figure, axes = drawn(
        f"{counts.sum() - right} errors; most often a {row} is taken for a {column}",
        "called", "label", (8.5, 8),
    )  # fmt: skip
    axes.imshow(wrong, cmap="Oranges", vmin=0)
    for place, count in _cells(counts):
        dark = place[0] != place[1] and wrong[place] > wrong.max() / 2
        axes.text(
            place[1], place[0], str(count), ha="center", va="center", fontsize=13,
            color="white" if dark else SLATE if place[0] == place[1] else "black",
        )  # fmt: skip
    axes.set_xticks(range(10))
    axes.set_yticks(range(10))
    return figure


def _cells(counts: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    return [((row, column), int(counts[row, column]))
            for row in range(10) for column in range(10) if counts[row, column]]  # fmt: skip


def detector(curves: Mapping[str, Any], threshold: float, wanted: float) -> Figure:
    """Draw precision and recall of the detector of fives over its threshold."""
    thresholds, precision, recall = curves["thresholds"], curves["precision"], curves["recall"]
    at = int((thresholds < threshold).sum().clip(0, len(thresholds) - 1))
    figure, axes = drawn(
        f"Detecting fives: the threshold for precision {wanted:g} gives {precision[at]:.3f}, and "
        f"finds {recall[at]:.1%}",
        "threshold (score of the linear SVM)", "share",
    )  # fmt: skip
    axes.plot(thresholds, precision[:-1], color=NAVY, lw=2.5, label="precision")
    axes.plot(thresholds, recall[:-1], color=ORANGE, lw=2.5, ls="--", label="recall")
    axes.axvline(threshold, color=SLATE, ls=":", lw=2, label=f"in use: {threshold:.2f}")
    ends = [thresholds[recall[:-1] >= least].max() for least in (0.999, 0.2)]
    axes.set(xlim=(min(*ends, threshold) - 1, max(*ends, threshold) + 1), ylim=(0, 1.02))
    axes.legend(fontsize=14, loc="center left")
    return figure


def operating_curves(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw precision against recall and the ROC curve of the detectors of fives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    best = max(found, key=lambda name: found[name]["roc_auc"])
    title = f"Detecting fives: the {best} has the larger area below its ROC curve"
    figure.suptitle(title, fontsize=17, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    for (name, curve), shape in zip(found.items(), LINES, strict=False):
        left.plot(curve["recall"], curve["precision"], label=name, **shape)
        area = f"{name} (area {curve['roc_auc']:.4f})"
        right.plot(curve["false_positives"], curve["true_positives"], label=area, **shape)
    left.set(xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    right.set(xlim=(-0.005, 0.2), ylim=(0.8, 1.005))
    texts = ("recall", "precision"), ("share of other digits taken for a 5", "share of fives found")
    for axes, (across, up) in zip((left, right), texts, strict=True):
        axes.set_xlabel(across, fontsize=15)
        axes.set_ylabel(up, fontsize=15)
        axes.tick_params(labelsize=13)
        axes.legend(fontsize=13, loc="lower left" if axes is left else "lower right")
    return figure


def before_and_after(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the errors of each pattern without and with the improvement."""
    figure, axes = drawn(
        f"Shifted copies: {rows[0]['errors before']} errors become {rows[0]['errors after']}",
        "", "held-out digits called wrong",
    )  # fmt: skip
    for offset, key, colour in ((-0.2, "errors before", SLATE), (0.2, "errors after", NAVY)):
        places = [place + offset for place in range(len(rows))]
        bars = axes.bar(places, [row[key] for row in rows], 0.38, color=colour, label=key)
        axes.bar_label(bars, fontsize=13)
    axes.set_xticks(range(len(rows)), [row["pattern"] for row in rows], fontsize=14)
    axes.legend(fontsize=14)
    return figure


def filters(weights: np.ndarray) -> Figure:
    """Draw what a network's first layer looks for, (n, h, w): orange for ink, blue for none."""
    from matplotlib.figure import Figure

    columns = 8
    rows = -(-len(weights) // columns)
    figure = Figure(figsize=(1.2 * columns, 0.9 + 1.2 * rows), layout="constrained")
    balanced = sum(abs(weight.sum()) < 0.3 * abs(weight).sum() for weight in weights)
    figure.suptitle(
        f"{balanced} of {len(weights)} filters of the first layer answer to edges, not to ink",
        fontsize=17, x=0.01, ha="left",
    )  # fmt: skip
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.axis("off")
    for axes, weight in zip(grid.flat, weights, strict=False):
        axes.imshow(weight, cmap="PuOr_r", vmin=-abs(weight).max(), vmax=abs(weight).max())
    return figure


def single(picture: np.ndarray, digit: np.ndarray, probabilities: Sequence[float]) -> Figure:
    """Draw one picture, what is cut out of it, and the probability of each digit."""
    from matplotlib.figure import Figure

    best = max(range(10), key=lambda number: probabilities[number])
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    figure.suptitle(
        f"One picture: called {best} with probability {probabilities[best]:.3f}",
        fontsize=17, x=0.01, ha="left",
    )  # fmt: skip
    given, seen, bars = figure.subplots(1, 3)
    given.imshow(picture)
    given.set_title("as it was sent", fontsize=14)
    seen.imshow(digit, cmap="gray_r")
    seen.set_title("as the network sees it", fontsize=14)
    for axes in (given, seen):
        axes.set_xlabel("pixels", fontsize=13)
    bars.bar(range(10), probabilities, color=NAVY)
    bars.set_xticks(range(10))
    bars.set_xlabel("digit", fontsize=14)
    bars.set_ylabel("probability", fontsize=14)
    return figure


def on_sheets(shares: Mapping[str, float]) -> Figure:
    """Draw how often the scorer is right on each kind of sheet."""
    lowest = min(shares, key=lambda name: shares[name])
    figure, axes = drawn(
        f"The scorer's hardest kind of sheet is {lowest!r}: {shares[lowest]:.1%} right",
        "accuracy, the same held-out digits each time",
    )
    bars = axes.barh(list(shares), list(shares.values()), color=NAVY)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], fontsize=13, padding=4)
    axes.set_xlim(0, 1.1)
    axes.invert_yaxis()
    return figure
