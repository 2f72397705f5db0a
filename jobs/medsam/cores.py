"""Threads for work that PyTorch does best on one core each: clips, slice orders, studies.

Four million weights are too few for a second core to help within an operation, so a second core
does another piece of the work. Each piece is computed as it would be alone, to the last bit.

Data:    none.
Source:  none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from slipway import machine

OFTEN = 0.0005
"""Seconds after which a thread lets another speak to PyTorch; Python's own 0.005 is too seldom:
two clips in two threads then took 1.68 times less than one after the other, and so 1.87 times."""


@contextmanager
def threads(most: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads, one for each core that may be used and ``most`` of them at most."""
    import torch

    before = sys.getswitchinterval()
    sys.setswitchinterval(OFTEN)
    number = max(1, min(most, machine.usable_cores()))
    try:
        with ThreadPoolExecutor(number, initializer=lambda: torch.set_num_threads(1)) as found:
            yield found
    finally:
        sys.setswitchinterval(before)
