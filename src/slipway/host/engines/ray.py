"""A Ray cluster: one task a shard, which runs the shard's container on its node.

Ray places the tasks by what job.toml asks for, finds out when a worker or a node is lost, and
scales the cluster. Trying again is ours (``max_retries=0``): then attempts are counted, logged
and paid for in one place, the same for every engine.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click
import ray
from ray import exceptions

from slipway.host.engines import LABEL, Ended, Work, node
from slipway.host.engines.local import bytes_of

REFUSED = 125  # docker itself failed, not what it was to run


def open_engine(work: Work, handle: str = "") -> Cluster:
    """Connect to the cluster at ``--address``, or start one on this machine."""
    return Cluster(work)


def docker_command(work: Work, shard: int) -> list[str]:
    """Return the docker command of a shard; values of variables stay in its environment."""
    command = ["docker", "run", "--rm", "--name", work.container(shard)]
    command += ["--label", f"{LABEL}={work.name}", "--user", "{user}", "--read-only"]
    command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    command += ["--memory", work.needs.memory, "--shm-size", work.needs.memory]
    command += ["--gpus", "{gpus}"] if work.needs.gpus else []
    for name in work.environ:
        command += ["--env", name]
    for path, (inside, mode) in work.mounts.items():
        command += ["--volume", f"{path}:{inside}:{mode}"]
    return [*command, work.image, *work.command(shard)]


class Cluster:
    """One task a shard. A lost worker is an end without an exit code."""

    retries_itself = False
    handle = ""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.pending: dict[Any, int] = {}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = work.places.get("address") or "local"
        more = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="WARNING", **more)
        ray.cloudpickle.register_pickle_by_value(node)  # its nodes have no slipway
        needs = work.needs
        self.needs = {"CPU": needs.cpus, "memory": bytes_of(needs.memory), "GPU": needs.gpus}
        self.task = ray.remote(node.task).options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=self.needs["memory"],
            max_retries=0,
            name=work.name,
        )
        if not any(self._fits(one["Resources"]) for one in ray.nodes() if one["Alive"]):
            told = ", ".join(f"{name} {amount:g}" for name, amount in self.needs.items())
            click.echo(f"ray: no node has {told}; waiting for the cluster to grow", err=True)

    def _fits(self, resources: dict[str, float]) -> int:
        """Return how many shards a node, or a cluster, can run at once."""
        wanted = {name: amount for name, amount in self.needs.items() if amount}
        return int(min(resources.get(name, 0) // amount for name, amount in wanted.items()))

    def start(self, shards: Sequence[int]) -> None:
        """Hand the shards to Ray, which queues them."""
        for shard in shards:
            if self.work.program:
                command, before = [*self.work.program, *self.work.command(shard)], []
            else:
                command = docker_command(self.work, shard)
                before = ["docker", "rm", "--force", "--volumes", self.work.container(shard)]
            self.pending[self.task.remote(command, dict(self.work.environ), before)] = shard

    def wait(self, seconds: float) -> list[Ended]:
        """Return what is over; write what it said to its log."""
        if not self.pending:
            return []
        ready, _ = ray.wait(list(self.pending), timeout=seconds)
        if ready:  # and whatever is over, too
            ready, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        return [self._ended(reference) for reference in ready]

    def _ended(self, reference: Any) -> Ended:
        shard, code = self.pending.pop(reference), None
        try:
            code, where, seconds, output = ray.get(reference)
        except exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            where, seconds, output = "lost", 0.0, f"ray: {reason}\n".encode()
        with self.work.log(shard).open("ab") as log:
            log.write(output)
        return Ended(shard, None if code == REFUSED else code, where, seconds)

    def running(self) -> int:
        """Return how many shards the cluster can run of those that are not over."""
        return min(len(self.pending), self._fits(ray.cluster_resources()))

    def stop(self) -> None:
        """Cancel all tasks: those under way end their containers."""
        for reference in self.pending:
            ray.cancel(reference, force=False)
        if self.pending:
            ray.wait(list(self.pending), num_returns=len(self.pending), timeout=node.GRACE)

    def close(self) -> None:
        """Disconnect, and end a cluster that was started here."""
        ray.shutdown()
