"""Prompts: a point, a box or a mask on one slice, and how the small network gets them.

A network of four million parameters learns masks fast and points hardly at all, so here boxes and
points go in as masks. A point alone cannot say how much around it is meant, and the core and its
rim have the same box; so the form of the mask names the region: see `rasterised`.

Source:  Ravi et al., arXiv 2408.00714 (kinds of prompt); Ma et al., MedSAM, Nature Communications
         2024 (jittered boxes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator

Kind = Literal["point", "box", "mask"]
KINDS: tuple[Kind, ...] = ("point", "box", "mask")
RADII = {"WT": 12.0, "TC": 7.0, "ET": 4.0}
"""Radius in pixels of 1 mm of the disk that stands for a point in a region."""


@dataclass
class Prompt:
    """What a user shows on one slice, in pixels of the slice.

    ``value`` is a point (x, y), a box (x0, y0, x1, y1) or a mask (y, x) of bool.
    """

    kind: Kind
    slice: int
    value: np.ndarray


NUMBERS = re.compile(r"(?P<kind>point|box):(?P<slice>\d{1,6}):(?P<value>[\d.,-]{1,99})")


def parse(text: str) -> Prompt:
    """Return the prompt that a command line gives: ``point:80:60,75`` or ``box:80:30,40,90,110``.

    Slice, then x and y in pixels of the slice; a box is its first and its last column and row.
    """
    import numpy as np

    told = f"prompt {text!r}: wanted point:SLICE:X,Y or box:SLICE:X0,Y0,X1,Y1"
    match = NUMBERS.fullmatch(text.strip())
    if not match:
        raise InputInvalid(told)
    try:
        value = np.array([float(part) for part in match["value"].split(",")])
    except ValueError:
        raise InputInvalid(told) from None
    if len(value) != (2 if match["kind"] == "point" else 4):
        raise InputInvalid(told)
    if match["kind"] == "box" and not (value[:2] <= value[2:]).all():
        raise InputInvalid(f"{told}, the first corner before the second")
    return Prompt("point" if match["kind"] == "point" else "box", int(match["slice"]), value)


def from_mask(
    mask: np.ndarray, kind: Kind, slice: int, jitter: float = 0.0, draw: Generator | None = None
) -> Prompt:
    """Return a prompt for a mask (y, x) bool of one slice, which must not be empty.

    ``jitter`` is a share of the box's sides by which each edge may lie off, or the share of the
    points in the mask, the innermost first, that a point is chosen from.
    """
    import numpy as np

    if not mask.any():
        raise InputInvalid(f"slice {slice}: the mask is empty; wanted a prompt on what is there")
    draw = draw or np.random.default_rng(0)
    if kind == "mask":
        return Prompt(kind, slice, mask.astype(bool))
    if kind == "box":
        return Prompt(kind, slice, jittered(bounds(mask), jitter, draw))
    return Prompt(kind, slice, inner_point(mask, jitter, draw))


def bounds(mask: np.ndarray) -> np.ndarray:
    """Return the box (x0, y0, x1, y1) of a mask (y, x); the far edges are the last pixels."""
    import numpy as np

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=float)


def jittered(box: np.ndarray, jitter: float, draw: Generator) -> np.ndarray:
    """Return a box whose edges lie off by up to ``jitter`` of its sides."""
    import numpy as np

    sides = np.tile(box[2:] - box[:2] + 1, 2)
    return box + draw.uniform(-jitter, jitter, 4) * sides


def inner_point(mask: np.ndarray, jitter: float, draw: Generator) -> np.ndarray:
    """Return the pixel (x, y) deepest in a mask (y, x), or one of the deepest at random."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    deepest = np.argsort(-depth, axis=None, kind="stable")
    allowed = max(1, round(jitter * np.count_nonzero(mask)))
    row, column = np.unravel_index(deepest[draw.integers(allowed)], mask.shape)
    return np.array([column, row], dtype=float)


def rasterised(prompt: Prompt, shape: tuple[int, int], region: str = "WT") -> np.ndarray:
    """Return the mask (y, x) bool that stands for a prompt; its form names the region.

    A point is a disk, larger for a larger region. A box is filled for the whole tumour, its ellipse
    for the core, and a ring for the enhancing rim: core and rim have the same box.
    """
    import numpy as np

    if prompt.kind == "mask":
        return np.asarray(prompt.value, dtype=bool)
    if prompt.kind == "point":
        radius = RADII.get(region, RADII["WT"])
        return ellipse(np.concatenate([prompt.value - radius, prompt.value + radius]), shape)
    found = ellipse(prompt.value, shape, 8.0 if region not in ("TC", "ET") else 2.0)
    if region == "ET":
        shrunk = prompt.value + (prompt.value[[2, 3, 0, 1]] - prompt.value) / 4
        found &= ~ellipse(shrunk, shape)
    return found


def ellipse(box: np.ndarray, shape: tuple[int, int], power: float = 2.0) -> np.ndarray:
    """Return the ellipse (y, x) bool that a box (x0, y0, x1, y1) bounds; one pixel at least.

    With a higher ``power`` it fills more of the box, up to all of it.
    """
    import numpy as np

    middle, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2] + 1) / 2, 0.51)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    across, down = np.abs(columns - middle[0]) / half[0], np.abs(rows - middle[1]) / half[1]
    found = across**power + down**power <= 1
    if not found.any():
        column, row = np.round(middle).astype(int)
        found[np.clip(row, 0, shape[0] - 1), np.clip(column, 0, shape[1] - 1)] = True
    return found
