"""Eight bits a weight: after training, or with a training that knows of the rounding.

Weights get one scale for each output channel, activations one for each tensor. Weights use seven
of their eight bits: without VNNI a processor adds two products in 16 bits, which eight would
overflow.

Data:    training pictures, whose activations tell the scales.
Source:  Jacob et al., CVPR 2018 (integers, and rounding in training); Bengio et al.,
         arXiv 1308.3432 (the gradient passes a rounding unchanged).
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto

Network = TypeVar("Network", bound=nn.Module)
INTEGERS = ("Conv", "Gemm", "Add", "MaxPool", "Relu", "Clip", "Flatten", "Reshape", "AveragePool",
            "GlobalAveragePool")  # fmt: skip
"""What is computed in eight bits; chances and energies of the logits stay what they are."""
WEIGHT_LEVELS = 63
"""Of weights, to either side of zero: seven bits."""
MOMENTUM = 0.9
"""Of the range of an activation, batch by batch."""


def quantised(graph: ModelProto, batches: Iterable[np.ndarray], given: str) -> ModelProto:
    """Return an ONNX graph with weights and activations in eight bits (QDQ).

    ``batches`` (n, 3, side, side) float32 are what the input ``given`` sees in the calibration.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {given: batch}

    logging.getLogger().addFilter(_no_advice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, ready, small = (str(Path(folder) / f"{name}.onnx") for name in "abc")
            onnx.save(graph, plain)
            quant_pre_process(plain, ready)
            quantize_static(
                ready, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=True,
                op_types_to_quantize=list(INTEGERS),
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
            )  # fmt: skip
            return short(onnx.load(small))
    finally:
        logging.getLogger().removeFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    """Pass over what the quantiser advises everybody: to do what was just done."""
    return "pre-processing before quantization" not in record.getMessage()


def short(graph: ModelProto) -> ModelProto:
    """Return a graph whose inner names are numbers: with a few weights names weigh as much."""
    kept = {entry.name for entry in (*graph.graph.input, *graph.graph.output)}
    numbers: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if not name or name in kept else numbers.setdefault(name, f"{len(numbers):x}")

    for node in graph.graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        node.name = node.doc_string = ""
    for tensor in graph.graph.initializer:
        tensor.name, tensor.doc_string = renamed(tensor.name), ""
    del graph.graph.value_info[:]
    return graph


class Rounded(nn.Module):
    """Weights as eight bits hold them, one scale for each of the first axis."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return rounded weights; the gradient passes as if they were not."""
        scale = weight.detach().flatten(1).abs().amax(dim=1).clamp_min(1e-8) / WEIGHT_LEVELS
        origin = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, origin, 0, -WEIGHT_LEVELS - 1, WEIGHT_LEVELS
        )


class Watched(nn.Module):
    """A layer whose input is rounded to 256 steps between what it saw as least and largest."""

    low: Tensor
    high: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the layer's output for the rounded input."""
        if self.training:
            self._see(maps.detach())
        scale = ((self.high - self.low) / 255).clamp_min(1e-8)
        origin = (-self.low / scale).round().clamp(0, 255).int()
        found: Tensor = self.layer(
            torch.fake_quantize_per_tensor_affine(maps, scale, origin, 0, 255)
        )
        return found

    def _see(self, maps: Tensor) -> None:
        low, high = maps.amin().clamp_max(0), maps.amax().clamp_min(0)
        keep = MOMENTUM if float((self.high - self.low).detach()) else 0.0
        self.low.lerp_(low, 1 - keep)
        self.high.lerp_(high, 1 - keep)


def prepared(network: Network) -> Network:
    """Return a copy of a network that rounds as `quantised` will, to be trained.

    Normalisations are folded into the convolutions first, as the exported graph has them.
    """
    found = folded(network)
    layers = [(name, layer) for name, layer in found.named_modules()
              if isinstance(layer, nn.Conv2d | nn.Linear)]  # fmt: skip
    for name, layer in layers:
        parametrize.register_parametrization(layer, "weight", Rounded())
        put(found, name, Watched(layer))
    return found


def released(network: Network) -> Network:
    """Take the rounding of `prepared` out again; the weights stay as they were rounded last."""
    watched = [(name, layer) for name, layer in network.named_modules()
               if isinstance(layer, Watched)]  # fmt: skip
    for name, layer in watched:
        parametrize.remove_parametrizations(layer.layer, "weight", leave_parametrized=True)
        put(network, name, layer.layer)
    return network


def folded(network: Network) -> Network:
    """Return a copy of a network whose normalisations are part of the convolutions before them."""
    found = copy.deepcopy(network).eval()
    layers = dict(found.named_modules())
    for node in fx.Tracer().trace(found).nodes:
        before = layers.get(str(node.args[0].target)) if node.op == "call_module" else None
        if isinstance(before, nn.Conv2d) and isinstance(layers[node.target], nn.BatchNorm2d):
            put(found, node.args[0].target, fuse_conv_bn_eval(before, layers[node.target]))
            put(found, node.target, nn.Identity())
    return found


def put(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Replace the layer of a name; a network may have a method that is called like its layers."""
    parent, _, own = name.rpartition(".")
    dict(network.named_modules())[parent]._modules[own] = layer
