"""Seconds a slice takes: our predictor beside the package's own, in one run, turn by turn.

Both get the same slices, the same mask and the same weights. They take turns and the median of
several turns counts, in seconds of the processor, so what else a machine does is shared out.

Data:    any volume (3, z, y, x); its content does not matter.
Source:  none.
"""

from __future__ import annotations

import copy
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor

from slipway.errors import InputInvalid

from . import crops, predictor
from .memory import BANKS, Bank

if TYPE_CHECKING:
    from slipway import Run

    from .predictor import Segmenter

STOCK = "stock SAM 2"
SIDE = 240
"""Voxels of a side of the slices that are measured with."""


def networks(given: Segmenter | str, sizes: Sequence[int]) -> Iterator[Segmenter]:
    """Yield the small network, or one of a configuration with random weights, at each size."""
    from . import training
    from .nets import Configured, Small
    from .network import CONFIGS

    for size in sorted(sizes):  # a process only ever tells the most memory it has held
        if isinstance(given, str):
            yield Configured(CONFIGS[given][0], size, f"{given}, random weights").eval()
            continue
        if isinstance(given, Small):
            training.resize(given, size)
        elif size != given.size:
            raise InputInvalid(f"--size: found {size}; wanted {given.size} for {given.name}")
        yield given


def measured(run: Run, networks: Iterable[Segmenter], slices: int, turns: int) -> None:
    """Put a table of seconds and memory into the report."""
    draw = np.random.default_rng(run.seed)
    channels = draw.normal(size=(3, slices, SIDE, SIDE)).astype(np.float32)
    torch.set_num_threads(1)
    rows = [row for network in run.progress(networks, "sizes")
            for row in compared(network, channels, turns)]  # fmt: skip
    run.table("speed", rows, f"Seconds of one thread on the CPU, median of {turns} turns. Random "
              "weights see nothing, so their banks stay empty.")  # fmt: skip


def compared(
    network: Segmenter, channels: np.ndarray, turns: int = 5, objects: int = 1
) -> list[dict[str, Any]]:
    """Return a row for the package's predictor and one for each bank of ours."""
    ways: dict[str, Callable[[], None]] = {
        STOCK: lambda: propagate(stock(network), network, channels, objects)
    }
    for bank in BANKS:
        ways[bank] = lambda bank=bank: propagate(network, network, channels, objects, bank)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, run in ways.items():
            clock = time.process_time()
            run()
            if turn:  # the first of all warms up
                taken[name].append((time.process_time() - clock) / channels.shape[1])
    usual = statistics.median(taken[STOCK])
    return [
        {"predictor": name, "model": network.name, "pixels": network.size, "objects": objects,
         "slices": channels.shape[1], "CPU seconds a slice": statistics.median(times),
         "times stock": statistics.median(times) / usual, "peak memory, MB": peak()}
        for name, times in taken.items()
    ]  # fmt: skip


def stock(network: Segmenter) -> SAM2VideoPredictor:
    """Return the package's predictor with the weights of ours."""
    found = copy.copy(network)
    found.__class__ = SAM2VideoPredictor
    return found


def propagate(
    model: Any, network: Segmenter, channels: np.ndarray, objects: int, bank: str = "fifo"
) -> None:
    """Carry masks from the first slice to the last."""
    square = crops.around(channels)
    slices = predictor.Slices(network, channels, range(channels.shape[1]), square)
    mask = torch.zeros(network.size, network.size, dtype=torch.bool)
    mask[network.size // 3 : network.size // 2, network.size // 3 : network.size // 2] = True
    with torch.inference_mode():
        state = predictor.Segmenter.start(model, slices, square.side)
        for number in range(objects):
            model.add_new_mask(state, frame_idx=0, obj_id=number, mask=mask)
            if bank != "fifo":
                state["output_dict_per_obj"][number]["bank"] = Bank(bank)
        for _ in model.propagate_in_video(state):
            pass


def peak() -> float:
    """Return the most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
