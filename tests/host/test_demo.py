"""The demo page and the services of compose.yaml, seen from the host."""

import os
import queue
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.errors import SlipwayError
from slipway.host import build, catalog, demo, services, sources
from tests.host.conftest import Engine


class Networks:
    """Stands in for the SDK's networks and notes what becomes of each."""

    def __init__(self) -> None:
        self.made: list[SimpleNamespace] = []

    def create(self, name: str, driver: str, internal: bool) -> SimpleNamespace:
        network = SimpleNamespace(name=name, internal=internal, joined=[], removed=False)
        network.connect = network.joined.append
        network.remove = lambda: setattr(network, "removed", True)
        self.made.append(network)
        return network


@pytest.fixture
def networks(docker: Engine) -> Networks:
    docker.networks = Networks()  # type: ignore[attr-defined]
    return docker.networks  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def trained(root: Path) -> catalog.JobSpec:
    model = root / "artifacts" / "example" / "model"
    model.mkdir(parents=True)
    (model / "model.skops").write_text("")
    return catalog.find_job(root, "example")


def write_page(root: Path, text: str) -> None:
    folder = root / "jobs" / "example" / "demo"
    folder.mkdir()
    (folder / "Dockerfile").write_text(text)


def test_page_and_scorer_meet_on_a_network_of_their_own(
    root: Path, docker: Engine, networks: Networks, trained: catalog.JobSpec
) -> None:
    with demo.beside(docker, root, trained, 8080) as pair:  # type: ignore[arg-type]
        scorer, page = (made.options for made in docker.created)  # type: ignore[attr-defined]
        inside, outside = networks.made
        assert list(pair) == ["scorer", "demo page"]
        assert (inside.internal, outside.internal) == (True, False)
        assert (scorer["network"], page["network"]) == (inside.name, outside.name)
        assert inside.joined == [pair["demo page"]]
        assert page["environment"]["SCORER_URL"] == f"http://{scorer['name']}:8080"
        assert page["ports"] == {"8080/tcp": ("127.0.0.1", 8080)}
        assert "ports" not in scorer
        assert page["read_only"]
        assert page["cap_drop"] == ["ALL"]
    assert all(made.removed for made in [*docker.created, *networks.made])


@pytest.mark.parametrize(
    ("recipe", "port"),
    [("", 8080), ("ARG BASE=slipway/demo\nFROM ${BASE}\nEXPOSE 7000/tcp\nEXPOSE 8501\n", 8501)],
)
def test_a_page_is_published_from_the_port_that_its_dockerfile_exposes(
    recipe: str, port: int, root: Path, docker: Engine, networks: Networks,
    trained: catalog.JobSpec,
) -> None:  # fmt: skip
    if recipe:
        write_page(root, recipe)
    with demo.beside(docker, root, trained, 9000):  # type: ignore[arg-type]
        _, page = (made.options for made in docker.created)  # type: ignore[attr-defined]
    assert page["ports"] == {f"{port}/tcp": ("127.0.0.1", 9000)}


def test_a_job_that_was_never_trained_is_told_the_command(root: Path, docker: Engine) -> None:
    spec = catalog.find_job(root, "example")
    with pytest.raises(SlipwayError, match="no model yet; first: make run JOB=example"):
        demo.open_page(root, spec, free_port(), "docker")
    assert docker.built() == []


def test_one_line_tells_where_the_page_is_and_how_it_ends(
    docker: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "answers", lambda url: True)
    pair: Any = {"demo page": docker.create(None, [])}
    with pytest.raises(SlipwayError, match="ended"):
        demo.attend(pair, "http://127.0.0.1:1/")
    told = "open http://127.0.0.1:1/ in a browser; Ctrl-C ends the page and its scorer\n"
    assert capsys.readouterr().out == told


def test_a_page_that_cannot_start_leaves_nothing(
    root: Path, docker: Engine, networks: Networks, trained: catalog.JobSpec
) -> None:
    docker.refusal = "driver failed: port is already allocated"
    with pytest.raises(SlipwayError, match="the port is taken"):
        demo.open_page(root, trained, free_port(), "docker")
    assert all(made.removed for made in [*docker.created, *networks.made])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_container_that_ends_is_told_with_its_code(docker: Engine) -> None:
    docker.code = 5
    ended: queue.Queue[str] = queue.Queue()
    ended.put("scorer")
    pair: Any = {"scorer": docker.create(None, [])}
    with pytest.raises(SlipwayError, match="the scorer ended with exit code 5"):
        demo._fail_if_ended(pair, ended, 0)


def test_without_an_engine_the_scorers_own_form_is_shown(
    root: Path, no_docker: None, trained: catalog.JobSpec, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    called: list[Any] = []
    monkeypatch.setattr(demo, "serve_job", lambda *given: called.append(given) or 0)
    port = free_port()
    assert demo.open_page(root, trained, port, None) == 0
    assert called == [(root, trained, "127.0.0.1", port, "process")]
    assert f"open http://127.0.0.1:{port}/" in capfd.readouterr().out


def test_every_job_has_the_page_of_slipway_demo(
    root: Path, docker: Engine, trained: catalog.JobSpec
) -> None:
    build.build_page(docker, root, trained)  # type: ignore[arg-type]
    assert docker.built() == ["slipway/build", "slipway/service", "slipway/demo"]
    assert "BASE=slipway/service" in docker.builds()[-1]["given"]


@pytest.mark.parametrize("base", ["demo", "base"])
def test_a_job_may_bring_a_page_on_any_image_of_ours(
    base: str, root: Path, docker: Engine, trained: catalog.JobSpec
) -> None:
    write_page(root, f"ARG BASE=slipway/{base}\nFROM ${{BASE}}\n")
    for _ in range(2):
        build.build_page(docker, root, trained)  # type: ignore[arg-type]
    assert docker.built().count("slipway/example-demo") == 1
    assert f"BASE=slipway/{base}" in docker.builds()[-1]["given"]


def test_a_page_on_a_foreign_image_is_refused(
    root: Path, docker: Engine, trained: catalog.JobSpec
) -> None:
    write_page(root, "FROM somewhere/else\n")
    with pytest.raises(build.BuildFailed, match="wanted a line ARG BASE=slipway/demo"):
        build.build_page(docker, root, trained)  # type: ignore[arg-type]


def test_a_jobs_own_page_is_no_part_of_its_image(root: Path) -> None:
    spec = catalog.find_job(root, "example")
    before = sources.job_source(root, spec, "base")
    context = sources.job_context(spec, {})
    write_page(root, "ARG BASE=slipway/demo\nFROM ${BASE}\n")
    assert before == sources.job_source(root, spec, "base")
    assert context == sources.job_context(spec, {})


def test_a_service_is_built_again_when_its_folder_changes(root: Path, docker: Engine) -> None:
    for name in sources.SERVICES:
        (root / "images" / name).mkdir(exist_ok=True)
        (root / "images" / name / "Dockerfile").write_text("FROM debian")
    services.build_services(root)
    services.build_services(root)
    (root / "images" / "postgres" / "Dockerfile").write_text("FROM debian:new")
    services.build_services(root)
    assert docker.built() == [
        "slipway/build", "slipway/service", "slipway/demo", "slipway/mlflow",
        "slipway/postgres", "slipway/prometheus", "slipway/postgres",
    ]  # fmt: skip


def test_up_builds_and_becomes_compose_with_the_prefix_of_the_images(
    root: Path, docker: Engine, trained: catalog.JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}

    def execvpe(program: str, command: list[str], environ: dict[str, str]) -> None:
        called.update(command=command, environ=environ, folder=Path.cwd())

    monkeypatch.setenv("SLIPWAY_IMAGES", "registry.test/team")
    monkeypatch.setattr(os, "execvpe", execvpe)
    monkeypatch.setattr(services, "compose_command", lambda: ["compose"])
    services.up(root, trained, ["--detach"])
    assert "registry.test/team/example" in docker.built()
    assert called["command"] == ["compose", "up", "--detach"]
    assert called["folder"] == root
    assert called["environ"]["JOB"] == "example"
    assert called["environ"]["SLIPWAY_IMAGES"] == "registry.test/team"


def test_up_without_a_model_says_how_to_get_one(root: Path, docker: Engine) -> None:
    with pytest.raises(SlipwayError, match="first: make run JOB=example"):
        services.up(root, catalog.find_job(root, "example"), [])
    assert docker.built() == []


def test_a_machine_without_compose_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlipwayError, match="compose is not installed"):
        services.compose_command()


def test_a_container_joins_the_network_that_is_named(
    root: Path, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.host import container

    monkeypatch.setenv("SLIPWAY_NETWORK", "slipway")
    spec = catalog.find_job(root, "example")
    image = docker.get(build.DEBIAN)
    client: Any = docker
    container.create(client, image, spec, container.Place(), [])
    container.create(client, image, spec, container.Place(), [], network_mode="none")
    given = [made.options.get("network") for made in docker.created]
    assert given == ["slipway", None]
