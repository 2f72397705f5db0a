"""A checkout and a Docker engine that exist only here.

The host reaches Docker at one seam, `slipway.host.engine`: `connect` for the SDK and
`docker_command` for builds. Both are replaced; the stand-in of the docker command writes down
how it was called, and the stand-in of the engine has the images that it "built".
"""

import json
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from slipway.host import build, catalog, cli, engine, sources
from slipway.host.engines import Work
from slipway.host.new import create

REPOSITORY = Path(__file__).parents[2]
Slipway = Callable[..., tuple[int, str, str]]
MAKES = ("RUNNER", "GPU", "PORT", "JOB", "DB")
RECORDER = """#!{python} -IS
import json, sys
given = sys.argv[1:]
content = sys.stdin.buffer.read() if given[-1] == "-" else b""
with open({log!r}, "a") as log:
    log.write(json.dumps({{"given": given, "stdin": content.hex()}}) + "\\n")
sys.exit({code})
"""


class Container:
    """Answers as the SDK's container does, with what a test put into ``engine``."""

    def __init__(self, engine: "Engine", options: dict[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.signals: list[int] = []
        self.removed = False
        self.attrs = {"State": {"OOMKilled": engine.oom}, "HostConfig": {"Memory": 2**31}}

    def attach(self, **_: Any) -> Any:
        for chunk in self.engine.output:
            yield chunk() if callable(chunk) else chunk

    def start(self) -> None:
        if self.engine.refusal:
            raise APIError("refused", explanation=self.engine.refusal)

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.engine.code}

    def kill(self, signal: int) -> None:
        self.signals.append(signal)

    def reload(self) -> None:
        pass

    def remove(self, force: bool) -> None:
        self.removed = force


class Engine:
    """Stands in for ``docker.DockerClient``."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.present = {build.DEBIAN: {}}
        self.registry = True
        self.output: list[Any] = []
        self.code, self.oom, self.refusal, self.cpus = 0, False, "", 8
        self.created: list[Container] = []
        self.images = SimpleNamespace(
            get=self.get, pull=self.pull, list=self.listed, remove=self.remove
        )
        self.containers = SimpleNamespace(create=self.create)

    def info(self) -> dict[str, int]:
        return {"NCPU": self.cpus}

    def builds(self) -> list[dict[str, Any]]:
        """Return the calls of ``docker build``, each with its name, labels and arguments."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [self._read(json.loads(line)) for line in lines]

    def built(self) -> list[str]:
        return [call["name"] for call in self.builds()]

    def _read(self, call: dict[str, Any]) -> dict[str, Any]:
        given = call["given"]
        pairs = list(pairwise(given))
        labels = dict(text.split("=", 1) for flag, text in pairs if flag == "--label")
        name = next(text for flag, text in pairs if flag == "--tag")
        return {"name": name, "labels": labels, "given": given, "stdin": call["stdin"]}

    def get(self, name: str) -> Any:
        found = self.present | {call["name"]: call["labels"] for call in self.builds()}
        if name not in found:
            raise ImageNotFound(name)
        return self._image(name, found[name])

    def _image(self, name: str, labels: dict[str, str]) -> Any:
        tag = name if ":" in name else f"{name}:latest"
        size = {"attrs": {"Size": 700 * 10**6}, "tags": [tag]}
        return SimpleNamespace(id=f"sha256:{name}", labels=labels, **size)

    def pull(self, name: str) -> None:
        if not self.registry:
            raise APIError("no", explanation="no such host")
        self.present[name] = {}

    def listed(self, filters: dict[str, str]) -> list[Any]:
        calls = {call["name"]: call["labels"] for call in self.builds()}
        return [self._image(name, labels) for name, labels in calls.items()]

    def remove(self, name: str) -> None:
        self.present.pop(name, None)

    def create(self, image: Any, arguments: list[str] | None = None, **options: Any) -> Container:
        self.created.append(Container(self, {"image": image, "arguments": arguments, **options}))
        return self.created[-1]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout with one job, ``example``, and the files images are made from."""
    for name in ("SLIPWAY_IMAGES", "SLIPWAY_MIRROR", "SLIPWAY_CA", "SLIPWAY_NETWORK", *MAKES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIPWAY_DATA", str(tmp_path / "cache"))
    folder = tmp_path / "checkout"
    tables = (*sources.PARTS.values(), *sources.SERVICES.values())
    for part in {part for parts in tables for part in parts}:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text(part)
    (folder / "images" / "pytest.txt").write_text("pytest")
    (folder / "images" / "test.Dockerfile").write_text("ARG IMAGE")
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=left_out)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    create(folder, "example", "base")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def slipway(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Slipway:
    """Return a function that runs the command line and gives exit code, stdout and stderr."""
    monkeypatch.setattr(catalog, "project_root", lambda: root)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slipway", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[..., Work]:
    """Return a function that makes the work of a batch from one address of a store to another."""

    def make(source: str = "s3://bucket/rows.jsonl", **more: Any) -> Work:
        usual = {
            "name": "slipway-example-1234567890",
            "image": "registry.example/slipway/example:1",
            "arguments": ("score", source, "s3://bucket/parts"),
            "environ": {"AWS_SECRET_ACCESS_KEY": "open-sesame"},
            "logs": tmp_path,
        }
        return Work(**(usual | more))

    return make


@pytest.fixture
def docker(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Return an engine that answers, and let builds go to it."""
    log = tmp_path / "builds.jsonl"
    found = Engine(log)
    put_docker_command(monkeypatch, tmp_path, log)
    monkeypatch.setattr(engine, "connect", lambda: found)
    return found


@pytest.fixture
def no_docker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no engine answer."""

    def connect() -> None:
        raise engine.EngineAbsent("no Docker engine answers at /nowhere (No such file)")

    monkeypatch.setattr(engine, "connect", connect)


def put_docker_command(
    monkeypatch: pytest.MonkeyPatch, folder: Path, log: Path, code: int = 0
) -> None:
    """Make builds run a command that only notes how it was called."""
    command = folder / "docker"
    command.write_text(RECORDER.format(python=sys.executable, log=str(log), code=code))
    command.chmod(0o755)
    monkeypatch.setattr(build, "docker_command", lambda: str(command))
