"""Training of the residual network: SGD with momentum, a warm-up and a cosine, checkpoints.

Data:    files of pictures with their labels, of the training and the validation part.
Source:  He et al., CVPR 2016, section 4.2 (momentum, weight decay); Loshchilov and Hutter,
         ICLR 2017 (cosine).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slipway import Run
from slipway.logs import say

from . import pixels

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.optim import SGD

    from .network import ResNet

EPOCHS, EPOCHS_OF_FEW, FEW = 4, 10, 5000
"""Passes; more where there are few pictures."""
BATCH, RATE, MOMENTUM, DECAY = 64, 0.1, 0.9, 5e-4
WARM_UP = 0.15
WIDTHS, BLOCKS = (16, 32, 64), 1
SIDES = (16, 28, 32, 64)
"""What pictures are brought to: the least that is no smaller than half of them."""
AT_ONCE = 256
Files = tuple[list[bytes], list[str]]


def trained(run: Run, fit: Files, validation: Files, flips: bool) -> ResNet:
    """Return the network after all epochs; each is kept, and a stopped training goes on."""
    import torch

    from slipway import networks

    networks.settle(run)
    decoded = [pixels.opened(content) for content in fit[0]]
    network = made(decoded, fit[1])
    optimizer = torch.optim.SGD(
        network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    kept = run.resume() or {"curve": []}
    curve: list[dict[str, float]] = kept["curve"]
    if curve:
        networks.put_back(kept["tensors"], network, optimizer)
    known = network.settings
    given = as_tensor(pixels.stacked(decoded, known["channels"], known["side"]))
    wanted = torch.tensor([known["labels"].index(label) for label in fit[1]])
    epochs = run.epochs or (EPOCHS if len(wanted) > FEW else EPOCHS_OF_FEW)
    for number in range(len(curve), epochs):
        draw = torch.Generator().manual_seed(run.seed * 1000 + number)
        loss = epoch(run, network, optimizer, (given, wanted), (number, epochs), draw, flips)
        accuracy = share_right(network, validation)
        curve.append({"training_loss": loss, "validation_accuracy": accuracy})
        say(f"epoch {number + 1} of {epochs}: loss {loss:.4f}, validation accuracy {accuracy:.4f}")
        run.checkpoint({"curve": curve}, networks.state_of(network, optimizer))
    run.log(**curve[-1])
    from . import charts

    run.figure("curve", charts.curve(curve), "After each pass over the training pictures.")
    return network.eval()


def made(decoded: Sequence[pixels.Decoded], labels: Sequence[str]) -> ResNet:
    """Return a fresh network for such pictures: grey or colour, and as large as half of them."""
    import numpy as np

    from .network import ResNet

    middle = float(np.median([min(entry.pixels.shape[:2]) for entry in decoded]))
    side = next((side for side in SIDES if side >= middle), SIDES[-1])
    channels = 1 if all(pixels.is_grey(entry.pixels) for entry in decoded) else 3
    some = pixels.stacked(decoded[:2000], channels, side) / 255
    return ResNet(
        labels=sorted(set(labels)), channels=channels, side=side, widths=WIDTHS, blocks=BLOCKS,
        mean=round(float(some.mean()), 4), spread=round(float(some.std()) or 1.0, 4),
    )  # fmt: skip


def epoch(
    run: Run,
    network: ResNet,
    optimizer: SGD,
    fit: tuple[Tensor, Tensor],
    place: tuple[int, int],
    draw: Any,
    flips: bool,
) -> float:
    """Go over the pictures once, in a new order; return the mean loss."""
    import torch
    from torch.nn.functional import cross_entropy

    from .network import moved

    given, wanted = fit
    number, epochs = place
    network.train()
    parts = torch.randperm(len(wanted), generator=draw).split(BATCH)
    parts = parts[:-1] if len(parts[-1]) == 1 else parts  # one picture has no spread to normalise
    total = 0.0
    for step, chosen in enumerate(run.progress(parts, f"epoch {number + 1}", len(parts))):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate((number + (step + 0.5) / len(parts)) / epochs)
        logits = network(moved(given[chosen], draw, flips))
        loss = cross_entropy(logits, wanted[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / sum(map(len, parts))


def rate(done: float) -> float:
    """Return the learning rate, in its highest, when a share of training is done."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


def share_right(network: ResNet, files: Files) -> float:
    """Return the accuracy on files of pictures."""
    import numpy as np

    known = network.settings
    decoded = [pixels.opened(content) for content in files[0]]
    if not decoded:
        return 0.0
    found = chances(network, pixels.stacked(decoded, known["channels"], known["side"]))
    called = [known["labels"][place] for place in found.argmax(axis=1)]
    return float(np.mean([one == other for one, other in zip(called, files[1], strict=True)]))


def chances(network: ResNet, given: np.ndarray) -> np.ndarray:
    """Return the chance of each label, (n, labels) float32, of pictures uint8."""
    import torch

    network.eval()
    with torch.inference_mode():
        parts = as_tensor(given).split(AT_ONCE)
        return torch.cat([torch.softmax(network(part), dim=1) for part in parts]).numpy()


def as_tensor(given: np.ndarray) -> Tensor:
    """Return pictures uint8 as float32 in [0, 1]."""
    import torch

    return torch.from_numpy(given).float() / 255
