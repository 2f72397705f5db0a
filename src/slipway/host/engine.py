"""The Docker engine: how to reach it, and what to say when nothing answers.

Everything but building goes through the SDK's client, which comes from ``connect`` and from
nowhere else: tests replace that one function.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import SlipwayError

if TYPE_CHECKING:
    from docker import DockerClient

LAST_WITHOUT_BUILDX = 22
SYSTEM_CLIENT = "/usr/bin/docker"


class EngineAbsent(SlipwayError):
    """No Docker engine answers."""


def connect() -> DockerClient:
    """Return a client of the engine that the docker command would use; raise EngineAbsent."""
    import docker
    from docker.context import ContextAPI
    from docker.errors import DockerException

    try:
        if os.environ.get("DOCKER_HOST"):
            client = docker.from_env()
        else:
            context = ContextAPI.get_current_context()
            client = docker.DockerClient(base_url=context.Host if context else None)
        client.ping()
    except (DockerException, OSError) as error:
        where = os.environ.get("DOCKER_HOST", "the default socket")
        raise EngineAbsent(f"no Docker engine answers at {where} ({_reason(error)})") from None
    return client


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line: the SDK wraps 'permission denied' three times."""
    found = re.findall(r"\w+Error\(\d+, '([^']+)'\)", str(error))
    return str(found[-1]) if found else str(error).splitlines()[0]


def docker_command() -> str:
    """Return a docker client that can build with BuildKit.

    Clients from 23 on build through the buildx plugin and fail without it; older ones carry
    BuildKit themselves. A machine may hold both kinds.
    """
    candidates = [shutil.which("docker"), SYSTEM_CLIENT]
    for client in dict.fromkeys(path for path in candidates if path and Path(path).exists()):
        if _says(client, "buildx", "version") or _major(client) <= LAST_WITHOUT_BUILDX:
            return client
    raise EngineAbsent("no docker command that can build with BuildKit; install docker-buildx")


def _says(*command: str) -> str:
    """Return what a command prints, or nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _major(client: str) -> int:
    """Return the client's major version; a version that cannot be read counts as new."""
    found = re.search(r"version (\d+)\.", _says(client, "--version"))
    return int(found[1]) if found else LAST_WITHOUT_BUILDX + 1
