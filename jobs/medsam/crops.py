"""The square around the head: what the network looks at, at whatever size it works.

A slice of BraTS is half air; without it the same network sees every millimetre larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 4
"""Pixels kept around the head."""
OUTSIDE = -10.0
"""The logit of what lies outside the square."""


class Square(NamedTuple):
    """A square of a slice: first row, first column and side; it may reach beyond the slice."""

    top: int
    left: int
    side: int


def around(channels: np.ndarray) -> Square:
    """Return the square around the head of a volume (c, z, y, x): what differs from a corner."""
    differs = (channels != channels[:, :1, :1, :1]).any(axis=(0, 1))
    if not differs.any():
        differs[:] = True
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * MARGIN
    top, left = (round((part[0] + part[-1] - side + 1) / 2) for part in (rows, columns))
    return Square(top, left, int(side))


def cut(slices: Tensor, square: Square, size: int, fill: float | None = None) -> Tensor:
    """Return the square of slices (n, c, h, w) as (n, c, size, size).

    What lies beyond a slice is ``fill``, or like the pixel of the first corner.
    """
    from torch.nn.functional import interpolate

    height, width = slices.shape[-2:]
    found = slices[..., :1, :1].expand(*slices.shape[:-2], square.side, square.side).clone()
    if fill is not None:
        found[:] = fill
    top, left = max(square.top, 0), max(square.left, 0)
    low, right = min(square.top + square.side, height), min(square.left + square.side, width)
    found[..., top - square.top : low - square.top, left - square.left : right - square.left] = (
        slices[..., top:low, left:right]
    )
    smaller = size < square.side
    return interpolate(
        found, size=(size, size), mode="bilinear", align_corners=False, antialias=smaller
    )


def paste(logits: Tensor, square: Square, shape: tuple[int, int]) -> Tensor:
    """Return logits (n, side, side) of a square as (n, *shape) of whole slices."""
    found = logits.new_full((len(logits), *shape), OUTSIDE)
    top, left = max(square.top, 0), max(square.left, 0)
    low, right = min(square.top + square.side, shape[0]), min(square.left + square.side, shape[1])
    found[:, top:low, left:right] = logits[
        :, top - square.top : low - square.top, left - square.left : right - square.left
    ]
    return found
