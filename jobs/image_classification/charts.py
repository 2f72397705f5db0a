"""The figures on pictures, training and the held-out part.

Data:    what `data`, `training` and `measures` found.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FIRE, STONE, SKY = "#21468b", "#e67700", "#6c757d", "#7aa6dc"
STYLES = ("-", "--", ":", "-.")


def sheet(title: str, columns: int = 1, size: tuple[float, float] = (9.5, 5.5)) -> Any:
    """Return a figure under a title that says what to see, and its axes in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=17, x=0.01, ha="left")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def named(axes: Axes, across: str, up: str) -> Axes:
    """Name the axes of a panel."""
    axes.set_xlabel(across, fontsize=15)
    axes.set_ylabel(up, fontsize=15)
    axes.tick_params(labelsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def tiles(images: Sequence[np.ndarray], told: Sequence[str], title: str, columns: int) -> Figure:
    """Draw pictures in rows, each under a few words."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(images) // columns))
    lines = 1 + max((text.count("\n") for text in told), default=0)
    figure = Figure(figsize=(1.35 * columns, 0.8 + rows * (1.25 + 0.26 * lines)),
                    layout="constrained")  # fmt: skip
    figure.suptitle(title, fontsize=17, x=0.01, ha="left")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    for axes, image, text in zip(grid, images, told, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(text, fontsize=12)
    return figure


def sizes(counts: Mapping[str, int]) -> Figure:
    """Draw how many training pictures each class has."""
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / max(1, counts[least])
    title = f"{most} has {ratio:.1f} times as many training pictures as {least}"
    if ratio < 1.1:
        title = f"All {len(counts)} classes have about as many training pictures"
    figure, (axes,) = sheet(title, size=(9.5, 1.6 + 0.36 * len(counts)))
    bars = named(axes, "training pictures", "").barh(list(counts), list(counts.values()), color=INK)
    axes.bar_label(bars, fontsize=13, padding=4)
    axes.invert_yaxis()
    return figure


def curves(curve: Sequence[Mapping[str, float]], name: str) -> Figure:
    """Draw loss and accuracy over the epochs."""
    last, epochs = curve[-1], range(1, len(curve) + 1)
    gain = last["validation accuracy"] - curve[len(curve) // 2]["validation accuracy"]
    title = (f"{name}: {last['validation accuracy']:.1%} of the validation pictures right;\n"
             f"the second half of training brought {100 * gain:+.1f} points")  # fmt: skip
    figure, panels = sheet(title, 2, (12, 5.8))
    for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
        unit = "cross-entropy (nats)" if what == "loss" else "share called right"
        named(axes, "epoch", unit)
        axes.xaxis.get_major_locator().set_params(integer=True)
        for part, colour, mark in (("training", STONE, "o"), ("validation", INK, "s")):
            label = "training, changed pictures" if part == "training" else part
            values = [entry[f"{part} {what}"] for entry in curve]
            axes.plot(epochs, values, f"{mark}-", color=colour, lw=2.5, ms=5, label=label)
    panels[1].legend(fontsize=13, loc="lower right")
    return figure


def confusion(labels: np.ndarray, called: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw how often each class was taken for another; what is right is left out."""
    import numpy as np

    number = len(names)
    counts = np.bincount(labels * number + called, minlength=number**2).reshape(number, number)
    wrong = counts - np.diag(counts.diagonal())
    row, column = divmod(int(wrong.argmax()), number)
    title = (f"{wrong.sum()} errors; most often, {wrong.max()} times,\n{names[row]} is called "
             f"{names[column]}")  # fmt: skip
    figure, (axes,) = sheet(title, size=(3.5 + 0.62 * number, 3.3 + 0.58 * number))
    named(axes, "called", "is").imshow(wrong, cmap="Oranges", vmin=0)
    if number <= 20:
        for (at, to), count in np.ndenumerate(counts):
            deep = at != to and wrong[at, to] > wrong.max() / 2
            colour = "white" if deep else STONE if at == to else "black"
            if count:
                axes.text(to, at, str(count), ha="center", va="center", fontsize=12, color=colour)
        axes.set_xticks(range(number), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(number), names)
    return figure


def by_class(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw recall, and the areas below both curves, of each class with their intervals."""
    ranked = sorted(rows, key=lambda row: row["recall"])
    weak, strong = ranked[0], ranked[-1]
    title = (f"{weak['class']} is found least often ({weak['recall']:.0%}), {strong['class']} most "
             f"often ({strong['recall']:.0%})")  # fmt: skip
    figure, panels = sheet(title, 3, (14, 2 + 0.42 * len(rows)))
    for axes, key in zip(panels, ("recall", "ROC-AUC", "PR-AUC"), strict=True):
        shown = [row for row in ranked if key in row]
        named(axes, f"{key}, with 95 % interval", "")
        for place, row in enumerate(shown):
            low, high = row[f"{key}, 95 %"]
            axes.plot([low, high], [place, place], color=SKY, lw=6, solid_capstyle="butt")
            axes.plot(row[key], place, "o", color=INK, ms=9)
        axes.set_yticks(range(len(shown)), [row["class"] for row in shown])
        axes.grid(axis="x", alpha=0.4)
        axes.locator_params(axis="x", nbins=4)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    return figure


def operating(labels: np.ndarray, chances: np.ndarray, names: Sequence[str], rows: Any) -> Figure:
    """Draw the ROC and precision-recall curves of all classes, the best and the worst in colour."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    ranked = sorted((row for row in rows if "PR-AUC" in row), key=lambda row: row["PR-AUC"])
    worst, best = ranked[0]["class"], ranked[-1]["class"]
    half = {}
    figure, (left, right) = sheet("", 2, (12, 6))
    for name in (row["class"] for row in ranked):
        mine = labels == names.index(name)
        values = chances[:, names.index(name)]
        false, true, _ = roc_curve(mine, values)
        precision, recall, _ = precision_recall_curve(mine, values)
        half[name] = float(precision[recall >= 0.5].max())
        kept: dict[str, Any] = {"color": "#c9ced6", "lw": 1.2, "zorder": 1}
        if name in (worst, best):
            kept = {"color": INK, "lw": 3, "zorder": 3, "label": name}
        if name == worst:
            kept |= {"color": FIRE, "ls": "--"}
        left.plot(recall, precision, **kept)
        right.plot(false, true, **kept)
    title = (f"When half of a class is found, {half[worst]:.0%} of what is called {worst} is right,"
             f"\nand {half[best]:.0%} of what is called {best}")  # fmt: skip
    figure.suptitle(title, fontsize=17, x=0.01, ha="left")
    named(left, "recall", "precision").legend(fontsize=13, loc="lower left")
    named(right, "share of other pictures called so", "recall")
    return figure


def compared(rows: Sequence[Mapping[str, Any]], key: str, what: str) -> Figure:
    """Draw one accuracy a row, with its interval where there is one."""
    ranked = sorted(rows, key=lambda row: row["accuracy"])
    best, worst = ranked[-1], ranked[0]
    points = 100 * (best["accuracy"] - worst["accuracy"])
    title = f"{best[key]} is {points:.1f} points better than {worst[key]}"
    figure, (axes,) = sheet(title, size=(10, 2 + 0.5 * len(rows)))
    named(axes, what, "")
    for place, row in enumerate(ranked):
        low, high = row.get("interval", (row["accuracy"],) * 2)
        axes.plot([low, high], [place, place], color=SKY, lw=7, solid_capstyle="butt")
        axes.plot(row["accuracy"], place, "o", color=INK, ms=10)
        axes.annotate(f"{row['accuracy']:.3f}", (high, place), (8, -4),
                      textcoords="offset points", fontsize=13)  # fmt: skip
    axes.set_yticks(range(len(ranked)), [row[key] for row in ranked])
    axes.margins(x=0.15, y=0.12)
    axes.grid(axis="x", alpha=0.4)
    return figure


def courses(found: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Draw the validation accuracy of several trainings over their epochs."""
    figure, (axes,) = sheet(title, size=(10, 6))
    named(axes, "epoch", "validation accuracy")
    colours = (INK, FIRE, STONE, SKY)
    for place, (name, curve) in enumerate(found.items()):
        style = STYLES[place // len(colours) % len(STYLES)]
        axes.plot(range(1, len(curve) + 1), [entry["validation accuracy"] for entry in curve],
                  style, color=colours[place % len(colours)], lw=2.5, marker="o", ms=4,
                  label=name)  # fmt: skip
    axes.legend(fontsize=13)
    axes.grid(alpha=0.4)
    return figure


def trials(values: Sequence[float], method: str) -> Figure:
    """Draw what a search tried, in order, and the best so far."""
    best = [max(values[: place + 1]) for place in range(len(values))]
    when = best.index(best[-1]) + 1
    title = f"Trial {when} of {len(values)} found the best settings ({method}): {best[-1]:.1%}"
    figure, (axes,) = sheet(title)
    named(axes, "trial", "validation accuracy")
    places = range(1, len(values) + 1)
    axes.plot(places, values, "o", color=STONE, ms=8, label="a trial")
    axes.step(places, best, where="post", color=INK, lw=2.5, label="best so far")
    axes.legend(fontsize=13, loc="lower right")
    return figure
