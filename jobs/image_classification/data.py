"""Pictures out of folders, archives and the two classical formats, into three splits.

A source brings pictures with a class each, and perhaps a held-out part of its own. What cannot
be read is listed and counted, never left out in silence. Nothing is unpacked to disk.

Data:    a folder or zip with a folder for each class (below ``train`` and ``test`` or ``val``,
         where it has such parts); CIFAR-10 as binary batches; MNIST's idx files.
Source:  the binary version of CIFAR-10, Krizhevsky, cs.toronto.edu/~kriz/cifar.html; the idx
         format, LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from slipway import idx
from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TEST, VALIDATION, TRAIN = "test", "validation", "train"
PARTS = {
    "train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION,
    "validation": VALIDATION, "test": TEST, "testing": TEST,
}  # fmt: skip
LARGEST_FILE = 64 * 2**20
"""Bytes of one picture's file."""
MOST_FILES = 2_000_000
LARGEST_UNPACKED = 64 * 2**30
LARGEST_SIDE = 64
"""Of the pictures that networks see, unless --side says more."""
HELD_OUT, CHOSEN_BY = 0.2, 0.1
"""Shares held out where a source has no such part, and kept apart to choose by."""
CIFAR_SIDE = 32
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
"""What zipfile raises for a damaged, an encrypted and a strangely packed file."""


class Split(NamedTuple):
    """Pictures (n, side, side, 3) uint8, labels (n,) int64 and where each came from."""

    images: np.ndarray
    labels: np.ndarray
    files: list[str]


class Source(NamedTuple):
    """What was read: parts by name (train, validation, test), class names, what was skipped."""

    parts: dict[str, Split]
    classes: list[str]
    skipped: list[dict[str, str]]


class Entry(NamedTuple):
    """A file of a folder or archive: its path there, and how to get its bytes."""

    path: PurePosixPath
    content: Callable[[], bytes]


def read_source(path: Path, side: int | None, decode: Callable[[bytes], np.ndarray]) -> Source:
    """Return the pictures of a folder or archive, whichever of the known forms it has.

    ``decode`` makes (h, w, 3) uint8 of a file's bytes, and raises ValueError where it cannot.
    """
    if path.is_dir() and any(path.glob("*idx3-ubyte*")):
        return read_idx_folder(path, side)
    if path.is_dir() and any(path.rglob("data_batch_*.bin")):
        return of_batches([(file.name, file.read_bytes()) for file in sorted(path.rglob("*.bin"))],
                          names_beside(path), path)  # fmt: skip
    if path.is_dir():
        return read_entries(path, folder_entries(path), side, decode)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return read_entries(path, zip_entries(path, archive), side, decode)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return read_cifar(path)
    raise InputInvalid(
        f"{path}: found a file of no known form; wanted a folder with a folder for each class, a "
        "zip of one, CIFAR's binary archive or a folder of MNIST's idx files"
    )


def folder_entries(path: Path) -> list[Entry]:
    """Return the files below a folder."""
    found = sorted(file for file in path.rglob("*") if file.is_file())
    return [Entry(PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes)
            for file in found]  # fmt: skip


def zip_entries(path: Path, archive: zipfile.ZipFile) -> list[Entry]:
    """Return the files of a zip; InputInvalid where a path leaves it or a size is past a limit."""
    infos = sorted((info for info in archive.infolist() if not info.is_dir()),
                   key=lambda info: info.filename)  # fmt: skip
    total = sum(info.file_size for info in infos)
    if len(infos) > MOST_FILES or total > LARGEST_UNPACKED:
        raise InputInvalid(
            f"{path}: found {len(infos)} files of {total} bytes; wanted {MOST_FILES} and "
            f"{LARGEST_UNPACKED} at most"
        )
    for info in infos:
        place = PurePosixPath(info.filename)
        if place.is_absolute() or ".." in place.parts:
            raise InputInvalid(f"{path}: found the path {info.filename!r}; wanted one inside it")
    return [Entry(PurePosixPath(info.filename), zipped(archive, info)) for info in infos]


def zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], bytes]:
    """Return how to read one file of a zip, which may not unfold to more than it says."""

    def content() -> bytes:
        if info.file_size > LARGEST_FILE:
            raise ValueError(f"a file of {LARGEST_FILE} bytes at most, found {info.file_size}")
        try:
            with archive.open(info) as file:
                return file.read(LARGEST_FILE + 1)[: info.file_size]
        except UNREADABLE as error:
            raise ValueError(f"a whole file of the archive: {error}") from None

    return content


def read_entries(
    path: Path, entries: Sequence[Entry], side: int | None, decode: Callable[[bytes], np.ndarray]
) -> Source:
    """Decode all pictures that lie in a folder for their class."""
    placed, skipped = sorted_out(entries)
    classes = sorted({name for _, name, _ in placed})
    if len(classes) < 2:
        raise InputInvalid(
            f"{path}: found pictures of {len(classes)} classes; wanted a folder for each of two or "
            "more, with pictures in it"
        )
    decoded: dict[str, list[tuple[np.ndarray, int, str]]] = {}
    for part, name, entry in placed:
        try:
            content = entry.content()
            if len(content) > LARGEST_FILE:
                raise ValueError(f"a file of {LARGEST_FILE} bytes at most, found {len(content)}")
            image = decode(content)
        except (ValueError, OSError) as error:
            skipped.append({"file": str(entry.path), "why": f"wanted {error}"})
            continue
        image = image if side is None else fitted(image, side)
        decoded.setdefault(part, []).append((image, classes.index(name), str(entry.path)))
    side = side or usual_side([image.shape for rows in decoded.values() for image, _, _ in rows])
    parts = {part: stacked(rows, side) for part, rows in decoded.items()}
    return Source(parts, classes, skipped)


def sorted_out(
    entries: Iterable[Entry],
) -> tuple[list[tuple[str, str, Entry]], list[dict[str, str]]]:
    """Return (part, class, file) of each picture, and the files that are none."""
    seen = [entry for entry in entries if not hidden(entry.path)]
    while seen and all(len(entry.path.parts) > 2 for entry in seen):
        roots = {entry.path.parts[0] for entry in seen}
        if len(roots) > 1 or roots & PARTS.keys():
            break
        seen = [entry._replace(path=entry.path.relative_to(*roots)) for entry in seen]
    placed, skipped = [], []
    for entry in seen:
        parts = entry.path.parts
        part = PARTS.get(parts[0].lower(), "") if len(parts) > 2 else ""
        below = parts[1:] if part else parts
        if entry.path.suffix.lower() not in SUFFIXES:
            skipped.append({"file": str(entry.path), "why": "its name is not that of a picture"})
        elif len(below) < 2:
            skipped.append({"file": str(entry.path), "why": "it lies in no folder of a class"})
        else:
            placed.append((part or TRAIN, below[0], entry))
    return placed, skipped


def hidden(path: PurePosixPath) -> bool:
    """Tell whether a file is what a system leaves in a folder, not what a person put there."""
    return path.name == "Thumbs.db" or any(
        part.startswith((".", "__MACOSX")) for part in path.parts
    )


def usual_side(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the side to bring pictures to: the median of their shorter sides, within limits."""
    shorter = sorted(min(shape[:2]) for shape in shapes)
    side = min(shorter[len(shorter) // 2], LARGEST_SIDE) if shorter else LARGEST_SIDE
    return max(16, side // 4 * 4)


def fitted(image: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (h, w, 3) uint8 as (side, side, 3): its shorter side fitted, its middle.

    Training and scoring both do this, so a network sees in use what it was trained on.
    """
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    # The crop is taken while resizing: of a picture 1 x 10,000 the rest is never made.
    box = (left * width / size[0], top * height / size[1],
           (left + side) * width / size[0], (top + side) * height / size[1])  # fmt: skip
    found = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(found)


def as_png(image: np.ndarray) -> bytes:
    """Return a picture (h, w, 3) uint8 as the bytes of a file."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def stacked(rows: Sequence[tuple[np.ndarray, int, str]], side: int) -> Split:
    """Return decoded pictures as a split."""
    import numpy as np

    images = np.stack([fitted(image, side) for image, _, _ in rows])
    labels = np.array([label for _, label, _ in rows], np.int64)
    return Split(images, labels, [name for _, _, name in rows])


def read_cifar(path: Path) -> Source:
    """Return CIFAR-10 of its official archive of binary batches; nothing is unpickled."""
    try:
        with tarfile.open(path) as archive:
            files = [member for member in archive if member.isfile()]
            wanted = {Path(file.name).name: file for file in files if file.size <= LARGEST_FILE}
            content = {name: archive.extractfile(file).read()  # type: ignore[union-attr]
                       for name, file in sorted(wanted.items())
                       if name.endswith(".bin") or name == "batches.meta.txt"}  # fmt: skip
            told = content.pop("batches.meta.txt", b"").decode()
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputInvalid(f"{path}: found no tar archive ({error}); wanted CIFAR's") from None
    return of_batches(list(content.items()), told.split(), path)


def names_beside(path: Path) -> list[str]:
    """Return the class names of a folder of CIFAR's batches, where they are told."""
    found = sorted(path.rglob("batches.meta.txt"))
    return found[0].read_text("utf-8").split() if found else []


def of_batches(batches: Sequence[tuple[str, bytes]], names: list[str], path: Path) -> Source:
    """Return pictures of binary batches: a byte for the label, then 1024 for each colour."""
    import numpy as np

    size = 1 + 3 * CIFAR_SIDE**2
    rows: dict[str, list[tuple[str, np.ndarray]]] = {}
    for name, content in batches:
        if not content or len(content) % size:
            raise InputInvalid(
                f"{path}, {name}: found {len(content)} bytes; wanted a multiple of {size}"
            )
        part = TEST if name.startswith("test") else TRAIN
        rows.setdefault(part, []).append((name, np.frombuffer(content, np.uint8).reshape(-1, size)))
    if not rows:
        raise InputInvalid(f"{path}: found no binary batch; wanted files like data_batch_1.bin")
    most = max(int(found[:, 0].max()) for parts in rows.values() for _, found in parts)
    if most >= max(len(names), 10):
        raise InputInvalid(f"{path}: found the label {most}; wanted less than {len(names) or 10}")
    parts = {}
    for part, found in rows.items():
        joined = np.concatenate([content for _, content in found])
        images = joined[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1)
        files = [f"{name}#{row}" for name, content in found for row in range(len(content))]
        parts[part] = Split(np.ascontiguousarray(images), joined[:, 0].astype(np.int64), files)
    return Source(parts, names or [str(number) for number in range(10)], [])


def read_idx_folder(path: Path, side: int | None) -> Source:
    """Return the pictures of a folder with MNIST's four files."""

    def file(name: str) -> Path:
        found = sorted(path.glob(f"{name}*"))
        if not found:
            raise InputInvalid(f"{path}: found no {name}; wanted MNIST's four files")
        return found[0]

    pairs = {TRAIN: (file("train-images"), file("train-labels")),
             TEST: (file("t10k-images"), file("t10k-labels"))}  # fmt: skip
    return of_idx(pairs, [], side)


def of_idx(pairs: dict[str, tuple[Path, Path]], names: Sequence[str], side: int | None) -> Source:
    """Return pictures of idx files, by part the one of the images and the one of the labels."""
    import numpy as np

    parts = {}
    for part, (images, labels) in pairs.items():
        grey, told = idx.read_labelled(images, labels)
        colours = np.repeat(grey[..., None], 3, axis=3)
        if side or grey.shape[1] != grey.shape[2]:
            fit = side or min(grey.shape[1:])
            colours = np.stack([fitted(image, fit) for image in colours])
        files = [f"{images.name}#{row}" for row in range(len(told))]
        parts[part] = Split(colours, told.astype(np.int64), files)
    most = max(int(split.labels.max()) for split in parts.values())
    return Source(parts, list(names) or [str(number) for number in range(most + 1)], [])


def split_up(source: Source, seed: int, limit: int | None) -> dict[str, Split]:
    """Return train, validation and test; what the source lacks is drawn from training, by class."""
    parts = dict(source.parts)
    if TRAIN not in parts:
        raise InputInvalid("found no training pictures; wanted a folder train beside the others")
    if TEST not in parts and VALIDATION in parts:  # a source of two parts holds the second out
        parts[TEST] = parts.pop(VALIDATION)
    if limit:
        parts = {name: some(part, limit, seed) for name, part in parts.items()}
    for name, share in ((TEST, HELD_OUT), (VALIDATION, CHOSEN_BY)):
        if name not in parts:
            parts[TRAIN], parts[name] = parted(parts[TRAIN], share, seed)
    for name in (TRAIN, TEST):
        check_classes(parts[name], source.classes, name)
    return parts


def some(part: Split, limit: int, seed: int) -> Split:
    """Return at most so many pictures, drawn by seed."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(part.labels))[:limit]
    return chosen(part, np.sort(order))


def chosen(part: Split, places: np.ndarray) -> Split:
    """Return the pictures at some places."""
    return Split(part.images[places], part.labels[places], [part.files[at] for at in places])


def parted(part: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return what stays and a share of each class, drawn by seed; one picture of each at least."""
    import numpy as np

    draw = np.random.default_rng(seed)
    taken = np.zeros(len(part.labels), bool)
    for label in np.unique(part.labels):
        places = draw.permutation(np.flatnonzero(part.labels == label))
        taken[places[: max(1, round(share * len(places)))]] = True
    return chosen(part, np.flatnonzero(~taken)), chosen(part, np.flatnonzero(taken))


def check_classes(part: Split, classes: Sequence[str], name: str) -> None:
    """Raise InputInvalid where a class has no picture in a split."""
    counts = Counter(part.labels.tolist())
    missing = [label for number, label in enumerate(classes) if not counts[number]]
    if missing:
        raise InputInvalid(
            f"found no {name} picture of class {missing[0]}; wanted one of each: take a larger "
            "--limit, or bring more pictures"
        )


def write(path: Path, split: Split) -> None:
    """Write a split; equal pictures give equal bytes."""
    import numpy as np

    files = np.frombuffer(json.dumps(split.files).encode(), np.uint8)
    np.savez_compressed(path, images=split.images, labels=split.labels, files=files)


def read(path: Path) -> Split:
    """Return what `write` wrote."""
    import numpy as np

    with np.load(path) as file:
        return Split(file["images"], file["labels"], json.loads(file["files"].tobytes()))
