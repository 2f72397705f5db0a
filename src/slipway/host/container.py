"""One job in a container, as a foreground process: its streams, signals and exit code are ours."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.errors import DeviceAbsent, SlipwayError
from slipway.host.build import certificate
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

# Variables of the machine that mean the same inside a container.
PASSED = (
    "DATABASE_URL",
    "LOG_FORMAT",
    "MLFLOW_TRACKING_URI",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
CERTIFICATE = "/ca.pem"
# A network to join, such as that of compose.yaml, where a job meets MLflow by its name.
NETWORK = "SLIPWAY_NETWORK"


@dataclass(frozen=True)
class Place:
    """What a container sees of this machine: folders, variables and one published port."""

    mounts: dict[Path, tuple[str, str]] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    port: tuple[str, int] | None = None


def data_cache() -> Path:
    """Return the folder of downloaded data, made if absent: SLIPWAY_DATA or the user's cache."""
    path = Path(os.environ.get("SLIPWAY_DATA") or "~/.cache/slipway/data").expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def artifacts(root: Path, spec: JobSpec) -> Path:
    """Return the folder of what a job writes, made by us and not by the engine's root."""
    path = root / "artifacts" / spec.name
    path.mkdir(parents=True, exist_ok=True)
    return path


def shown(path: Path) -> str:
    """Return a path as the user would type it, relative to the working folder where below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def passed(spec: JobSpec) -> tuple[str, ...]:
    """Return the variables of this machine that a job's containers get where they are set."""
    return (*PASSED, *spec.variables)


def usual_place(root: Path, spec: JobSpec) -> Place:
    """Return the mounts and variables every container of a job has."""
    cache = data_cache()
    mounts = {
        artifacts(root, spec): ("/artifacts", "rw"),
        cache: ("/data", "rw" if os.access(cache, os.W_OK) else "ro"),
    }
    environ = {name: os.environ[name] for name in passed(spec) if name in os.environ}
    environ["SLIPWAY_HOST_OUT"] = shown(artifacts(root, spec))
    mirror = os.environ.get("SLIPWAY_MIRROR", "")
    if mirror and Path(mirror).is_dir():
        mounts[Path(mirror).resolve()] = ("/mirror", "ro")
        mirror = "/mirror"
    if mirror:
        environ["SLIPWAY_MIRROR"] = mirror
    bundle = certificate()
    if bundle:
        mounts[bundle.resolve()] = (CERTIFICATE, "ro")
        environ |= {"SSL_CERT_FILE": CERTIFICATE, "REQUESTS_CA_BUNDLE": CERTIFICATE}
    return Place(mounts, environ)


def create(
    client: DockerClient,
    image: Image,
    spec: JobSpec,
    place: Place,
    arguments: Sequence[str],
    *,
    gpu: bool = False,
    stdin: bool = False,
    **more: Any,
) -> Container:
    """Create the job's container with the contract's limits, as the calling user.

    ``more`` are further options of the SDK's ``containers.create``.
    """
    from docker.types import DeviceRequest

    needs = spec.resources
    gpus = max(needs.gpus, 1) if gpu or needs.gpus or spec.base == "cuda" else 0
    devices = [DeviceRequest(count=int(gpus), capabilities=[["gpu"]])] if gpus else []
    if place.port:
        more["ports"] = {"8080/tcp": place.port}
    if os.environ.get(NETWORK) and not {"network", "network_mode"} & set(more):
        more["network"] = os.environ[NETWORK]
    return client.containers.create(
        image,
        list(arguments),
        environment={**place.environ, "SLIPWAY_IMAGE": f"{image.tags[0]}@{image.id}"},
        volumes=[f"{path}:{inside}:{mode}" for path, (inside, mode) in place.mounts.items()],
        user=f"{os.getuid()}:{os.getgid()}",
        mem_limit=needs.memory,
        shm_size=needs.memory,
        nano_cpus=int(_cpus(client, needs.cpus) * 1e9),
        device_requests=devices,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tty=_on_terminal(),
        stdin_open=stdin,  # and not detached: else the end of our stdin never reaches the job
        **more,
    )


def _cpus(client: DockerClient, wanted: float) -> float:
    """Return the CPUs to ask for: an engine refuses more than it has."""
    present = float(client.info().get("NCPU", wanted))
    if wanted > present:
        click.echo(f"the job asks for {wanted:g} CPUs; this engine has {present:g}", err=True)
    return min(wanted, present)


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


def attend(container: Container, stdin: bool = False) -> int:
    """Run a created container to its end and remove it; return its exit code.

    Its output is ours as it comes, and SIGINT and SIGTERM go to it.
    """
    try:
        with forwarded(container):
            output = container.attach(stream=True, demux=True, stdout=True, stderr=True)
            start(container)
            if stdin:
                threading.Thread(target=_feed, args=(container,), daemon=True).start()
            for out, err in output:
                _pass_on(out, err)
            code = int(container.wait()["StatusCode"])
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            limit = container.attrs["HostConfig"]["Memory"] / 2**20
            raise SlipwayError(
                f"the container was killed: it needs more than the {limit:.0f} MiB "
                "that [resources] memory in job.toml allows"
            )
        return code
    finally:
        container.remove(force=True)


def start(container: Container) -> None:
    """Start a container; raise what a user can act on where the engine refuses."""
    from docker.errors import APIError

    try:
        container.start()
    except APIError as error:
        reason = error.explanation or str(error)
        if "device driver" in reason or "nvidia" in reason:
            raise DeviceAbsent(f"the engine has no GPU to give: {reason}") from None
        if "port is already allocated" in reason or "address already in use" in reason:
            raise SlipwayError(
                f"the port is taken; choose another with --port ({reason})"
            ) from None
        raise SlipwayError(f"the engine cannot start the container: {reason}") from None
    if _on_terminal():
        columns, lines = shutil.get_terminal_size()
        container.resize(lines, columns)


@contextmanager
def forwarded(container: Container) -> Iterator[None]:
    """Send SIGINT and SIGTERM on to the container while it runs."""
    from docker.errors import APIError

    def forward(number: int, _frame: object) -> None:
        try:
            container.kill(signal=number)
        except APIError:
            # Not started yet: nobody is there to save anything.
            raise KeyboardInterrupt from None

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(out: bytes | None, err: bytes | None) -> None:
    for stream, chunk in ((sys.stdout, out), (sys.stderr, err)):
        if chunk:
            stream.buffer.write(chunk)
            stream.flush()


def _feed(container: Container) -> None:
    """Copy our stdin to the container's and close it."""
    import socket

    wrapped = container.attach_socket(params={"stdin": 1, "stream": 1})
    connection: Any = getattr(wrapped, "_sock", wrapped)  # a raw socket, hidden in a reader
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        connection.sendall(chunk)
    connection.shutdown(socket.SHUT_WR)
