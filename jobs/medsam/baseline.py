"""What MedSAM-2 is set beside: a supervised U-Net, and two classical methods from one prompt.

The U-Net sees the same training patients and gets no prompt; Otsu's threshold and region growing
get the very prompt that MedSAM-2 gets, and no training.

Data:    channels (3, z, y, x) as `brats.channels` makes them; masks of regions (z, y, x).
Source:  Otsu, IEEE Transactions on Systems, Man and Cybernetics 1979; Adams and Bischof, IEEE
         TPAMI 1994 (seeded region growing); `unet`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slipway.logs import say

from . import brats

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

    from slipway import Run

UNET = "jobs.medsam.unet.Segmenter"
BRIGHT = {"WT": "flair", "TC": "t1ce", "ET": "t1ce"}
"""Where each region shows brightest."""
DEVIATIONS = 2.0
REACH = 1.3
BATCH = 8
PEAK = 2e-3
STEPS = 1500
TUMOUR_SHARE = 0.7
"""Of the slices in a batch, at least, show a tumour."""


def otsu(volume: np.ndarray, drawn: np.ndarray, number: int) -> np.ndarray:
    """Return what is brighter than Otsu's threshold and hangs together with the prompt.

    The threshold is of the voxels in the box of what was ``drawn`` (y, x) on slice ``number``.
    """
    from scipy import ndimage

    (box,) = ndimage.find_objects(drawn.astype("uint8"))
    return connected(volume > otsu_threshold(volume[number][box]), drawn, number)


def otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold that parts values into two classes furthest apart."""
    import numpy as np

    counts, edges = np.histogram(values, bins=128)
    middles = (edges[1:] + edges[:-1]) / 2
    below = counts.cumsum()[:-1]
    above = counts.sum() - below
    sums = (counts * middles).cumsum()
    apart = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][(below * above * apart**2).argmax()])


def grown(volume: np.ndarray, drawn: np.ndarray, number: int) -> np.ndarray:
    """Return what looks like the median of the prompt, within deviations, and touches it."""
    import numpy as np

    inside = volume[number][drawn]
    middle = np.median(inside)
    spread = 1.4826 * np.median(np.abs(inside - middle))  # a deviation that outliers do not move
    return connected(np.abs(volume - middle) <= DEVIATIONS * spread, drawn, number)


def connected(mask: np.ndarray, drawn: np.ndarray, number: int) -> np.ndarray:
    """Return the pieces of a mask (z, y, x) that reach into the prompt, opened by a voxel.

    No further from its middle than `REACH` times half its larger side: without an end both
    methods run out into the rest of the brain.
    """
    import numpy as np
    from scipy import ndimage

    rows, columns = ndimage.find_objects(drawn.astype("uint8"))[0]
    half = max(rows.stop - rows.start, columns.stop - columns.start) / 2
    middle = number, (rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2
    grid = np.ogrid[tuple(map(slice, mask.shape))]
    away = sum((axis - at) ** 2 for axis, at in zip(grid, middle, strict=True))
    opened = ndimage.binary_opening(mask & (away <= (REACH * half) ** 2))
    pieces, _ = ndimage.label(opened)
    touched = np.unique(pieces[number][drawn])
    return np.isin(pieces, touched[touched > 0])


def classical(
    case: brats.Case, drawn: Mapping[str, tuple[np.ndarray, int]]
) -> dict[str, dict[str, np.ndarray]]:
    """Return masks (x, y, z) by method and region, each from its (drawn (y, x), slice)."""
    found: dict[str, dict[str, np.ndarray]] = {"Otsu": {}, "region growing": {}}
    for name, (mask, number) in drawn.items():
        volume = case.volumes[BRIGHT[name]].transpose(2, 1, 0)
        for method, segment in (("Otsu", otsu), ("region growing", grown)):
            found[method][name] = segment(volume, mask, number).transpose(2, 1, 0)
    return found


def trained(
    run: Run,
    cases: Iterable[brats.Case],
    steps: int,
    state: dict[str, Any],
    keep: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Module:
    """Return a U-Net fitted to slices of patients; ``state`` is what `keep` was given last."""
    import numpy as np
    import torch

    from slipway import networks

    from . import unet

    networks.settle(run)
    network = unet.small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, weight_decay=1e-4)
    done = int(state.get("step", 0))
    if done:
        networks.put_back(state["tensors"], network, optimizer)
    slices = [_slices(case) for case in cases]
    for step in run.progress(range(done, steps), "U-Net", steps - done):
        draw = np.random.default_rng((run.seed, step))
        given, truth = (torch.from_numpy(part) for part in _batch(slices, draw))
        for group in optimizer.param_groups:
            group["lr"] = PEAK * _rate(step, steps)
        missed = unet.loss(network(given), truth)
        optimizer.zero_grad()
        missed.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % 50 == 49:
            say(f"U-Net, step {step + 1} of {steps}: loss {missed.item():.3f}")
            keep({"step": step + 1}, networks.state_of(network, optimizer))
    return network.eval()


def _rate(step: int, steps: int) -> float:
    """Return the learning rate in peaks: a short rise, then a cosine to zero."""
    rise = max(1, steps // 20)
    return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _slices(case: brats.Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return channels (3, z, y, x), regions (3, z, y, x) of the head alone, and tumour slices."""
    import numpy as np

    if case.segmentation is None:
        raise ValueError(f"case {case.name} has no labels to learn from")
    given = brats.channels(case)
    _, rows, columns = _head(case)
    regions = np.stack([brats.region(case.segmentation, name) for name in brats.REGIONS])
    regions = regions.transpose(0, 3, 2, 1)[:, :, rows, columns]
    tumour = np.flatnonzero(regions[0].any(axis=(1, 2)))
    return given[:, :, rows, columns].astype(np.float16), regions, tumour


def _head(case: brats.Case) -> tuple[slice, slice, slice]:
    """Return the box of what is not zero, as slices of z, y, x."""
    from scipy import ndimage

    volume = next(iter(case.volumes.values()))
    (box,) = ndimage.find_objects((volume != 0).astype("uint8"))
    return box[2], box[1], box[0]


def _batch(
    slices: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return random slices, mirrored and of changed contrast, with their regions as float32."""
    import numpy as np

    side = [max(part[0].shape[axis] for part in slices) for axis in (2, 3)]
    given = np.empty((BATCH, 3, *side), np.float32)
    truth = np.zeros((BATCH, 3, *side), np.float32)
    for place in range(BATCH):
        volume, regions, tumour = slices[draw.integers(len(slices))]
        wanted = len(tumour) and draw.random() < TUMOUR_SHARE
        number = draw.choice(tumour) if wanted else draw.integers(volume.shape[1])
        turn = slice(None, None, -1 if draw.random() < 0.5 else 1)
        one = volume[:, number, :, turn].astype(np.float32)
        rows, columns = one.shape[1:]
        given[place] = one.min(axis=(1, 2))[:, None, None]
        gain, shift = draw.uniform(0.8, 1.25, (3, 1, 1)), draw.uniform(-0.2, 0.2, (3, 1, 1))
        given[place, :, :rows, :columns] = one
        given[place] = given[place] * gain + shift
        truth[place, :, :rows, :columns] = regions[:, number, :, turn]
    return given, truth


def segmented(network: Module, case: brats.Case) -> dict[str, np.ndarray]:
    """Return masks (x, y, z) of all regions by a U-Net."""
    import numpy as np
    import torch

    given = brats.channels(case)
    _, rows, columns = _head(case)
    found = np.zeros((3, *given.shape[1:]), bool)
    network.eval()
    with torch.inference_mode():
        for start in range(0, given.shape[1], BATCH):
            part = given[:, start : start + BATCH, rows, columns].transpose(1, 0, 2, 3)
            logits = network(torch.from_numpy(np.ascontiguousarray(part)))
            some = (logits > 0).numpy().transpose(1, 0, 2, 3)
            found[:, start : start + BATCH, rows, columns] = some
    masks = found.transpose(0, 3, 2, 1)
    return {name: masks[place] for place, name in enumerate(brats.REGIONS)}
