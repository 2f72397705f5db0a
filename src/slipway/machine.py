"""How much of the machine this process may use."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.spec import JobSpec


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: its affinity, and a container's quota."""
    found = len(os.sched_getaffinity(0))
    return max(1, min(found, round(quota(cgroup) or found)))


def stay_on(core: int) -> None:
    """Keep this thread on one core, and with it those that no Python code started."""
    others = {thread.native_id for thread in threading.enumerate()} - {threading.get_native_id()}
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) not in others:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(task.name), {core})


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Tell whether an NVIDIA GPU was given to this container; under Windows it is called dxg."""
    return (devices / "nvidiactl").exists() or (devices / "dxg").exists()


def on_gpu(spec: JobSpec, devices: Path = Path("/dev")) -> bool:
    """Tell whether a job may compute on a GPU: not one of ``base``, which knows no network."""
    return spec.base != "base" and has_gpu(devices)


def quota(cgroup: Path) -> float | None:
    """Return the CPU quota in cores, of cgroup v2 or v1; None where there is none."""
    try:
        limit, _, period = (cgroup / "cpu.max").read_text().partition(" ")
    except OSError:
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    if limit.strip() in ("max", "-1"):
        return None
    return int(limit) / int(period)
