"""SkyPilot: a managed job on spot machines of any cloud, that comes back after 33 or a lost node.

Each node scores every n-th shard. What it wrote is kept in the bucket, and a shard that is
finished is skipped when the job comes back.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from slipway.errors import DataUnavailable
from slipway.host.engines import Ended, Work, node
from slipway.host.engines.local import bytes_of

MOST_NODES = 4  # without --parallel


def describe(work: Work) -> list[dict[str, Any]]:
    """Return the task; the values of its secrets come from the environment."""
    return [task(work)]


def open_engine(work: Work, handle: str = "") -> Sky:
    """Return the engine; raise DataUnavailable without the ``sky`` command."""
    if not shutil.which("sky"):
        raise DataUnavailable(
            "--engine skypilot needs the command `sky` on PATH: uv tool install skypilot, with an "
            "extra for your cloud; --dry-run prints the task without it"
        )
    return Sky(work)


def nodes(work: Work) -> int:
    """Return how many machines to ask for."""
    return min(work.count, work.parallel or MOST_NODES)


def task(work: Work) -> dict[str, Any]:
    """Return the task of SkyPilot."""
    resources: dict[str, Any] = {
        "cpus": f"{math.ceil(work.needs.cpus)}+",
        "memory": f"{math.ceil(bytes_of(work.needs.memory) / 2**30)}+",
        "use_spot": True,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [33]},
    }
    if work.needs.gpus:
        kind = work.places.get("accelerator") or "T4"
        resources["accelerators"] = f"{kind}:{math.ceil(work.needs.gpus)}"
    found: dict[str, Any] = {"name": work.name, "num_nodes": nodes(work), "resources": resources}
    if work.environ:
        found["secrets"] = dict.fromkeys(work.environ)
    if work.places.get("volume"):
        found["file_mounts"] = {"/artifacts": work.places["volume"]}
    return found | {"run": script(work)}


def script(work: Work) -> str:
    """Return what each node does: its shards one by one, each tried again like anywhere else.

    A code that is final goes to SkyPilot at once; after all tries it is 33, and the job comes back.
    """
    gpus = "--gpus all " if work.needs.gpus else ""
    names = "".join(f"--env {name} " for name in work.environ)
    mount = "--volume /artifacts:/artifacts " if work.places.get("volume") else ""
    index = '--env JOB_COMPLETION_INDEX="$shard" ' if work.shards else ""
    limits = f"--memory {work.needs.memory} --shm-size {work.needs.memory} "
    strict = "--read-only --cap-drop ALL --security-opt no-new-privileges "
    given = shlex.join([work.image, *work.command()])
    container = f"docker run --rm {strict}{limits}{gpus}{names}{index}{mount}{given}"
    return f"""\
for shard in $(seq "$SKYPILOT_NODE_RANK" {nodes(work)} {work.count - 1}); do
  for attempt in $(seq {work.retries + 1}); do
    code=0
    {container} || code=$?
    case $code in 33|137|143) sleep "$attempt";; *) break;; esac
  done
  case $code in 0) ;; 137|143) exit 33;; *) exit $code;; esac
done
"""


class Sky:
    """Follows ``sky jobs launch``, which shows the job's log and ends with it."""

    retries_itself = True

    def __init__(self, work: Work) -> None:
        self.work, self.handle = work, work.name
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, shards: Sequence[int]) -> None:
        """Launch the managed job; secrets go by name, through the environment."""
        import yaml

        path = self.work.logs / "task.yaml"
        path.write_text(yaml.safe_dump(task(self.work), sort_keys=False), "utf-8")
        secrets = [word for name in self.work.environ for word in ("--secret", name)]
        with self.work.log(0).open("ab") as log:
            self.process = subprocess.Popen(
                ["sky", "jobs", "launch", "--yes", "--name", self.work.name, *secrets, str(path)],
                env={**os.environ, **self.work.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> list[Ended]:
        """Return all shards once the job is over: SkyPilot tells of none alone."""
        if not self.process:
            return []
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return []
        self.process = None
        return [Ended(shard, code, "skypilot") for shard in range(self.work.count)]

    def running(self) -> int:
        """Return how many machines the job asks for while it runs."""
        return nodes(self.work) if self.process else 0

    def stop(self) -> None:
        """Cancel the managed job."""
        cancel = ["sky", "jobs", "cancel", "--yes", "--name", self.work.name]
        subprocess.run(cancel, capture_output=True, check=False)
        if self.process:
            node.stop(self.process)

    def close(self) -> None:
        """Nothing is held."""
