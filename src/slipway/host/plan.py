"""From a command line to the work of an engine: image, arguments, addresses, variables."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import click

from slipway.host import build, container, process
from slipway.host.engines import REMOTE, Work
from slipway.host.run import client_or_none, is_local, require_input
from slipway.spec import JobSpec

FILES = (".jsonl", ".csv", ".parquet")
HERE = ("", "local", "auto", "127.0.0.1", "localhost")


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``source`` and ``target`` are empty where it is no batch."""

    verb: tuple[str, ...]
    engine: str
    source: str = ""
    target: str = ""
    shards: int | None = None
    runner: str | None = None
    image: str = ""
    retries: int = 3
    parallel: int | None = None
    max_failed: int = 0
    minutes: float | None = None
    price: float = 0.0
    cost: float | None = None
    names: tuple[str, ...] = ()
    needs: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def is_remote(self) -> bool:
        """Tell whether the machines of the engine see other disks than ours."""
        host = self.places.get("address", "").removeprefix("ray://").partition(":")[0]
        return self.engine in REMOTE or (self.engine == "ray" and host not in HERE)

    @property
    def parts(self) -> str:
        """The folder of the parts: OUTPUT, or beside it where OUTPUT is the merged file."""
        return f"{self.target}.parts" if self.is_merged else self.target

    @property
    def is_merged(self) -> bool:
        """Tell whether the parts become one file at the end."""
        return PurePosixPath(self.target).suffix in FILES

    def identity(self, job: str) -> str:
        """Return the name of the batch: the same question on any engine is the same batch."""
        places = [one and (one if "://" in one else str(Path(one).resolve())) for one in
                  (self.source, self.target)]  # fmt: skip
        asked = json.dumps([job, self.verb, places, self.shards])
        return hashlib.sha256(asked.encode()).hexdigest()[:10]


def check(request: Request) -> None:
    """Raise UsageError for what the engine cannot do, InputInvalid for an input that is absent."""
    if request.cost is not None and not request.price:
        raise click.UsageError("--max-cost: wanted --price-per-hour, the price of one container")
    if request.is_remote and request.runner == "process":
        raise click.UsageError(f"--engine {request.engine}: processes run on this machine only")
    if not request.source:
        return
    if "-" in (request.source, request.target):
        raise click.UsageError("a batch reads INPUT once a shard: wanted files or urls, no stream")
    if not request.is_remote:
        require_input(request.source)
        return
    for address in (request.source, request.target):
        on_volume = request.places.get("volume") and address.startswith("/artifacts/")
        if is_local(address) and not on_volume:
            raise click.UsageError(
                f"{address}: the machines of {request.engine} do not see this disk; wanted "
                "s3://, gs:// or az://, or with --volume a path below /artifacts/"
            )


def make_work(root: Path, spec: JobSpec, request: Request, logs: Path) -> tuple[Work, str]:
    """Return the work and the identity of its image; empty where that is not known."""
    client = None
    if not (request.is_remote or request.image or request.dry_run):
        client = client_or_none(request.runner)
    needs = replace(spec.resources, **request.needs)
    if client:
        built = build.build_job(client, root, spec, bool(needs.gpus))
        image, known = str(built.tags[0]), str(built.id)
        client.close()
    else:
        image, known = request.image or build.image_name(spec.name), request.image
    is_process = not (client or request.is_remote or request.image or request.dry_run)
    work = Work(
        name=f"slipway-{spec.name.replace('_', '-')}-{request.identity(spec.name)}",
        image=image,
        arguments=request.verb,
        shards=request.shards,
        needs=needs,
        logs=logs,
        retries=request.retries,
        parallel=request.parallel,
        minutes=request.minutes,
        max_failed=request.max_failed,
        places=request.places,
    )
    return placed(root, spec, request, work, is_process), known


def placed(root: Path, spec: JobSpec, request: Request, work: Work, is_process: bool) -> Work:
    """Return the work with what its containers see: mounts, variables, INPUT and OUTPUT."""
    usual = container.usual_place(root, spec)
    environ = {**usual.environ, **asked_for(request.names)}
    if request.is_remote:
        passed = {name: environ[name] for name in (*container.passed(spec), *request.names)
                  if name in environ and "PROXY" not in name.upper()}  # fmt: skip
        volume = request.places.get("volume")
        mounts = {Path(volume): ("/artifacts", "rw")} if volume and request.engine == "ray" else {}
        return aimed(replace(work, environ=passed, mounts=mounts), request)
    if is_process:
        program = (str(process.python_of(root, spec.base)), "-m", "slipway")
        environ = {**process.environ_of(root, spec), **asked_for(request.names)}
        return aimed(replace(work, program=program, environ=environ), request)
    return aimed(replace(work, environ=environ, mounts=usual.mounts), request)


def aimed(work: Work, request: Request) -> Work:
    """Add INPUT and the folder of the parts to the arguments."""
    if not request.source:
        return work
    source, work = shown(work, request, request.source, "/input", "ro")
    parts, work = shown(work, request, request.parts, "/parts", "rw")
    verb, *more = work.arguments
    return replace(work, arguments=(verb, source, parts, *more))


def merging(work: Work, request: Request) -> Work:
    """Return the work that makes one file of the parts, and checks that each row is there once."""
    _, source, parts, *_ = work.arguments
    folder, _, file = request.target.rpartition("/")
    if is_local(request.target):
        folder, file = str(Path(request.target).resolve().parent), Path(request.target).name
    inside, work = shown(work, request, folder, "/output", "rw")
    return replace(
        work,
        name=f"{work.name}-merge",
        arguments=("merge", parts, source, f"{inside}/{file}"),
        shards=None,
        logs=work.logs.parent / "merge",
    )


def shown(work: Work, request: Request, address: str, inside: str, mode: str) -> tuple[str, Work]:
    """Return an address as a container sees it, and the work with what must be mounted for it.

    An input is mounted under its own name, since its ending says what it holds.
    """
    if request.is_remote or not is_local(address):
        return address, work
    path = Path(address).resolve()
    if mode == "rw":
        path.mkdir(parents=True, exist_ok=True)
    if work.program:
        return str(path), work
    name = f"{inside}/{path.name}" if mode == "ro" else inside
    return name, replace(work, mounts={**work.mounts, path: (name, mode)})


def asked_for(names: Sequence[str]) -> dict[str, str]:
    """Return the variables that ``--env`` names; raise UsageError for one that is not set."""
    absent = [name for name in names if name not in os.environ]
    if absent:
        raise click.UsageError(f"--env {absent[0]}: not set here; wanted a NAME, without its value")
    return {name: os.environ[name] for name in names}


def fingerprint(root: Path, spec: JobSpec, request: Request, image: str) -> str:
    """Return a digest of image, model and input, as far as their parts lie on this disk.

    It is empty where they do not: then each shard's container finds out for itself what is done.
    """
    if not image or request.is_remote or not is_local(request.source) or not request.source:
        return ""
    model = root / "artifacts" / spec.name / "model"
    paths = [Path(request.source).resolve()]
    files = sorted(
        path for top in (*paths, model) for path in (top, *top.rglob("*")) if path.is_file()
    )
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([image, seen]).encode()).hexdigest()
