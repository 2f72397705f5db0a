"""Kubernetes: an Indexed Job, in which the index of a pod is its shard.

The cluster tries again what the contract calls infrastructure, each index for itself. Values of
variables go into a Secret that goes with the Job, and are in no manifest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from slipway.errors import SlipwayError
from slipway.host.engines import FINAL, LABEL, Ended, Work
from slipway.host.engines.local import bytes_of

NOT_FOUND = 404
DAY = 86_400
OF_JOB, OF_INDEX = (f"batch.kubernetes.io/job-{name}" for name in ("name", "completion-index"))


def describe(work: Work) -> list[dict[str, Any]]:
    """Return the manifests: the Job alone, since its Secret holds values that are never shown."""
    return [manifest(work)]


def open_engine(work: Work, handle: str = "") -> Cluster:
    """Connect as kubectl does, or as a pod of the cluster."""
    from kubernetes import client, config
    from kubernetes.config import ConfigException

    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            context=work.places.get("context") or None
        )
    except ConfigException:
        config.load_incluster_config()  # type: ignore[no-untyped-call]
    return Cluster(work, client.BatchV1Api(), client.CoreV1Api())


def manifest(work: Work) -> dict[str, Any]:
    """Return the Job."""
    labels = {"app.kubernetes.io/managed-by": "slipway", LABEL: work.name}
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": work.count,
        "parallelism": min(work.count, work.parallel or work.count),
        "backoffLimitPerIndex": work.retries,
        "maxFailedIndexes": work.max_failed,
        "podFailurePolicy": {"rules": failure_rules()},
        "ttlSecondsAfterFinished": DAY,
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod(work)},
    }
    if work.minutes:
        spec["activeDeadlineSeconds"] = int(work.minutes * 60)
    metadata = {"name": work.name, "namespace": namespace(work), "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def failure_rules() -> list[dict[str, Any]]:
    """Return what a pod's end means: a drained node counts for nothing, a final code ends it.

    Any other code, 33 and 137 and 143 among them, counts against ``backoffLimitPerIndex``.
    """
    drained = [{"type": "DisruptionTarget", "status": "True"}]
    final = {"containerName": "job", "operator": "In", "values": list(FINAL)}
    return [
        {"action": "Ignore", "onPodConditions": drained},
        {"action": "FailIndex", "onExitCodes": final},
    ]


def pod(work: Work) -> dict[str, Any]:
    """Return the pod: one container with the contract's limits."""
    amount = {"cpu": f"{work.needs.cpus:g}", "memory": str(bytes_of(work.needs.memory))}
    gpus = {"nvidia.com/gpu": str(math.ceil(work.needs.gpus))} if work.needs.gpus else {}
    volume = {"persistentVolumeClaim": {"claimName": work.places.get("volume")}}
    artifacts = volume if work.places.get("volume") else {"emptyDir": {}}
    shared = {"emptyDir": {"medium": "Memory", "sizeLimit": amount["memory"]}}
    container = {
        "name": "job",
        "image": work.image,
        "imagePullPolicy": "IfNotPresent",
        "args": work.command(),
        "env": [variable(work, name) for name in work.environ],
        "resources": {"requests": amount, "limits": {**amount, **gpus}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "artifacts", "mountPath": "/artifacts"},
            {"name": "shared", "mountPath": "/dev/shm"},
        ],
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [{"name": "artifacts", **artifacts}, {"name": "shared", **shared}],
    }


def variable(work: Work, name: str) -> dict[str, Any]:
    """Return a variable whose value stands in the Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": work.name, "key": name}}}


def namespace(work: Work) -> str:
    """Return the namespace of a batch."""
    return work.places.get("namespace") or "default"


def indexes(text: str | None) -> Iterator[int]:
    """Yield the numbers of ``1,3-5``, which is how a Job tells of its indexes."""
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


class Cluster:
    """Applies the Job and follows its status, which names the indexes that are over."""

    retries_itself = True

    def __init__(self, work: Work, jobs: Any, pods: Any) -> None:
        self.work, self.jobs, self.pods = work, jobs, pods
        self.handle, self.active = f"{namespace(work)}/{work.name}", 0
        self.told: set[int] = set()

    def start(self, shards: Sequence[int]) -> None:
        """Apply the Job, or follow the one that runs already; one that is over is replaced."""
        found = self._job()
        if found and not ending(found):
            return
        if found:
            self.stop()
            while self._job():
                time.sleep(1)
        name, where = self.work.name, namespace(self.work)
        made = self.jobs.create_namespaced_job(where, manifest(self.work))
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made.metadata.uid}
        metadata = {"name": name, "ownerReferences": [owner]}  # the Secret goes with the Job
        secret = {"metadata": metadata, "stringData": dict(self.work.environ)}
        if self.work.environ:
            self.pods.create_namespaced_secret(where, secret)

    def _job(self) -> Any:
        return present(lambda: self.jobs.read_namespaced_job(self.work.name, namespace(self.work)))

    def wait(self, seconds: float) -> list[Ended]:
        """Return the indexes that the Job's status names anew; all others when it is over."""
        found = self._job()
        self.active = (found.status.active or 0) if found else 0
        done = set(indexes(found.status.completed_indexes)) if found else set()
        failed = set(indexes(found.status.failed_indexes)) if found else set()
        reason = ending(found) if found else "the Job is gone"
        if reason and reason != "Complete":
            failed |= set(range(self.work.count)) - done
        new = sorted((done | failed) - self.told)
        self.told |= set(new)
        if not new:
            time.sleep(seconds)
        return [self._ended(index, index in done, reason) for index in new]

    def _ended(self, index: int, done: bool, reason: str) -> Ended:
        """Return how an index ended, from its last pod, and keep what each pod said."""
        where = namespace(self.work)
        selector = f"{OF_JOB}={self.work.name},{OF_INDEX}={index}"
        found = self.pods.list_namespaced_pod(where, label_selector=selector).items
        found.sort(key=lambda one: one.metadata.creation_timestamp)
        with self.work.log(index).open("w", encoding="utf-8") as log:
            for one in found:
                name = one.metadata.name
                text = present(partial(self.pods.read_namespaced_pod_log, name, where))
                log.write(f"--- {name} on {one.spec.node_name}\n{text or ''}")
            log.write("" if done else f"--- {reason}\n")
        if not found:
            return Ended(index, 0 if done else None, "-", attempts=0)
        over = [status.state.terminated for status in found[-1].status.container_statuses or []]
        seconds = (over[0].finished_at - over[0].started_at).total_seconds() if any(over) else 0.0
        code = over[0].exit_code if any(over) else None
        return Ended(index, 0 if done else code, found[-1].spec.node_name, seconds, len(found))

    def running(self) -> int:
        """Return how many pods were active when the Job was last asked."""
        return self.active

    def stop(self) -> None:
        """Delete the Job; its pods get SIGTERM, and its Secret goes with it."""
        where = namespace(self.work)
        present(
            lambda: self.jobs.delete_namespaced_job(
                self.work.name, where, propagation_policy="Foreground"
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self.jobs.api_client.close()


def present(ask: Callable[[], Any]) -> Any:
    """Return what the cluster answers, or None where there is no such thing."""
    from kubernetes.client import ApiException

    try:
        return ask()
    except ApiException as error:
        if error.status != NOT_FOUND:
            raise SlipwayError(f"kubernetes: {error.status} {error.reason}") from None
    return None


def ending(job: Any) -> str:
    """Return ``Complete``, or why the Job failed; nothing while it runs."""
    for one in job.status.conditions or []:
        if one.status == "True" and one.type in ("Complete", "Failed"):
            return "Complete" if one.type == "Complete" else f"{one.reason}: {one.message}"
    return ""
