"""Smaller and faster forms of one trained network, each an ONNX file beside the others.

Every form starts from the same network and is trained, where it is, on the same pictures with the
network itself as teacher: its chances say more than a label does. The held-out pictures are looked
at once, by `variants`.

Data:    the training split; the network of ``model/``.
Source:  a teacher's soft targets: Hinton, Vinyals and Dean, arXiv 1503.02531; the others in
         `pruning` and `quantising`. Adam: Kingma and Ba, ICLR 2015.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from slipway import networks

from . import augment, explain, model, pruning, quantising

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

    from .data import Split

NAMES = ("float32", "int8", "int8-trained", "pruned", "sparse", "distilled")
BATCH = 128
WARMTH = 4.0
"""Temperature of the teacher's chances in training."""
TAUGHT = 0.7
"""Share of the loss that is about the teacher's chances; the rest is about the labels."""
CALIBRATION = 512
"""Training pictures that tell the scales of the activations."""
CHANGES = ("flip", "crop")
"""Of the training pictures, each epoch anew."""
STUDENT = {"depths": [1, 1, 1], "widths": [16, 32, 64]}
"""The ResNet that the distilled form is."""


@dataclass(frozen=True)
class Workshop:
    """What all forms are made of; ``epochs`` of tuning, four times as many for a new network."""

    network: model.Classifier
    fit: Split
    epochs: int
    seed: int
    device: str
    progress: Callable[[Iterable[Any], str], Iterator[Any]]

    def tuned(self, network: nn.Module, rate: float, name: str, epochs: int = 0,
              after: Callable[[], None] = lambda: None) -> nn.Module:  # fmt: skip
        """Train a network with the workshop's own as teacher; ``after`` each step it is mended."""
        epochs = epochs or self.epochs
        teacher = copy.deepcopy(self.network).to(self.device).eval()
        network = network.to(self.device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        draw = torch.Generator(self.device).manual_seed(self.seed)
        torch.manual_seed(self.seed)  # of dropout
        images = torch.from_numpy(self.fit.images).permute(0, 3, 1, 2)
        labels = torch.from_numpy(self.fit.labels)
        steps = max(1, len(labels) // BATCH)
        change = augment.Augment(CHANGES, draw)
        for epoch in range(epochs):
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
            batches = order.tensor_split(steps)
            for step, chosen in enumerate(self.progress(batches, f"{name}, epoch {epoch + 1}")):
                place = (epoch * steps + step) / (epochs * steps)
                optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * place)) / 2
                pixels = change(images[chosen].to(self.device))
                with torch.no_grad():
                    wanted = teacher(pixels)
                optimizer.zero_grad()
                taught(network(pixels), wanted, labels[chosen].to(self.device)).backward()
                optimizer.step()
                after()
        return network.cpu().eval()

    def calibration(self) -> Iterator[np.ndarray]:
        """Yield training pictures as a network gets them, in batches."""
        chosen = torch.randperm(
            len(self.fit.labels), generator=torch.Generator().manual_seed(self.seed)
        )[:CALIBRATION]
        for part in chosen.split(64):
            yield explain.pixels_of(self.fit.images[part.numpy()]).numpy()


def taught(found: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of logits whose teacher's logits are ``wanted`` (equation 4 of the paper)."""
    soft = kl_div(
        log_softmax(found / WARMTH, dim=1), softmax(wanted / WARMTH, dim=1), reduction="batchmean"
    )
    return TAUGHT * WARMTH**2 * soft + (1 - TAUGHT) * cross_entropy(found, labels)


class Answers(nn.Module):
    """What the scorer wants of a network in one graph: chances, energy and, to ask for it, heat.

    The energy is that of Liu et al., NeurIPS 2020; the heat is the Grad-CAM of the likeliest class.
    """

    def __init__(self, network: nn.Module, heat: bool) -> None:
        super().__init__()
        self.network = network
        self.heat = heat

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return chances (n, k), energies (n,) and, where wanted, heat (n, h, w) in [0, 1]."""
        maps = self.network.features(pixels)
        logits = self.network.head(maps)
        chances = torch.softmax(logits / self.network.temperature, dim=1)
        found = chances, -torch.logsumexp(logits, dim=1)
        if not self.heat:
            return found
        return *found, explain.heat(self.network, maps, logits.argmax(dim=1))


OUTPUTS = ("chances", "energy", "heat")


def graph_of(network: nn.Module, heat: bool = True) -> ModelProto:
    """Return a network of `model` as an ONNX graph from ``pixels`` to `OUTPUTS`.

    Without heat the last is missing: it would keep the head's weights in a file of eight bits.
    """
    two = torch.zeros(2, 3, network.side, network.side)
    outputs = OUTPUTS if heat else OUTPUTS[:-1]
    return networks.to_onnx(Answers(network, heat), two, "pixels", outputs)


def of_eight_bits(shop: Workshop, network: nn.Module) -> ModelProto:
    """Return a network's graph in eight bits."""
    return quantising.quantised(graph_of(network, heat=False), shop.calibration(), "pixels")


def int8_trained(shop: Workshop) -> ModelProto:
    """Round while training goes on, then quantise: weights settle where rounding harms least."""
    rounded = shop.tuned(quantising.prepared(shop.network), 1e-4, "int8-trained")
    return of_eight_bits(shop, quantising.released(rounded))


def pruned(shop: Workshop, share: float = 0.5) -> ModelProto:
    """Take out half of the channels that can go, and train what is left."""
    return graph_of(shop.tuned(pruning.narrowed(shop.network, share), 1e-3, "pruned"))


def sparse(shop: Workshop, share: float = 0.8) -> ModelProto:
    """Set four of five weights to zero, and train the others."""
    thin = pruning.thin(shop.network, share).to(shop.device)
    kept = pruning.zeros(thin)
    return graph_of(shop.tuned(thin, 1e-3, "sparse", after=lambda: pruning.hold(kept)))


def distilled(shop: Workshop) -> ModelProto:
    """Teach a small ResNet."""
    torch.manual_seed(shop.seed)
    student = model.make("resnet", labels=shop.network.labels, side=shop.network.side, **STUDENT)
    student.mean.copy_(shop.network.mean)
    student.std.copy_(shop.network.std)
    return graph_of(shop.tuned(student, 4e-3, "distilled", epochs=4 * shop.epochs))


RECIPES: dict[str, Callable[[Workshop], ModelProto]] = {
    "float32": lambda shop: graph_of(shop.network),
    "int8": lambda shop: of_eight_bits(shop, shop.network),
    "int8-trained": int8_trained,
    "pruned": pruned,
    "sparse": sparse,
    "distilled": distilled,
}
