"""AWS Batch: an array job, in which the index of a child is its shard.

The service tries again what the contract calls infrastructure. Credentials are not passed on: a
container has those of its job role.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from slipway.host.engines import INFRASTRUCTURE, LABEL, Ended, Work
from slipway.host.engines.local import bytes_of

MOST_ATTEMPTS, SMALLEST_ARRAY, AT_ONCE = 10, 2, 100
LOG_GROUP = "/aws/batch/job"
WAITING = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING")


def describe(work: Work) -> list[dict[str, Any]]:
    """Return the two requests, without the values of variables."""
    return [definition(work), submission(work, dict.fromkeys(environ(work), "..."))]


def open_engine(work: Work, handle: str = "") -> Service:
    """Connect with the usual credentials and region of AWS."""
    import boto3
    from botocore.exceptions import NoRegionError

    if not work.places.get("queue"):
        raise click.UsageError("--engine aws-batch: wanted --queue, a job queue")
    try:
        return Service(work, boto3.client("batch"), boto3.client("logs"), handle)
    except NoRegionError:
        raise click.UsageError("--engine aws-batch: wanted AWS_DEFAULT_REGION") from None


def definition(work: Work) -> dict[str, Any]:
    """Return the job definition: image, needs, what is tried again."""
    needs = [
        {"type": "VCPU", "value": f"{work.needs.cpus:g}"},
        {"type": "MEMORY", "value": str(bytes_of(work.needs.memory) // 2**20)},
    ]
    if work.needs.gpus:
        needs.append({"type": "GPU", "value": str(math.ceil(work.needs.gpus))})
    container: dict[str, Any] = {
        "image": work.image,
        "command": work.command(),
        "resourceRequirements": needs,
        "readonlyRootFilesystem": True,
    }
    for option, key in (("role", "jobRoleArn"), ("execution_role", "executionRoleArn")):
        if work.places.get(option):
            container[key] = work.places[option]
    if work.places.get("volume"):
        disk = {
            "name": "artifacts",
            "efsVolumeConfiguration": {"fileSystemId": work.places["volume"]},
        }
        container["volumes"] = [disk]
        container["mountPoints"] = [{"sourceVolume": "artifacts", "containerPath": "/artifacts"}]
    request = {
        "jobDefinitionName": work.name,
        "type": "container",
        "containerProperties": container,
        "retryStrategy": retry_strategy(work.retries),
        "tags": {LABEL: work.name},
    }
    return request | ({"timeout": timeout(work.minutes)} if work.minutes else {})


def retry_strategy(retries: int) -> dict[str, Any]:
    """Return the rules, first match first: a lost host and infrastructure again, all else not."""
    again = [{"onStatusReason": "Host EC2*", "action": "RETRY"}]
    again += [{"onExitCode": str(code), "action": "RETRY"} for code in INFRASTRUCTURE]
    rules = [*again, {"onExitCode": "*", "action": "EXIT"}]
    return {"attempts": min(retries + 1, MOST_ATTEMPTS), "evaluateOnExit": rules}


def timeout(minutes: float) -> dict[str, int]:
    """Return the cap of one attempt; the service takes no less than a minute."""
    return {"attemptDurationSeconds": max(60, int(minutes * 60))}


def environ(work: Work) -> dict[str, str]:
    """Return the variables to pass; who may describe the job can read them, so no credentials."""
    return {name: text for name, text in work.environ.items() if not name.startswith("AWS_")}


def submission(work: Work, variables: dict[str, str]) -> dict[str, Any]:
    """Return the job of a definition, an array where there is more than one shard."""
    given = [{"name": name, "value": text} for name, text in variables.items()]
    request: dict[str, Any] = {
        "jobName": work.name,
        "jobQueue": work.places.get("queue") or "",
        "jobDefinition": work.name,
        "containerOverrides": {"environment": given},
    }
    if work.count >= SMALLEST_ARRAY:
        request["arrayProperties"] = {"size": work.count}
    elif work.shards:  # a single job has no index
        request["containerOverrides"]["command"] = work.command(0)
    return request


class Service:
    """Submits the array and asks for its children."""

    retries_itself = True

    def __init__(self, work: Work, batch: Any, logs: Any, handle: str) -> None:
        self.work, self.batch, self.logs, self.handle = work, batch, logs, handle
        self.told: set[int] = set()
        self.active = 0

    def start(self, shards: Sequence[int]) -> None:
        """Submit the job, or follow the one of an earlier command that is not over."""
        if self.handle and self._status() not in ("SUCCEEDED", "FAILED", ""):
            return
        self.batch.register_job_definition(**definition(self.work))
        made = self.batch.submit_job(**submission(self.work, environ(self.work)))
        self.handle = made["jobId"]

    def _status(self) -> str:
        found = self.batch.describe_jobs(jobs=[self.handle])["jobs"]
        return str(found[0]["status"]) if found else ""

    def wait(self, seconds: float) -> list[Ended]:
        """Return the children that are over and were not told of before."""
        jobs = list(self._children())
        self.active = sum(one["status"] == "RUNNING" for one in jobs)
        over = [one for one in jobs if one["status"] in ("SUCCEEDED", "FAILED")]
        new = {index_of(one): one for one in over if index_of(one) not in self.told}
        self.told |= set(new)
        if not new:
            time.sleep(seconds)
        names = [new[index]["jobId"] for index in sorted(new)]
        chunks = (names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE))
        found = (job for some in chunks for job in self.batch.describe_jobs(jobs=some)["jobs"])
        return [self._ended(job) for job in found]

    def _children(self) -> Iterator[dict[str, Any]]:
        """Yield all jobs of the array; a job without an array is its own only child."""
        if self.work.count < SMALLEST_ARRAY:
            yield from self.batch.describe_jobs(jobs=[self.handle])["jobs"]
            return
        pages = self.batch.get_paginator("list_jobs")
        for status in (*WAITING[2:], "RUNNING", "SUCCEEDED", "FAILED"):
            for page in pages.paginate(arrayJobId=self.handle, jobStatus=status):
                yield from page["jobSummaryList"]

    def _ended(self, job: dict[str, Any]) -> Ended:
        index, container, attempts = (
            index_of(job),
            job.get("container", {}),
            job.get("attempts", []),
        )
        code = 0 if job["status"] == "SUCCEEDED" else container.get("exitCode")
        milliseconds = (job.get("stoppedAt") or 0) - (job.get("startedAt") or 0)
        stream = container.get("logStreamName")
        with self.work.log(index).open("w", encoding="utf-8") as log:
            log.writelines(f"{line}\n" for line in (self._said(stream) if stream else ()))
            log.write(f"--- {job.get('statusReason', job['status'])}\n")
        return Ended(index, code, stream or "-", milliseconds / 1000, max(1, len(attempts)))

    def _said(self, stream: str) -> Iterator[str]:
        """Yield the lines of a log stream; it has none when the container never started."""
        pages = self.logs.get_paginator("filter_log_events")
        try:
            for page in pages.paginate(logGroupName=LOG_GROUP, logStreamNames=[stream]):
                yield from (event["message"] for event in page["events"])
        except self.logs.exceptions.ResourceNotFoundException:
            yield f"{LOG_GROUP} has no stream {stream}"

    def running(self) -> int:
        """Return how many children ran when they were last asked for."""
        return self.active

    def stop(self) -> None:
        """Terminate the job with all its children."""
        if self.handle:
            self.batch.terminate_job(jobId=self.handle, reason="cancelled by slipway")

    def close(self) -> None:
        """Close the connections."""
        self.batch.close()
        self.logs.close()


def index_of(job: dict[str, Any]) -> int:
    """Return the place of a child in its array, which is the end of its id."""
    return int(job["jobId"].partition(":")[2] or 0)
