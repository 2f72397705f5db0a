"""Weights of a hub: never fetched unasked, and never loaded without being what they were pinned as.

Whoever has them puts them into a folder; a folder of one's own making carries the checksums of its
files in SHA256SUMS, as ``sha256sum`` prints them, and is then held to these instead of to the pins.

Data:    folders as ``hf download ... --local-dir FOLDER`` leaves them.
Source:  none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.data import sha256_of
from slipway.errors import ContentWrong, DataUnavailable

if TYPE_CHECKING:
    from . import Facts

RANDOM = "random weights: speed and shape only"
SUMS = "SHA256SUMS"


def checked(folder: Path | None, facts: Facts, pins: Mapping[str, str]) -> str:
    """Return what to call the weights in a folder, whose files are what they should be.

    ``pins`` are, by file, its sha256 or the id that the hub's git lists for it. Raises
    DataUnavailable, with how to get them, where one is missing, and ContentWrong where it is
    another.
    """
    if folder is None:
        raise DataUnavailable(f"{facts.title}: found no weights. {how(facts)}")
    own = folder / SUMS
    for name, wanted in (_sums(own) if own.is_file() else pins).items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ContentWrong(f"{own}: names {name}, which is outside of {folder}")
        if not path.is_file():
            raise DataUnavailable(f"{path}: no such file. {how(facts)}")
        if wanted not in (found := identities(path)):
            raise ContentWrong(f"{path}: found {' or '.join(found)}; wanted {wanted}")
    return f"own weights in {folder.name}" if own.is_file() else f"{facts.hub}@{facts.revision[:8]}"


def _sums(path: Path) -> dict[str, str]:
    lines = [line.partition("  ") for line in path.read_text("utf-8").splitlines() if line]
    if not lines or not all(digest and name for digest, _, name in lines):
        raise ContentWrong(f"{path}: found no lines of sha256, two spaces and a name")
    return {name: digest for digest, _, name in lines}


def identities(path: Path) -> tuple[str, str, str]:
    """Return sha256, and the ids that git has for a file: as it is, and kept by git-lfs."""
    digest, size = sha256_of(path), path.stat().st_size
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
    whole = hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            whole.update(block)
    kept = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode())
    return digest, whole.hexdigest(), kept.hexdigest()


def how(facts: Facts) -> str:
    """Return how to get an engine's weights, how much that is, and on which terms."""
    terms = " after its terms were accepted there and `hf auth login`," if facts.gated else ""
    return (
        "Nothing is fetched unasked: where there is a network,"
        f"{terms} `hf download {facts.hub} --revision {facts.revision} --local-dir FOLDER` gets "
        f"them ({facts.size_bytes / 1e9:.2f} GB; {facts.licence}); then give --weights FOLDER"
    )


def quiet() -> None:
    """Keep libraries off the network, and have them tell of errors alone.

    Some ask a hub for what is not needed; and they warn of what these engines mean to do. Must be
    called before the first of them is imported.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave PyTorch's generators as they were."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
