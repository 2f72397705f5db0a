"""A job's demo page beside its scorer: two containers on a network of their own.

The scorer sees that network alone, so nothing it is given leaves the machine; the page is
published on loopback.
"""

from __future__ import annotations

import contextlib
import queue
import re
import secrets
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway.errors import SlipwayError
from slipway.host import build, container, sources
from slipway.host.run import client_or_none, has_model, require_free, serve_job
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

ADDRESS = "127.0.0.1"
PORT = 8080
PATIENCE = 180
PAUSE = 0.2
MEMORY = "1g"


def open_page(root: Path, spec: JobSpec, port: int, runner: str | None) -> int:
    """Show the job's page at ``port`` until stopped; without an engine the scorer's own form."""
    require_model(root, spec)
    require_free(ADDRESS, port)
    client = client_or_none(runner)
    url = f"http://{ADDRESS}:{port}/"
    if client is None:
        click.echo(f"open {url} in a browser")
        return serve_job(root, spec, ADDRESS, port, "process")
    with interruptible(), beside(client, root, spec, port) as pair:
        try:
            attend(pair, url)
        except KeyboardInterrupt:
            click.echo("\nstopping", err=True)
    return 0


def require_model(root: Path, spec: JobSpec) -> None:
    """Raise SlipwayError where the job was never trained."""
    if not has_model(root, spec):
        raise SlipwayError(f"{spec.name} has no model yet; first: make run JOB={spec.name}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that containers and network are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def beside(
    client: DockerClient, root: Path, spec: JobSpec, port: int
) -> Iterator[dict[str, Container]]:
    """Give the started scorer and page by name; they go with their network afterwards."""
    image, page = build.build_job(client, root, spec), build.build_page(client, root, spec)
    place = container.usual_place(root, spec)
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(_network(client, spec, internal=True))
        # A port can be published from a network that leads outside only.
        outside = stack.enter_context(_network(client, spec, internal=False))
        name = f"{inside.name}-scorer"  # a name that is given is one that DNS knows
        scorer = container.create(
            client, image, spec, place, ["serve"], name=name, network=inside.name
        )
        stack.callback(scorer.remove, force=True)
        shown = client.containers.create(
            page,
            name=f"{inside.name}-page",
            environment={"SCORER_URL": f"http://{name}:8080"},
            ports={f"{page_port(spec)}/tcp": (ADDRESS, port)},
            network=outside.name,
            mem_limit=MEMORY,
            shm_size=MEMORY,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
        )
        stack.callback(shown.remove, force=True)
        inside.connect(shown)
        for made in (scorer, shown):
            container.start(made)
        yield {"scorer": scorer, "demo page": shown}


def page_port(spec: JobSpec) -> int:
    """Return the port that a page listens on: the last that its own Dockerfile exposes, or 8080."""
    recipe = spec.folder / sources.PAGE / "Dockerfile"
    text = recipe.read_text("utf-8") if recipe.is_file() else ""
    exposed = re.findall(r"^EXPOSE +(\d+)(?:/tcp)? *$", text, re.M)
    return int(exposed[-1]) if exposed else PORT


@contextlib.contextmanager
def _network(client: DockerClient, spec: JobSpec, internal: bool) -> Iterator[Network]:
    name = f"slipway-demo-{spec.name}-{secrets.token_hex(4)}"
    network = client.networks.create(name, driver="bridge", internal=internal)
    try:
        yield network
    finally:
        network.remove()


def attend(pair: dict[str, Container], url: str) -> None:
    """Pass on what the containers say and tell when the page is there; raise when one ends."""
    ended: queue.Queue[str] = queue.Queue()
    for name, made in pair.items():
        threading.Thread(target=_follow, args=(name, made, ended), daemon=True).start()
    end = time.monotonic() + PATIENCE
    while not answers(url):
        _fail_if_ended(pair, ended, PAUSE)
        if time.monotonic() > end:
            raise SlipwayError(f"the demo page does not answer after {PATIENCE} s")
    click.echo(f"open {url} in a browser; Ctrl-C ends the page and its scorer")
    _fail_if_ended(pair, ended, None)


def _fail_if_ended(
    pair: dict[str, Container], ended: queue.Queue[str], seconds: float | None
) -> None:
    try:
        name = ended.get(timeout=seconds)
    except queue.Empty:
        return
    code = pair[name].wait()["StatusCode"]
    raise SlipwayError(f"the {name} ended with exit code {code}; what it said is above")


def _follow(name: str, made: Container, ended: queue.Queue[str]) -> None:
    """Copy a container's output to stderr; at its end put its name into ``ended``."""
    with contextlib.suppress(Exception):  # whatever breaks the stream, the container is gone
        for chunk in made.logs(stream=True, follow=True):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
    ended.put(name)


def answers(url: str) -> bool:
    """Tell whether a page answers at an address."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
