"""Fewer weights: whole channels that are taken out, or single weights that become zero.

The graph of a network tells which convolutions may lose channels: those whose output reaches
other layers channel by channel only. What an addition joins keeps its width, so the inner layers
of a residual block shrink and its ends do not.

Data:    a network of `model`, traced; no picture is needed to choose what goes.
Source:  channels by the sum of their weights: Li et al., ICLR 2017, scaled by the normalisation
         that follows as in Liu et al., ICCV 2017; single weights: Han et al., NeurIPS 2015.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from torch.fx import Node

Network = TypeVar("Network", bound=nn.Module)

EACH = (
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Identity,
)
"""Layers that treat each channel alone and have no weights."""
CALLS = (torch.relu, nn.functional.relu, torch.flatten, "mean", "flatten", "relu")
MULTIPLE = 8
"""Channels are kept in such multiples: processors compute as many at once anyway."""


@dataclass(frozen=True)
class Group:
    """A layer whose outputs may go, what they pass on their way, and the layers that read them."""

    source: str
    along: tuple[str, ...]
    readers: tuple[str, ...]


def groups(network: nn.Module) -> list[Group]:
    """Return what can be made narrower, in order of the network's layers."""
    layers = dict(network.named_modules())
    found = []
    for node in fx.Tracer().trace(network).nodes:
        if mixes(layers.get(str(node.target))):
            group = followed(layers, node)
            found += [group] if group else []
    return found


def mixes(layer: nn.Module | None) -> bool:
    """Tell whether each output of a layer is made of all its inputs."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def followed(layers: Mapping[str, nn.Module], source: Node) -> Group | None:
    """Follow a layer's channels to all who read them; None where they meet other channels."""
    along: list[str] = []
    readers: list[str] = []
    waiting = list(source.users)
    while waiting:
        node = waiting.pop(0)
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if mixes(layer):
            readers.append(str(node.target))
            continue
        if isinstance(layer, nn.BatchNorm2d | nn.Conv2d):
            along.append(str(node.target))
        elif not (isinstance(layer, EACH) or (layer is None and node.target in CALLS)):
            return None
        waiting += list(node.users)
    return Group(str(source.target), tuple(along), tuple(readers)) if readers else None


def narrowed(network: Network, share: float) -> Network:
    """Return a copy of a network without ``share`` of the channels of each layer that can lose any.

    The weights that stay are the same; the network wants some training afterwards, and its
    ``settings`` tell no longer how wide it is.
    """
    found = copy.deepcopy(network)
    layers = dict(found.named_modules())
    for group in groups(found):
        score = importance(layers, group)
        width = len(score)
        count = max(round(width * (1 - share) / MULTIPLE) * MULTIPLE, min(MULTIPLE, width))
        shrink(layers, group, score.topk(min(count, width)).indices.sort().values)
    return found


def importance(layers: Mapping[str, nn.Module], group: Group) -> Tensor:
    """Return for each output of a group's layer how much it can say: the sum of its weights."""
    weight = layers[group.source].weight.detach()
    score = weight.flatten(1).abs().sum(dim=1)
    for name in group.along[:1]:
        layer = layers[name]
        if isinstance(layer, nn.BatchNorm2d):
            score = score * layer.weight.detach().abs() / (layer.running_var + layer.eps).sqrt()
    return score


def shrink(layers: Mapping[str, nn.Module], group: Group, kept: Tensor) -> None:
    """Take out all channels of a group but those in ``kept``."""
    source = layers[group.source]
    width = source.weight.shape[0]
    take(source, ("weight", "bias"), kept)
    _set_outputs(source, len(kept))
    for name in group.along:
        layer = layers[name]
        take(layer, ("weight", "bias", "running_mean", "running_var"), kept)
        if isinstance(layer, nn.Conv2d):
            layer.in_channels = layer.out_channels = layer.groups = len(kept)
        else:
            layer.num_features = len(kept)
    for name in group.readers:
        reader = layers[name]
        inputs = reader.weight.shape[1]
        each = inputs // width  # pixels of a channel, where a map was flattened
        columns = (kept[:, None] * each + torch.arange(each)).flatten()
        reader.weight = nn.Parameter(reader.weight.detach()[:, columns].clone())
        _set_inputs(reader, len(columns))


def take(layer: nn.Module, names: tuple[str, ...], kept: Tensor) -> None:
    """Keep these entries of the first axis of a layer's tensors."""
    for name in names:
        tensor = getattr(layer, name, None)
        if isinstance(tensor, nn.Parameter):
            setattr(layer, name, nn.Parameter(tensor.detach()[kept].clone()))
        elif tensor is not None:
            setattr(layer, name, tensor[kept].clone())


def _set_outputs(layer: nn.Module, number: int) -> None:
    setattr(layer, "out_channels" if isinstance(layer, nn.Conv2d) else "out_features", number)


def _set_inputs(layer: nn.Module, number: int) -> None:
    setattr(layer, "in_channels" if isinstance(layer, nn.Conv2d) else "in_features", number)


def thin(network: Network, share: float) -> Network:
    """Return a copy of a network whose ``share`` smallest weights are zero.

    The last layer, which has a weight for each class, keeps all of its own.
    """
    found = copy.deepcopy(network)
    layers = weighted(found)[:-1]
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    limit = sizes.kthvalue(max(1, round(share * len(sizes)))).values
    with torch.no_grad():
        for layer in layers:
            layer.weight.masked_fill_(layer.weight.abs() <= limit, 0)
    return found


def zeros(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the weights that `hold` keeps at zero: tensors, each with where it is zero."""
    return [(layer.weight, layer.weight.detach() == 0) for layer in weighted(network)]


def hold(kept: list[tuple[Tensor, Tensor]]) -> None:
    """Put the zeros back that a step of training has moved."""
    with torch.no_grad():
        for weight, where in kept:
            weight.masked_fill_(where, 0)


def weighted(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the layers with many weights, in order."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def sparsity(network: nn.Module) -> float:
    """Return the share of zeros among the weights."""
    tensors = [layer.weight for layer in weighted(network)]
    return sum(int((tensor == 0).sum()) for tensor in tensors) / sum(map(Tensor.numel, tensors))
