"""What every PyTorch job needs around its own training loop: seeds, states to keep, an export.

The number of threads is the job's, not the machine's: sums come in another order with another
number, and a run shall end in the same bytes on a laptop and on a server.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from slipway.run import Run

OPSET = 18


def settle(run: Run) -> None:
    """Seed PyTorch, make it deterministic, and let it use as many threads as job.toml has cpus."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS is not deterministic
    torch.manual_seed(run.seed)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(max(1, math.floor(run.spec.resources.cpus)))


def state_of(network: Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return all that training has changed, as named tensors for `Run.checkpoint`."""
    kept = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    return kept


def put_back(tensors: Mapping[str, Tensor], network: Module, optimizer: Optimizer) -> None:
    """Undo `state_of`: the next step is the one that would have followed."""
    values: dict[int, dict[str, Tensor]] = {}
    weights = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part == "network":
            weights[name] = tensor
        else:
            number, _, entry = name.partition(".")
            values.setdefault(int(number), {})[entry] = tensor
    network.load_state_dict(weights, strict=True)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": values})


def to_onnx(network: Module, example: Tensor, given: str, found: str | Sequence[str]) -> ModelProto:
    """Return a network as an ONNX graph from input ``given`` to the output, or outputs, ``found``.

    Any number of rows, which the first axis of each counts; ``example`` is a batch of two or more.
    Equal networks give equal graphs. PyTorch's newer exporter wants onnxscript in the image, takes
    ten times as long and writes the paths of this machine into the graph.
    """
    import onnx
    import torch

    outputs = [found] if isinstance(found, str) else list(found)
    rows: dict[str, Any] = {name: {0: "rows"} for name in (given, *outputs)}
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter's of itself
        torch.onnx.export(
            network.eval(), (example,), content, dynamo=False, opset_version=OPSET,
            input_names=[given], output_names=outputs, dynamic_axes=rows,
        )  # fmt: skip
    return onnx.load_from_string(content.getvalue())
