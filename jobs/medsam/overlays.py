"""Masks drawn over slices: a montage of a patient, a stack to scroll through, the failures.

The truth is a solid yellow line, the answer a dashed blue one, the prompt pink. The patient's
right is on the right, the front is up.

Data:    cases and masks (x, y, z) in RAS.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from . import baseline, measures

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from . import brats

TRUTH, FOUND, GIVEN = "#ffd43b", "#4dabf7", "#f783ac"
SIZE = 2.6
MARGIN, LEAST = 12, 80
"""Pixels around a tumour that is shown closely, and of such a picture's side."""
MOST = 18
"""Pictures of a stack."""


@dataclass(frozen=True)
class View:
    """One region of one patient: the volume below, what is true, found and was given."""

    case: brats.Case
    region: str
    truth: np.ndarray
    found: np.ndarray
    prompt: np.ndarray
    number: int

    @property
    def volume(self) -> np.ndarray:
        """The modality on which the region is brightest."""
        return self.case.volumes[baseline.BRIGHT[self.region]]

    @cached_property
    def white(self) -> float:
        """The signal that is drawn white."""
        import numpy as np

        return float(np.percentile(self.volume[self.volume != 0], 99.5))


def frame_of(case: brats.Case) -> tuple[slice, slice]:
    """Return the part of a slice that holds the head, as slices of x and y."""
    from scipy import ndimage

    volume = next(iter(case.volumes.values()))
    (box,) = ndimage.find_objects((volume != 0).any(axis=2).astype("uint8"))
    x, y = (slice(max(side.start - 2, 0), side.stop + 2) for side in box)
    return x, y


def close_to(view: View) -> tuple[slice, slice]:
    """Return the square of a slice, in x and y, around all that is true or given."""
    from scipy import ndimage

    filled = view.truth.any(axis=2) | view.prompt
    (box,) = ndimage.find_objects(filled.astype("uint8"))
    side = max(max(part.stop - part.start for part in box) + 2 * MARGIN, LEAST)
    starts = [
        min(max((part.start + part.stop - side) // 2, 0), max(size - side, 0))
        for part, size in zip(box, filled.shape, strict=True)
    ]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def paint(axes: Axes, view: View, number: int, frame: tuple[slice, slice]) -> None:
    """Draw one slice with its outlines."""
    pixels = view.volume[*frame, number].T
    axes.imshow(pixels, cmap="gray", origin="lower", vmin=0, vmax=view.white)
    axes.axis("off")
    for mask, colour, line in ((view.truth, TRUTH, "-"), (view.found, FOUND, "--")):
        outline(axes, mask[*frame, number], colour, line, 1.8)
    if number == view.number:
        outline(axes, view.prompt[frame], GIVEN, "-", 1.6)


def outline(axes: Axes, mask: np.ndarray, colour: str, line: str, width: float) -> None:
    """Draw the edge of a mask (x, y), where it has one."""
    if mask.any() and not mask.all():
        axes.contour(mask.T.astype(float), [0.5], colors=colour, linestyles=line, linewidths=width)


def key(figure: Figure, place: str = "outside lower center") -> None:
    """Tell what the lines are."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, ls=line, lw=3) for colour, line in
             ((TRUTH, "-"), (FOUND, "--"), (GIVEN, "-"))]  # fmt: skip
    legend = figure.legend(lines, ["truth", "found", "prompt"], loc=place, ncols=3,
                           fontsize=13, facecolor="black", labelcolor="white")  # fmt: skip
    legend.get_frame().set_alpha(1)


def shown_slices(view: View) -> list[tuple[int, str]]:
    """Return the prompted slice, some on the way to each end, the one with most wrong voxels."""
    import numpy as np

    present = np.flatnonzero(view.truth.any(axis=(0, 1)))
    first, last, at = int(present[0]), int(present[-1]), view.number
    wanted = {
        (at + 9 * first) // 10: "lower end", (at + first) // 2: "half way down",
        (at + last) // 2: "half way up", (at + 9 * last + 9) // 10: "upper end", at: "prompted",
    }  # fmt: skip
    wrong = (view.found ^ view.truth).sum(axis=(0, 1))
    wrong[at] = 0
    if wrong.any():
        wanted.setdefault(int(wrong.argmax()), "most wrong")
    return sorted(wanted.items())


def montage(views: Sequence[View], title: str) -> Figure:
    """Draw a row for each region: the head, then the tumour closely, from the feet up."""
    from matplotlib.figure import Figure

    rows = [shown_slices(view) for view in views]
    columns = 1 + max(map(len, rows))
    figure = Figure(figsize=(SIZE * columns, 1.1 + (SIZE + 0.75) * len(views)),
                    layout="constrained")  # fmt: skip
    figure.suptitle(title, fontsize=16, x=0.01, ha="left")
    grid = figure.subplots(len(views), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for view, slices, row in zip(views, rows, grid, strict=True):
        scores = measures.slice_dice(view.found, view.truth)
        paint(row[0], view, view.number, frame_of(view.case))
        row[0].set_title(f"{view.region} on {baseline.BRIGHT[view.region]}\nthe head", fontsize=12)
        near = close_to(view)
        for (number, what), axes in zip(slices, row[1:], strict=False):
            paint(axes, view, number, near)
            axes.set_title(f"{what}\nz {number}: {told(scores[number])}", fontsize=12)
    key(figure)
    return figure


def told(score: float) -> str:
    """Return the Dice of a slice in words."""
    return f"Dice {score:.2f}" if score == score else "rightly empty"  # NaN: both are


def stack(views: Mapping[str, View], margin: int = 6) -> Iterator[Figure]:
    """Yield pictures of slices, evenly from below the tumour to above it, all of one size."""
    import numpy as np
    from matplotlib.figure import Figure

    whole = next(iter(views.values()))
    either = np.flatnonzero((whole.truth | whole.found).any(axis=(0, 1)))
    first, last = max(either[0] - margin, 0), min(either[-1] + margin, whole.truth.shape[2] - 1)
    frame = frame_of(whole.case)
    scores = {name: measures.slice_dice(view.found, view.truth) for name, view in views.items()}
    for number in np.linspace(first, last, MOST).round().astype(int).tolist():
        figure = Figure(figsize=(9.6, 5.4), facecolor="black")
        figure.suptitle(f"{whole.case.name}, slice {number} (shown: {first} to {last})",
                        fontsize=15, color="white")  # fmt: skip
        row = figure.subplots(1, len(views), squeeze=False)[0]
        for axes, (name, view) in zip(row, views.items(), strict=True):
            paint(axes, view, number, frame)
            title = f"{name} on {baseline.BRIGHT[name]}\n{told(scores[name][number])}"
            axes.set_title(title, fontsize=13, color="white")
        figure.subplots_adjust(0.01, 0.1, 0.99, 0.8, 0.02)
        key(figure, "lower center")
        yield figure


def gallery(found: Sequence[tuple[View, int, str]], title: str, columns: int = 4) -> Figure:
    """Draw single slices with what is wrong on each."""
    from matplotlib.figure import Figure

    rows = max(1, -(-len(found) // columns))
    figure = Figure(figsize=(3.2 * columns, 1.0 + 4.1 * rows), layout="constrained")
    figure.suptitle(title, fontsize=16, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (view, number, what) in zip(grid.flat, found, strict=False):
        paint(axes, view, number, close_to(view))
        axes.set_title(f"{view.case.name[-16:]}\n{view.region}, z {number}\n{what}", fontsize=11)
    key(figure)
    return figure
