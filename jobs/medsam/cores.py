"""Threads for work that PyTorch does best on one core each: clips, slice orders, studies.

Four million weights are too few for a second core to help within an operation, so a second core
does another piece of the work. Each piece is computed as it would be alone, to the last bit.

Data:    none.
Source:  none.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from slipway import machine


def threads(most: int) -> ThreadPoolExecutor:
    """Return threads, one for each core that may be used and ``most`` of them at most."""
    import torch

    number = max(1, min(most, machine.usable_cores()))
    return ThreadPoolExecutor(number, initializer=lambda: torch.set_num_threads(1))
