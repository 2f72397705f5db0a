"""One job's image at a time, in containers as strict as the contract allows.

Every container has a read-only root without tmpfs, no capabilities, no new privileges and, unless
it serves, no network. It is removed with its volumes whatever happens. Jobs run on their samples,
in seconds; what they reach on real data is for tests/accept to say.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build
from slipway.spec import JobSpec
from tests.running import PATIENCE, wait_until

DONE = (0, 3)  # whether the sample's bars are reached is for test_job.py to say
ANYBODY = "12345:12345"
FIXED = {"enum", "const", "pattern", "contentEncoding"}  # a text that a number behind it spoils
NUMBER = itertools.count(1)


@dataclass(frozen=True)
class Ended:
    """What a container left: its exit code and its two streams."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Server:
    """A serving container and where it listens."""

    container: Any
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, str]:
        """Return status, headers and text of a GET, or of a POST where there is a body."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        request = urllib.request.Request(f"{self.url}{path}", body, named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    def score(self, body: Any) -> tuple[int, Any]:
        """Post rows as JSON and return status and answer."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        code, _, text = self.ask("/score", sent, Content_Type="application/json")
        return code, json.loads(text)

    def status(self, path: str) -> int:
        """Return the status of a GET, 0 where the port does not answer yet."""
        try:
            return self.ask(path)[0]
        except OSError:
            return 0

    def log(self) -> str:
        return self.container.logs().decode()


@dataclass(frozen=True)
class Subject:
    """The image under test and what its containers see of this machine."""

    client: Any
    image: Any
    spec: JobSpec

    @contextmanager
    def started(self, *arguments: str, out: Path | None = None, **more: Any) -> Iterator[Any]:
        """Give a running container; ``mounts`` maps a folder to (path inside, mode)."""
        mounts = dict(more.pop("mounts", {}))
        environ = {"SLIPWAY_IMAGE": f"{self.image.tags[0]}@{self.image.id}"}
        if out:
            mounts[out] = ("/artifacts", "rw")
        options = {
            "name": f"slipway-test-{self.spec.name}-{os.getpid()}-{next(NUMBER)}",
            "environment": environ | more.pop("environ", {}),
            "volumes": [f"{path}:{inside}:{mode}" for path, (inside, mode) in mounts.items()],
            "user": "1000:0",
            "network_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
        }
        container = self.client.containers.create(
            self.image.id, list(arguments), **(options | more)
        )
        try:
            container.start()
            yield container
        finally:
            container.remove(force=True, v=True)

    def run(self, *arguments: str, **more: Any) -> Ended:
        """Run a container to its end."""
        with self.started(*arguments, **more) as container:
            return ended(container)

    @contextmanager
    def serving(self, out: Path | None, *arguments: str, **more: Any) -> Iterator[Server]:
        """Give a server whose port answers; its model may not be ready yet."""
        inside = f"{more.pop('port', 8080)}/tcp"
        options = {"network_mode": "bridge", "ports": {inside: ("127.0.0.1", None)}} | more
        with self.started("serve", *arguments, out=out, **options) as container:
            container.reload()
            found = container.ports[inside][0]
            yield Server(container, found["HostIp"], int(found["HostPort"]))


def ended(container: Any) -> Ended:
    """Wait for a container and read what it left."""
    code = container.wait(timeout=PATIENCE * 5)["StatusCode"]
    out, err = (
        container.logs(stdout=stream == "out", stderr=stream == "err").decode()
        for stream in ("out", "err")
    )
    return Ended(code, out, err)


def pytest_configure() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that a run that is cut short removes its containers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what stands in this folder, and nothing of another."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def subject(folder: Path, root: Path, client: Any) -> Subject:
    """The image of the job, built where it is absent or stale."""
    spec = JobSpec.read(folder)
    return Subject(client, build.build_job(client, root, spec), spec)


@pytest.fixture(scope="session")
def make_folder(
    tmp_path_factory: pytest.TempPathFactory, subject: Subject
) -> Iterator[Callable[..., Path]]:
    """Return a function that makes a folder any uid may write to, with a copy of another in it."""
    made: list[Path] = []

    def make(source: Path | None = None) -> Path:
        path = tmp_path_factory.mktemp("artifacts")
        made.append(path)
        if source:
            shutil.copytree(source, path, dirs_exist_ok=True)
        for entry in (path, *path.rglob("*")):
            entry.chmod(0o777 if entry.is_dir() else 0o666)
        return path

    yield make
    if os.getuid():  # what another uid wrote can only be removed from inside
        code = "import shutil, sys; [shutil.rmtree(p, True) for p in sys.argv[1:]]"
        mounts = {path: (f"/made/{number}", "rw") for number, path in enumerate(made)}
        inside = [place for place, _ in mounts.values()]
        entry = ["/opt/venv/bin/python", "-c", code]
        subject.run(*inside, entrypoint=entry, user="0", mounts=mounts, cap_drop=[])


@pytest.fixture
def out(make_folder: Callable[..., Path]) -> Path:
    """An empty folder for artifacts."""
    return make_folder()


@pytest.fixture(scope="session")
def finished(subject: Subject, make_folder: Callable[..., Path]) -> tuple[Path, Ended]:
    """The artifacts of one whole run by a user whom no image knows, and how it ended."""
    place = make_folder()
    run = subject.run("run", "--seed", "0", out=place, user=ANYBODY)
    assert run.code in DONE, run.err
    return place, run


@pytest.fixture(scope="session")
def trained(finished: tuple[Path, Ended]) -> Path:
    """The artifacts of one whole run; a test that writes takes a copy."""
    return finished[0]


@pytest.fixture(scope="session")
def described(subject: Subject) -> dict[str, Any]:
    """What ``show`` prints."""
    return json.loads(subject.run("show").out)


@pytest.fixture(scope="session")
def rows(subject: Subject, trained: Path) -> list[dict[str, Any]]:
    """Thirty valid rows for the model of `trained`, made of its schema's examples.

    Free text differs from row to row.
    """
    shown = subject.run("show", "--model", "/artifacts/model", out=trained).out
    fields = json.loads(shown)["input"]["properties"].items()

    def value(entry: dict[str, Any], number: int) -> Any:
        free = entry.get("type") == "string" and not FIXED & set(entry)
        return f"{entry['examples'][0]} {number}" if free else entry["examples"][0]

    known = {name: entry for name, entry in fields if "examples" in entry}
    return [{name: value(entry, n) for name, entry in known.items()} for n in range(30)]


@pytest.fixture(scope="session")
def wrong(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row whose first field has a value of no type."""
    return rows[0] | {next(iter(rows[0])): {"no": "value"}}


@pytest.fixture(scope="session")
def warmed(
    subject: Subject, trained: Path, make_folder: Callable[..., Path]
) -> Iterator[tuple[Server, list[int]]]:
    """A server with a warm model, and what it said of its readiness until then."""
    seen: list[int] = []

    def poll() -> bool:
        seen.append(found.status("/readyz"))
        return seen[-1] == 200

    with subject.serving(make_folder(trained)) as found:
        wait_until(poll, pause=0.005)
        yield found, seen


@pytest.fixture(scope="session")
def server(warmed: tuple[Server, list[int]]) -> Server:
    """A server with a warm model, shared by the tests that only ask."""
    return warmed[0]


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def leave() -> Callable[[Any], Ended]:
    return ended


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Return a function: the sha256 of each file below a folder, by name."""

    def of(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    return of


@pytest.fixture(scope="session")
def write_rows() -> Callable[..., Path]:
    """Return a function that writes JSON lines; a text is a line as it stands."""

    def write(path: Path, lines: list[Any]) -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def read_rows() -> Callable[[Path], list[Any]]:
    """Return a function that reads JSON lines."""
    return lambda path: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
