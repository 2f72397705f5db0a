"""What the machine did meanwhile: CPU time of the container, of others, and memory.

The container holds one contestant, the driver and its load generator. Its control group counts
the CPU time of all, ended processes too; the driver's own, and that of the generators it has
waited for, is taken off, and the rest is the contestant's.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
BUSY = (1, 2, 3, 6, 7, 8)  # user nice system irq softirq steal, in /proc/stat's first line
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20
GENERATORS = resource.RUSAGE_CHILDREN  # while a server runs, they alone are waited for


@dataclass(frozen=True)
class Reading:
    """Seconds at one moment: of the clock, of the container, of us, of the whole machine."""

    wall: float
    container: float
    ours: float
    machine: float


def read(*whose: int) -> Reading:
    """Read the clocks now; of the driver's children count as ours only with `GENERATORS`."""
    spent = map(resource.getrusage, (resource.RUSAGE_SELF, *whose))
    ours = sum(used.ru_utime + used.ru_stime for used in spent)
    fields = PROC.joinpath("stat").read_text().splitlines()[0].split()
    machine = sum(int(fields[place]) for place in BUSY) / TICKS
    return Reading(time.perf_counter(), container_seconds(), ours, machine)


def container_seconds() -> float:
    """Return the CPU seconds of our control group, of either version."""
    for name in ("cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage"):
        if (CGROUP / name).is_file():
            return int((CGROUP / name).read_text()) / 1e9
    words = (CGROUP / "cpu.stat").read_text().split()
    return int(words[words.index("usage_usec") + 1]) / 1e6


def between(before: Reading, after: Reading) -> dict[str, float]:
    """Return the contestant's CPU seconds, its cores, and the cores that others took."""
    wall = after.wall - before.wall
    container = after.container - before.container
    server = max(0.0, container - (after.ours - before.ours))
    foreign = max(0.0, after.machine - before.machine - container)
    return {
        "wall": wall,
        "cpu": server,
        "cores": server / wall,
        "foreign": foreign / wall,
    }


def others() -> Iterator[int]:
    """Yield the processes in this container besides its init and ours."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and int(entry.name) not in (1, os.getpid()):
            yield int(entry.name)


def session(leader: int) -> Iterator[int]:
    """Yield the processes of the session that a process leads."""
    for process in others():
        try:
            if os.getsid(process) == leader:
                yield process
        except ProcessLookupError:
            continue


def memory() -> float:
    """Return the MiB of the others."""
    return memory_of(others())


def memory_of(processes: Iterable[int]) -> float:
    """Return the MiB of some processes, shared pages by share (PSS)."""
    total = 0
    for process in processes:
        try:
            lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / MIB


class Watch:
    """Reads the memory of some processes again and again, until left."""

    def __init__(self, every: float, of: Callable[[], Iterable[int]] = others) -> None:
        self.every, self.of = every, of
        self.series: list[tuple[float, float]] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)

    @property
    def peak(self) -> float:
        """The most MiB seen."""
        return max((value for _, value in self.series), default=0.0)

    def __enter__(self) -> Watch:
        self.began = time.perf_counter()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _read(self) -> None:
        while not self.stop.is_set():
            self.series.append((time.perf_counter() - self.began, memory_of(self.of())))
            self.stop.wait(self.every)
