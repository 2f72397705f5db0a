"""Containers on this machine, as many at once as fit, or processes where no engine answers."""

from __future__ import annotations

import math
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from slipway.errors import DeviceAbsent
from slipway.host import engine as docker_engine
from slipway.host.engines import LABEL, Ended, Work, node

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

UNITS = {"m": 2**20, "g": 2**30}


def open_engine(work: Work, handle: str = "") -> Local:
    """Return the engine of this machine; processes need no Docker engine."""
    return Local(work, None if work.program else docker_engine.connect())


def bytes_of(memory: str) -> int:
    """Return the bytes of job.toml's ``512m`` or ``2g``."""
    return int(float(memory[:-1]) * UNITS[memory[-1]])


def gpus_here() -> list[str]:
    """Return the indices of this machine's GPUs, those of CUDA_VISIBLE_DEVICES where it is set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()


def gpu_shares(gpus: Sequence[str], wanted: float) -> list[str]:
    """Return the devices of each container that fits: parts of one GPU, or several whole ones.

    Raise DeviceAbsent when not even one container gets what it wants.
    """
    if 0 < wanted < 1:
        shares = [gpu for gpu in gpus for _ in range(math.floor(1 / wanted))]
    else:
        size = math.ceil(wanted)
        groups = [gpus[at : at + size] for at in range(0, len(gpus), size)]
        shares = [",".join(group) for group in groups if len(group) == size]
    if not shares:
        raise DeviceAbsent(f"a container wants {wanted:g} GPUs; this machine has {len(gpus)}")
    return shares


def fitting(work: Work, cpus: float, memory: int) -> int:
    """Return how many containers fit at once: at least one, at most ``--parallel``."""
    room = min(cpus // work.needs.cpus, memory // bytes_of(work.needs.memory), work.count)
    return max(1, int(min(room, work.parallel or room)))


class Local:
    """A pool of threads, each of which attends one container."""

    retries_itself = False
    handle = ""

    def __init__(self, work: Work, client: DockerClient | None) -> None:
        self.work, self.client = work, client
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        known = client.info() if client else {}
        cpus = known.get("NCPU") or os.cpu_count() or 1
        places = fitting(work, cpus, int(known.get("MemTotal") or memory))
        shares = gpu_shares(gpus_here(), work.needs.gpus)[:places] if work.needs.gpus else []
        self.shares: queue.SimpleQueue[str] = queue.SimpleQueue()
        for share in shares or [""] * places:
            self.shares.put(share)
        self.pool = ThreadPoolExecutor(len(shares) or places, thread_name_prefix="shard")
        self.over: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self.live: dict[int, subprocess.Popen[bytes] | None] = {}  # None is a container
        self.stopping = threading.Event()

    def start(self, shards: Sequence[int]) -> None:
        """Queue the shards; a thread that is free takes the next."""
        for shard in shards:
            self.pool.submit(self._attend, shard)

    def wait(self, seconds: float) -> list[Ended]:
        """Return what is over."""
        found = []
        with suppress(queue.Empty):
            found.append(self.over.get(timeout=seconds))
            while True:
                found.append(self.over.get_nowait())
        return found

    def running(self) -> int:
        """Return how many containers run now."""
        return len(self.live)

    def stop(self) -> None:
        """Stop all containers of this batch, whoever started them, all at once."""
        self.stopping.set()
        self.pool.shutdown(wait=False, cancel_futures=True)
        label = f"{LABEL}={self.work.name}"
        found = (
            self.client.containers.list(filters={"label": label}, ignore_removed=True)
            if self.client
            else []
        )
        processes = [process for process in list(self.live.values()) if process]
        with ThreadPoolExecutor(max(1, len(found) + len(processes))) as many:
            for process in processes:
                many.submit(node.stop, process)
            for container in found:
                many.submit(container.stop, timeout=node.GRACE)

    def close(self) -> None:
        """Wait for the threads and close the client."""
        self.pool.shutdown(wait=True, cancel_futures=True)
        if self.client:
            self.client.close()

    def _attend(self, shard: int) -> None:
        share, started, code = self.shares.get(), time.monotonic(), None
        attend = self._container if self.client else self._process
        self.live[shard] = None
        with self.work.log(shard).open("ab", buffering=0) as log:
            try:
                code = attend(shard, share, log)
            except Exception as error:  # the Docker engine is gone or refuses: lost, and told so
                log.write(f"slipway: {error}\n".encode())
        del self.live[shard]
        self.shares.put(share)
        self.over.put(Ended(shard, code, os.uname().nodename, time.monotonic() - started))

    def _process(self, shard: int, share: str, log: IO[bytes]) -> int:
        gpu = {"CUDA_VISIBLE_DEVICES": share} if share else {}
        command = [*self.work.program, *self.work.command(shard)]
        return node.run(
            command, {**self.work.environ, **gpu}, log, lambda one: self.live.update({shard: one})
        )

    def _container(self, shard: int, share: str, log: IO[bytes]) -> int:
        container = create(self.client, self.work, shard, share)
        try:
            container.start()
            if self.stopping.is_set():  # it was made when the others were stopped already
                container.stop(timeout=node.GRACE)
            for chunk in container.logs(stream=True, follow=True):
                log.write(chunk)
            code = int(container.wait()["StatusCode"])
            container.reload()
            if container.attrs["State"].get("OOMKilled"):
                log.write(b"slipway: killed: it needs more memory than job.toml allows\n")
            return code
        finally:
            container.remove(force=True, v=True)


def create(client: Any, work: Work, shard: int, share: str) -> Container:
    """Create a shard's container with the contract's limits, in the place of an earlier one."""
    from docker.errors import NotFound
    from docker.types import DeviceRequest

    with suppress(NotFound):  # of a command that was killed
        client.containers.get(work.container(shard)).remove(force=True, v=True)
    asked = DeviceRequest(device_ids=share.split(","), capabilities=[["gpu"]])
    return client.containers.create(  # type: ignore[no-any-return]
        work.image,
        work.command(shard),
        name=work.container(shard),
        labels={LABEL: work.name},
        environment=dict(work.environ),
        volumes=[f"{path}:{inside}:{mode}" for path, (inside, mode) in work.mounts.items()],
        user=f"{os.getuid()}:{os.getgid()}",
        mem_limit=work.needs.memory,
        shm_size=work.needs.memory,
        nano_cpus=int(min(work.needs.cpus, client.info()["NCPU"]) * 1e9),
        device_requests=[asked] if share else [],
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
    )
