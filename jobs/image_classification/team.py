"""Several processes that train one network: each takes a share of every batch.

``torchrun`` starts them and tells each its number. Gradients are averaged by PyTorch's
DistributedDataParallel; the first process alone keeps checkpoints and writes the model.

Data:    none.
Source:  Li et al., PyTorch Distributed, VLDB 2020.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


class Team:
    """The processes of one training; without ``torchrun`` a team of one."""

    def __init__(self) -> None:
        told = LONE | {name: os.environ[name] for name in LONE if name in os.environ}
        self.rank, self.size, self.local = (int(told[name]) for name in LONE)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def meet(self, device: str) -> str:
        """Wait for the others and return this process's own device."""
        import torch

        if self.size == 1:
            return device
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        return f"cuda:{self.local}" if device == "cuda" else device

    def joined(self, network: Module, device: str) -> Module:
        """Return the network with gradients averaged over the team."""
        from torch.nn.parallel import DistributedDataParallel

        if self.size == 1:
            return network
        own = [self.local] if device.startswith("cuda") else None
        return DistributedDataParallel(network, device_ids=own)

    def share(self, places: Tensor) -> Tensor:
        """Return this process's part of a batch."""
        return places[self.rank :: self.size]

    def any(self, told: bool, device: str) -> bool:
        """Tell whether any process says so; all must ask at the same step."""
        import torch

        if self.size == 1:
            return told
        flag = torch.tensor(float(told), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag > 0)

    def agreed(self, figures: Mapping[str, float], device: str) -> dict[str, float]:
        """Return the figures of the first process."""
        import torch

        if self.size == 1:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=device)
        torch.distributed.broadcast(values, 0)
        return dict(zip(figures, values.tolist(), strict=True))

    def leave(self) -> None:
        """Let the others go; a process that does not write ends here, its work done."""
        import torch

        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if not self.first:
            raise SystemExit(0)
