"""`make bench`: measure a job's server or its file scorer beside what users would pick instead.

All of a suite runs in one container without a network, where servers and load generator meet on
loopback, so that nothing is left behind whatever happens. Only cold starts are measured from
here, each in a new container of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.errors import SlipwayError
from slipway.host import build, container, engine
from slipway.host.run import has_model, run_job
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.images import Image

DOCS = "docs/07-bench.md"
SHARED_MEMORY = "4g"  # Ray keeps its objects there
COLD, COLD_PORT, COLD_PATIENCE = 3, 18081, 60.0
HEADERS = {"Content-Type": "application/json"}


def bench_job(
    root: Path, spec: JobSpec, suite: str, given: dict[str, Any], write_docs: bool
) -> int:
    """Measure one suite, print its tables and return an exit code; the files are in artifacts."""
    if suite == "score":
        return run_job(root, spec, ["bench", *options_of(given, ("seconds",))], None)
    client = engine.connect()
    if not has_model(root, spec):
        raise SlipwayError(f"{spec.name} has no model yet; first: make run JOB={spec.name}")
    folder = container.artifacts(root, spec) / "bench"
    folder.mkdir(exist_ok=True)
    image = build.build_bench(client, root, spec)
    (folder / "cold.json").unlink(missing_ok=True)
    if suite == "serving":
        cold = cold_starts(client, root, spec, image, given)
        (folder / "cold.json").write_text(json.dumps(cold, indent=1) + "\n", "utf-8")
    code = container.attend(driver(client, root, spec, image, [suite, *options_of(given)]))
    if code:
        return code
    click.echo((folder / f"{suite}.md").read_text("utf-8"))
    for kind in ("json", "md", "png"):
        click.echo(container.shown(folder / f"{suite}.{kind}"), err=True)
    if write_docs:
        click.echo(put_into_docs(root, suite, folder))
    return 0


def options_of(given: dict[str, Any], names: Sequence[str] = ()) -> list[str]:
    """Return the options that were given as arguments, all of them or those named."""
    found = []
    for name, value in given.items():
        if value is not None and (not names or name in names):
            values = value if isinstance(value, tuple) else (value,)
            found += [f"--{name}={entry}" for entry in values]
    return found


def driver(
    client: DockerClient, root: Path, spec: JobSpec, image: Image, arguments: Sequence[str]
) -> Container:
    """Create the container that measures: its servers and its clients meet on loopback."""
    return client.containers.create(
        image,
        list(arguments),
        volumes=_volumes(root, spec),
        user=f"{os.getuid()}:{os.getgid()}",
        network_mode="none",
        hostname="localhost",  # Java looks its own name up, and here nobody knows another
        shm_size=SHARED_MEMORY,
        init=True,
        tty=False,
    )


def _volumes(root: Path, spec: JobSpec) -> list[str]:
    return [f"{container.artifacts(root, spec)}:/artifacts:rw", f"{root / 'bench'}:/srv/bench:ro"]


def cold_starts(
    client: DockerClient, root: Path, spec: JobSpec, image: Image, given: dict[str, Any]
) -> list[dict[str, Any]]:
    """Start every server some times, each in a new container; return seconds by phase."""
    repeats = min(given["repeats"] or COLD, COLD)
    asked = ["contestants", f"--port={COLD_PORT}", *options_of(given, ("only",))]
    entries = json.loads(_output(driver(client, root, spec, image, asked)))
    ours = client.images.get(build.image_name(spec.name))
    marks = container.artifacts(root, spec) / "bench" / "marks.txt"
    found: list[dict[str, Any]] = []
    given_up: set[str] = set()
    for repeat in range(repeats):
        for entry in entries:
            if entry["name"] in given_up:
                continue
            click.echo(f"cold start {repeat + 1}/{repeats}  {entry['title']}", err=True)
            marks.unlink(missing_ok=True)
            started = ours if entry["ours"] else image
            with _server(client, root, spec, started, entry) as made:
                phases = _phases(made, entry, marks)
            if phases is None:
                given_up.add(entry["name"])
                click.echo(f"{entry['title']}: no answer after {COLD_PATIENCE:g} s", err=True)
                continue
            found.append({"contestant": entry["name"], "phase": "cold", "repeat": repeat, **phases})
    marks.unlink(missing_ok=True)
    return found


def _output(made: Container) -> bytes:
    """Run a container to its end and return what it printed."""
    try:
        made.start()
        if made.wait()["StatusCode"]:
            raise SlipwayError(f"bench: {made.logs(stdout=False).decode()[-500:]}")
        return bytes(made.logs(stdout=True, stderr=False))
    finally:
        made.remove(force=True)


@contextmanager
def _server(
    client: DockerClient, root: Path, spec: JobSpec, image: Image, entry: dict[str, Any]
) -> Iterator[Container]:
    """Create, and at the end remove, the container of one server on the machine's loopback."""
    made = client.containers.create(
        image,
        entry["command"][1:],
        entrypoint=entry["command"][:1],
        volumes=_volumes(root, spec),
        environment={**entry["environ"], "BENCH_MARKS": "/artifacts/bench/marks.txt"},
        user=f"{os.getuid()}:{os.getgid()}",
        network_mode="host",
        shm_size=SHARED_MEMORY,
        init=True,
    )
    try:
        yield made
    finally:
        made.remove(force=True)


def _phases(made: Container, entry: dict[str, Any], marks: Path) -> dict[str, float] | None:
    """Start a server and return the seconds of each phase until its first answer, or None."""
    began = time.time()
    made.start()
    alive = 0.0
    while time.time() - began < COLD_PATIENCE:
        if entry["ready"] and not alive and _get("/livez") == 200:
            alive = time.time()
        if entry["ready"] and alive and "loaded" not in (seen := _marks(marks)):
            _note_ready(entry, marks, alive, seen)
        if _post(entry["path"], entry["body"]) == 200:
            return split(began, _started(made), time.time(), _marks(marks))
        time.sleep(0.005)
    return None


def _note_ready(entry: dict[str, Any], marks: Path, alive: float, seen: dict[str, float]) -> None:
    """Mark for our server, which needs no program of ours inside, what rivals mark themselves."""
    lines = [] if "imported" in seen else [f"imported {alive:.6f}"]
    if _get(entry["ready"]) == 200:
        lines.append(f"loaded {time.time():.6f}")
    with marks.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def _started(made: Container) -> float:
    """Return when the engine says that the process began; it tells nanoseconds."""
    made.reload()
    text = str(made.attrs["State"]["StartedAt"])
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00").timestamp()


def _marks(path: Path) -> dict[str, float]:
    """Return the first time of each mark: of several workers the quickest."""
    found: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            name, _, moment = line.partition(" ")
            found[name] = min(float(moment), found.get(name, float("inf")))
    return found


def split(
    began: float, started: float, answered: float, marks: dict[str, float]
) -> dict[str, float]:
    """Return the seconds of the phases; a phase without a mark counts to the one after it."""
    found = {"container": started - began}
    at = started
    for phase, mark in (("import", "imported"), ("load", "loaded")):
        if mark in marks:
            found[phase] = max(0.0, min(marks[mark], answered) - at)
            at = max(at, min(marks[mark], answered))
    return {**found, "answer": answered - at, "total": answered - began}


def _get(path: str) -> int:
    return _status("GET", path, None)


def _post(path: str, body: str) -> int:
    return _status("POST", path, body.encode())


def _status(method: str, path: str, body: bytes | None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", COLD_PORT, timeout=5)
    try:
        connection.request(method, path, body, HEADERS)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def put_into_docs(root: Path, suite: str, folder: Path) -> Path:
    """Put a suite's tables between its two markers in the docs, its picture beside them."""
    path = root / DOCS
    opening, closing = f"<!-- {suite}: made by `make bench` -->", f"<!-- /{suite} -->"
    before, found, rest = path.read_text("utf-8").partition(opening)
    _, ended, after = rest.partition(closing)
    if not (found and ended):
        raise SlipwayError(f"{path}: wanted the lines {opening} and {closing}")
    tables = (folder / f"{suite}.md").read_text("utf-8")
    picture = f"![{suite}](pictures/bench-{suite}.png)"
    path.write_text(f"{before}{opening}\n{tables}\n{picture}\n{closing}{after}", "utf-8")
    (root / "docs" / "pictures" / f"bench-{suite}.png").write_bytes(
        (folder / f"{suite}.png").read_bytes()
    )
    return path
