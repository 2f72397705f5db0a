"""The digits: out of the four files of MNIST or scikit-learn's small set, into three splits.

Data:    idx files, gzip: a big-endian header, then one byte a pixel or label.
Source:  the idx format, LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slipway import idx
from slipway.errors import InputInvalid

from . import pictures

if TYPE_CHECKING:
    import numpy as np

SIDE = pictures.SIDE


class Part(NamedTuple):
    """Digits of a split: images (n, 28, 28) uint8, ink is 255, and labels (n,) uint8."""

    images: np.ndarray
    labels: np.ndarray


def read(images: Path, labels: Path) -> Part:
    """Return the digits of two idx files that belong together."""
    import numpy as np

    found = Part(*idx.read_labelled(images, labels))
    if found.images.shape[1:] != (SIDE, SIDE):
        raise InputInvalid(
            f"{images}, byte 8: found images of {found.images.shape[1:]}; wanted {SIDE} x {SIDE}"
        )
    if wrong := np.flatnonzero(found.labels > 9).tolist():
        raise InputInvalid(
            f"{labels}, byte {8 + wrong[0]}: found label {found.labels[wrong[0]]}; wanted 0 to 9"
        )
    return found


def sample(described: Path) -> tuple[Part, Part]:
    """Return training and held-out digits of scikit-learn's set, brought to MNIST's form.

    Which are held out is fixed, as in MNIST; grey levels of 0 to 16 become 0 to 255.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    held_out = tomllib.loads(described.read_text("utf-8"))["held_out"]
    small = load_digits()
    images = np.stack([pictures.framed(image / 16) for image in small.images])
    order = np.random.default_rng(0).permutation(len(images))
    labels = small.target.astype(np.uint8)
    train, test = order[held_out:], order[:held_out]
    return Part(images[train], labels[train]), Part(images[test], labels[test])


def split(known: Part, seed: int) -> tuple[Part, Part]:
    """Keep a tenth of the training digits apart to choose by, at random."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(known.labels))
    held = max(1, len(order) // 10)
    fit, validation = np.sort(order[held:]), np.sort(order[:held])
    missing = sorted(set(range(10)) - set(known.labels[fit].tolist()))
    if missing:
        raise InputInvalid(f"no training digit is a {missing[0]}; take a larger --limit")
    return (
        Part(known.images[fit], known.labels[fit]),
        Part(known.images[validation], known.labels[validation]),
    )


def write(path: Path, part: Part) -> None:
    """Write a split; equal digits give equal bytes."""
    import numpy as np

    np.savez_compressed(path, images=part.images, labels=part.labels)


def read_split(path: Path) -> Part:
    """Return what `write` wrote."""
    import numpy as np

    with np.load(path) as file:
        return Part(file["images"], file["labels"])


def flat(images: np.ndarray) -> np.ndarray:
    """Return images as rows (n, 784) float32 in [0, 1]."""
    return images.reshape(len(images), -1).astype("float32") / 255


def shifted(images: np.ndarray) -> np.ndarray:
    """Return (5 n, 28, 28): the images, then all of them one pixel down, up, right and left.

    Géron, Hands-On Machine Learning, chapter 3, exercise 2. The frame of MNIST is empty, so what
    leaves on one side and comes in on the other is no ink.
    """
    import numpy as np

    moves = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    return np.concatenate([np.roll(images, move, axis=(1, 2)) for move in moves])


def noisy(images: np.ndarray, seed: int) -> np.ndarray:
    """Return images with up to 100 of 255 added to each pixel, as far as it fits."""
    import numpy as np

    noise = np.random.default_rng(seed).integers(0, 101, images.shape)
    return np.minimum(images + noise, 255).astype(np.uint8)
