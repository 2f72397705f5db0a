"""Digits of MNIST as people send them: on sheets of other sizes, colours and cleanliness.

Data:    an image (28, 28) uint8, ink 255 on 0, and a generator for what is random.
Source:  none; each kind is a thing that a drawn, scanned or photographed digit has.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

PAPER, INK = (232, 224, 190), (40, 60, 150)


def as_png(pixels: np.ndarray) -> bytes:
    """Return grey (h, w), RGB or RGBA pixels as a PNG file."""
    return _encoded(pixels, "PNG")


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def larger(image: np.ndarray, side: int = 200) -> np.ndarray:
    """Return the digit scaled to (side, side)."""
    import numpy as np
    import PIL.Image

    bicubic = PIL.Image.Resampling.BICUBIC
    return np.asarray(PIL.Image.fromarray(image).resize((side, side), bicubic))


def coloured(image: np.ndarray) -> np.ndarray:
    """Return blue ink on yellowish paper, (h, w, 3)."""
    import numpy as np

    share = image[..., None] / 255
    return (share * INK + (1 - share) * PAPER).astype(np.uint8)


def transparent(image: np.ndarray) -> np.ndarray:
    """Return black ink on nothing, (h, w, 4), as a sheet to draw on gives it."""
    import numpy as np

    return np.dstack([np.zeros((*image.shape, 3), np.uint8), image])


def corner(image: np.ndarray) -> np.ndarray:
    """Return the digit small in a corner of a large white sheet."""
    import numpy as np

    sheet = np.full((300, 400), 255, np.uint8)
    sheet[20:90, 300:370] = 255 - larger(image, 70)
    return sheet


def grainy(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return dark ink on a grey, grainy sheet."""
    import numpy as np

    sheet = 190 - 0.6 * larger(image).astype(float)
    return (sheet + draw.normal(0, 15, sheet.shape)).clip(0, 255).astype(np.uint8)


SHEETS: dict[str, Callable[[np.ndarray, np.random.Generator], bytes]] = {
    "as in MNIST": lambda image, _: as_png(image),
    "black on white": lambda image, _: as_png(255 - image),
    "200 pixels wide": lambda image, _: as_png(larger(image)),
    "13 pixels wide": lambda image, _: as_png(larger(image, 13)),
    "a corner of a sheet": lambda image, _: as_png(corner(image)),
    "blue on yellow, JPEG": lambda image, _: _encoded(coloured(larger(image)), "JPEG"),
    "transparent": lambda image, _: as_png(transparent(larger(image))),
    "grainy": lambda image, draw: as_png(grainy(image, draw)),
}
