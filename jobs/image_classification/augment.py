"""Changes of the training pictures, a whole batch at a time, where the network is.

Each picture of a batch is changed in its own way, by one generator, so that equal seeds give equal
batches. Turning, zooming and moving are one sampling of the picture, not three.

Data:    batches (n, 3, h, w), uint8 or float32 in [0, 1].
Source:  cutout: DeVries and Taylor, arXiv 1708.04552. Mixup: Zhang et al., ICLR 2018. CutMix: Yun
         et al., ICCV 2019. Random crops of a padded picture: He et al., CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, one_hot, pad

TURN, ZOOM, MOVE = 15 * torch.pi / 180, 0.15, 0.1
"""Most that a picture is turned (radians), scaled and moved (of its side)."""
CROP = 1 / 8
"""Border, of the side, that is added before a crop of the old size."""
LIGHT, NOISE, HOLE = 0.3, 0.05, 0.25
"""Most brightness and contrast change by; deviation of the noise; side of a hole."""
SMOOTH, EVEN = 0.2, 1.0
"""Parameter of the Beta distribution that shares are drawn from, in mixup and cutmix."""

Change = Callable[[Tensor, "Draw"], Tensor]


class Draw:
    """Numbers by one generator, on its device."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.device = generator, generator.device

    def even(self, number: int, most: float = 1.0) -> Tensor:
        """Return numbers of [-most, most], (number,)."""
        found = torch.rand(number, generator=self.generator, device=self.device)
        return (2 * found - 1) * most

    def whole(self, number: int, below: int) -> Tensor:
        """Return whole numbers of [0, below), (number,)."""
        return torch.randint(below, (number,), generator=self.generator, device=self.device)

    def beta(self, alpha: float) -> float:
        """Return one draw of Beta(alpha, alpha): by Jöhnk's method, of uniform numbers alone."""
        while True:
            first, second = (torch.rand(2, generator=self.generator, device=self.device).double()
                             ** (1 / alpha)).tolist()  # fmt: skip
            if 0 < first + second <= 1:
                return float(first / (first + second))


def flip(batch: Tensor, draw: Draw) -> Tensor:
    """Mirror half of the pictures."""
    mirrored = draw.even(len(batch)) > 0
    return torch.where(mirrored[:, None, None, None], batch.flip(3), batch)


def crop(batch: Tensor, draw: Draw) -> Tensor:
    """Move each picture by whole pixels; what comes in mirrors what is beside it."""
    height, width = batch.shape[2:]
    border = max(1, round(height * CROP))
    padded = pad(batch, (border,) * 4, mode="reflect")
    tops, lefts = (draw.whole(len(batch), 2 * border + 1) for _ in range(2))
    rows = (tops[:, None] + torch.arange(height, device=batch.device))[:, None, :, None]
    columns = (lefts[:, None] + torch.arange(width, device=batch.device))[:, None, None, :]
    each = torch.arange(len(batch), device=batch.device)[:, None, None, None]
    colours = torch.arange(batch.shape[1], device=batch.device)[None, :, None, None]
    return padded[each, colours, rows, columns]


def moved(batch: Tensor, draw: Draw, turn: float, zoom: float, move: float) -> Tensor:
    """Turn, scale and move each picture up to the given amounts; borders mirror."""
    number = len(batch)
    angle, scale = draw.even(number, turn), 1 + draw.even(number, zoom)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    # grid_sample's picture is 2 wide, so a share of the side counts double.
    first = torch.stack([cos, -sin, draw.even(number, 2 * move)], dim=1)
    second = torch.stack([sin, cos, draw.even(number, 2 * move)], dim=1)
    grid = affine_grid(torch.stack([first, second], dim=1), list(batch.shape), align_corners=False)
    return grid_sample(batch, grid, padding_mode="reflection", align_corners=False)


def rotate(batch: Tensor, draw: Draw) -> Tensor:
    """Turn each picture by up to 15 degrees."""
    return moved(batch, draw, TURN, 0, 0)


def zoom(batch: Tensor, draw: Draw) -> Tensor:
    """Make each picture up to 15 % larger or smaller."""
    return moved(batch, draw, 0, ZOOM, 0)


def shift(batch: Tensor, draw: Draw) -> Tensor:
    """Move each picture by up to a tenth of its side, by parts of pixels too."""
    return moved(batch, draw, 0, 0, MOVE)


def brightness(batch: Tensor, draw: Draw) -> Tensor:
    """Make each picture up to 30 % brighter or darker."""
    factor = 1 + draw.even(len(batch), LIGHT)
    return (batch * factor[:, None, None, None]).clamp(0, 1)


def contrast(batch: Tensor, draw: Draw) -> Tensor:
    """Bring each picture's colours up to 30 % nearer to their mean or further from it."""
    factor = 1 + draw.even(len(batch), LIGHT)
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (batch - mean) * factor[:, None, None, None]).clamp(0, 1)


def noise(batch: Tensor, draw: Draw) -> Tensor:
    """Add noise of a deviation that differs from picture to picture."""
    spread = draw.even(len(batch), NOISE).abs()[:, None, None, None]
    grain = torch.randn(batch.shape, generator=draw.generator, device=batch.device)
    return (batch + spread * grain).clamp(0, 1)


def boxes(batch: Tensor, draw: Draw, size: float) -> Tensor:
    """Return one mask a picture, (n, 1, h, w): true in a box of the given share of each side."""
    height, width = batch.shape[2:]
    inside = []
    for length in (height, width):
        middle = draw.whole(len(batch), length)[:, None]
        far = (torch.arange(length, device=batch.device)[None] - middle).abs()
        inside.append(far * 2 < max(1, size * length))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def cutout(batch: Tensor, draw: Draw) -> Tensor:
    """Cover a box of each picture, a quarter of its side, with the picture's mean colour."""
    mean = batch.mean(dim=(2, 3), keepdim=True)
    return torch.where(boxes(batch, draw, HOLE), mean, batch)


ALONE: dict[str, Change] = {
    "flip": flip, "crop": crop, "rotate": rotate, "zoom": zoom, "shift": shift,
    "brightness": brightness, "contrast": contrast, "noise": noise, "cutout": cutout,
}  # fmt: skip
MIXED = ("mixup", "cutmix")
NAMES = (*ALONE, *MIXED)


class Augment:
    """The changes of these names, in the order of `NAMES`; ``generator`` is on the device.

    Called with a batch it returns the changed one, float32 in [0, 1]. With labels (n,) and the
    number of classes it returns, beside it, the share that each class has in each picture (n, k).
    """

    def __init__(self, names: Sequence[str], generator: Generator) -> None:
        self.changes = [change for name, change in ALONE.items() if name in names]
        self.mixes = [name for name in MIXED if name in names]
        self.draw = Draw(generator)

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the batch, each picture changed by itself."""
        found = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        for change in self.changes:
            found = change(found, self.draw)
        return found

    def with_labels(self, batch: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return the batch and its soft labels (n, k); mixed by one of the mixes asked for."""
        found, wanted = self(batch), one_hot(labels, classes).float()
        if not self.mixes:
            return found, wanted
        kind = self.mixes[int(self.draw.whole(1, len(self.mixes)))]
        order = torch.randperm(len(found), generator=self.draw.generator, device=found.device)
        mix = mixup if kind == "mixup" else cutmix
        return mix(found, wanted, order, self.draw)


def mixup(batch: Tensor, wanted: Tensor, order: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Lay another picture over each, thinly, and mix the labels alike."""
    share = draw.beta(SMOOTH)
    return share * batch + (1 - share) * batch[order], share * wanted + (1 - share) * wanted[order]


def cutmix(batch: Tensor, wanted: Tensor, order: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Paste a box of another picture into each, and mix the labels by area."""
    box = boxes(batch[:1], draw, (1 - draw.beta(EVEN)) ** 0.5)
    share = 1 - box.float().mean()
    mixed = torch.where(box, batch[order], batch)
    return mixed, share * wanted + (1 - share) * wanted[order]
