"""Where pictures come from: folders, zips and ``s3://``, MNIST's files, scikit-learn's digits.

In a folder or zip a picture's label is the folder it lies in, and ``train`` or ``test`` above that
is its split: ``train/7/00012.png``. Names are read as text and nothing is ever unpacked to a path,
so a name like ``../../etc/passwd`` leads nowhere.

Data:    files of pictures; idx files, gzip-ed (LeCun, Cortes and Burges); load_digits.
Source:  none.
"""

from __future__ import annotations

import io
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway import idx
from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 4 * 2**20
"""Of one picture's file."""
DIGITS = 10
DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError,
    ValueError, OverflowError,
)  # fmt: skip
"""What zipfile raises for changed bytes: a place before the file's start is an OSError."""
LONGEST_LABEL = 64


@dataclass(frozen=True)
class Found:
    """One file of a source: what it is called there, and what its name says of it.

    ``problem`` tells why there is no content to look at.
    """

    name: str
    content: bytes
    label: str | None = None
    split: str | None = None
    problem: str = ""


def files_of(address: str) -> Iterator[Found]:
    """Yield the files of a folder, a zip or an address of a store, in the order of their names."""
    from slipway.scoring.stores import entries, open_input

    for entry in entries(address):
        name = entry.name or entry.address.rpartition("/")[2]
        if entry.address.lower().endswith(".zip"):
            with open_input(entry.address) as file:
                yield from _members(name, file)
        elif entry.size > MOST_BYTES:
            yield Found(name, b"", problem=_too_large(entry.size))
        else:
            with open_input(entry.address) as file:
                yield named(name, file.read())


def _members(name: str, file: io.BufferedIOBase | object) -> Iterator[Found]:
    """Yield a zip's files; each is read within its limit, whatever the zip's list claims."""
    try:
        with zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if not entry.is_dir():
                    yield _member(archive, entry)
    except DAMAGED as error:
        yield Found(name, b"", problem=f"no zip archive ({error})")


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Found:
    try:
        with archive.open(entry) as member:
            content = member.read(MOST_BYTES + 1)
    except DAMAGED as error:
        return Found(entry.filename, b"", problem=f"damaged in its zip ({error})")
    if len(content) > MOST_BYTES:
        return Found(entry.filename, b"", problem=_too_large(entry.file_size))
    return named(entry.filename, content)


def _too_large(size: int) -> str:
    return f"{size} bytes; wanted {MOST_BYTES} at most"


def named(name: str, content: bytes) -> Found:
    """Return a file with the label and the split that its path tells."""
    steps = [
        step for step in name.replace("\\", "/").split("/")[:-1] if step not in ("", ".", "..")
    ]
    splits = [step for step in steps if step in ("train", "test")]
    label = steps[-1] if steps and steps[-1] not in ("train", "test") else None
    if label is not None and (len(label) > LONGEST_LABEL or not label.isprintable()):
        told = f"found a folder {label[:80]!r}; wanted a label of {LONGEST_LABEL} letters at most"
        return Found(name, b"", problem=told)
    return Found(name, content, label, splits[0] if splits else None)


def digits(described: Path) -> Iterator[Found]:
    """Yield scikit-learn's digits as PNG files; which are held out is fixed."""
    import numpy as np
    from sklearn.datasets import load_digits

    held_out = tomllib.loads(described.read_text("utf-8"))["held_out"]
    small = load_digits()
    tests = set(np.random.default_rng(0).permutation(len(small.images))[:held_out].tolist())
    for number, (image, label) in enumerate(zip(small.images, small.target, strict=True)):
        split = "test" if number in tests else "train"
        content = png((image * (255 / 16)).round().astype(np.uint8))
        yield Found(f"{split}/{label}/{number:05}.png", content, str(label), split)


def mnist(images: Path, labels: Path, split: str) -> Iterator[Found]:
    """Yield the digits of two idx files as PNG files."""
    import numpy as np

    pixels, named_ones = idx.read_labelled(images, labels)
    if wrong := np.flatnonzero(named_ones >= DIGITS).tolist():
        place, found = 8 + wrong[0], named_ones[wrong[0]]
        raise InputInvalid(f"{labels}, byte {place}: found label {found}; wanted 0 to 9")
    for number, (image, label) in enumerate(zip(pixels, named_ones.tolist(), strict=True)):
        yield Found(f"{split}/{label}/{number:05}.png", png(image), str(label), split)


def png(pixels: np.ndarray) -> bytes:
    """Return grey or colour pixels (h, w) or (h, w, 3) uint8 as a PNG file; equal ones alike."""
    import PIL.Image

    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
