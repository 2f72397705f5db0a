"""The helper services of compose.yaml: build what they need, and call compose."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from slipway.errors import SlipwayError
from slipway.host import build, engine, sources
from slipway.host.demo import require_model
from slipway.spec import JobSpec


def build_services(root: Path) -> None:
    """Build the image of every helper service that is absent or stale."""
    client = engine.connect()
    for service in sources.SERVICES:
        build.build_service(client, root, service)


def up(root: Path, spec: JobSpec, more: Sequence[str]) -> NoReturn:
    """Build a job's image and all services, then become ``compose up``."""
    require_model(root, spec)
    client = engine.connect()
    build.build_job(client, root, spec)
    build_services(root)
    _become(root, ["up", *more], spec.name)


def down(root: Path, more: Sequence[str]) -> NoReturn:
    """Become ``compose down`` for every service, whatever the job was."""
    _become(root, ["down", *more], os.environ.get("JOB") or "any")


def _become(root: Path, arguments: Sequence[str], job: str) -> NoReturn:
    """Replace this process by compose, so that signals and the exit code are its own."""
    environ = {**os.environ, "JOB": job}
    if arguments[0] == "down":
        environ["COMPOSE_PROFILES"] = "metrics"  # what any `up` may have started
    environ["SLIPWAY_IMAGES"] = build.image_name("").removesuffix("/")
    os.chdir(root)
    command = compose_command()
    os.execvpe(command[0], [*command, *arguments], environ)


def compose_command() -> list[str]:
    """Return how to call compose: the plugin of the docker command, else docker-compose."""
    docker = shutil.which("docker")
    if docker:
        plugin = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return [docker, "compose"]
    old = shutil.which("docker-compose")
    if not old:
        raise SlipwayError("compose is not installed (Debian: apt-get install docker-compose)")
    return [old]
