"""A compact residual network. Imported by functions that need PyTorch.

Three stages of residual blocks behind one convolution, as for CIFAR-10 in the paper, with the
number of blocks and channels as settings. Mean and spread of the training pictures are part of the
network, so whoever runs it, here or as ONNX, gives it plain pixels.

Data:    pictures (n, channels, side, side) float32 in [0, 1]; returns logits (n, labels).
Source:  He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016,
         section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where sizes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return features after the sum."""
        return torch.relu(self.body(pictures) + self.shortcut(pictures))


class ResNet(nn.Module):
    """A residual network and the labels, channels and side of the pictures that it knows."""

    def __init__(
        self,
        labels: Sequence[str],
        channels: int,
        side: int,
        widths: Sequence[int],
        blocks: int,
        mean: float,
        spread: float,
    ) -> None:
        super().__init__()
        self.settings = {
            "labels": list(labels), "channels": channels, "side": side, "widths": list(widths),
            "blocks": blocks, "mean": mean, "spread": spread,
        }  # fmt: skip
        self.mean, self.spread = mean, spread
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for stage, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            for number in range(blocks):
                first = number == 0
                layers.append(Block(before if first else after, after, 2 if first and stage else 1))
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(widths[-1], len(labels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        plain = (pictures - self.mean) / self.spread
        return self.last(self.layers(plain.contiguous(memory_format=torch.channels_last)))


def moved(pictures: Tensor, draw: torch.Generator, flips: bool) -> Tensor:
    """Return pictures moved by up to a tenth, each in its own way, and half of them mirrored."""
    side = pictures.shape[-1]
    most = max(1, side // 10)
    padded = nn.functional.pad(pictures, (most, most, most, most), mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (len(pictures), 2), generator=draw)
    reach = torch.arange(side)
    down, across = offsets[:, :1] + reach, offsets[:, 1:] + reach
    number = torch.arange(len(pictures))
    found = padded[number[:, None, None], :, down[:, :, None], across[:, None, :]]
    found = found.permute(0, 3, 1, 2)
    if flips:
        mirrored = torch.rand(len(found), generator=draw) < 0.5
        found = torch.where(mirrored[:, None, None, None], found.flip(3), found)
    return found
