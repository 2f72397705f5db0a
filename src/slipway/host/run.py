"""Run a job's verb where this machine can: in a container, or as a process of the same lock."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.errors import InputInvalid, SlipwayError
from slipway.host import build, container, engine, process
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient

PORT = 8080


def client_or_none(runner: str | None) -> DockerClient | None:
    """Return the engine's client, or None to run processes; say aloud why.

    ``runner`` is ``docker``, ``process`` or None for whichever works. Raise EngineAbsent when
    ``docker`` was asked for and does not answer.
    """
    if runner == "process":
        click.echo("RUNNER=process: no container, so no isolation and no limits", err=True)
        return None
    try:
        return engine.connect()
    except engine.EngineAbsent as error:
        if runner == "docker":
            raise
        click.echo(
            f"{error}: running as a process in a virtual environment of the same lock, "
            "without isolation and limits (RUNNER=process)",
            err=True,
        )
        return None


def run_job(
    root: Path, spec: JobSpec, arguments: Sequence[str], runner: str | None, gpu: bool = False
) -> int:
    """Run one verb and return its exit code; as a process this does not return."""
    client = client_or_none(runner)
    if client is None:
        process.become(root, spec, arguments, gpu)
    image = build.build_job(client, root, spec, gpu)
    place = container.usual_place(root, spec)
    return container.attend(container.create(client, image, spec, place, arguments, gpu=gpu))


def serve_job(
    root: Path, spec: JobSpec, address: str, port: int, runner: str | None, gpu: bool = False
) -> int:
    """Serve the job's model at ``address:port`` until stopped; return the exit code."""
    require_free(address, port)
    client = client_or_none(runner)
    url = f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}"
    click.echo(f"serving {spec.name} at {url}/ (a form), POST {url}/score", err=True)
    if client is None:
        process.become(root, spec, ["serve", "--host", address, "--port", str(port)], gpu)
    image = build.build_job(client, root, spec, gpu)
    place = replace(container.usual_place(root, spec), port=(address, port))
    return container.attend(container.create(client, image, spec, place, ["serve"], gpu=gpu))


def require_free(address: str, port: int) -> None:
    """Raise SlipwayError when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise SlipwayError(
                f"port {port} of {address} cannot be used ({error.strerror}); choose another "
                "with --port (make serve PORT=...)"
            ) from None


def score_files(
    root: Path,
    spec: JobSpec,
    source: str,
    target: str,
    more: Sequence[str],
    runner: str | None,
    gpu: bool = False,
) -> int:
    """Score a file, a folder, ``-`` or an ``s3://`` address with the job's model."""
    require_input(source)
    client = client_or_none(runner)
    if client is None:
        process.become(root, spec, ["score", source, target, *more], gpu)
    image = build.build_job(client, root, spec, gpu)
    usual = container.usual_place(root, spec)
    mounts, inside_source, inside_target = file_mounts(source, target)
    place = replace(usual, mounts={**usual.mounts, **mounts})
    arguments = ["score", inside_source, inside_target, *more]
    stdin = source == "-"
    made = container.create(client, image, spec, place, arguments, gpu=gpu, stdin=stdin)
    return container.attend(made, stdin)


def is_local(address: str) -> bool:
    """Tell a path of this machine from ``-`` and from a url."""
    return address != "-" and "://" not in address


def require_input(source: str) -> None:
    """Raise InputInvalid when a local input is not there."""
    if is_local(source) and not Path(source).exists():
        raise InputInvalid(f"{source}: no such file or folder; wanted rows to score")


def file_mounts(source: str, target: str) -> tuple[dict[Path, tuple[str, str]], str, str]:
    """Return the mounts that show input and output to a container, and their names inside.

    The input is mounted alone and read-only; of the output its folder, since a file that does
    not exist cannot be mounted and is put in place by a rename.
    """
    mounts: dict[Path, tuple[str, str]] = {}
    if is_local(source):
        path = Path(source).resolve()
        source = f"/input/{path.name}"
        mounts[path] = (source, "ro")
    if is_local(target):
        path = Path(target).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        target = f"/output/{path.name}"
        mounts[path.parent] = ("/output", "rw")
    return mounts, source, target


def has_model(root: Path, spec: JobSpec) -> bool:
    """Tell whether the job was trained before."""
    folder = container.artifacts(root, spec) / "model"
    return folder.is_dir() and any(folder.iterdir())
