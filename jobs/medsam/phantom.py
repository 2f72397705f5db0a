"""Heads with a tumour whose every voxel is known: what the small network learns from.

The tissues are those of the MNI152 template, moved and bent anew for each seed; the tumour is
grown in white matter: a core with an enhancing rim around what is dead, and oedema that follows
white matter and stops at grey. The contrasts of the four modalities, what scanners add to them
(bias, noise, thick slices) and what only looks like a tumour (bright white matter, vessels) vary as
they do between hospitals. Smooth fields are drawn on coarse grids and stretched, which is what
makes a head take a second instead of five.

Data:    MNI152 2009a symmetric, T1 and probabilities of grey and white matter at 1 mm, carried by
         nilearn; its licence allows any use with the copyright notice.
Source:  Fonov et al., NeuroImage 2011 (template); Menze et al., IEEE TMI 2015 (BraTS: labels,
         modalities, what each region looks like); Prastawa et al., Medical Image Analysis 2009
         (synthetic tumours: mass effect, infiltration along white matter).
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from torch import Generator, Tensor

    from .brats import Case

BOX = (160, 196, 155)
"""Voxels of 1 mm in x, y, z that hold any of these heads."""
SHAPE = (240, 240, 155)
"""The shape of BraTS."""
CSF, GREY, WHITE, OEDEMA, DEAD, RIM = range(6)
CONTRASTS = {
    "t1": (0.30, 0.70, 1.00, 0.74, 0.50, 0.72),
    "t1ce": (0.30, 0.72, 1.00, 0.76, 0.50, 1.55),
    "t2": (2.00, 1.05, 0.75, 1.45, 1.70, 1.20),
    "flair": (0.35, 1.00, 0.80, 1.50, 1.05, 1.30),
}
"""Mean signal of each tissue, white matter of T1 being 1."""
NUMBER = 1000.0
"""What a signal of 1 is in a file."""


@cache
def template() -> Tensor:
    """Return the probabilities of grey matter, white matter and brain, (3, 197, 233, 189)."""
    import nibabel
    import numpy as np
    import torch

    found = find_spec("nilearn")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("nilearn: its MNI152 template makes the phantoms")
    folder = Path(found.origin).parent / "datasets" / "data"
    grey, white, head = (
        np.asarray(nibabel.load(folder / f"mni_icbm152_{part}_converted.nii.gz").dataobj)
        for part in ("gm_tal_nlin_sym_09a", "wm_tal_nlin_sym_09a", "t1_tal_nlin_sym_09a")
    )
    tissues = [torch.from_numpy(part.astype(np.float32) / part.max()) for part in (grey, white)]
    return torch.stack([*tissues, torch.from_numpy((head > 0).astype(np.float32))])


def smooth(draw: Generator, spacing: float, channels: int = 1) -> Tensor:
    """Return noise of mean 0 and deviation 1 that changes over ``spacing`` mm, (channels, *BOX)."""
    import torch

    coarse = [max(3, round(side / spacing) + 2) for side in BOX]
    field = stretched(torch.randn(1, channels, *coarse, generator=draw))
    return field / field.std()


def stretched(field: Tensor) -> Tensor:
    """Return a coarse field (1, channels, ...) as (channels, *BOX)."""
    from torch.nn.functional import interpolate

    return interpolate(field, size=BOX, mode="trilinear", align_corners=True)[0]


def uniform(draw: Generator, low: float, high: float) -> float:
    """Return one number between two."""
    import torch

    return low + (high - low) * float(torch.rand((), generator=draw))


def positions(step: int = 1) -> Tensor:
    """Return the place of every ``step``-th voxel of the box from its middle, (3, ...) in mm."""
    import torch

    sides = [torch.linspace(-(side - 1) / 2, (side - 1) / 2, -(-side // step)) for side in BOX]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))


def turned(draw: Generator) -> Tensor:
    """Return a (3, 3) matrix of a head that is tilted, mirrored and of another size."""
    import torch

    angles = [uniform(draw, -0.17, 0.17) for _ in range(3)]
    turn = torch.eye(3)
    for axis, angle in enumerate(angles):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = torch.eye(3)
        step[one, one] = step[two, two] = math.cos(angle)
        step[one, two], step[two, one] = -math.sin(angle), math.sin(angle)
        turn = turn @ step
    sizes = torch.tensor([uniform(draw, 0.96, 1.1) for _ in range(3)])  # smaller in the box
    if uniform(draw, 0, 1) < 0.5:
        sizes[0] = -sizes[0]
    return turn * sizes


def bent(draw: Generator, middle: Tensor, push: float, reach: float) -> Tensor:
    """Return where in the template each coarse place of a head comes from, (1, 3, ...) in [-1, 1].

    Mass effect: what lies at a distance r from the tumour's middle came from r minus
    ``push`` exp(-(r / reach)^2) mm.
    """
    import torch
    from torch.nn.functional import interpolate

    places = positions(4)
    away = places - middle.view(3, 1, 1, 1)
    distance = length(away).clamp(min=1e-3)
    moved = (push * torch.exp(-((distance / reach) ** 2))).minimum(0.8 * distance)
    knots = torch.randn(1, 3, 6, 7, 6, generator=draw)
    bend = interpolate(knots, size=places.shape[1:], mode="trilinear", align_corners=True)[0]
    before = places - away / distance * moved
    source = torch.einsum("ij,jxyz->ixyz", turned(draw), before) + 3.0 * bend
    source[2] += 8.0  # the box ends low in the brain stem, as BraTS's does
    halves = torch.tensor([(side - 1) / 2 for side in template().shape[1:]])
    return (source / halves.view(3, 1, 1, 1))[None]


def tissues(places: Tensor) -> Tensor:
    """Return grey, white and brain (3, ...) at places (3, ...) of the template in [-1, 1]."""
    from torch.nn.functional import grid_sample

    grid = places.flip(0).permute(1, 2, 3, 0)[None]  # grid_sample wants the last axis first
    return grid_sample(template()[None], grid, align_corners=True)[0]


def length(places: Tensor) -> Tensor:
    """Return the distance from the origin of places (3, ...); five times faster than norm."""
    return (places[0] ** 2 + places[1] ** 2 + places[2] ** 2).sqrt()


def tumour(draw: Generator, white: Tensor, brain: Tensor, middle: Tensor, core: float) -> Tensor:
    """Return the labels of BraTS (*BOX) uint8 of a tumour with a core of ``core`` mm radius."""
    import torch

    away = positions() - middle.view(3, 1, 1, 1)
    axes = torch.tensor([uniform(draw, 0.8, 1.25) for _ in range(3)])
    distance = length(torch.einsum("ij,jxyz->ixyz", turned(draw) * axes, away))
    rough = smooth(draw, 14)[0] * 0.14 * core + smooth(draw, 6)[0] * 0.05 * core
    inside = distance + rough
    rim = uniform(draw, 2.5, 0.45 * core) + smooth(draw, 12)[0] * 0.8
    dead = inside < core - rim.clamp(min=1.5)
    spread = uniform(draw, 3, 13) * (0.35 + 1.1 * white) + smooth(draw, 10)[0] * 2.0
    oedema = distance + 0.6 * rough < core + spread.clamp(min=0)
    labels = torch.zeros(BOX, dtype=torch.uint8)
    labels[oedema] = 2
    labels[inside < core] = 4
    labels[dead & (inside < core)] = 1
    labels[brain < 0.5] = 0
    return labels


def placed(draw: Generator, white: Tensor) -> Tensor:
    """Return a place (3,) in mm within coarse white matter, anywhere above the brain stem."""
    import torch

    chance = (white > 0.6).float()
    chance[:, :, : chance.shape[2] // 4] = 0
    chosen = torch.multinomial(chance.flatten(), 1, generator=draw)
    return positions(4).flatten(1)[:, chosen].flatten()


def softened(labels: Tensor, draw: Generator) -> Tensor:
    """Return what share of each voxel is oedema, dead and rim, (3, *BOX): edges are not sharp."""
    import torch
    from torch.nn.functional import avg_pool3d

    shares = torch.stack([labels == 2, labels == 1, labels == 4]).float()
    for _ in range(2 if uniform(draw, 0, 1) < 0.5 else 1):
        shares = avg_pool3d(shares, 3, stride=1, padding=1)
    return shares


def lookalikes(draw: Generator, white: Tensor, fluid: Tensor) -> tuple[Tensor, Tensor]:
    """Return shares (*BOX) of bright white matter and of vessels: unlabelled, and no tumour."""
    field = smooth(draw, 7)[0]
    bright = ((field - uniform(draw, 2.0, 3.2)) * 2).clamp(0, 1) * (white > 0.5)
    field = smooth(draw, 4)[0]
    vessels = ((field - uniform(draw, 2.0, 2.6)) * 2).clamp(0, 1) * (fluid > 0.3)
    return bright, vessels


def dura(seed: int, brain: Tensor, places: Tensor) -> dict[str, Tensor]:
    """Return what patches of dura add to the signal (*BOX) of each modality.

    ``places`` (1, 3, ...) are the coarse ones of the template, from which the halves are known. The
    numbers come from a generator of their own: without membranes a head is what it was.
    """
    import torch
    from torch.nn.functional import avg_pool3d

    draw = torch.Generator().manual_seed(2**32 + seed)
    if uniform(draw, 0, 1) < 0.5:
        return dict.fromkeys(CONTRASTS, torch.zeros(BOX))
    depth = int(torch.randint(1, 4, (), generator=draw))
    inner = avg_pool3d((brain > 0.5).float()[None, None], 2 * depth + 1, 1, depth)[0, 0]
    middle = stretched(places)[0].abs() * (template().shape[1] - 1) / 2 < 1.5
    edge = (brain > 0.5) & ((inner < 0.75) | middle)
    patches = ((smooth(draw, 18)[0] - uniform(draw, -0.5, 1.0)) * 2).clamp(0, 1) * edge
    ranges = {"t1": (0, 0.3), "t1ce": (0.3, 1.4), "t2": (-0.4, 0.4), "flair": (-0.2, 0.6)}
    return {name: patches * uniform(draw, *ends) for name, ends in ranges.items()}


def scanned(draw: Generator, signal: Tensor, brain: Tensor) -> Tensor:
    """Return a signal (*BOX) as a scanner gives it: thick slices, bias, noise, and no skull."""
    import torch
    from torch.nn.functional import avg_pool3d

    thick = int(torch.randint(0, 3, (), generator=draw)) * 2 + 1
    size = [1, 1, 1]
    size[int(torch.randint(0, 3, (), generator=draw))] = thick
    padding = [side // 2 for side in size]
    signal = avg_pool3d(signal[None, None], size, stride=1, padding=padding)[0, 0]
    signal = signal * torch.exp(uniform(draw, 0.03, 0.12) * smooth(draw, 70)[0])
    noise = uniform(draw, 0.01, 0.06)
    real, imaginary = torch.randn(2, *BOX, generator=draw) * noise
    return ((signal + real) ** 2 + imaginary**2).sqrt() * (brain > 0.5)  # Rician


def head(
    seed: int, names: Sequence[str] = tuple(CONTRASTS), membranes: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return volumes (*BOX) float32 and labels (*BOX) uint8; equal arguments, equal heads.

    With ``membranes`` every other head has what stripping off the skull leaves: bright patches of
    dura along the brain's edge and between its halves, which are no tumour.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    core, again = uniform(draw, 10, 20), draw.get_state()
    alone = bent(draw, torch.zeros(3), 0, 1)
    middle = placed(draw, tissues(alone[0])[1])
    draw.set_state(again)  # the same head, now pushed aside
    pushed = bent(draw, middle, (0.1 + 0.02 * core) * core, 2 * core)
    grey, white, brain = tissues(stretched(pushed))
    labels = tumour(draw, white, brain, middle, core)
    fluid = (brain - grey - white).clamp(min=0)
    shares = softened(labels, draw)
    healthy = (1 - shares.sum(dim=0)).clamp(min=0)
    bright, vessels = lookalikes(draw, white, fluid)
    left = dura(seed, brain, pushed) if membranes else None
    volumes = {}
    for name in names:
        signal = mixed(draw, CONTRASTS[name], torch.stack([fluid, grey, white]) * healthy, shares)
        if name in ("flair", "t2"):
            signal = signal + bright * healthy * uniform(draw, 0.2, 0.6)
        if name == "t1ce":
            signal = signal + vessels * healthy * uniform(draw, 0.4, 1.2)
        if left is not None:
            signal = signal + left[name] * healthy
        volumes[name] = (scanned(draw, signal, brain) * NUMBER).round().numpy()
    return volumes, labels.numpy()


def mixed(draw: Generator, means: tuple[float, ...], healthy: Tensor, ill: Tensor) -> Tensor:
    """Return the signal (*BOX) of shares of tissues, each as bright as this patient has it."""
    signal = 0
    for number, share in enumerate([*healthy, *ill]):
        spread = 0.06 if number < OEDEMA else 0.14
        mean = means[number] * (1 + spread * uniform(draw, -1.7, 1.7))
        signal = signal + mean * share
    texture = 1 + 0.03 * smooth(draw, 3)[0] + 0.03 * smooth(draw, 9)[0]
    patchy = 1 + 0.12 * smooth(draw, 6)[0] * ill.sum(dim=0)
    return signal * texture * patchy


def case(seed: int) -> Case:
    """Return one phantom as a case of BraTS: 240 x 240 x 155 voxels of 1 mm, axes R, A, S."""
    import numpy as np

    from .brats import Case

    volumes, labels = head(seed)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = [-119.5, -119.5, -77.0]
    original: Any = None
    return Case(
        f"BraTS19_SYN_{seed:05d}_1",
        {name: padded(volume) for name, volume in volumes.items()},
        padded(labels), affine, original,
    )  # fmt: skip


def padded(volume: np.ndarray) -> np.ndarray:
    """Return a volume (*BOX) in the middle of one of BraTS's shape."""
    import numpy as np

    before = [(whole - part) // 2 for whole, part in zip(SHAPE, BOX, strict=True)]
    room = zip(before, SHAPE, BOX, strict=True)
    return np.pad(volume, [(side, whole - part - side) for side, whole, part in room])


def write(folder: Path, seeds: Iterable[int]) -> list[Path]:
    """Write phantoms as BraTS names them, and return their folders."""
    import nibabel
    import numpy as np

    folders = []
    for seed in seeds:
        found = case(seed)
        place = Path(folder) / found.name
        place.mkdir(parents=True, exist_ok=True)
        for name, volume in (found.volumes | {"seg": found.segmentation}).items():
            image = nibabel.Nifti1Image(volume.astype(np.int16), found.affine)
            nibabel.save(image, place / f"{found.name}_{name}.nii.gz")
        folders.append(place)
    return folders
