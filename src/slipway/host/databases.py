"""A database beside a job: a container of its own on a network that only the two are on.

``slipway run JOB --database postgres`` (make: ``DB=postgres``) keeps its rows in a volume, so that
`serve` finds what `run` wrote; a job's tests get empty ones that are gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from slipway.errors import SlipwayError
from slipway.host import build
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

URL = "DATABASE_URL"
USER = "slipway"
PATIENCE, PAUSE, STOP_SECONDS = 120.0, 0.25, 25
MEMORY = "1g"


@dataclass(frozen=True)
class Kind:
    """How one kind of database is started and addressed."""

    scheme: str
    port: int
    volume: str
    password: str
    """The variable that sets the password of an empty volume, of this machine and inside."""


KINDS = {
    "postgres": Kind("postgresql", 5432, "/var/lib/postgresql", "POSTGRES_PASSWORD"),
    "mariadb": Kind("mariadb", 3306, "/var/lib/mysql", "MARIADB_PASSWORD"),
}


@dataclass(frozen=True)
class Beside:
    """What a job's container needs to reach its databases: a network, and the url of each."""

    network: str = ""
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Return what `container.create` takes."""
        return {"network": self.network} if self.network else {}


def check(spec: JobSpec, name: str | None) -> None:
    """Raise UsageError for a database that the job cannot use."""
    if name is not None and name not in spec.services:
        known = ", ".join(spec.services) or "none"
        raise click.UsageError(
            f"--database {name}: {spec.name} uses {known} (services in job.toml)"
        )


@contextlib.contextmanager
def beside(
    client: DockerClient, root: Path, spec: JobSpec, names: Sequence[str], *, keep: bool
) -> Iterator[Beside]:
    """Give started databases; with ``keep`` their rows stay in volumes named after the job."""
    if not names:
        yield Beside()
        return
    with contextlib.ExitStack() as stack:
        network = client.networks.create(
            f"slipway-{spec.name}-{secrets.token_hex(4)}", driver="bridge", internal=not keep
        )
        stack.callback(network.remove)
        urls = {}
        started = []
        for name in names:
            kind, password = KINDS[name], os.environ.get(KINDS[name].password) or USER
            host = f"{network.name}-{name}"
            volume = f"slipway-{spec.name}-{name}" if keep else None
            made = _created(client, root, name, host, str(network.name), password, volume)
            stack.callback(_remove, made, volume is None)
            made.start()
            started.append((name, made))
            urls[name] = f"{kind.scheme}://{USER}:{quote(password, '')}@{host}:{kind.port}/{USER}"
        for name, made in started:
            _wait(name, made)
        yield Beside(str(network.name), urls)


def _created(
    client: DockerClient,
    root: Path,
    name: str,
    host: str,
    network: str,
    password: str,
    volume: str | None,
) -> Container:
    kind = KINDS[name]
    mounts: dict[str, Any] = {"volumes": [f"{volume}:{kind.volume}:rw"]} if volume else {}
    return client.containers.create(
        build.build_service(client, root, name),
        name=host,
        environment={kind.password: password},
        network=network,
        mem_limit=MEMORY,
        shm_size="256m",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        **mounts,
    )


def _remove(made: Container, with_rows: bool) -> None:
    """Stop a database in order, then remove its container, and its volume where that is its own."""
    if not with_rows:
        made.stop(timeout=STOP_SECONDS)
    made.remove(force=True, v=with_rows)


def _wait(name: str, made: Container) -> None:
    """Return when the database answers; raise SlipwayError when it ends or stays silent."""
    end = time.monotonic() + PATIENCE
    while True:
        made.reload()
        state = made.attrs["State"]
        if state.get("Health", {}).get("Status") == "healthy":
            return
        if state.get("Status") == "exited" or time.monotonic() > end:
            told = made.logs(tail=5).decode("utf-8", "replace").strip()
            raise SlipwayError(f"{name} does not answer; the end of its log: {told}")
        time.sleep(PAUSE)
