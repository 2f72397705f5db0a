"""Least squares and softmax regression written out in NumPy, with what tells how they converge.

Data:    a design ``features`` (n, p) float64 that carries its own column of ones, ``target`` (n,).
Source:  normal equation and QR: Golub and Van Loan, Matrix Computations, 5.3; step sizes: Bottou,
         Curtis and Nocedal, SIAM Review 2018, (4.6) and theorem 4.7; cosine: Loshchilov and Hutter,
         ICLR 2017, (5); softmax: Bishop, Pattern Recognition and Machine Learning, (4.104)-(4.109).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Schedule = Callable[[int, int], float]
"""(step, steps in all) -> factor of the first learning rate."""

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda step, steps: 1.0,
    "inverse time": lambda step, steps: 1 / (1 + 50 * step / steps),
    "halved in steps": lambda step, steps: 0.5 ** (10 * step // steps),
    "cosine": lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2,
}
BLOWN_UP = 1e4  # times the first loss: further steps only overflow


@dataclass
class Trace:
    """The weights and how they came about: one entry an epoch, the first before any step."""

    weights: np.ndarray
    loss: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    ended: str = "all epochs done"

    @property
    def diverged(self) -> bool:
        """Whether the loss grew without bound."""
        return self.ended.startswith("diverged")


def normal_equation(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve X'X w = X'y by QR, R w = Q'y, without squaring the condition number of X.

    Where columns depend on each other the shortest solution is taken, by the singular values.
    """
    import numpy as np

    orthogonal, upper = np.linalg.qr(features)
    diagonal = np.abs(np.diag(upper))
    if diagonal.min() > 1e-10 * diagonal.max():
        return np.linalg.solve(upper, orthogonal.T @ target)
    left, singular, right = np.linalg.svd(features, full_matrices=False)
    inverse = np.where(singular > 1e-10 * singular[0], 1 / np.maximum(singular, 1e-300), 0)
    return right.T @ (inverse * (left.T @ target))


def independent(features: np.ndarray, share: float = 1e-8) -> list[int]:
    """Return the places of columns that have more than a ``share`` of their own, by pivoted QR."""
    import numpy as np
    from scipy.linalg import qr

    _, upper, order = qr(features, mode="economic", pivoting=True)
    diagonal = np.abs(np.diag(upper))
    return sorted(int(place) for place in order[: int((diagonal > share * diagonal[0]).sum())])


def curvature(features: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue of the Hessian X'X / n."""
    import numpy as np

    values = np.linalg.eigvalsh(features.T @ features / len(features))
    return float(values[0]), float(values[-1])


def descend(
    features: np.ndarray, target: np.ndarray, *, rate: float, epochs: int, batch: int | None = None,
    schedule: Schedule = SCHEDULES["constant"], seed: int = 0, tolerance: float = 0.0,
    optimum: np.ndarray | None = None,
) -> Trace:  # fmt: skip
    """Minimise J(w) = |Xw - y|^2 / 2n by w <- w - rate X'(Xw - y) / b over batches of b rows.

    ``batch`` None is the whole table, 1 is stochastic descent. Stops where the norm of the whole
    gradient is at most ``tolerance``, and where the loss has blown up; `Trace.ended` says which.
    """
    import numpy as np

    count, width = features.shape
    size = batch or count
    shuffle = np.random.default_rng(seed)
    steps = epochs * math.ceil(count / size)
    trace, step = Trace(np.zeros(width)), 0
    for epoch in range(epochs + 1):
        residual = features @ trace.weights - target
        gradient = features.T @ residual / count
        trace.loss.append(float(residual @ residual / 2 / count))
        trace.gradient.append(float(np.linalg.norm(gradient)))
        if optimum is not None:
            trace.distance.append(float(np.linalg.norm(trace.weights - optimum)))
        if not trace.loss[-1] <= BLOWN_UP * max(trace.loss[0], 1e-300):
            trace.ended = f"diverged in epoch {epoch}: the loss is {trace.loss[-1]:.1e}"
            break
        if trace.gradient[-1] <= tolerance:
            trace.ended = f"converged in epoch {epoch}: the gradient is {trace.gradient[-1]:.1e}"
            break
        order = shuffle.permutation(count) if size < count else np.arange(count)
        for start in range(0, count if epoch < epochs else 0, size):
            if size < count:
                rows = order[start : start + size]
                part = features[rows]
                gradient = part.T @ (part @ trace.weights - target[rows]) / len(rows)
            trace.weights = trace.weights - rate * schedule(step, steps) * gradient
            step += 1
    return trace


@dataclass
class Softmax:
    """Weights (p, k), the losses of each epoch, and the epoch whose weights were kept."""

    weights: np.ndarray
    train: list[float]
    validation: list[float]
    kept: int

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return the chances of the classes (n, k)."""
        return softmax(features @ self.weights)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return exp(s_k) / sum exp(s_j) of each row; the largest score is taken off first."""
    import numpy as np

    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(chances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log p of the true class; ``labels`` are numbers of classes (n,)."""
    import numpy as np

    return float(-np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-15)).mean())


def fit_softmax(
    features: np.ndarray, labels: np.ndarray, held: tuple[np.ndarray, np.ndarray], *,
    penalty: float = 0.0, epochs: int = 2000, patience: int = 50,
) -> Softmax:  # fmt: skip
    """Fit softmax regression by gradient descent, stopped early by the loss on ``held`` rows.

    The gradient is X'(P - Y) / n + penalty W (4.109); the rate 1 / L with L = |X|^2 / 2n + penalty
    bounds the curvature, so the training loss never rises. The intercept, column 0, is not shrunk.
    After ``patience`` epochs without a better held-out loss the best weights are kept.
    """
    import numpy as np

    count, classes = len(labels), int(labels.max()) + 1
    truth = np.eye(classes)[labels]
    rate = 1 / (np.linalg.norm(features, 2) ** 2 / 2 / count + penalty)
    shrink = np.full((features.shape[1], 1), penalty)
    shrink[0] = 0
    weights = np.zeros((features.shape[1], classes))
    found = Softmax(weights, [], [], 0)
    for epoch in range(epochs):
        chances = softmax(features @ weights)
        found.train.append(cross_entropy(chances, labels))
        found.validation.append(cross_entropy(softmax(held[0] @ weights), held[1]))
        if found.validation[-1] < found.validation[found.kept] or epoch == 0:
            found.kept, found.weights = epoch, weights
        if epoch - found.kept >= patience:
            break
        gradient = features.T @ (chances - truth) / count + shrink * weights
        weights = weights - rate * gradient
    return found


def inference(features: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Return the weights of least squares with standard errors, t and two-sided p values.

    s^2 = |y - Xw|^2 / (n - p), se_j = s sqrt((X'X)^-1_jj) with (X'X)^-1 = R^-1 R^-T of the QR
    factors; Hastie, Tibshirani and Friedman, 2009, (3.8)-(3.12). Columns must be independent.
    """
    import numpy as np
    from scipy import stats

    weights = normal_equation(features, target)
    inverse = np.linalg.inv(np.linalg.qr(features, mode="r"))
    free = len(target) - features.shape[1]
    variance = float(np.sum((target - features @ weights) ** 2) / free)
    error = np.sqrt(variance * (inverse**2).sum(axis=1))
    ratio = weights / error
    return {"weight": weights, "error": error, "t": ratio, "p": 2 * stats.t.sf(np.abs(ratio), free)}
