"""Training of a network: Adam, one cycle of the learning rate, distorted images, checkpoints.

Data:    images (n, 28, 28) uint8 and labels (n,) of the training and the validation split.
Source:  Kingma and Ba, ICLR 2015; Smith and Topin, arXiv 1708.07120 (one cycle).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slipway import Run
from slipway.logs import say

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from .digits import Part

EPOCHS = 10
BATCH, STEPS = 128, 60
"""Images in a step; fewer where an epoch would have less than so many steps."""
PEAK = 0.004
"""Highest learning rate."""
SCORED = 500
"""Images at a time when no gradient is needed."""


def trained(
    run: Run,
    name: str,
    fit: Part,
    validation: Part,
    state: dict[str, Any],
    keep: Callable[[dict[str, Any], dict[str, Tensor]], None],
) -> tuple[Module, list[dict[str, float]]]:
    """Return network ``name`` and its curve, one entry an epoch; each epoch is kept.

    ``state`` is what was kept of this network when training stopped, or empty.
    """  # fmt: skip
    import torch

    from slipway import networks

    from . import nets

    networks.settle(run)
    epochs = run.epochs or EPOCHS
    network = nets.make(name)
    optimizer = torch.optim.Adam(network.parameters(), lr=PEAK)
    curve = list(state.get("curve", []))
    if curve:
        networks.put_back(state["tensors"], network, optimizer)
    images, labels = tensor(fit.images), torch.from_numpy(fit.labels).long()
    steps = max(-(-len(labels) // BATCH), min(STEPS, len(labels) // 16), 1)
    for number in range(len(curve), epochs):
        draw = torch.Generator().manual_seed(run.seed * 1000 + number)
        torch.manual_seed(run.seed * 1000 + number)  # of dropout
        network.train()
        order = torch.randperm(len(labels), generator=draw).tensor_split(steps)
        label, losses = f"{name}, epoch {number + 1} of {epochs}", []
        for step, chosen in enumerate(run.progress(order, label)):
            rate = PEAK * one_cycle((number * steps + step + 0.5) / (epochs * steps))
            given = nets.distorted(images[chosen], draw)
            losses.append(stepped(network, optimizer, rate, given, labels[chosen]))
        curve.append(measured(network, sum(losses) / len(losses), fit, validation))
        say(f"{label}: validation accuracy {curve[-1]['validation accuracy']:.4f}")
        keep({"curve": curve}, networks.state_of(network, optimizer))
    return network.eval(), curve


def stepped(
    network: Module, optimizer: Optimizer, rate: float, images: Tensor, labels: Tensor
) -> float:
    """Take one step down the gradient of the cross-entropy, and return what that was."""
    from torch.nn.functional import cross_entropy

    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def one_cycle(done: float) -> float:
    """Return the learning rate, in peaks, when a share of all steps is done: up, then to zero."""
    rise = 0.2
    if done < rise:
        return 0.05 + 0.95 * done / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def measured(network: Module, loss: float, fit: Part, validation: Part) -> dict[str, float]:
    """Return losses and accuracies after an epoch; training's accuracy is of its first 6,000."""
    import numpy as np

    entry = {"training loss, distorted": loss}
    first = fit._replace(images=fit.images[:6000], labels=fit.labels[:6000])
    for name, part in (("training", first), ("validation", validation)):
        found = chances(network, part.images)
        right = found[np.arange(len(part.labels)), part.labels]
        entry[f"{name} loss"] = float(-np.log(right.clip(1e-7)).mean())
        entry[f"{name} accuracy"] = float((found.argmax(axis=1) == part.labels).mean())
    return entry


def chances(network: Module, images: np.ndarray) -> np.ndarray:
    """Return the chance of each digit, (n, 10) float32, for images (n, 28, 28) uint8."""
    import torch

    network.eval()
    with torch.inference_mode():
        found = [torch.softmax(network(part), dim=1) for part in tensor(images).split(SCORED)]
    return torch.cat(found).numpy()


def tensor(images: np.ndarray) -> Tensor:
    """Return images (n, 28, 28) uint8 as (n, 1, 28, 28) float32 in [0, 1]."""
    import torch

    return torch.from_numpy(images.astype("float32") / 255).unsqueeze(1)
