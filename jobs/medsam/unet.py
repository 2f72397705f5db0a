"""The supervised rival: MONAI's U-Net, slice by slice, without a prompt.

Imported by functions that need PyTorch, never at the top of another module.

Data:    slices (n, 3, y, x) float32 as `brats.channels` makes them.
Source:  Ronneberger, Fischer and Brox, MICCAI 2015; Kerfoot et al., STACOM 2018 (residual units);
         Cardoso et al., arXiv 2211.02701 (MONAI).
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import UNet
from torch import Tensor, nn


class Segmenter(nn.Module):
    """A U-Net that returns one logit for each of WT, TC and ET at every pixel.

    Three overlapping regions, not one label a pixel: what BraTS ranks are the regions.
    """

    name = "U-Net (MONAI)"

    def __init__(self, channels: Sequence[int], units: int) -> None:
        super().__init__()
        self.settings = {"channels": list(channels), "units": units}
        self.multiple = 2 ** (len(channels) - 1)
        self.net = UNet(
            spatial_dims=2, in_channels=3, out_channels=3, channels=channels, num_res_units=units,
            strides=[2] * (len(channels) - 1), norm=("instance", {"affine": True}),
        )  # fmt: skip

    def forward(self, slices: Tensor) -> Tensor:
        """Return logits (n, 3, y, x) for slices of any size."""
        height, width = slices.shape[-2:]
        missing = [-size % self.multiple for size in (width, height)]
        padded = nn.functional.pad(slices, (0, missing[0], 0, missing[1]), mode="replicate")
        return self.net(padded)[..., :height, :width]


def small() -> Segmenter:
    """Return a fresh U-Net of 1.6 million parameters."""
    return Segmenter(channels=[16, 32, 64, 128, 256], units=2)


def loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return cross-entropy plus one minus the soft Dice of each region over the batch."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth)
    chances = logits.sigmoid()
    both = (chances * truth).sum(dim=(0, 2, 3))
    total = chances.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    return entropy + (1 - (2 * both + 1) / (total + 1)).mean()
