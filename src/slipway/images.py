"""Pictures out of bytes that a stranger sent, within limits.

The header tells the size before anything is decoded, so a small file that would unfold to
gigabytes is refused at the price of its header.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMATS = {
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
}
MAX_PIXELS = 16_000_000


def opened(
    content: bytes, max_pixels: int = MAX_PIXELS, types: Sequence[str] = tuple(FORMATS)
) -> Image:
    """Return the decoded picture, its first frame and the right way up.

    Raises ValueError, with what was wanted, for content that is no whole picture of one of the
    media ``types`` or has more than ``max_pixels``.
    """
    import PIL.Image
    import PIL.ImageOps

    formats = [FORMATS[kind] for kind in types]
    try:
        picture = PIL.Image.open(io.BytesIO(content), formats=formats)
        width, height = picture.size
        if width * height <= max_pixels:
            picture.load()
            PIL.ImageOps.exif_transpose(picture, in_place=True)  # else it copies every picture
            return picture
    except MemoryError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        width, height = 0, 0
    except Exception as error:  # damaged bytes surface in the decoder of the format
        raise ValueError(f"a whole picture ({', '.join(formats)}): {error}") from None
    told = f", found {width} x {height}" if width else ""
    raise ValueError(f"a picture of {max_pixels:,} pixels at most{told}")


def rgba(picture: Image) -> np.ndarray:
    """Return colours and opacity as uint8 (height, width, 4), whatever the picture's mode."""
    import numpy as np
    import PIL.Image

    if picture.mode.startswith("I"):  # 16 bits of grey; Pillow's own conversion clips at 255
        grey = np.asarray(picture, "uint32") >> 8
        picture = PIL.Image.fromarray(grey.clip(0, 255).astype("uint8"))
    return np.asarray(picture.convert("RGBA"))


def on_white(picture: Image) -> np.ndarray:
    """Return colours as uint8 (height, width, 3), with white paper behind what is transparent.

    Source:  Porter and Duff, SIGGRAPH 1984 (over).
    """
    import numpy as np

    if picture.mode == "RGB" and "transparency" not in picture.info:
        return np.asarray(picture)
    told = rgba(picture).astype(np.uint16)
    opacity = told[..., 3:]
    return ((told[..., :3] * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
