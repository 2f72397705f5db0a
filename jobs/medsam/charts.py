"""The charts of the report: how well masks fit, by region, prompt, bank and distance.

Data:    measured rows, as `job` and `studies` make them.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .measures import Mean

BLUE, AMBER, GREY, VIOLET = "#1864ab", "#e8890c", "#868e96", "#6741d9"
COLOURS = {"WT": BLUE, "TC": AMBER, "ET": VIOLET}
MARKS = {"WT": "o", "TC": "s", "ET": "^"}
TITLE, LABEL, TICK = 16, 14, 13


def panels(title: str, count: int = 1, size: tuple[float, float] = (10, 5.5)) -> Any:
    """Return a figure that says what to see, and its axes in one row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=TITLE, x=0.01, ha="left")
    row = figure.subplots(1, count, squeeze=False)[0]
    for axes in row:
        axes.tick_params(labelsize=TICK)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, row


def named(axes: Axes, across: str, up: str) -> None:
    """Name both axes."""
    axes.set_xlabel(across, fontsize=LABEL)
    axes.set_ylabel(up, fontsize=LABEL)


def spots(axes: Axes, found: Mapping[str, Mean], colour: str, mark: str, shift: float) -> None:
    """Draw a mean with its interval for each name, one below the other."""
    for place, value in enumerate(found.values()):
        low = value.mean if value.low is None else value.low
        high = value.mean if value.high is None else value.high
        reach = [[value.mean - low], [high - value.mean]]
        axes.errorbar(value.mean, place + shift, xerr=reach, fmt=mark, color=colour, ms=9,
                      lw=2.5, capsize=4)  # fmt: skip


def methods(found: Mapping[str, Mapping[str, Mean]], patients: int) -> Figure:
    """Draw the Dice of each region by method; ``found`` is by region, then method."""
    names = list(next(iter(found.values())))
    best = max(names, key=lambda name: found["WT"][name].mean)
    some = f"{patients} patient{'s' if patients > 1 else ''}"
    figure, (axes,) = panels(
        f"Whole tumour: {best} fits best, Dice {found['WT'][best].mean:.2f} ({some})",
        size=(10, 1.6 + 0.75 * len(names)),
    )
    for region, shift in zip(found, (-0.22, 0, 0.22), strict=True):
        spots(axes, found[region], COLOURS[region], MARKS[region], shift)
        axes.plot([], [], MARKS[region], color=COLOURS[region], ms=9, label=region)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=TICK, loc="center left", bbox_to_anchor=(1, 0.5))
    named(axes, "Dice without the prompted slice (1 is perfect); bars: 95 % interval", "")
    return figure


def along(found: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw Dice over the distance from the prompted slice; by region ``mm`` and ``dice``."""
    import numpy as np

    width = 5.0
    near, far = [], []
    figure, (axes,) = panels("")
    for region, one in found.items():
        bins = np.floor(one["mm"] / width).astype(int)
        middles = [(place + 0.5) * width for place in np.unique(bins)]
        medians = [float(np.median(one["dice"][bins == place])) for place in np.unique(bins)]
        axes.plot(one["mm"], one["dice"], ".", color=COLOURS[region], alpha=0.15, ms=5)
        axes.plot(middles, medians, MARKS[region] + "-", color=COLOURS[region], lw=2.5, ms=9,
                  label=f"{region}, median of {width:g} mm")  # fmt: skip
        near.append(medians[0])
        far.append(medians[-1])
    figure.suptitle(
        f"Away from the prompt the median Dice falls from {np.mean(near):.2f} to "
        f"{np.mean(far):.2f} at the last slices",
        fontsize=TITLE, x=0.01, ha="left",
    )  # fmt: skip
    axes.set_ylim(-0.02, 1.02)
    axes.legend(fontsize=TICK, loc="lower left")
    named(axes, "distance from the prompted slice (mm)", "Dice of one slice")
    return figure


def confidences(found: np.ndarray, true: np.ndarray) -> Figure:
    """Draw what the network thinks of its slices, (n,), against how good they are, (n,)."""
    import numpy as np

    known = np.isfinite(true)
    varied = known.sum() > 2 and found[known].std() > 0 and true[known].std() > 0
    related = float(np.corrcoef(found[known], true[known])[0, 1]) if varied else 0.0
    some = "well" if related > 0.7 else "somewhat" if related > 0.3 else "badly"
    figure, (axes,) = panels(f"Confidence tells {some} how good a slice is: r {related:.2f}")
    axes.plot(found[known], true[known], "o", color=BLUE, alpha=0.25, ms=5)
    axes.plot([0, 1], [0, 1], "--", color=GREY, lw=2, label="equal")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(fontsize=TICK)
    named(axes, "predicted IoU of a slice", "its Dice")
    return figure


def study(
    title: str, across: str, found: Mapping[str, Mapping[str, Mean]], columns: int = 3
) -> Figure:
    """Draw a row of panels, one a region: ``found`` is by region, then by what was varied."""
    rows = max(len(one) for one in found.values())
    figure, row = panels(title, columns, (13, 1.8 + 0.42 * rows))
    for number, (axes, (region, one)) in enumerate(zip(row, found.items(), strict=True)):
        spots(axes, one, COLOURS[region], MARKS[region], 0)
        axes.set_title(region, fontsize=LABEL)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_yticks(range(len(one)), list(one) if number == 0 else [""] * len(one))
        axes.grid(axis="x", alpha=0.3)
        named(axes, across, "")
    return figure


def banks(found: Mapping[str, Mapping[str, Mean]], patients: int) -> Figure:
    """Draw each bank's Dice minus that of ``fifo``; by condition, then bank."""
    apart = [
        f"{bank} on {condition}"
        for condition, one in found.items()
        for bank, value in one.items()
        if value.low is not None and value.high is not None and value.low * value.high > 0
    ]
    told = (
        f"{len(apart)} of {sum(map(len, found.values()))} differences from fifo are not zero"
        if apart
        else "No bank differs from fifo by more than chance"
    )
    figure, row = panels(f"{told} ({patients} volumes)", len(found), (13, 4.2))
    for number, (axes, (condition, one)) in enumerate(zip(row, found.items(), strict=True)):
        axes.axvline(0, color=GREY, lw=2, ls="--")
        spots(axes, one, BLUE, "o", 0)
        axes.set_title(condition, fontsize=LABEL)
        axes.set_yticks(range(len(one)), list(one) if number == 0 else [""] * len(one))
        axes.set_ylim(len(one) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        named(axes, "Dice minus fifo's", "")
    return figure


def curve(losses: Sequence[float], title: str, up: str = "loss") -> Figure:
    """Draw the loss over the steps of training."""
    figure, (axes,) = panels(title)
    axes.plot(range(1, len(losses) + 1), losses, "o-", color=BLUE, lw=2, ms=4)
    named(axes, "step", up)
    return figure
