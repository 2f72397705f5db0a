"""Prompts as a user writes them, in the voxels of the file, brought to the case in RAS.

``point:SLICE:I,J`` and ``box:SLICE:I0,J0,I1,J1`` count voxels from 0 along the file's own axes, as
a viewer shows them: I along the first, J along the second, SLICE along the third.
``mask:FILE`` names a NIfTI file on the same grid whose fullest slice is the prompt.

Data:    text; cases of `brats`.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slipway.errors import InputInvalid

from . import brats

if TYPE_CHECKING:
    import numpy as np

    from .prompts import Prompt

PATTERN = r"^(point:\d{1,4}:\d{1,4},\d{1,4}|box:\d{1,4}:\d{1,4},\d{1,4},\d{1,4},\d{1,4})$"
WANTED = "point:SLICE:I,J or box:SLICE:I0,J0,I1,J1, in voxels of the file"
ACROSS = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}
"""The axes of RAS along the rows and columns of a slice."""
PLANE_OF = {2: "axial", 1: "coronal", 0: "sagittal"}


class Asked(NamedTuple):
    """A prompt on a slice of a plane in RAS."""

    prompt: Prompt
    plane: str


def parse(text: str, case: brats.Case) -> Asked:
    """Return the prompt that a text means; InputInvalid tells what is wrong with it."""
    from . import prompts

    kind, _, rest = text.partition(":")
    if kind == "mask":
        return of_mask(Path(rest), case)
    said = prompts.parse(text)
    values = said.value.tolist()
    corners = [(*values[at : at + 2], said.slice) for at in range(0, len(values), 2)]
    return of_corners(said.kind, corners, case)


def of_corners(kind: str, corners: Sequence[tuple[float, float, float]], case: brats.Case) -> Asked:
    """Return a point, or a box of two corners, given as voxels of the file."""
    import numpy as np

    from . import prompts

    turned = np.array([in_ras(corner, case) for corner in corners])
    plane = PLANE_OF[axis_of(case, 2)]
    axis, (rows, columns) = axis_of(case, 2), ACROSS[plane]
    low, high = turned.min(axis=0), turned.max(axis=0)
    value = [low[columns], low[rows]]
    if kind == "box":
        value += [high[columns], high[rows]]
    prompt = prompts.Prompt(kind, int(low[axis]), np.array(value, float))  # type: ignore[arg-type]
    image = np.moveaxis(next(iter(case.volumes.values())), axis, 0)[prompt.slice].T
    if not image[prompts.rasterised(prompt, image.shape)].any():
        raise InputInvalid(
            f"case {case.name}, prompt: found no tissue there; wanted it on the head"
        )
    return Asked(prompt, plane)


def of_mask(path: Path, case: brats.Case) -> Asked:
    """Return the fullest axial slice of a mask in a file."""
    from . import prompts

    mask = brats.read_mask(path, case.name, "prompt")
    if mask.shape != case.shape:
        raise InputInvalid(
            f"case {case.name}, prompt ({path}): found shape {mask.shape}; wanted {case.shape}"
        )
    if not mask.any():
        raise InputInvalid(f"case {case.name}, prompt ({path}): found no voxel that is not zero")
    number = int(mask.sum(axis=(0, 1)).argmax())
    return Asked(prompts.Prompt("mask", number, mask[:, :, number].T), "axial")


def axis_of(case: brats.Case, axis: int) -> int:
    """Return which axis of RAS an axis of the file has become."""
    return axis if case.original is None else int(case.original.orientation[axis, 0])


def in_ras(voxel: tuple[float, float, float], case: brats.Case) -> np.ndarray:
    """Return a voxel of the file as one of the case; InputInvalid outside of it."""
    import numpy as np

    found = np.zeros(3)
    for axis, at in enumerate(voxel):
        place = axis_of(case, axis)
        size = case.shape[place]
        if not 0 <= at < size:
            raise InputInvalid(
                f"case {case.name}, prompt: found voxel {at:g} along axis {'IJK'[axis]}; "
                f"wanted 0 to {size - 1}"
            )
        flipped = case.original is not None and case.original.orientation[axis, 1] < 0
        found[place] = size - 1 - at if flipped else at
    return found
