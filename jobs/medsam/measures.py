"""How well a mask fits: Dice, IoU, HD95 and surface Dice in three dimensions, and over patients.

Where a region is absent: both masks empty is a perfect answer (Dice, IoU, surface Dice 1; HD95
0 mm), only one of them empty is a wrong one (0; HD95 the volume's diagonal), as BraTS rules.

Data:    masks (x, y, z) bool; spacing in mm.
Source:  Dice, Ecology 1945; Huttenlocher et al., IEEE TPAMI 1993 (Hausdorff, here its 95th
         percentile); Nikolov et al., arXiv 1809.04430 (surface Dice); Bakas et al., arXiv
         1811.02629 (rules for empty regions); Efron, Annals of Statistics 1979 (bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

TOLERANCE = 1.0
"""In mm: what two raters of a 1 mm scan differ by."""
RESAMPLES = 2000


class Fit(NamedTuple):
    """One region of one patient: Dice, IoU and surface Dice in [0, 1], HD95 in mm."""

    dice: float
    iou: float
    hd95: float
    surface_dice: float


class Mean(NamedTuple):
    """A mean over patients and its bootstrap interval at 95 %; of one patient there is none."""

    mean: float
    low: float | None
    high: float | None


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Return 2 |A and B| / (|A| + |B|)."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Return |A and B| / |A or B|."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask that have a face to the outside."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask)


def surface_distances(
    found: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far, in mm, each surface voxel of one mask is from the surface of the other.

    Neither may be empty. Only the box that holds both is looked at.
    """
    from scipy import ndimage

    (box,) = ndimage.find_objects((found | truth).astype("uint8"))
    edges = [surface(_padded(mask[box])) for mask in (found, truth)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return away[1][edges[0]], away[0][edges[1]]


def _padded(mask: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.pad(mask, 1)


def fit(found: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> Fit:
    """Return all four measures of two masks."""
    import numpy as np

    if not found.any() or not truth.any():
        right = float(found.any() == truth.any())
        diagonal = math.hypot(*(size * mm for size, mm in zip(truth.shape, spacing, strict=True)))
        return Fit(right, right, 0.0 if right else diagonal, right)
    one, other = surface_distances(found, truth, spacing)
    hd95 = max(np.percentile(one, 95), np.percentile(other, 95))
    near = (one <= TOLERANCE).sum() + (other <= TOLERANCE).sum()
    share = near / (len(one) + len(other))
    return Fit(dice(found, truth), iou(found, truth), float(hd95), float(share))


def without_slice(mask: np.ndarray, number: int, axis: int = 2) -> np.ndarray:
    """Return a mask without one slice: the prompted one, whose answer was given."""
    import numpy as np

    return np.delete(mask, number, axis)


def mean(values: Sequence[float], seed: int = 0) -> Mean:
    """Return the mean over patients with its percentile bootstrap interval."""
    import numpy as np

    found = np.asarray(values, float)
    if len(found) < 2:
        return Mean(float(found.mean()), None, None)
    draws = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.percentile(found[draws].mean(axis=1), (2.5, 97.5))
    return Mean(float(found.mean()), float(low), float(high))


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Mean:
    """Return the mean of paired differences, one minus other, patient by patient."""
    return mean([a - b for a, b in zip(one, other, strict=True)], seed)


def false_slices(found: np.ndarray, truth: np.ndarray, axis: int = 2) -> float:
    """Return the share of slices without the region on which the mask claims it all the same.

    Going on past the end of a tumour is how propagation fails most (arXiv 2505.01854).
    """
    across = tuple(place for place in range(truth.ndim) if place != axis)
    absent = ~truth.any(axis=across)
    return float(found.any(axis=across)[absent].mean()) if absent.any() else 0.0


def slice_dice(found: np.ndarray, truth: np.ndarray, axis: int = 2) -> np.ndarray:
    """Return the Dice of each slice; NaN where neither mask has anything."""
    import numpy as np

    across = tuple(place for place in range(truth.ndim) if place != axis)
    total = found.sum(axis=across, dtype=float) + truth.sum(axis=across)
    both = 2.0 * (found & truth).sum(axis=across)
    return np.divide(both, total, out=np.full(len(total), np.nan), where=total > 0)


def smoothness(mask: np.ndarray, axis: int = 2) -> float:
    """Return the mean Dice of neighbouring slices, where either has something; NaN for none."""
    import numpy as np

    moved = np.moveaxis(mask, axis, 0)
    found = slice_dice(moved[1:], moved[:-1], 0)
    return float(np.nanmean(found)) if np.isfinite(found).any() else math.nan


def consistency(found: np.ndarray, truth: np.ndarray, axis: int = 2) -> float:
    """Return the slice-consistency index: smoothness of the mask over that of the truth.

    1 is as smooth from slice to slice as the truth; less flickers; NaN where either is empty.
    """
    return smoothness(found, axis) / smoothness(truth, axis)
