"""The figures about explanations, smaller forms, doubt and attacks.

Data:    what `explain`, `variants`, `trust` and `attack` found.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, AMBER, GREY, TEAL = "#21468b", "#e67700", "#6c757d", "#2a9d8f"
MARKS = "os^Dv*"
TEXT = {"fontsize": 14}


def panels(
    title: str, rows: int, columns: int, size: tuple[float, float], **kept: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure under a title that says what to see, and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=17)
    return figure, figure.subplots(rows, columns, squeeze=False, **kept)


def labelled(axes: Axes, across: str, up: str) -> Axes:
    """Name the axes of a panel in letters that read at arm's length."""
    axes.set_xlabel(across, fontsize=15)
    axes.set_ylabel(up, fontsize=15)
    axes.tick_params(labelsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def bare(axes: Axes, image: np.ndarray, told: str = "", **kept: Any) -> None:
    """Show a picture without axes, under a few words."""
    axes.imshow(image, **kept)
    axes.set_title(told, fontsize=12)
    axes.axis("off")


def explanations(columns: Mapping[str, Sequence[np.ndarray]], told: Sequence[str],
                 title: str) -> Figure:  # fmt: skip
    """Draw for each picture the ways to explain it, side by side; pictures share a row of four."""
    beside = max(1, 4 // len(columns))
    rows = -(-len(told) // beside)
    figure, axes = panels(title, rows, beside * len(columns), (9.9, 2.15 * rows + 0.9))
    for unused in axes.flat[len(told) * len(columns) :]:
        unused.axis("off")
    for place, (name, images) in enumerate(columns.items()):
        for number, image in enumerate(images):
            row, block = divmod(number, beside)
            scale = {}
            if image.ndim == 2:  # for and against, around zero
                most = max(abs(image).max(), 1e-12)
                scale = {"cmap": "PuOr_r", "vmin": -most, "vmax": most}
            words = told[number] if place == 0 else name if row == 0 else ""
            bare(axes[row, block * len(columns) + place], image, words, **scale)
    return figure


def feature_maps(image: np.ndarray, found: Mapping[str, np.ndarray]) -> Figure:
    """Draw what convolutions early, in the middle and late make of a picture."""
    width = max(len(maps) for maps in found.values()) + 1
    sizes = [maps.shape[1] for maps in found.values()]
    edges, spots = (f"{sizes[place]} x {sizes[place]}" for place in (0, -1))
    title = f"From {edges} edges to {spots} spots: later layers see less detail"
    figure, axes = panels(title, len(found), width, (1.35 * width, 1.6 * len(found) + 0.8))
    for row, (name, maps) in enumerate(found.items()):
        for place in axes[row]:
            place.axis("off")
        bare(axes[row, 0], image, "the picture" if row == 0 else "")
        for column, one in enumerate(maps, start=1):
            bare(axes[row, column], one, name if column == 1 else "", cmap="magma")
    return figure


def reliability(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]],
    errors: tuple[float, float], temperature: float,
) -> Figure:  # fmt: skip
    """Draw accuracy against the winner's chance, without and with the temperature."""
    verb = "cools" if temperature > 1 else "warms"
    figure, axes = panels(
        f"Dividing logits by {temperature:.2f} {verb} the chances: calibration error "
        f"{errors[0]:.3f} before, {errors[1]:.3f} after",
        1, 2, (12, 5.5), sharey=True,
    )  # fmt: skip
    parts = zip(axes[0], (before, after), errors, ("before", "after"), strict=True)
    for place, bins, error, name in parts:
        labelled(place, "chance that the network gives its answer", "share that is right")
        place.plot([0, 1], [0, 1], color=GREY, ls=":", lw=2, label="as it should be")
        most = max(entry["pictures"] for entry in bins)
        place.scatter(
            [entry["chance"] for entry in bins], [entry["accuracy"] for entry in bins],
            s=[40 + 300 * entry["pictures"] / most for entry in bins], color=BLUE,
            label="15 bins; area: pictures",
        )  # fmt: skip
        place.set_title(f"{name}: error {error:.3f}", loc="left", **TEXT)
        place.set(xlim=(0, 1.03), ylim=(0, 1.05))
    axes[0, 0].legend(fontsize=13, loc="upper left")
    return figure


def doubts(shares: Sequence[float], kept: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the accuracy on what is left when the most doubtful pictures go to a person."""
    best = max(kept, key=lambda name: sum(kept[name]))
    all_of, most = kept[best][-1], kept[best][0]
    figure, axes = panels(
        f"Handing doubtful pictures to a person: of the surest {shares[0]:.0%} {most:.1%} are "
        f"right, of all {all_of:.1%}",
        1, 1, (10.5, 5.5),
    )  # fmt: skip
    place = labelled(axes[0, 0], "share of pictures that the network answers (%)", "accuracy (%)")
    for (name, values), colour, mark in zip(
        kept.items(), (BLUE, AMBER, TEAL, GREY), MARKS, strict=False
    ):
        across = [100 * share for share in shares]
        place.plot(across, [100 * value for value in values], mark + "-", color=colour, lw=2.5,
                   markersize=8, label=f"doubt: {name}")  # fmt: skip
    place.legend(fontsize=14)
    return figure


def strangers(
    known: np.ndarray, strange: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]],
    score: str,
) -> Figure:  # fmt: skip
    """Draw how one score spreads over known and strange pictures, and all scores' areas."""
    import numpy as np

    worst = min(rows, key=lambda row: row[score])
    figure, axes = panels(
        f"Hardest to tell from the known ones by {score}: {worst['pictures']}, "
        f"area {worst[score]:.2f}",
        1, 2, (13, 5.5),
    )  # fmt: skip
    left = labelled(axes[0, 0], f"{score} (larger: stranger)", "share of pictures")
    everything = np.concatenate([known, *strange.values()])
    edges = np.linspace(*np.percentile(everything, [0.5, 99.5]), 40)
    kinds = {"known": known} | dict(strange)
    for (name, values), colour in zip(kinds.items(), (BLUE, AMBER, TEAL, GREY), strict=False):
        weight = np.full(len(values), 1 / len(values))
        left.hist(values.clip(edges[0], edges[-1]), edges, weights=weight, histtype="step", lw=2.5,
                  color=colour, label=name)  # fmt: skip
    left.legend(fontsize=13)
    right = labelled(axes[0, 1], "area below the ROC curve (0.5: chance)", "")
    names = [name for name in rows[0] if name != "pictures"]
    for offset, (name, colour) in enumerate(zip(names, (GREY, BLUE, AMBER), strict=False)):
        places = [row + 0.26 * (offset - 1) for row in range(len(rows))]
        bars = right.barh(places, [row[name] for row in rows], 0.24, color=colour, label=name)
        right.bar_label(bars, fmt="%.2f", fontsize=12, padding=3)
    right.set_yticks(range(len(rows)), [row["pictures"] for row in rows], fontsize=13)
    right.set_xlim(0, 1.12)
    right.legend(fontsize=12, loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=3, frameon=False)
    return figure


def corruptions(found: Mapping[str, Sequence[float]], plain: float) -> Figure:
    """Draw the accuracy under each kind of harm and each severity, the worst at the bottom."""
    import numpy as np

    ranked = sorted(found, key=lambda kind: -sum(found[kind]))
    values = 100 * np.array([[plain, *found[kind]] for kind in ranked])
    figure, axes = panels(
        f"{ranked[-1][0].upper()}{ranked[-1][1:]} harms most: {values[-1, -1]:.0f} % right at "
        f"severity 5, {100 * plain:.0f} % untouched",
        1, 1, (10.5, 6.5),
    )  # fmt: skip
    place = labelled(axes[0, 0], "severity (0: untouched)", "")
    place.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            place.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=14,
                       color="black" if value > 55 else "white")  # fmt: skip
    place.set_yticks(range(len(ranked)), ranked, fontsize=14)
    place.set_title("accuracy (%)", loc="left", **TEXT)
    return figure


def attacks(budgets: Sequence[int], found: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Draw the accuracy over what an attack may change each colour by."""
    figure, axes = panels(title, 1, 1, (10.5, 5.5))
    place = labelled(
        axes[0, 0], "most that a colour may change by (of 255); 0: untouched", "accuracy (%)"
    )
    styles = zip(found.items(), (BLUE, AMBER, TEAL, GREY), MARKS, strict=False)
    for (name, values), colour, mark in styles:
        place.plot([0, *budgets], [100 * value for value in values], mark + "-", color=colour,
                   lw=2.5, markersize=9, label=name)  # fmt: skip
    place.set_ylim(-2, 102)
    place.legend(fontsize=14)
    return figure


def gallery(images: Sequence[np.ndarray], told: Sequence[str], title: str, columns: int) -> Figure:
    """Draw pictures in rows, each under a few words."""
    rows = -(-len(images) // columns)
    figure, axes = panels(title, rows, columns, (1.75 * columns, 2.05 * rows + 0.7))
    for place in axes.flat:
        place.axis("off")
    for place, image, words in zip(axes.flat, images, told, strict=False):
        bare(place, image, words)
    return figure


def variants(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw accuracy against latency of each form, one picture at a time."""
    latency = "p50 (ms), batch 1"
    fastest = min(rows, key=lambda row: row[latency])
    slowest = max(rows, key=lambda row: row[latency])
    figure, axes = panels(
        f"{fastest['variant'].capitalize()} is {slowest[latency] / fastest[latency]:.1f} times as "
        f"fast as {slowest['variant']}, and right "
        f"{100 * (slowest['accuracy'] - fastest['accuracy']):.1f} points less often",
        1, 1, (11, 6),
    )  # fmt: skip
    place = labelled(axes[0, 0], "time of one picture, median (ms), logarithmic", "accuracy (%)")
    place.set_xscale("log")
    colours = (GREY, BLUE, AMBER, TEAL)
    for number, row in enumerate(rows):
        size = f", {row['file (kB)']:,.0f} kB" if row["file (kB)"] else ""
        mark, colour = MARKS[number % len(MARKS)], colours[number % len(colours)]
        place.plot(row[latency], 100 * row["accuracy"], mark, markersize=14, color=colour, ls="",
                   label=row["variant"] + size)  # fmt: skip
    place.margins(0.15, 0.15)
    place.tick_params(which="minor", labelsize=13)
    place.xaxis.set_major_formatter("{x:g}")
    place.xaxis.set_minor_formatter("{x:.2g}")
    figure.legend(loc="outside right center", fontsize=14)
    return figure
