"""Weights that another training left: torchvision's files, or a network of this job.

Data:    the files of torchvision by address and checksum (job.toml); a folder with a saved network.
Source:  Yosinski et al., How transferable are features in deep neural networks?, NeurIPS 2014.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import Run, data, store
from slipway.errors import DataUnavailable, InputInvalid
from slipway.logs import say

if TYPE_CHECKING:
    from torch import Tensor

    from .model import Classifier

BACKBONE = "backbone"
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet", {"depths": [2, 2, 2, 2], "widths": [64, 128, 256, 512]}),
    "mobilenet_v2": ("mobilenet_v2", {"multiplier": 1.0}),
}
"""Family and settings of the networks whose files torchvision offers."""


def shape_of(run: Run, told: str, family: str) -> tuple[str, dict[str, Any]]:
    """Return the family and the settings of the network that weights are for.

    InputInvalid where it is of another ``family`` than was asked for.
    """
    from . import model

    if told in HUB:
        found, settings = HUB[told]
    else:
        network = saved(run, told)
        names = {kind: name for name, kind in model.FAMILIES.items()}
        found = names[type(network)]
        settings = {key: value for key, value in network.settings.items()
                    if key not in ("labels", "side")}  # fmt: skip
    if family and found != family:
        raise InputInvalid(f"--weights {told}: found a {found}; wanted a {family}")
    return found, settings


def tensors_of(run: Run, told: str) -> dict[str, Tensor]:
    """Return the tensors of weights by name. DataUnavailable where they cannot be had."""
    if told not in HUB:
        return dict(saved(run, told).state_dict())
    import torch

    try:
        source = data.find(run.spec, f"{told}_weights")
    except DataUnavailable as error:
        raise DataUnavailable(
            f"--weights {told}: {error}. Without a network `pretrain` makes a backbone of other "
            f"pictures; then take --weights {BACKBONE}"
        ) from None
    try:
        return dict(torch.load(source.path, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever the reader of this format finds wrong
        raise InputInvalid(f"{source.path}: found no weights ({error!r})") from None


def saved(run: Run, told: str) -> Classifier:
    """Return the network in a folder; `BACKBONE` is the one that `pretrain` made here."""
    from . import model

    folder = run.out / BACKBONE if told == BACKBONE else Path(told)
    if not folder.is_dir():
        raise DataUnavailable(
            f"--weights {told}: no such folder as {folder}; wanted one of {', '.join(HUB)}, "
            f"{BACKBONE} (run pretrain first) or a folder with a saved network"
        )
    found: Classifier = store.load(folder, model.TRUSTED)
    return found


def put_in(network: Classifier, tensors: dict[str, Tensor]) -> int:
    """Fill a network with the tensors whose names and shapes fit, its last layer aside.

    Returns how many layers' tensors fitted; InputInvalid where hardly any did.
    """
    own = network.state_dict()
    last = list(own)[-2:]  # weight and bias of the layer that names classes
    fitting = {
        name: tensor for name, tensor in tensors.items()
        if name in own and own[name].shape == tensor.shape and name not in (*last, "temperature")
    }  # fmt: skip
    if len(fitting) < len(own) / 2:
        raise InputInvalid(f"the weights fit {len(fitting)} of {len(own)} tensors of the network")
    network.load_state_dict(own | fitting)
    say(f"weights: {len(fitting)} of {len(own)} tensors taken over")
    return len(fitting)
