"""The fitted models side by side: each is read once, and says once what the digits are.

Data:    the splits of `prepare` and the models that `train` left in ``benchmarks``.
Source:  Wilson, Journal of the American Statistical Association 1927 (interval of a share).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from slipway import Run, store
from slipway.errors import DataUnavailable
from slipway.run import read_json

from . import digits, learning

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

TITLES = {
    "sgd": "linear SVM, one against the rest",
    "sgd_pairs": "linear SVM, one against one",
    "forest": "random forest",
    "knn": "nearest neighbours",
    "knn_shifts": "nearest neighbours, shifted copies",
    "svm": "SVM, Gaussian kernel",
    "mlp": "perceptron (MLP)",
    "cnn": "convolutional network (CNN)",
}


class Bench:
    """What `train` fitted, and the network it chose to serve, seen from one run."""

    def __init__(self, run: Run, trusted: Sequence[str], served: Module) -> None:
        self.run, self.trusted, self.served = run, trusted, served
        self.fitted = read_json(run.out / "benchmarks" / "fitted.json")
        self.called = cache(self._called)
        self.model = cache(self._model)

    @cached_property
    def test(self) -> digits.Part:
        """The held-out digits."""
        return digits.read_split(self.run.prepared("test.npz"))

    @cached_property
    def validation(self) -> digits.Part:
        """The digits to choose by."""
        return digits.read_split(self.run.prepared("validation.npz"))

    def has(self, *names: str) -> bool:
        """Tell whether all these models were fitted."""
        return set(names) <= set(self.fitted)

    def _model(self, name: str) -> Any:
        if not self.has(name):
            raise DataUnavailable(f"model {name} was not fitted; run train with --models {name}")
        return store.load(self.run.out / "benchmarks" / name, self.trusted)

    def _called(self, name: str, split: str = "test") -> np.ndarray:
        """Return what a classifier calls each digit of a split, (n,)."""
        images = getattr(self, split).images
        model = self.model(name)
        if hasattr(model, "predict"):
            found: np.ndarray = model.predict(digits.flat(images))
            return found
        return learning.chances(model, images).argmax(axis=1)

    def row(self, name: str) -> dict[str, Any]:
        """Return a classifier's figures on the held-out digits, for a table."""
        from sklearn.metrics import f1_score

        labels, called = self.test.labels, self.called(name)
        right = called == labels
        recall = {digit: right[labels == digit].mean() for digit in sorted(set(labels.tolist()))}
        weakest = min(recall, key=lambda digit: recall[digit])
        folds = [right[start::5].mean() for start in range(5)]
        low, high = interval(int(right.sum()), len(right))
        return {
            "model": TITLES[name],
            "accuracy": round(float(right.mean()), 4),
            "95 % interval": f"{low:.4f} to {high:.4f}",
            "five folds": f"{min(folds):.4f} to {max(folds):.4f}",
            "macro F1": round(float(f1_score(labels, called, average="macro")), 4),
            "errors": int((~right).sum()),
            "weakest digit": f"{weakest} (recall {recall[weakest]:.3f})",
            "fit, CPU s": round(self.fitted[name]["cpu seconds"]),
        }

    def accuracy(self, name: str) -> float:
        """Return the share of held-out digits that a classifier calls right."""
        return float((self.called(name) == self.test.labels).mean())


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share of ``count``."""
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return middle - half, middle + half
