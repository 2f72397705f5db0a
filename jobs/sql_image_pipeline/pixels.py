"""Pixels out of a picture's file, the same for training, scoring and uploads.

Data:    files of pictures; pixels are uint8 (h, w) where grey, else (h, w, 3).
Source:  none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from slipway import images
from slipway.types import begins_as

if TYPE_CHECKING:
    import numpy as np

KINDS = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
MOST_PIXELS = 16_000_000


class Decoded(NamedTuple):
    """A picture in memory: its pixels, and the media type of its file."""

    pixels: np.ndarray
    media_type: str


def opened(content: bytes) -> Decoded:
    """Return the pixels of a file. Raises ValueError, with what was wanted, where it is none."""
    import numpy as np

    kind = next((kind for kind in KINDS if begins_as(kind, content)), None)
    if kind is None:
        raise ValueError(f"a picture ({', '.join(KINDS)})")
    picture = images.opened(content, MOST_PIXELS, [kind])
    grey = picture.mode == "L" and "transparency" not in picture.info
    return Decoded(np.asarray(picture) if grey else images.on_white(picture), kind)


def is_grey(pixels: np.ndarray) -> bool:
    """Tell whether no pixel has a colour."""
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


def fitted(pixels: np.ndarray, channels: int, side: int) -> np.ndarray:
    """Return the middle square as (channels, side, side) uint8."""
    import numpy as np
    import PIL.Image
    import PIL.ImageOps

    if channels == 3 and pixels.shape == (side, side, 3):
        return pixels.transpose(2, 0, 1)
    picture = PIL.Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if picture.size != (side, side):
        picture = PIL.ImageOps.fit(picture, (side, side), PIL.Image.Resampling.BILINEAR)
    found = np.asarray(picture)
    return found[None] if channels == 1 else found.transpose(2, 0, 1)


def stacked(decoded: Sequence[Decoded], channels: int, side: int) -> np.ndarray:
    """Return pictures as (n, channels, side, side) uint8."""
    import numpy as np

    return np.stack([fitted(entry.pixels, channels, side) for entry in decoded])
