"""Any picture of one digit, brought to the form of MNIST: 28 x 28, ink 255 on 0.

Ink is what differs from the paper, and the paper is what lies along the border: so polarity and
colours do not matter. The digit is cut out, scaled to fit 20 x 20 and laid so that its centre of
mass is the middle of the field.

Data:    a picture of any size and mode, as Pillow opens it.
Source:  LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 1998, section III.A.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIDE, BOX = 28, 20
LARGEST = 1024
"""Pixels on the longer side that are looked at; a larger picture is made smaller first."""
CONTRAST = 0.1
"""Least difference of ink and paper, of the whole range."""
SPECK = 0.05
"""A blot of less than this part of the largest one's area is no part of the digit."""
THIN = 0.08
"""Width of a stroke, in lengths of the digit, below which it is drawn thicker; MNIST's is 0.1."""


def normalised(picture: Image) -> np.ndarray | None:
    """Return the digit of a picture as (28, 28) uint8, or None where there is no ink."""
    ink = ink_of(picture)
    return None if ink is None else framed(ink)


def ink_of(picture: Image) -> np.ndarray | None:
    """Return the ink inside its bounding box (h, w), float in [0, 1]; None where there is none."""
    from scipy import ndimage

    from slipway.images import rgba

    picture.thumbnail((LARGEST, LARGEST))
    apart = from_paper(rgba(picture))
    apart = ndimage.gaussian_filter(apart, min(max(apart.shape) / SIDE - 1, 6) / 4)
    noise = noise_of(apart)
    darkest = apart.max()
    if darkest < max(CONTRAST, 1.6 * noise):
        return None
    ink = ((apart - noise) / (darkest - noise)).clip(0, 1)
    ink *= without_specks(ink > CONTRAST)
    rows, columns = ink.any(axis=1).nonzero()[0], ink.any(axis=0).nonzero()[0]
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return thickened(cut)


def from_paper(pixels: np.ndarray) -> np.ndarray:
    """Return how far each pixel (h, w, 4) is from the paper, (h, w) in [0, 1].

    Transparent pixels are paper, black under bright ink and white under dark ink.
    """
    import numpy as np

    colours, opacity = pixels[..., :3] / np.float32(255), pixels[..., 3:] / np.float32(255)
    inked = (colours * opacity).sum() / max(3 * opacity.sum(), 1)
    colours = colours * opacity + (1 - opacity) * (inked < 0.5)
    apart = colours - np.median(border(colours), axis=0)
    return np.sqrt((apart**2).mean(axis=-1))


def border(pixels: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of (h, w, ...) as (n, ...)."""
    import numpy as np

    sides = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    return np.concatenate(sides)


def noise_of(apart: np.ndarray) -> float:
    """Return how far paper is from its own colour; a stroke may cross a tenth of the border."""
    import numpy as np

    return 1.5 * float(np.quantile(border(apart), 0.9))


def without_specks(mask: np.ndarray) -> np.ndarray:
    """Keep of a mask (h, w) the blots that are large enough to be strokes."""
    import numpy as np
    from scipy import ndimage

    blots, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(blots.ravel())
    areas[0] = 0
    kept: np.ndarray = (areas > SPECK * areas.max())[blots]
    return kept


def thickened(ink: np.ndarray) -> np.ndarray:
    """Draw thin strokes thicker, so that they survive the scaling."""
    import numpy as np
    from scipy import ndimage

    mask = ink > 0.5
    inside = ndimage.binary_erosion(mask)
    edge = max(int(mask.sum() - inside.sum()), 1)
    width, length = 2 * mask.sum() / edge, max(ink.shape)
    if length <= BOX or width >= THIN * length:
        return ink
    more = round(0.12 * length - width)
    return ndimage.grey_dilation(np.pad(ink, more), size=more + 1)


def framed(ink: np.ndarray) -> np.ndarray:
    """Scale ink (h, w) in [0, 1] to the box, its centre of mass to the middle of the field."""
    import numpy as np
    import PIL.Image

    height, width = ink.shape
    scale = BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = PIL.Image.fromarray(ink.astype("float32")).resize(size, PIL.Image.Resampling.BICUBIC)
    box = np.asarray(grey).clip(0, None)
    box = box / (box.max() or 1)
    field = np.zeros((SIDE, SIDE))
    places = [
        min(max(round(SIDE / 2 - centre), 0), SIDE - length)
        for centre, length in zip(centre_of_mass(box), box.shape, strict=True)
    ]
    field[places[0] : places[0] + size[1], places[1] : places[1] + size[0]] = box
    return (field * 255).round().astype(np.uint8)


def centre_of_mass(ink: np.ndarray) -> tuple[float, float]:
    """Return row and column of the centre of mass, counted from the upper left corner."""
    import numpy as np

    total = ink.sum() or 1.0
    rows, columns = (np.arange(length) + 0.5 for length in ink.shape)
    return float(ink.sum(axis=1) @ rows / total), float(ink.sum(axis=0) @ columns / total)
