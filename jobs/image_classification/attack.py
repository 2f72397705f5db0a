"""Pictures made worse, by weather and cameras or by someone who knows the network.

Data:    images (n, side, side, 3) uint8; the held-out split to measure, the training split to
         train against attacks.
Source:  corruptions in five severities: Hendrycks and Dietterich, ICLR 2019 (their kinds, our
         strengths). FGSM: Goodfellow et al., ICLR 2015; PGD and training on its pictures: Madry et
         al., ICLR 2018.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import explain

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
    from torch.nn import Module

    from .data import Split

SEVERITIES = (1, 2, 3, 4, 5)
BUDGETS = (1, 2, 4, 8)
"""The most that an attack may change a colour by, of 255."""
STEPS = 10
BATCH = 250
TRAIN_BATCH, TRAIN_STEPS = 128, 4
BUDGET = 4
"""Of the attacks that adversarial training trains against."""
RATE = 0.002


def gaussian_noise(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Add noise, as a sensor in the dark does."""
    return images + draw.normal(0, (8, 13, 18, 26, 38)[severity - 1], images.shape)


def shot_noise(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Count few photons: noise that grows with brightness."""
    photons = (180, 90, 45, 22, 11)[severity - 1]
    return draw.poisson(images / 255 * photons) / photons * 255


def impulses(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Turn single values black or white."""
    share = (0.01, 0.02, 0.04, 0.08, 0.14)[severity - 1]
    chosen = draw.random(images.shape)
    found = images.copy()
    found[chosen < share / 2] = 0
    found[chosen > 1 - share / 2] = 255
    return found


def blur(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Put it out of focus; the radius grows with the picture."""
    from scipy.ndimage import gaussian_filter

    radius = (0.4, 0.6, 0.8, 1.1, 1.5)[severity - 1] * images.shape[1] / 32
    return gaussian_filter(images.astype(float), (0, radius, radius, 0))


def motion(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Move the camera sideways while it looks."""
    from scipy.ndimage import uniform_filter1d

    width = round((2, 3, 4, 5, 7)[severity - 1] * images.shape[1] / 32)
    return uniform_filter1d(images.astype(float), width, axis=2)


def contrast(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Draw all colours towards the picture's mean."""
    share = (0.75, 0.55, 0.4, 0.25, 0.15)[severity - 1]
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * share


def brightness(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Expose too long."""
    return images + (20.0, 40.0, 60.0, 85.0, 110.0)[severity - 1]


def fog(images: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Lay white clouds over it, smooth noise of several sizes."""
    from scipy.ndimage import zoom

    amount = (0.3, 0.45, 0.6, 0.72, 0.85)[severity - 1]
    number, side = images.shape[:2]
    clouds = 0.0
    for cells, weight in ((2, 0.5), (4, 0.3), (8, 0.2)):
        cloud = zoom(draw.random((number, cells, cells)), (1, side / cells, side / cells), order=1)
        clouds = clouds + weight * cloud
    cover = amount * (0.5 + clouds)[..., None].clip(0, 1)
    return images * (1 - cover) + 255 * cover


def pixelate(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Store it smaller and show it large."""
    import numpy as np
    from PIL import Image

    side = images.shape[1]
    small = max(2, round(side * (0.8, 0.65, 0.5, 0.4, 0.3)[severity - 1]))
    near, box = Image.Resampling.NEAREST, Image.Resampling.BOX
    return np.stack([
        np.asarray(Image.fromarray(image).resize((small, small), box).resize((side, side), near))
        for image in images
    ])  # fmt: skip


def jpeg(images: np.ndarray, severity: int, _: np.random.Generator) -> np.ndarray:
    """Store it as a JPEG of low quality."""
    import numpy as np
    from PIL import Image

    def stored(image: np.ndarray) -> np.ndarray:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "JPEG", quality=(60, 40, 25, 15, 8)[severity - 1])
        return np.asarray(Image.open(content))

    return np.stack([stored(image) for image in images])


Corruption = Callable[["np.ndarray", int, "np.random.Generator"], "np.ndarray"]
CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise": gaussian_noise, "shot noise": shot_noise, "impulse noise": impulses,
    "blur": blur, "motion": motion, "contrast": contrast, "brightness": brightness, "fog": fog,
    "pixelate": pixelate, "JPEG": jpeg,
}  # fmt: skip


def corrupted(images: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """Return images made worse, uint8 as they came; the same for the same seed."""
    import numpy as np

    draw = np.random.default_rng([seed, list(CORRUPTIONS).index(kind), severity])
    return CORRUPTIONS[kind](images, severity, draw).round().clip(0, 255).astype(np.uint8)


def accuracy(network: Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that are called right."""
    import torch

    network.eval()
    right = 0
    with torch.no_grad():
        for place in range(0, len(images), BATCH):
            found = network(explain.pixels_of(images[place : place + BATCH])).argmax(dim=1).numpy()
            right += int((found == labels[place : place + BATCH]).sum())
    return right / len(labels)


def gradient(network: Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return how the loss grows with each pixel."""
    import torch

    pixels = pixels.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(network(pixels), labels, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0]


def fgsm(network: Module, pixels: Tensor, labels: Tensor, budget: float) -> Tensor:
    """Return pixels (n, 3, h, w) moved by ``budget`` each, one step up the loss."""
    return (pixels + budget * gradient(network, pixels, labels).sign()).clamp(0, 1).detach()


def pgd(
    network: Module, pixels: Tensor, labels: Tensor, budget: float, draw: torch.Generator,
    steps: int = STEPS,
) -> Tensor:  # fmt: skip
    """Return pixels moved by at most ``budget``, many small steps from a random start."""
    import torch

    low, high = (pixels - budget).clamp(0, 1), (pixels + budget).clamp(0, 1)
    start = 2 * torch.rand(pixels.shape, generator=draw, device=pixels.device) - 1
    found = (pixels + budget * start).clamp(0, 1)
    for _ in range(steps):
        step = 2.5 * budget / steps * gradient(network, found, labels).sign()
        found = torch.minimum(torch.maximum(found + step, low), high)
    return found.detach()


def under_attack(
    network: Module, images: np.ndarray, labels: np.ndarray, kind: str, budget: int, seed: int
) -> tuple[float, np.ndarray]:
    """Return the accuracy on attacked images, and the first of them as uint8.

    ``budget`` is of 255; ``kind`` fgsm or pgd.
    """
    import torch

    network.eval()
    draw = torch.Generator().manual_seed(seed)
    right, shown = 0, None
    for place in range(0, len(images), BATCH):
        pixels = explain.pixels_of(images[place : place + BATCH])
        wanted = torch.from_numpy(labels[place : place + BATCH])
        size = budget / 255
        if kind == "fgsm":
            found = fgsm(network, pixels, wanted, size)
        else:
            found = pgd(network, pixels, wanted, size, draw)
        with torch.no_grad():
            right += int((network(found).argmax(dim=1) == wanted).sum())
        shown = found if shown is None else shown
    as_bytes = (shown * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return right / len(labels), as_bytes


def hardened(
    network: Module, fit: Split, epochs: int, seed: int,
    progress: Callable[[Iterable[Any], str], Iterator[Any]],
) -> Module:  # fmt: skip
    """Return a copy of a network trained on pictures attacked anew in each step.

    Half of each batch is attacked and half is as it is, so that plain pictures are not forgotten.
    """
    import torch

    found = copy.deepcopy(network)
    optimizer = torch.optim.SGD(found.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of dropout
    labels = torch.from_numpy(fit.labels)
    steps = max(1, len(labels) // TRAIN_BATCH)
    for epoch in range(epochs):
        batches = torch.randperm(len(labels), generator=draw).tensor_split(steps)
        for step, chosen in enumerate(progress(batches, f"against attacks, epoch {epoch + 1}")):
            place = (epoch * steps + step) / (epochs * steps)
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * place))
            pixels, wanted = explain.pixels_of(fit.images[chosen.numpy()]), labels[chosen]
            half = len(pixels) // 2
            found.eval()  # the attack meets the network as it is in use
            worse = pgd(found, pixels[:half], wanted[:half], BUDGET / 255, draw, TRAIN_STEPS)
            found.train()
            optimizer.zero_grad()
            logits = found(torch.cat([worse, pixels[half:]]))
            torch.nn.functional.cross_entropy(logits, wanted).backward()
            optimizer.step()
    return found.eval()
