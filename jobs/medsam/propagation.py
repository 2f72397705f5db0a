"""One prompt on one slice, carried through the volume by the network.

Data:    cases and masks (x, y, z) in RAS; prompts in pixels of a slice.
Source:  Zhu et al., arXiv 2408.00874, section 3 (a volume as a video, six orders and a vote).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from slipway.errors import InputInvalid

from . import brats

if TYPE_CHECKING:
    import numpy as np

    from .prompts import Prompt

BANKS = ("fifo", "selfsort", "selfsort-noresample", "prompt-only")
PLANES = ("axial", "coronal", "sagittal")
KINDS = ("point", "box", "mask")
PLACES = {"first quarter": 0.25, "middle": 0.5, "last quarter": 0.75}


@dataclass(frozen=True)
class Settings:
    """How a prompt is carried on: the bank and its size, the confidence it asks for, the orders."""

    bank: str = "selfsort"
    k: int = 6
    threshold: float = 0.6
    directions: str = "both"
    planes: str = "axial"
    modalities: tuple[str, ...] = brats.CHANNELS
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What was found: masks (x, y, z), and of each slice the confidence (z,), by region."""

    masks: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
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

    ``place`` is the slice's share of the way from the region's first to its last, or `largest`.
    """
    import numpy as np

    from . import prompts

    if case.segmentation is None:
        raise InputInvalid(f"case {case.name}: found no labels; wanted a prompt or labels")
    found = {}
    for number, name in enumerate(regions):
        mask = _turned(brats.region(case.segmentation, name).transpose(2, 1, 0), plane)
        if mask.any():
            draw = np.random.default_rng((seed, number))
            at = slice_at(mask, place)
            found[name] = prompts.from_mask(mask[at], kind, at, jitter, draw)  # type: ignore[arg-type]
    return found


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
    network: Any, case: brats.Case, given: Mapping[str, Prompt], settings: Settings
) -> Answer:
    """Return masks for prompts on axial slices; of six orders where all planes are asked for.

    With all planes the one prompt stays one: coronal and sagittal passes start from the axial
    answer, as a mask on the slice where it is largest, and the mean of the logits decides.
    """
    started = time.perf_counter()
    channels = brats.channels(case, settings.modalities)
    logits, confidence = carried(network, channels, given, settings)
    if settings.planes == "all":
        from . import prompts

        others = [logits]
        for plane in PLANES[1:]:
            masks = {name: _turned(found > 0, plane) for name, found in logits.items()}
            again = {
                name: prompts.from_mask(mask[at], "mask", at)
                for name, mask in masks.items()
                if mask.any() and (at := slice_at(mask, "largest")) >= 0
            }
            moved, _ = carried(network, _turned(channels, plane, 1), again, settings)
            others.append({name: _back(found, plane) for name, found in moved.items()})
        logits = {
            name: sum(part[name] for part in others if name in part)
            for name in logits
        }  # fmt: skip
    masks = {name: (found > 0).transpose(2, 1, 0) for name, found in logits.items()}
    for name in brats.REGIONS:
        masks.setdefault(name, nothing(case))
    return Answer(masks, confidence, time.perf_counter() - started)


def carried(
    network: Any, channels: np.ndarray, given: Mapping[str, Prompt], settings: Settings
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return logits (z, y, x) and confidence (z,) for prompts on slices along the first axis."""
    from . import predictor

    if not given:
        return {}, {}
    found = predictor.segment(
        network, channels, dict(given), bank=settings.bank, k=settings.k,
        threshold=settings.threshold, directions=settings.directions, seed=settings.seed,
    )  # fmt: skip
    return found.logits, found.confidence


def shuffled(channels: np.ndarray, keep: int, seed: int) -> np.ndarray:
    """Return an order of the slices at random, the prompted one where it is."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(channels.shape[1])
    at = int(np.flatnonzero(order == keep)[0])
    order[at], order[keep] = order[keep], order[at]
    return order


def with_slice(prompt: Prompt, number: int) -> Prompt:
    """Return the same prompt on another slice."""
    return replace(prompt, slice=number)


def _turned(volume: np.ndarray, plane: str, first: int = 0) -> np.ndarray:
    """Return a volume (z, y, x) with the slices of a plane along the first axis."""
    import numpy as np

    return np.moveaxis(volume, first + PLANES.index(plane), first)


def _back(volume: np.ndarray, plane: str) -> np.ndarray:
    import numpy as np

    return np.moveaxis(volume, 0, PLANES.index(plane))


def nothing(case: brats.Case) -> np.ndarray:
    """Return an empty mask."""
    import numpy as np

    return np.zeros(case.shape, bool)
