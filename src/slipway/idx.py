"""MNIST's file format: a big-endian header, then one byte a pixel or label.

Source:  the idx format: LeCun, Cortes and Burges, the database of handwritten digits, 1998.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np

LARGEST = 2 * 2**30
"""Values in one file."""


def read(path: Path) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes, of 1 or 3 axes, gzip-ed or not.

    Raises InputInvalid, with the place, for anything else.
    """
    import numpy as np

    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            shape = _shape(path, file.read(4), file.read)
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputInvalid(f"{path}: found a damaged gzip file ({error})") from None
    if len(content) != math.prod(shape):
        raise InputInvalid(
            f"{path}, byte {4 + 4 * len(shape)}: found {len(content)} bytes of values, or more; "
            f"wanted {math.prod(shape)} for {shape}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_labelled(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (n, h, w) and their labels (n,); InputInvalid where they are no pair."""
    pixels, told = read(images), read(labels)
    if pixels.ndim != 3 or told.shape != pixels.shape[:1]:
        raise InputInvalid(
            f"{labels}, byte 4: found labels of shape {told.shape} for {images.name} of "
            f"{pixels.shape}; wanted a label for each picture"
        )
    return pixels, told


def _shape(path: Path, magic: bytes, more: Callable[[int], bytes]) -> tuple[int, ...]:
    """Return the sizes that an idx file tells behind its first four bytes, within a limit."""
    axes = magic[3] if magic[:3] == b"\0\0\x08" and len(magic) == 4 else 0
    if axes not in (1, 3):
        raise InputInvalid(f"{path}, byte 0: found {magic!r}; wanted idx of 1 or 3 axes")
    told = more(4 * axes)
    shape = tuple(int.from_bytes(told[at : at + 4], "big") for at in range(0, 4 * axes, 4))
    if len(told) != 4 * axes or not 0 < math.prod(shape) <= LARGEST:
        raise InputInvalid(
            f"{path}, byte 4: found sizes {shape}; wanted 1 to {LARGEST} values in all"
        )
    return shape
