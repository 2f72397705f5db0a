"""The four families of networks. Imported by functions that need PyTorch, never at a module's top.

Each takes pixels (n, 3, side, side) float32 in [0, 1] and returns logits (n, k). The colours'
mean and deviation are part of the network, so that whoever holds its file can use it. Parameters
are named as in torchvision, whose weight files then load.

Data:    mean and deviation of the training pictures, `Classifier.learn_colours`.
Source:  VGG: Simonyan and Zisserman, ICLR 2015. ResNet: He et al., CVPR 2016. MobileNetV2: Sandler
         et al., CVPR 2018. Initialisation: Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015.
         Batch normalisation: Ioffe and Szegedy, ICML 2015. Dropout: Srivastava et al., JMLR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 96
"""Pictures below this side keep their resolution in the first layers of ResNet and MobileNetV2."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """Colours to logits in two steps: `features` (n, c, h, w), then `head`.

    ``settings`` are the keyword arguments that made it, as JSON can hold them.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.labels: list[str] = list(settings["labels"])
        self.side: int = settings["side"]
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.register_buffer("temperature", torch.ones(()))

    def learn_colours(self, pixels: Tensor) -> None:
        """Take mean and deviation of each colour from pixels (n, 3, h, w) uint8."""
        values = pixels.to(torch.float64).div(255)
        self.mean.copy_(values.mean(dim=(0, 2, 3), keepdim=True))
        self.std.copy_(values.std(dim=(0, 2, 3), keepdim=True).clamp_min(0.01))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels of mean 0 and deviation 1, as the training pictures had them."""
        return (pixels - self.mean) / self.std

    def features(self, pixels: Tensor) -> Tensor:
        """Return the last feature map (n, c, h, w)."""
        # torchvision calls the convolutions so too; a module's name does not hide a method.
        found: Tensor = self._modules["features"](self.normalised(pixels))  # type: ignore[misc]
        return found

    def head(self, features: Tensor) -> Tensor:
        """Return logits (n, k) of the last feature map."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (n, k)."""
        return self.head(self.features(pixels))

    def finish(self, init: str) -> None:
        """Draw the weights, and lay them out as convolutions on a CPU are fastest: by pixel."""
        initialise(self, init)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class SmallCNN(Classifier):
    """Convolution, normalisation and pooling, three times, and two connected layers."""

    def __init__(
        self,
        labels: Sequence[str],
        side: int = 32,
        widths: Sequence[int] = (32, 64, 128),
        hidden: int = 128,
        dropout: float = 0.3,
        norm: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__(
            labels=list(labels), side=side, widths=list(widths), hidden=hidden, dropout=dropout,
            norm=norm, init=init,
        )  # fmt: skip
        layers: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=not norm)]
            layers += [nn.BatchNorm2d(after)] if norm else []
            # The greatest of four is the same before ReLU as after it, and less work.
            layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        self._modules["features"] = nn.Sequential(*layers)
        inputs = widths[-1] * (side // 2 ** len(widths)) ** 2
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(hidden, len(labels)),
        )  # fmt: skip
        self.finish(init)

    def head(self, features: Tensor) -> Tensor:
        """Return logits of the flattened map."""
        return self.classifier(features.flatten(1))  # type: ignore[no-any-return]


class VGG(Classifier):
    """Blocks of 3 x 3 convolutions, each block ending in a pooling layer, and connected layers.

    ``blocks`` are the widths of each; ``grid`` is what the last map is averaged to.
    """

    def __init__(
        self,
        labels: Sequence[str],
        side: int = 32,
        blocks: Sequence[Sequence[int]] = ((32, 32), (64, 64), (128, 128), (256, 256)),
        hidden: Sequence[int] = (256,),
        grid: int = 1,
        dropout: float = 0.3,
        norm: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__(
            labels=list(labels), side=side, blocks=[list(block) for block in blocks],
            hidden=list(hidden), grid=grid, dropout=dropout, norm=norm, init=init,
        )  # fmt: skip
        layers: list[nn.Module] = []
        before = 3
        for block in blocks:
            for after in block:
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=True)]
                layers += [nn.BatchNorm2d(after)] if norm else []
                layers += [nn.ReLU(inplace=True)]
                before = after
            layers += [nn.MaxPool2d(2)]
        self._modules["features"] = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(grid)
        dense: list[nn.Module] = []
        inputs = before * grid * grid
        for width in hidden:
            dense += [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Dropout(dropout)]
            inputs = width
        self.classifier = nn.Sequential(*dense, nn.Linear(inputs, len(labels)))
        self.finish(init)

    def head(self, features: Tensor) -> Tensor:
        """Return logits of the averaged map."""
        return self.classifier(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


def normed(before: int, after: int, size: int, stride: int, norm: bool) -> list[nn.Module]:
    """Return a convolution that keeps the size (but for its stride), and its normalisation."""
    return [
        nn.Conv2d(before, after, size, stride, padding=size // 2, bias=not norm),
        nn.BatchNorm2d(after) if norm else nn.Identity(),
    ]


class Residual(nn.Module):
    """Two 3 x 3 convolutions, or three with a narrow middle, added to what came in."""

    def __init__(self, before: int, width: int, stride: int, deep: bool, norm: bool) -> None:
        super().__init__()
        after = 4 * width if deep else width
        shapes = [(before, width, 3, stride), (width, after, 3, 1)]
        if deep:
            shapes = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)]
        for place, shape in enumerate(shapes, start=1):
            convolution, normalisation = normed(*shape, norm)
            self.add_module(f"conv{place}", convolution)
            self.add_module(f"bn{place}", normalisation)
        self.last = len(shapes)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(*normed(before, after, 1, stride, norm))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the sum, after ReLU."""
        found = maps
        for place in range(1, self.last + 1):
            found = self.get_submodule(f"bn{place}")(self.get_submodule(f"conv{place}")(found))
            found = torch.relu(found) if place < self.last else found
        return torch.relu(found + (maps if self.downsample is None else self.downsample(maps)))


class ResNet(Classifier):
    """Stages of residual blocks, each stage half as large and wider; an average; one layer.

    ``deep`` blocks have three convolutions (ResNet-50 and up). Below `SMALL` pixels the first
    convolution is 3 x 3 and nothing is pooled before the stages.
    """

    def __init__(
        self,
        labels: Sequence[str],
        side: int = 32,
        depths: Sequence[int] = (1, 1, 1, 1),
        widths: Sequence[int] = (32, 64, 128, 256),
        deep: bool = False,
        dropout: float = 0.0,
        norm: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__(
            labels=list(labels), side=side, depths=list(depths), widths=list(widths), deep=deep,
            dropout=dropout, norm=norm, init=init,
        )  # fmt: skip
        large = side >= SMALL
        self.conv1, self.bn1 = normed(3, widths[0], *((7, 2) if large else (3, 1)), norm)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        before, stages = widths[0], []
        for place, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks = []
            for number in range(depth):
                stride = 2 if place > 1 and number == 0 else 1
                blocks.append(Residual(before, width, stride, deep, norm))
                before = 4 * width if deep else width
            stages.append(f"layer{place}")
            self.add_module(stages[-1], nn.Sequential(*blocks))
        self.stages = stages
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(before, len(labels))
        self.finish(init)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the last feature map (n, c, h, w)."""
        maps = self.maxpool(torch.relu(self.bn1(self.conv1(self.normalised(pixels)))))
        for stage in self.stages:
            maps = self.get_submodule(stage)(maps)
        return maps  # type: ignore[no-any-return]

    def head(self, features: Tensor) -> Tensor:
        """Return logits of the averaged map."""
        return self.fc(self.drop(features.mean(dim=(2, 3))))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """Widen by 1 x 1, filter each channel by 3 x 3, narrow by 1 x 1; added where shapes agree."""

    def __init__(self, before: int, after: int, stride: int, ratio: int, norm: bool) -> None:
        super().__init__()
        inner = before * ratio
        layers: list[nn.Module] = []
        if ratio != 1:
            layers += [nn.Sequential(*normed(before, inner, 1, 1, norm), nn.ReLU6(inplace=True))]
        each = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=not norm)
        own = nn.BatchNorm2d(inner) if norm else nn.Identity()
        layers += [nn.Sequential(each, own, nn.ReLU6(inplace=True))]
        self.conv = nn.Sequential(*layers, *normed(inner, after, 1, 1, norm))
        self.added = stride == 1 and before == after

    def forward(self, maps: Tensor) -> Tensor:
        """Return the narrow map."""
        found: Tensor = self.conv(maps)
        return maps + found if self.added else found


class MobileNetV2(Classifier):
    """Inverted residual blocks: few weights and few sums for what they reach.

    ``multiplier`` scales all widths. Below `SMALL` pixels the first two halvings are left out.
    """

    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    """Ratio, width, blocks and stride of each stage: table 2 of the paper."""

    def __init__(
        self,
        labels: Sequence[str],
        side: int = 32,
        multiplier: float = 0.5,
        dropout: float = 0.2,
        norm: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__(
            labels=list(labels), side=side, multiplier=multiplier, dropout=dropout, norm=norm,
            init=init,
        )  # fmt: skip

        def wide(width: int) -> int:
            return max(8, int(width * multiplier + 4) // 8 * 8)

        large = side >= SMALL
        before = wide(32)
        stem = normed(3, before, 3, 2 if large else 1, norm)
        layers: list[nn.Module] = [nn.Sequential(*stem, nn.ReLU6(inplace=True))]
        for place, (ratio, width, blocks, stride) in enumerate(self.STAGES):
            steps = [stride if large or place > 1 else 1] + [1] * (blocks - 1)
            for step in steps:
                layers.append(Inverted(before, wide(width), step, ratio, norm))
                before = wide(width)
        last = int(1280 * max(1.0, multiplier))
        layers.append(nn.Sequential(*normed(before, last, 1, 1, norm), nn.ReLU6(inplace=True)))
        self._modules["features"] = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, len(labels)))
        self.finish(init)

    def head(self, features: Tensor) -> Tensor:
        """Return logits of the averaged map."""
        return self.classifier(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Chances(nn.Module):
    """A network that returns chances (n, k) instead of logits, to be exported.

    Logits are divided by the network's own temperature unless another is given.
    """

    def __init__(self, network: nn.Module, temperature: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.temperature = network.temperature if temperature is None else temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Return chances that add up to 1."""
        return torch.softmax(self.network(pixels) / self.temperature, dim=1)


def initialise(network: nn.Module, init: str) -> None:
    """Draw all weights: ``he`` keeps the variance through ReLU, ``xavier`` through a linear layer.

    ``normal`` is 0.01 wide whatever the layer, as was usual before.
    """
    draw = {
        "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "xavier": nn.init.xavier_normal_,
        "normal": lambda weight: nn.init.normal_(weight, std=0.01),
    }[init]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


FAMILIES: dict[str, type[Classifier]] = {
    "small_cnn": SmallCNN,
    "vgg": VGG,
    "resnet": ResNet,
    "mobilenet_v2": MobileNetV2,
}
TRUSTED = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in FAMILIES.values())


def make(name: str, **settings: Any) -> Classifier:
    """Return a network of a family with fresh weights."""
    return FAMILIES[name](**settings)
