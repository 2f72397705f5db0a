"""The two networks. Imported by functions that need PyTorch, never at the top of another module.

Data:    images (n, 1, 28, 28) float32 in [0, 1]; both return logits (n, 10).
Source:  convolutions, batch normalisation and dropout: LeCun et al., Proceedings of the IEEE 1998;
         Ioffe and Szegedy, ICML 2015; Srivastava et al., JMLR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Layers of neurons, each connected with all of the one before."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.settings = {"widths": list(widths), "dropout": dropout}
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip([784, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
            layers += [nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.layers(images)


class Convolutional(nn.Module):
    """Three 3 x 3 convolutions, each halving the picture, and two connected layers."""

    def __init__(self, channels: Sequence[int], width: int, dropout: float) -> None:
        super().__init__()
        self.settings = {"channels": list(channels), "width": width, "dropout": dropout}
        layers: list[nn.Module] = []
        for before, after in zip([1, *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            # Before or after ReLU the greatest of four is the same; after it is less work.
            layers += [nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(dropout / 3)]
        layers += [nn.Flatten(), nn.Linear(9 * channels[-1], width), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 10))
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.layers(images.contiguous(memory_format=torch.channels_last))


class Chances(nn.Module):
    """A network that returns the chance of each digit instead of logits, to be exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return chances (n, 10) that add up to 1."""
        return torch.softmax(self.network(images), dim=1)


def make(name: str) -> nn.Module:
    """Return a network with the settings of this job and fresh weights."""
    if name == "mlp":
        return Perceptron(widths=[512, 256], dropout=0.2)
    return Convolutional(channels=[32, 64, 128], width=128, dropout=0.3)


def distorted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Return images turned, sheared, stretched and moved, each a little and in its own way.

    Up to 10 degrees, shears of 0.15, a tenth in size and 2 pixels; Simard, Steinkraus and Platt,
    ICDAR 2003.
    """

    def up_to(most: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=draw) - 1) * most

    turn, shear, across, up = up_to(0.175), up_to(0.15), 1 + up_to(0.1), 1 + up_to(0.1)
    cos, sin = torch.cos(turn), torch.sin(turn)
    move = up_to(2 / 14), up_to(2 / 14)  # a field of grid_sample is 2 wide
    first = torch.stack([across * cos, shear * cos - up * sin, move[0]], dim=1)
    second = torch.stack([across * sin, shear * sin + up * cos, move[1]], dim=1)
    grid = nn.functional.affine_grid(
        torch.stack([first, second], dim=1), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)
