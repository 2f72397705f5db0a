"""Networks by name: the small one of this folder, a fresh one, or a checkpoint from outside.

Two different models share a name. MedSAM-2 (Zhu and others, arXiv 2408.00874) is a SAM 2.0 small
at 1024 pixels, `MedSAM2_pretrain.pth`; MedSAM2 (Ma and others, arXiv 2504.03600) is a SAM 2.1 tiny
at 512 pixels, `MedSAM2_latest.pt`. Either file is loaded here, as are Meta's own.

Data:    checkpoints are read as tensors only: a pickle with code in it is refused.
Source:  Ravi et al., SAM 2, arXiv 2408.00714; package sam2 (configurations).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slipway import data, store
from slipway.errors import DataUnavailable, InputInvalid
from slipway.spec import Dataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .nets import Configured, Small

TRUSTED = ("jobs.medsam.nets.Small", "jobs.medsam.nets.Configured")
WEIGHTS = Path(__file__).with_name("weights")
META = "Apache-2.0 (Meta)"
CONFIGS = {
    "sam2.1-tiny": ("sam2.1/sam2.1_hiera_t", 1024, META),
    "sam2.1-small": ("sam2.1/sam2.1_hiera_s", 1024, META),
    "sam2.1-base": ("sam2.1/sam2.1_hiera_b+", 1024, META),
    "sam2.1-large": ("sam2.1/sam2.1_hiera_l", 1024, META),
    "medsam2-zhu": ("sam2/sam2_hiera_s", 1024, "Apache-2.0 (the authors' badge says GPL)"),
    "medsam2-ma": ("sam2.1/sam2.1_hiera_t", 512, "CC BY-SA 4.0 by the weights' own page"),
}
"""The package's configuration, pixels of a side and licence of each checkpoint known by name."""
DIGEST = re.compile(r"[0-9a-f]{64}")
SHOWN = 5
"""Names of weights in an error."""


def small(**settings: Any) -> Small:
    """Return a small SAM 2 with fresh weights; ``settings`` as `nets.Small` has them."""
    from .nets import Small

    return Small(**settings).eval()


def shipped() -> Small:
    """Return the small SAM 2 whose weights lie in this folder, as 16-bit numbers."""
    network: Small = store.load(WEIGHTS, TRUSTED)
    return network.float()


def file_of(place: str, sha256: str | None, config: str) -> Path:
    """Return the file of a checkpoint: a path, or an address to bring it from by its ``sha256``.

    Raises InputInvalid for an address without a checksum, and what `data.fetch` raises.
    """
    if not place.startswith(("http://", "https://")):
        return Path(place)
    if not sha256 or not DIGEST.fullmatch(sha256):
        raise InputInvalid(
            f"--sha256: found {sha256!r}; wanted the 64 hexadecimal digits of {place}"
        )
    name = re.sub(r"[^\w.-]", "_", urlsplit(place).path.rpartition("/")[2]) or "checkpoint.pt"
    file = f"checkpoints/{sha256[:16]}/{name}"
    return data.fetch(Dataset(place, file, sha256, 0, CONFIGS[config][2], citation=""))


def load(checkpoint: Path, config: str, size: int | None = None) -> Configured:
    """Return a checkpoint's network. ``config`` is one of `CONFIGS`, ``size`` other pixels.

    Raises InputInvalid where the file's weights are not those of the configuration.
    """
    from .nets import Configured

    if config not in CONFIGS:
        raise InputInvalid(f"--config: found {config!r}; wanted one of {', '.join(CONFIGS)}")
    name, usual, _ = CONFIGS[config]
    side = size or usual
    if side % 32 or side < 64:
        raise InputInvalid(f"size: found {side}; wanted a multiple of 32, 64 or more")
    network = Configured(name, side, f"{config} ({Path(checkpoint).name}, {side} px)")
    weights = tensors(Path(checkpoint))
    compare(weights, network.state_dict(), f"{checkpoint}: not the weights of {config}")
    network.load_state_dict(weights)
    return network.eval()


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file: safetensors, or PyTorch's with nothing but tensors."""
    import warnings

    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataUnavailable(f"{path}: no such file; wanted a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a pickle's age
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes, and code in a pickle, surface in many types
        first = str(error).partition("\n")[0]
        raise InputInvalid(
            f"{path}: holds more than tensors, or is damaged; wanted a plain checkpoint ({first})"
        ) from None
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
        raise InputInvalid(f"{path}: found no named tensors; wanted a state dict")
    return {name.removeprefix("module."): value for name, value in found.items()}


def compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], told: str) -> None:
    """Raise InputInvalid with the names of weights that are missing, unexpected or misshapen."""
    wrong = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in found and found[name].shape != value.shape
        ],
    }
    told_of = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
        for what, names in wrong.items()
        if names
    ]
    if told_of:
        raise InputInvalid(f"{told}; {'; '.join(told_of)}")
