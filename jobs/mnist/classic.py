"""The models without a network, each with the targets it learns.

Data:    images (n, 28, 28) uint8 and labels (n,).
Source:  Géron, Hands-On Machine Learning, chapter 3; Breiman, Machine Learning 2001 (forest);
         Cortes and Vapnik, Machine Learning 1995 (SVM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import digits

if TYPE_CHECKING:
    import numpy as np

    from .digits import Part

JOBS = 2
"""Processor cores for one model: job.toml's cpus."""
COMPONENTS = 64
"""Principal components for what measures distances: 91 % of the variance, a twelfth of the work."""


@dataclass(frozen=True)
class Recipe:
    """How a model is made from a seed, on which images, and for which targets."""

    make: Callable[[int], Any]
    targets: Callable[[Part], np.ndarray] = lambda part: part.labels
    shifts: bool = False
    noise: bool = False


def fitted(name: str, part: Part, seed: int) -> Any:
    """Return model ``name`` fitted on the digits of a split."""
    import numpy as np

    recipe = RECIPES[name]
    if recipe.shifts:
        part = part._replace(images=digits.shifted(part.images), labels=np.tile(part.labels, 5))
    images = digits.noisy(part.images, seed) if recipe.noise else part.images
    return recipe.make(seed).fit(digits.flat(images), recipe.targets(part))


def sgd(seed: int) -> Any:
    """Return a linear SVM by stochastic gradient descent; ten of them, one against the rest."""
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(
        loss="hinge", alpha=1e-5, max_iter=20, tol=None, average=True, random_state=seed,
        n_jobs=JOBS,
    )  # fmt: skip


def sgd_pairs(seed: int) -> Any:
    """Return 45 linear SVMs, one for each pair of digits, that vote."""
    from sklearn.multiclass import OneVsOneClassifier

    return OneVsOneClassifier(sgd(seed))


def forest(seed: int) -> Any:
    """Return 200 trees."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(200, random_state=seed, n_jobs=JOBS)


def on_components(model: Any) -> Any:
    """Return a pipeline that hands a model the principal components of the pixels."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline

    return make_pipeline(PCA(COMPONENTS, svd_solver="covariance_eigh"), model)


def knn(seed: int) -> Any:
    """Return the vote of the four nearest digits, the nearer the heavier."""
    from sklearn.neighbors import KNeighborsClassifier

    return on_components(KNeighborsClassifier(4, weights="distance", algorithm="brute"))


def svm(seed: int) -> Any:
    """Return a support vector machine with Gaussian kernel, one against one."""
    from sklearn.svm import SVC

    return on_components(SVC(C=5, gamma=0.025, cache_size=500))


def denoiser(seed: int) -> Any:
    """Return the mean of the clean digits whose noisy copies are the five nearest."""
    from sklearn.neighbors import KNeighborsRegressor

    return on_components(KNeighborsRegressor(5, algorithm="brute"))


def linear_denoiser(seed: int) -> Any:
    """Return a linear map from 784 noisy pixels to 784 clean ones."""
    from sklearn.linear_model import Ridge

    return Ridge(alpha=10.0)


def large_and_odd(part: Part) -> np.ndarray:
    """Return two labels of each digit, (n, 2): whether it is 7 or more, and whether it is odd."""
    import numpy as np

    return np.stack([part.labels >= 7, part.labels % 2 == 1], axis=1)


def clean_pixels(part: Part) -> np.ndarray:
    """Return the pixels as targets, (n, 784) uint8."""
    return part.images.reshape(len(part.images), -1)


RECIPES = {
    "sgd": Recipe(sgd),
    "sgd_pairs": Recipe(sgd_pairs),
    "forest": Recipe(forest),
    "knn": Recipe(knn),
    "knn_shifts": Recipe(knn, shifts=True),
    "svm": Recipe(svm),
    "multilabel": Recipe(knn, targets=large_and_odd),
    "denoise_linear": Recipe(linear_denoiser, targets=clean_pixels, noise=True),
    "denoise_knn": Recipe(denoiser, targets=clean_pixels, noise=True),
}
CLASSIFIERS = ("sgd", "sgd_pairs", "forest", "knn", "knn_shifts", "svm")
