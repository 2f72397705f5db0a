"""compose.yaml with one job: every service comes up, they reach each other, nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway.errors import SlipwayError
from slipway.host import build, services, sources
from tests.demo import chromium

pytestmark = pytest.mark.once
PORTS = ("PORT", "DEMO_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT")
VARIABLES = {"scorer": "PORT", **{name: f"{name.upper()}_PORT" for name in sources.SERVICES}}


@dataclass(frozen=True)
class Stack:
    """The running services, by name."""

    client: Any
    command: list[str]
    environ: dict[str, str]
    project: str

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def address(self, service: str) -> str:
        return f"http://127.0.0.1:{self.environ[VARIABLES[service]]}"

    def get(self, service: str, path: str, body: Any = None) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address(service)}{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def containers(self) -> dict[str, Any]:
        """Return the containers by the name of their service."""
        label = "com.docker.compose.service"
        mine = {"label": f"com.docker.compose.project={self.project}"}
        found = self.client.containers.list(all=True, filters=mine)
        return {container.labels[label]: container for container in found}

    def health(self, service: str) -> str:
        return str(self.containers()[service].attrs["State"]["Health"]["Status"])

    def models(self) -> list[dict[str, Any]]:
        """Return the versions in MLflow's registry; none while it does not answer."""
        try:
            found = self.get("mlflow", "/api/2.0/mlflow/model-versions/search")
        except OSError:
            return []
        return list(json.loads(found).get("model_versions", []))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def stack(
    subject: Any, root: Path, trained: Path, make_folder: Any, wait_for: Any
) -> Iterator[Stack]:
    """The stack around one job, with every service healthy."""
    try:
        compose = services.compose_command()
    except SlipwayError as error:
        pytest.skip(str(error))
    for service in sources.SERVICES:
        build.build_service(subject.client, root, service)
    place = make_folder()
    shutil.copytree(trained, place / "artifacts" / subject.spec.name)
    project = f"slipwaytest{os.getpid()}"
    environ = os.environ | {name: free_port() for name in PORTS}
    environ |= {"JOB": subject.spec.name, "SLIPWAY_NETWORK": project, "COMPOSE_PROFILES": "metrics"}
    environ |= {"SLIPWAY_IMAGES": build.image_name("").removesuffix("/")}
    files = ["--file", str(root / "compose.yaml"), "--project-directory", str(place)]
    found = Stack(subject.client, [*compose, "-p", project, *files], environ, project)
    try:
        found.compose("up", "--detach")
        for service in found.containers():
            wait_for(lambda name=service: found.health(name) == "healthy", pause=0.2)
        yield found
    finally:
        found.compose("down", "--volumes", "--timeout", "1")


def test_every_service_is_up_on_loopback_and_as_no_root(stack: Stack) -> None:
    containers = stack.containers()
    assert set(containers) == {"scorer", *sources.SERVICES}
    for name, container in containers.items():
        described = container.attrs
        assert described["HostConfig"]["ReadonlyRootfs"], name
        assert described["HostConfig"]["CapDrop"] == ["ALL"], name
        assert described["Config"]["User"].split(":")[0] not in ("", "0"), name
        ports = [place for places in container.ports.values() for place in places or []]
        assert {place["HostIp"] for place in ports} <= {"127.0.0.1"}, name
    assert not any(stack.containers()["postgres"].ports.values())


def test_the_images_fit_into_three_gigabytes(stack: Stack, figures: dict[str, str]) -> None:
    images = {name: container.image for name, container in stack.containers().items()}
    sizes = {name: image.attrs["Size"] for name, image in images.items()}
    figures["compose.yaml's images"] = f"{sum(sizes.values()) / 1e9:.2f} GB"
    assert sum(sizes.values()) < 3e9, sizes


def test_the_page_asks_the_scorer(stack: Stack, rows: list[dict[str, Any]]) -> None:
    assert json.loads(stack.get("scorer", "/score", rows[:2]))
    page = stack.get("demo", "/")
    assert json.loads(stack.get("scorer", "/openapi.json"))["info"]["title"] in page
    if not chromium.program():
        pytest.skip("no Chromium on this machine: the page was fetched and not used")
    with chromium.browsing() as browser:
        shown = browser.open(f"{stack.address('demo')}/")
        shown.wait("document.querySelector('#score')")
        shown.click("#score")
        shown.wait("document.querySelector('#result .answer')")
        assert shown.complaints() == []
        assert {urllib.parse.urlsplit(url).hostname for url in shown.addresses()} <= {
            "127.0.0.1",
            None,  # data: and blob: lead nowhere
        }


def test_prometheus_asks_the_scorer(
    stack: Stack, rows: list[dict[str, Any]], wait_for: Any
) -> None:
    stack.get("scorer", "/score", rows[0])

    def up() -> bool:
        found = json.loads(stack.get("prometheus", "/api/v1/targets?state=active"))
        return any(target["health"] == "up" for target in found["data"]["activeTargets"])

    def counted() -> list[Any]:
        query = urllib.parse.quote('slipway_requests_total{route="/score",status="200"}')
        found = json.loads(stack.get("prometheus", f"/api/v1/query?query={query}"))
        return list(found["data"]["result"])

    wait_for(up, pause=0.2)
    value = wait_for(counted, pause=0.2)[0]["value"]
    assert float(value[1]) >= 1


def test_a_training_is_in_mlflow_and_outlives_a_restart_of_the_database(
    stack: Stack, subject: Any, out: Path, wait_for: Any
) -> None:
    before = len(stack.models())
    network = stack.environ["SLIPWAY_NETWORK"]
    place = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    for verb in ("prepare", "train"):
        run = subject.run(verb, "--data", "sample", out=out, network_mode=network, environ=place)
        assert run.code == 0, run.err
    versions = stack.models()
    assert len(versions) > before
    newest = max(versions, key=lambda version: int(version["version"]))
    assert newest["name"] == f"slipway-{subject.spec.name}"
    run_id = newest["run_id"]
    listed = json.loads(stack.get("mlflow", f"/api/2.0/mlflow/artifacts/list?run_id={run_id}"))
    assert [entry["path"] for entry in listed["files"]] == ["model"]

    database = stack.containers()["postgres"]
    started = time.monotonic()
    database.restart(timeout=25)
    assert time.monotonic() - started < 20
    assert "received fast shutdown request" in database.logs().decode()
    wait_for(lambda: stack.health("postgres") == "healthy", pause=0.2)
    assert wait_for(stack.models, pause=0.2) == versions
