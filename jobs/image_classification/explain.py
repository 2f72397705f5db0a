"""Why this class: Grad-CAM written from its paper, SHAP and LIME, and what the layers see.

Grad-CAM asks the last feature map, which still knows where: each of its channels counts by how
much the class's logit rises with it. The head after that map is small, so its gradient is written
out here in forward operations, and an exported graph can draw the same map without PyTorch.

Data:    images (n, side, side, 3) uint8; pixels (n, 3, side, side) float32 in [0, 1].
Source:  Grad-CAM: Selvaraju et al., ICCV 2017, equations 1 and 2. SHAP: Lundberg and Lee, NeurIPS
         2017. LIME: Ribeiro et al., KDD 2016. Deletion: Petsiuk et al., BMVC 2018.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from torch.nn import Module

SHOWN = 224
"""Side of a heat map's picture, at least."""
PATCHES = 8
"""Squares along a side, of which LIME takes some away."""
SAMPLES = 400
"""Pictures with squares taken away that LIME looks at."""


def pixels_of(images: np.ndarray) -> Tensor:
    """Return images (n, side, side, 3) uint8 as (n, 3, side, side) float32 in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)) / 255


def grad_cam(network: Module, images: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return for each image where the evidence for its label is: (n, side, side) in [0, 1]."""
    import torch

    network.eval()
    chosen = torch.as_tensor(list(labels))
    with torch.no_grad():
        maps = network.features(pixels_of(images))
        found = spread(heat(network, maps, chosen), images.shape[1])
    return found.numpy()


def heat(network: Module, maps: Tensor, chosen: Tensor) -> Tensor:
    """Return the channels of maps (n, c, h, w), weighed for the chosen classes, as (n, h, w).

    A weight is the mean over the map of the logit's gradient (equation 1); what speaks against
    the class is cut off (equation 2); the largest is 1.
    """
    slope = slopes(network, maps, chosen).reshape(maps.shape[0], maps.shape[1], -1)
    weight = slope.sum(dim=2) / (maps.shape[2] * maps.shape[3])
    found = (weight[:, :, None, None] * maps).sum(dim=1).relu()
    return found / found.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)


def slopes(network: Module, maps: Tensor, chosen: Tensor) -> Tensor:
    """Return the gradient of the chosen logits at the head's first dense layer, (n, inputs).

    Dropout is off, so a head is dense layers with ReLU between them: backwards each is a product
    with its weights, or with 1 where ReLU let something pass.
    """
    import torch

    layers, values = dense_layers(network, maps)
    slope = torch.nn.functional.one_hot(chosen, len(network.labels)).to(maps.dtype)
    for layer, value in zip(reversed(layers), reversed(values), strict=True):
        if isinstance(layer, torch.nn.Linear):
            slope = slope @ layer.weight
        elif isinstance(layer, torch.nn.ReLU):
            slope = slope * (value > 0)
    return slope


def dense_layers(network: Module, maps: Tensor) -> tuple[list[Module], list[Tensor]]:
    """Return the layers of a network's head after pooling, and what goes into each."""
    from .model import VGG, SmallCNN

    head = network.fc if hasattr(network, "fc") else network.classifier
    layers = list(head) if hasattr(head, "__iter__") else [head]
    if isinstance(network, VGG):
        value = network.avgpool(maps).flatten(1)
    else:
        value = maps.flatten(1) if isinstance(network, SmallCNN) else maps.mean(dim=(2, 3))
    values = []
    for layer in layers:
        values.append(value)
        value = layer(value)
    return layers, values


def spread(found: Tensor, side: int) -> Tensor:
    """Return maps (n, h, w) as (n, side, side), smooth between their points."""
    from torch.nn.functional import interpolate

    return interpolate(found[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]


def overlaid(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return a picture (side, side, 3) uint8 under its heat map (side, side), in viridis.

    Where there is no evidence the picture is grey and dark.
    """
    import numpy as np
    from matplotlib import colormaps

    grey = image.mean(axis=2, keepdims=True) / 255
    colour = colormaps["viridis"](found)[..., :3]
    shown = grey * 0.55 + colour * (0.15 + 0.3 * found[..., None])
    return (shown.clip(0, 1) * 255).astype(np.uint8)


def heatmap(network: Module, image: np.ndarray, label: int) -> bytes:
    """Return the Grad-CAM of one image (side, side, 3) uint8 for a label, as a PNG."""
    import torch

    network.eval()
    with torch.no_grad():
        maps = network.features(pixels_of(image[None]))
        found = heat(network, maps, torch.tensor([label]))
    return drawn(image, found[0].numpy())


def drawn(image: np.ndarray, found: np.ndarray) -> bytes:
    """Return a picture under a map of any size as a PNG of at least `SHOWN` pixels a side."""
    import numpy as np
    from PIL import Image

    side = max(SHOWN, image.shape[0])
    large = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
    smooth = Image.fromarray(found.astype(np.float32)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    content = io.BytesIO()
    Image.fromarray(overlaid(np.asarray(large), np.asarray(smooth).clip(0, 1))).save(content, "PNG")
    return content.getvalue()


def shap_values(
    network: Module, images: np.ndarray, labels: Sequence[int], others: np.ndarray, seed: int
) -> np.ndarray:
    """Return how much each pixel moved the label's logit, (n, side, side): expected gradients.

    Measured against ``others``, pictures of the training set; the three colours are added up.
    """
    import torch
    from captum.attr import GradientShap

    network.eval()
    torch.manual_seed(seed)
    found = GradientShap(network).attribute(
        pixels_of(images), pixels_of(others), target=torch.as_tensor(list(labels)), n_samples=32
    )
    return found.detach().sum(dim=1).numpy()


def lime_weights(network: Module, image: np.ndarray, label: int, seed: int) -> np.ndarray:
    """Return for each square of an image what it adds to the label's probability, (side, side).

    A linear model of which squares are there, fitted on `SAMPLES` pictures with squares greyed out.
    """
    import torch
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    side = image.shape[0]
    place = torch.arange(side) * PATCHES // side
    squares = (place[:, None] * PATCHES + place)[None, None]
    pixels = pixels_of(image[None])
    torch.manual_seed(seed)
    lime = Lime(lambda batch: torch.softmax(network(batch), dim=1), SkLearnRidge(alpha=1.0))
    with torch.no_grad():
        found = lime.attribute(
            pixels, baselines=pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels),
            target=label, feature_mask=squares, n_samples=SAMPLES, perturbations_per_eval=50,
        )  # fmt: skip
    return found[0, 0].numpy()


def feature_maps(network: Module, image: np.ndarray, number: int = 8) -> dict[str, np.ndarray]:
    """Return what some convolutions make of an image: layer to its strongest maps (m, h, w)."""
    import torch
    from torch import nn

    layers = [(name, layer) for name, layer in network.named_modules()
              if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]  # fmt: skip
    places = sorted({0, len(layers) // 2, len(layers) - 1})
    found: dict[str, np.ndarray] = {}

    def keep(name: str) -> Any:
        def hook(_: Module, __: Any, output: Tensor) -> None:
            maps = output[0].relu()
            strongest = maps.amax(dim=(1, 2)).topk(min(number, len(maps))).indices
            found[name] = maps[strongest].numpy()

        return hook

    hooks = [layers[place][1].register_forward_hook(keep(layers[place][0])) for place in places]
    with torch.no_grad():
        network(pixels_of(image[None]))
    for hook in hooks:
        hook.remove()
    return found


def deleted(
    network: Module, images: np.ndarray, labels: Sequence[int], found: np.ndarray, share: float
) -> np.ndarray:
    """Return the labels' probabilities (n,) once the most important ``share`` of pixels is grey.

    A map that points at what counts makes them fall faster than pixels drawn at random.
    """
    import numpy as np
    import torch

    number = round(share * images.shape[1] ** 2)
    order = np.argsort(-found.reshape(len(images), -1), axis=1, kind="stable")[:, :number]
    changed = images.reshape(len(images), -1, 3).copy()
    for one, places, mean in zip(changed, order, images.mean(axis=(1, 2)), strict=True):
        one[places] = mean
    with torch.no_grad():
        chances = torch.softmax(network(pixels_of(changed.reshape(images.shape))), dim=1).numpy()
    return chances[np.arange(len(images)), list(labels)]
