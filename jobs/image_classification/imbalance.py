"""Classes of unequal size: weights in the loss, other draws of the pictures, another loss.

Data:    the labels of the training split, (n,) whole numbers.
Source:  focal loss: Lin et al., ICCV 2017, equation 5, for several classes.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

WAYS = ("none", "weights", "oversample", "undersample")
FOCUS = 2.0
"""Gamma of the paper: how much less the pictures count that are called right and sure."""


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight for each class, (k,), by which all classes count alike; 1 on average."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1).float()
    return len(labels) / (classes * counts)


def order(labels: Tensor, way: str, generator: Generator) -> Tensor:
    """Return the places of an epoch's pictures, shuffled.

    ``oversample`` draws from each class as many as the largest has, repeating pictures;
    ``undersample`` as many as the smallest has, others each epoch.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    if way not in ("oversample", "undersample"):
        return shuffled
    places = [shuffled[labels[shuffled] == label] for label in labels.unique()]
    sizes = [len(found) for found in places]
    number = max(sizes) if way == "oversample" else min(sizes)
    drawn = torch.cat([found.repeat(-(-number // len(found)))[:number] for found in places])
    return drawn[torch.randperm(len(drawn), generator=generator)]


def focal(logits: Tensor, wanted: Tensor, weights: Tensor | None, focus: float = FOCUS) -> Tensor:
    """Return the mean focal loss of logits (n, k) for soft labels (n, k)."""
    told = torch.log_softmax(logits, dim=1)
    each = -wanted * (1 - told.exp()) ** focus * told
    return (each if weights is None else each * weights).sum(dim=1).mean()
