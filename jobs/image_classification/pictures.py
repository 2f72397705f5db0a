"""A stranger's picture as the array that the networks see: three bytes a pixel, the right way up.

Data:    a file's bytes: JPEG, PNG, WebP, GIF, BMP or TIFF of any mode Pillow can decode.
Source:  EXIF 2.32 (orientation).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slipway import images

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
KEPT = 2**18
"""Pixels of which a picture is kept: rows of photographs are in memory by the hundred."""
TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff")
TURNED = (b"Exif", b"tiff:Orientation")
"""What a file may hold that says which way up it is: EXIF, or XMP."""


def array(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the first frame of a file as (height, width, 3) uint8, turned as EXIF says.

    One of more than `KEPT` pixels is the mean of squares of its pixels. Raises ValueError, with
    what was wanted, for what is no whole picture or has too many pixels.
    """
    import numpy as np
    import PIL.Image

    found = jpeg(content, max_pixels)
    if found is None:
        found = colours(images.opened(content, max_pixels, TYPES))
    times = math.ceil(math.sqrt(found[..., 0].size / KEPT))
    return np.asarray(PIL.Image.fromarray(found).reduce(times)) if times > 1 else found


def jpeg(content: bytes, max_pixels: int) -> np.ndarray | None:
    """Return the pixels of a plain, whole and upright JPEG file, or None for Pillow to look at.

    They are Pillow's own, of 32 x 32 in 11 us instead of 55: both call libjpeg-turbo.
    """
    import simplejpeg

    if not content.startswith(b"\xff\xd8") or any(mark in content for mark in TURNED):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        if space != "YCbCr" or height * width > max_pixels:
            return None
        return simplejpeg.decode_jpeg(content)
    except ValueError:
        return None


def colours(picture: Image) -> np.ndarray:
    """Return a decoded picture of any mode as (height, width, 3) uint8, opacity over white."""
    import numpy as np

    if picture.mode == "F":
        return np.repeat(_stretched(np.asarray(picture))[..., None], 3, axis=2)
    return images.on_white(_from_lab(picture) if picture.mode == "LAB" else picture)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Return numbers without a scale of their own as grey from their least to their largest."""
    import numpy as np

    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return ((finite - low) * (255 / (high - low) if high > low else 0)).round().astype(np.uint8)


def _from_lab(picture: Image) -> Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(picture, lab, srgb, outputMode="RGB") or picture
