"""What starts the containers of a batch: this machine, a Ray cluster, Kubernetes, AWS, SkyPilot.

An engine only starts containers and says how they ended. That each row is scored exactly once
comes from the image's own ``score --shard``: a part is written whole or not at all, and a shard
that is started twice skips what is finished.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from slipway.errors import DataUnavailable
from slipway.host import environment
from slipway.spec import Resources

# The module of each engine, and what it imports beyond the host's own environment.
MODULES = {
    "local": ("local", ()),
    "ray": ("ray", ("ray",)),
    "kubernetes": ("kubernetes", ("kubernetes", "yaml")),
    "aws-batch": ("aws_batch", ("boto3", "yaml")),
    "skypilot": ("skypilot", ("yaml",)),
}
# Their machines do not see our disk; paths are urls, or lie on a volume at /artifacts.
REMOTE = ("kubernetes", "aws-batch", "skypilot")
LABEL = "dev.slipway.batch"
INFRASTRUCTURE = (33, 137, 143)  # what may go well the next time
FINAL = (1, 2, 3, 4, 5, 6)  # what a second try cannot change


@dataclass(frozen=True)
class Work:
    """What the containers of one batch have in common; it holds whatever an engine may need.

    ``name`` is unique and a legal name on every platform. ``shards`` is None for one container
    without ``--shard``. ``program`` replaces the image where it runs as a process. ``environ`` may
    hold secrets: it is never printed and never written. ``places`` are the engine's own options.
    """

    name: str
    image: str
    arguments: tuple[str, ...]
    shards: int | None
    needs: Resources
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    mounts: Mapping[Path, tuple[str, str]] = field(default_factory=dict)
    program: tuple[str, ...] = ()
    logs: Path = Path("logs")
    retries: int = 3
    parallel: int | None = None
    minutes: float | None = None
    max_failed: int = 0
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many containers end well in a whole batch."""
        return self.shards or 1

    def command(self, shard: int | None = None) -> list[str]:
        """Return the arguments of one shard's container; None leaves the index to the platform."""
        if self.shards is None:
            return list(self.arguments)
        index = "" if shard is None else str(shard)
        return [*self.arguments, "--shard", f"{index}/{self.shards}"]

    def container(self, shard: int) -> str:
        """Return the name of a shard's container: two of one shard on a machine cannot be."""
        return f"{self.name}-{shard:05d}"

    def log(self, shard: int) -> Path:
        """Return the file that takes what a shard's containers say, one attempt after another."""
        return self.logs / f"{shard:05d}.log"


@dataclass(frozen=True)
class Ended:
    """One attempt is over. ``code`` is None where the container's machine or worker is lost."""

    shard: int
    code: int | None
    where: str
    seconds: float = 0.0
    attempts: int = 1  # those that the platform made by itself


class Engine(Protocol):
    """Starts containers and tells how they ended."""

    retries_itself: bool  # whether the platform tries again what may go well the next time
    handle: str  # what a later command needs to find the same containers again

    def start(self, shards: Sequence[int]) -> None:
        """Start one container a shard, or queue it; a shard comes again when it is tried again."""

    def wait(self, seconds: float) -> list[Ended]:
        """Return the attempts that are over, after at most some seconds."""

    def running(self) -> int:
        """Return how many containers run now: what is paid for."""

    def stop(self) -> None:
        """Stop all containers of this batch, whoever started them; they get SIGTERM first."""

    def close(self) -> None:
        """Let go of connections."""


def is_retryable(code: int | None) -> bool:
    """Tell whether the same shard may end well when it is started again."""
    return code is None or code in INFRASTRUCTURE


def open_engine(root: Path, name: str, work: Work, handle: str = "") -> Engine:
    """Return an engine, with the libraries it needs; ``handle`` is of an earlier command."""
    require(root, name)
    module = importlib.import_module(f"{__name__}.{MODULES[name][0]}")
    engine: Engine = module.open_engine(work, handle)
    return engine


def dry_run(root: Path, name: str, work: Work) -> str:
    """Return what would be handed to the platform, as YAML."""
    require(root, name, ("yaml",))
    import yaml

    described = importlib.import_module(f"{__name__}.{MODULES[name][0]}").describe(work)
    return str(yaml.safe_dump_all(described, sort_keys=False, width=100))


def require(root: Path, name: str, libraries: Sequence[str] = ()) -> None:
    """Go on in ``.venv-engines`` where this interpreter lacks an engine's client library.

    Raise DataUnavailable when that environment cannot be made, or lacks the library, too.
    """
    wanted = libraries or MODULES[name][1]
    missing = [library for library in wanted if not importlib.util.find_spec(library)]
    if not missing:
        return
    needed = f"the engine {name} needs {' and '.join(missing)}"
    if Path(sys.prefix).name == ".venv-engines":
        raise DataUnavailable(f"{needed}, which images/engines.txt does not hold")
    try:
        python = environment.make(root, "engines", ["engines"])
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{needed}; .venv-engines cannot be made from images/engines.txt: {error}"
        ) from None
    environ = {**os.environ, "PYTHONPATH": str(root / "src")}
    os.execve(python, [str(python), "-m", "slipway.host", *sys.argv[1:]], environ)
