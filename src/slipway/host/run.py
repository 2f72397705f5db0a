"""Run a job's verb where this machine can: in a container, or as a process of the same lock."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.errors import InputInvalid, SlipwayError
from slipway.host import build, container, databases, engine, process
from slipway.spec import TIERS, JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

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
    root: Path,
    spec: JobSpec,
    arguments: Sequence[str],
    runner: str | None,
    gpu: bool = False,
    database: str | None = None,
) -> int:
    """Run one verb and return its exit code; as a process this does not return."""
    databases.check(spec, database)
    client = client_or_none(runner)
    if client is None:
        _require_none(database)
        process.become(root, spec, arguments, gpu)
    image = build.build_job(client, root, spec, gpu)
    place = container.usual_place(root, spec)
    mounts, arguments = own_files(arguments, lambda: path_options(client, image, arguments))
    place = replace(place, mounts={**place.mounts, **mounts})
    return attend_beside(client, root, spec, image, place, arguments, gpu, database)


def attend_beside(
    client: DockerClient,
    root: Path,
    spec: JobSpec,
    image: Image,
    place: container.Place,
    arguments: Sequence[str],
    gpu: bool,
    database: str | None,
) -> int:
    """Run a container to its end, a database beside it where one is named."""
    names = [database] if database else []
    with databases.beside(client, root, spec, names, keep=True) as found:
        urls = {databases.URL: found.urls[database]} if database else {}
        place = replace(place, environ={**place.environ, **urls})
        made = container.create(client, image, spec, place, arguments, gpu=gpu, **found.options)
        return container.attend(made)


def _require_none(database: str | None) -> None:
    if database:
        raise SlipwayError(
            f"--database {database}: wanted a Docker engine to start it; or name a running one "
            f"in {databases.URL}"
        )


def path_options(client: DockerClient, image: Image, arguments: Sequence[str]) -> set[str]:
    """Return the options of a verb that take a file, by what the image itself says of them."""
    shown = client.containers.run(image, ["show"], network_mode="none", remove=True)
    verbs = json.loads(shown)["verbs"]
    name = arguments[0] if arguments[0] in verbs else "run"
    files = (
        option["opts"]
        for option in verbs.get(name, {}).get("options", [])
        if option["type"]["param_type"] == "Path" and option["type"]["file_okay"]
    )
    return {spelling for spellings in files for spelling in spellings}


def own_files(
    arguments: Sequence[str], options: Callable[[], set[str]]
) -> tuple[dict[Path, tuple[str, str]], list[str]]:
    """Return read-only mounts of the user's files among the arguments, and their names inside.

    Only the value of an option of ``options()`` is a file, which is asked when a value looks like
    one; ``NAME=PATH`` is a file with the name of its dataset. ``--data sample``
    is the tier, even beside a folder of that name.
    """
    mounts: dict[Path, tuple[str, str]] = {}
    told = list(arguments)
    for place, option, value in _values(arguments):
        name, equals, text = value.rpartition("=")
        path = Path(text)
        tier = option == "--data" and value in TIERS
        if tier or not text or not path.exists() or option not in options():
            continue
        inside = f"/input/{len(mounts)}/{path.resolve().name}"
        mounts[path.resolve()] = (inside, "ro")
        given = f"{name}{equals}{inside}"
        told[place] = f"{option}={given}" if told[place].startswith(f"{option}=") else given
    return mounts, told


def _values(arguments: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Yield place, option and value of ``--option value`` and ``--option=value``."""
    for place, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            yield place, option, value
        elif place and arguments[place - 1].startswith("--") and "=" not in arguments[place - 1]:
            yield place, arguments[place - 1], argument


def serve_job(
    root: Path,
    spec: JobSpec,
    address: str,
    port: int,
    runner: str | None,
    gpu: bool = False,
    database: str | None = None,
) -> int:
    """Serve the job's model at ``address:port`` until stopped; return the exit code."""
    databases.check(spec, database)
    require_free(address, port)
    client = client_or_none(runner)
    url = f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}"
    click.echo(f"serving {spec.name} at {url}/ (a form), POST {url}/score", err=True)
    if client is None:
        _require_none(database)
        process.become(root, spec, ["serve", "--host", address, "--port", str(port)], gpu)
    image = build.build_job(client, root, spec, gpu)
    place = replace(container.usual_place(root, spec), port=(address, port))
    return attend_beside(client, root, spec, image, place, ["serve"], gpu, database)


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
