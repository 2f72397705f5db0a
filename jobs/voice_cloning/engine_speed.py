"""How fast an engine speaks, how soon, in how much memory, and how many sentences at once.

Each engine is measured in a process of its own: what one has loaded is not counted for the next,
and one that runs out of memory ends no other's row. Two turns warm up; the text is the same.

Data:    one sentence.
Source:  none.
"""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import SlipwayError

from . import engines

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from .engines import Engine, Size
    from .speech import Speech

TEXT = "The harbour lay quiet, and the last boat came in before the rain."
WARM_UPS = 2
SHARE = 0.8
"""Of the memory there is, what a batch may fill."""


@dataclass(frozen=True)
class Wish:
    """What to measure: ``weights`` is an engine's own folder, ``most`` the largest batch tried."""

    name: str
    size: Size = "tiny"
    weights: Path | None = None
    device: str = "cpu"
    repeats: int = 10
    most: int = 16
    threads: int = 2


class Pace(NamedTuple):
    """Seconds that each turn took, and seconds of speech that it gave."""

    taken: tuple[float, ...]
    spoken: float

    @property
    def factors(self) -> tuple[float, float]:
        """The real-time factor: its median and 95th percentile."""
        ordered = sorted(taken / self.spoken for taken in self.taken)
        return statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1) + 0.5)]


def measured(wish: Wish) -> dict[str, Any]:
    """Return one engine's row; where it could not be measured, the row says why."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, wish), daemon=True)
    process.start()
    there.close()
    try:
        found: dict[str, Any] | SlipwayError = here.recv()
    except EOFError:
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        why = "killed, most likely for want of memory" if killed else "failed; see the log"
        return unmeasured(wish, why)
    process.join()
    if isinstance(found, SlipwayError):
        raise found
    return found


def unmeasured(wish: Wish, why: str) -> dict[str, Any]:
    """Return the row of an engine that gave no figures."""
    empty = dict.fromkeys(("million weights", "RTF p50", "RTF p95", "first sound (ms)",
                           "peak memory (MB)", "GPU memory (MB)", "speech (s)"))  # fmt: skip
    return {
        "engine": wish.name,
        "weights": why,
        "device": wish.device,
        **empty,
        "largest batch": "",
    }


def _answer(there: Connection, wish: Wish) -> None:
    try:
        there.send(row(wish))
    except SlipwayError as error:
        there.send(error)


def row(wish: Wish) -> dict[str, Any]:
    """Measure an engine in this process."""
    import torch

    torch.set_num_threads(wish.threads)
    engine = engines.make(wish.name, wish.size, wish.weights, wish.device)
    engine.load()
    voice = engine.voices[0]
    whole = pace(lambda: engine.synthesize(TEXT, voice), wish.repeats, wish.device)
    first = getattr(engine, "first", None)  # of an engine that streams
    soon = pace(lambda: first(TEXT, voice), wish.repeats, wish.device) if first else whole
    median, late = whole.factors
    cuda = wish.device == "cuda"
    model = getattr(engine, "model", None)
    return {
        "engine": wish.name,
        "weights": engine.weights,
        "device": device_name(wish.device),
        "million weights": f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}"
        if model is not None else "",
        "RTF p50": round(median, 3),
        "RTF p95": round(late, 3),
        "first sound (ms)": round(1000 * statistics.median(soon.taken)),
        "peak memory (MB)": round(peak_memory()),
        "GPU memory (MB)": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else "",
        "speech (s)": round(whole.spoken, 2),
        "largest batch": largest_batch(engine, wish),
    }  # fmt: skip


def pace(speak: Callable[[], Speech], repeats: int, device: str = "cpu") -> Pace:
    """Time ``speak`` after warming up; a GPU is waited for."""
    import torch

    taken, spoken = [], 0.0
    for turn in range(WARM_UPS + repeats):
        began = time.perf_counter()
        spoken = speak().seconds
        if device == "cuda":
            torch.cuda.synchronize()
        if turn >= WARM_UPS:
            taken.append(time.perf_counter() - began)
    return Pace(tuple(taken), spoken)


def largest_batch(engine: Engine, wish: Wish) -> str:
    """Return how many sentences an engine spoke at once: doubled while memory lasted, then halved.

    ``16+`` means that no more than 16 were tried.
    """
    batch = getattr(engine, "batch", None)
    if batch is None:
        return "1: takes one at a time"
    good, bad = 1, wish.most + 1
    while bad - good > 1:
        tried = min(good * 2, wish.most) if bad > wish.most else (good + bad) // 2
        if _fits(lambda: batch(TEXT, engine.voices[0], tried), wish.device):  # noqa: B023
            good = tried
        else:
            bad = tried
    return f"{good}+" if good == wish.most else str(good)


def _fits(speak: Callable[[], Any], device: str) -> bool:
    """Return whether a batch was spoken within memory."""
    import torch

    try:
        speak()
    except (MemoryError, torch.cuda.OutOfMemoryError):
        return False
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    return device == "cuda" or peak_memory() < SHARE * memory_here()


def device_name(device: str) -> str:
    """Return what a device is called by its maker, a processor with the cores we may use."""
    import torch

    from slipway.machine import usable_cores

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {usable_cores()} cores"


def peak_memory() -> float:
    """Return the most memory that this process has had, in MB.

    Of the process since it was started: getrusage would count what its parent had before.
    """
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def memory_here() -> float:
    """Return the MB that this process may fill: the container's limit, or what the machine has."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / file
        limit = path.read_text("utf-8").strip() if path.is_file() else "max"
        if limit.isdigit() and int(limit) < 2**60:
            return int(limit) / 2**20
    fields = Path("/proc/meminfo").read_text("utf-8").split()
    return int(fields[fields.index("MemTotal:") + 1]) / 1024
