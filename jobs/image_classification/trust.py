"""How far to trust an answer: calibrated chances, doubt, and pictures of no class at all.

A temperature mends how sure the network is and changes no label. Two kinds of doubt are told
apart: networks that were dropped out of it, or trained apart from it, may disagree; and a picture
may be unlike all that was learnt. For the scorer the energy of the logits, which costs nothing.

Data:    logits (n, k), chances (n, k), labels (n,) of the validation split to fit, of the held-out
         split to measure; pictures of other data sets to be recognised as strange.
Source:  temperature and calibration error: Guo et al., ICML 2017. Dropout as doubt: Gal and
         Ghahramani, ICML 2016. Ensembles: Lakshminarayanan et al., NeurIPS 2017. Softmax as a
         score: Hendrycks and Gimpel, ICLR 2017; Mahalanobis: Lee et al., NeurIPS 2018; energy:
         Liu et al., NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import explain

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

BINS = 15
PASSES = 20
"""Passes with dropout left on."""
BATCH = 250


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the chances (n, k) of logits (n, k)."""
    import numpy as np

    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def surprise(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative logarithm of the labels' chances, in nats."""
    import numpy as np

    found = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(found.clip(1e-12)).mean())


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return what logits are divided by so that chances fit the validation labels best."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: surprise(logits, labels, float(np.exp(power))), bounds=(-3, 3),
        method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(np.exp(found.x))


def reliability(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Return for each bin of the winner's chance how many fell in, their chance and accuracy."""
    import numpy as np

    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    return [
        {"from": number / bins, "pictures": int(chosen.sum()),
         "chance": float(sure[chosen].mean()), "accuracy": float(right[chosen].mean())}
        for number in range(bins) if (chosen := place == number).any()
    ]  # fmt: skip


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: the bins' gaps, weighed by their pictures."""
    told = reliability(chances, labels, bins)
    gaps = sum(abs(entry["chance"] - entry["accuracy"]) * entry["pictures"] for entry in told)
    return float(gaps / len(labels))


def logits_of(network: Module, images: np.ndarray) -> np.ndarray:
    """Return logits (n, k) of images (n, side, side, 3) uint8, in the state the network is in."""
    from . import training

    return training.logits(network, images)


def with_dropout(
    network: Module, images: np.ndarray, seed: int, passes: int = PASSES
) -> np.ndarray:
    """Return chances (passes, n, k) with dropout left on and all else as in use."""
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(seed)
    network.eval()
    for layer in network.modules():
        layer.train(isinstance(layer, nn.Dropout))
    cool = float(network.temperature)
    found = [softmax(logits_of(network, images), cool) for _ in range(passes)]
    network.eval()
    return np.stack(found)


def disagreement(chances: np.ndarray) -> np.ndarray:
    """Return for each picture how far members (m, n, k) disagree, (n,) in nats.

    The entropy of their mean less the mean of their entropies: what is left if each is sure of
    something else.
    """
    return entropy(chances.mean(axis=0)) - entropy(chances).mean(axis=0)


def entropy(chances: np.ndarray) -> np.ndarray:
    """Return the entropy of the last axis, in nats."""
    import numpy as np

    return -(chances * np.log(chances.clip(1e-12))).sum(axis=-1)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return how strange each row of logits (n, k) is: the negative logarithm of their sum."""
    from scipy.special import logsumexp

    found: np.ndarray = -logsumexp(logits, axis=1)
    return found


def pooled(network: Module, images: np.ndarray) -> np.ndarray:
    """Return the mean of each channel of the last map, (n, c) float64."""
    import numpy as np
    import torch

    network.eval()
    parts = [images[place : place + BATCH] for place in range(0, len(images), BATCH)]
    with torch.no_grad():
        means = [network.features(explain.pixels_of(part)).mean(dim=(2, 3)) for part in parts]
    return torch.cat(means).numpy().astype(np.float64)


class Distance:
    """How far pictures are from the nearest class, in the shape that the classes have in common."""

    def __init__(self, values: np.ndarray, labels: np.ndarray) -> None:
        import numpy as np

        classes = np.unique(labels)
        self.means = np.stack([values[labels == label].mean(axis=0) for label in classes])
        centred = values - self.means[np.searchsorted(classes, labels)]
        shape = centred.T @ centred / len(values)
        # A little of the mean variance on each axis: some channels never move.
        shape += np.eye(len(shape)) * (1e-3 * np.trace(shape) / len(shape) + 1e-12)
        self.inverse = np.linalg.inv(shape)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the squared Mahalanobis distance (n,) to the nearest class's mean."""
        import numpy as np

        apart = values[:, None] - self.means
        return np.einsum("nkc,cd,nkd->nk", apart, self.inverse, apart, optimize=True).min(axis=1)


SCORES = ("1 - largest chance", "energy", "Mahalanobis")


def strangeness(network: Module, distance: Distance, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return three scores (n,) of images, each larger for what looks less like any class."""
    network.eval()
    logits = logits_of(network, images)
    found = (
        1 - softmax(logits).max(axis=1), energy(logits), distance(pooled(network, images)),
    )  # fmt: skip
    return dict(zip(SCORES, found, strict=True))


def separation(known: np.ndarray, strange: np.ndarray) -> float:
    """Return how often a strange picture scores above a known one: the area below the ROC curve."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.zeros(len(known)), np.ones(len(strange))]
    return float(roc_auc_score(truth, np.r_[known, strange]))


def kept_share(doubt: np.ndarray, right: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Return the accuracy among the least doubtful share of pictures, for each share."""
    import numpy as np

    order = np.argsort(doubt, kind="stable")
    return [float(right[order[: max(1, round(share * len(order)))]].mean()) for share in shares]


def strangers(side: int, number: int, seed: int, garments: np.ndarray) -> dict[str, np.ndarray]:
    """Return pictures of no class, (number, side, side, 3) uint8 each: other things, and noise.

    ``garments`` (n, h, w) uint8 are grey pictures of another data set.
    """
    import numpy as np

    draw = np.random.default_rng(seed)
    shape = (number, side, side, 3)
    return {
        "other pictures": coloured(garments[:number], side),
        "noise": draw.integers(0, 256, shape, dtype=np.uint8),
        "coarse noise": np.repeat(np.repeat(
            draw.integers(0, 256, (number, side // 8, side // 8, 3), dtype=np.uint8), 8, 1), 8, 2),
    }  # fmt: skip


def coloured(grey: np.ndarray, side: int) -> np.ndarray:
    """Return grey pictures (n, h, w) uint8 as (n, side, side, 3)."""
    import numpy as np
    from PIL import Image

    large = [np.asarray(Image.fromarray(one).resize((side, side))) for one in grey]
    return np.repeat(np.stack(large)[..., None], 3, axis=3)


def table_of_strangers(
    known: Mapping[str, np.ndarray], strange: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """Return a row for each kind of stranger: the separation by each score."""
    return [
        {"pictures": kind} | {name: separation(known[name], scores[name]) for name in SCORES}
        for kind, scores in strange.items()
    ]
