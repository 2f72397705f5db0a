"""One prompt on one slice, carried through the volume by the network.

Data:    cases and masks (x, y, z) in RAS; prompts in pixels of a slice.
Source:  Zhu et al., arXiv 2408.00874, section 3 (a volume as a video).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway.errors import InputInvalid
from slipway.logs import say

from . import brats

if TYPE_CHECKING:
    import numpy as np

    from .predictor import Segmenter
    from .prompts import Prompt

BANKS = ("fifo", "selfsort", "selfsort-noresample", "prompt-only")
PLANES = ("axial", "coronal", "sagittal")
KEEP = ("connected", "all")
GAP = 2
"""Voxels that may lie between parts that hang together: a thin rim has holes."""
DIRECTIONS = ("both", "forward", "backward", "shuffled")
KINDS = ("point", "box", "mask")
PLACES = {"first quarter": 0.25, "middle": 0.5, "last quarter": 0.75}


@dataclass(frozen=True)
class Settings:
    """How a prompt is carried on: the bank, its size and the confidence it asks for.

    ``plane`` is that of the prompted slice; ``orders`` are two (both ways from there) or six (all
    planes, and a vote). ``directions`` may be one way, or shuffled. ``keep`` is all that was found,
    or what hangs together with the prompt: `connected`.
    """

    bank: str = "selfsort"
    k: int = 6
    threshold: float = 0.6
    directions: str = "both"
    plane: str = "axial"
    orders: str = "two"
    modalities: tuple[str, ...] = brats.CHANNELS
    seed: int = 0
    keep: str = "connected"


@dataclass(frozen=True)
class Answer:
    """What was found: masks (x, y, z), and of each slice the confidence (z,), by region."""

    masks: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    bank_log: list[dict[str, Any]]
    seconds: float


def asked(
    case: brats.Case,
    kind: str,
    place: float | str = 0.5,
    jitter: float = 0.0,
    seed: int = 0,
    regions: tuple[str, ...] = tuple(brats.REGIONS),
    plane: str = "axial",
) -> dict[str, Prompt]:
    """Return a prompt for each region that a patient has, made of the truth on one slice.

    ``place`` is the slice's share of the way through the whole tumour, or `largest`: a person looks
    at one slice. A region that is not on it gets one of its own, chosen alike.
    """
    import numpy as np

    from . import predictor

    if case.segmentation is None:
        raise InputInvalid(f"case {case.name}: found no labels; wanted a prompt or labels")
    found = {}
    labels = predictor.along(case.segmentation.transpose(2, 1, 0), plane)
    shared = slice_at(labels > 0, place) if labels.any() else 0
    for number, name in enumerate(regions):
        mask = brats.region(labels, name)
        if mask.any():
            at = shared if mask[shared].any() else slice_at(mask, place)
            found[name] = prompt_of(mask, kind, at, jitter, np.random.default_rng((seed, number)))
    return found


def prompt_of(
    mask: np.ndarray,
    kind: str,
    at: int,
    jitter: float = 0.0,
    draw: np.random.Generator | None = None,
) -> Prompt:
    """Return a prompt of a kind for slice ``at`` of a mask (z, y, x)."""
    from . import prompts

    return prompts.from_mask(mask[at], kind, at, jitter, draw)  # type: ignore[arg-type]


def slice_at(mask: np.ndarray, place: float | str) -> int:
    """Return a slice of a mask (z, y, x) on which it is."""
    import numpy as np

    areas = mask.sum(axis=(1, 2))
    present = np.flatnonzero(areas)
    if place == "largest":
        return int(areas.argmax())
    return int(present[round(float(place) * (len(present) - 1))])


def drawn(prompt: Prompt, case: brats.Case, region: str) -> np.ndarray:
    """Return the mask (y, x) that stands for a prompt on an axial slice."""
    from . import prompts

    return prompts.rasterised(prompt, (case.shape[1], case.shape[0]), region)


def answered(
    network: Segmenter, case: brats.Case, given: Mapping[str, Prompt], settings: Settings
) -> Answer:
    """Return masks for prompts on slices of the settings' plane; a region without one is empty."""
    from . import predictor, prompts

    started = time.perf_counter()
    channels = brats.channels(case, settings.modalities)
    masks = {name: nothing(case) for name in brats.REGIONS}
    if not given:
        return Answer(masks, {}, [], 0.0)
    options = {
        "bank": settings.bank, "k": settings.k, "threshold": settings.threshold,
        "directions": settings.directions, "seed": settings.seed,
    }  # fmt: skip
    if settings.orders == "six":
        found = predictor.six_orders(network, channels, given, plane=settings.plane, **options)
    else:
        turned = predictor.along(channels, settings.plane)
        found = predictor.segment(network, turned, given, **options)
    for name, logits in found.logits.items():
        mask = logits > 0
        if settings.keep == "connected":
            shown = prompts.rasterised(given[name], mask.shape[1:], name)
            mask = connected(mask, shown, given[name].slice)
        masks[name] = predictor.back(mask, settings.plane).transpose(2, 1, 0)
    seconds = time.perf_counter() - started
    return Answer(masks, found.confidence, found.bank_log, seconds)


def connected(mask: np.ndarray, shown: np.ndarray, at: int) -> np.ndarray:
    """Return what of a mask (z, y, x) hangs together with what is ``shown`` (y, x) on slice ``at``.

    Gaps of up to `GAP` voxels are none. A mask that has nothing there comes back whole, as is said.
    """
    import numpy as np
    from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label

    (box,) = find_objects(mask.astype(np.uint8)) or (None,)
    if box is None:
        return mask
    room = tuple(slice(max(0, side.start - GAP), side.stop + GAP) for side in box)
    touching = generate_binary_structure(3, 3)
    near = binary_dilation(mask[room], iterations=GAP) if GAP else mask[room]
    numbers, _ = label(near, touching)
    here = np.zeros(mask.shape, numbers.dtype)
    here[room] = numbers
    kept = np.unique(here[at][shown & mask[at]])
    if not len(kept):
        say(f"slice {at}: nothing was found where the prompt is, so all that was found is kept")
        return mask
    return mask & np.isin(here, kept)


def nothing(case: brats.Case) -> np.ndarray:
    """Return an empty mask."""
    import numpy as np

    return np.zeros(case.shape, bool)
