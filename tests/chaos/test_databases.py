"""A job that keeps rows in a database, while its containers and the database's are killed.

A job takes part whose folder holds ``withstand.py``: what to send, what to ingest, and what may
never be found. ``--runs`` says how many kills there are of each kind of work, at random moments of
it; ``--job NAME --runs 50`` is a hundred. Every kill is SIGKILL: of the scorer's container, of one
of its processes, of the container that ingests, of the database's.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build, container, databases
from slipway.spec import JobSpec
from tests import running
from tests.chaos import disorder
from tests.running import FUSE, wait_until

PORT = 8080
CLIENTS = 6
WHOLE = "the answer is whole"
RUN = ("run", "--data", "sample", "--epochs", "1")  # how right its answers are is not asked here
FILES_A_KILL, FILES_AHEAD = 150, 1500
"""Files between two kills, about; and files that are there to be ingested when one falls."""
IN_STORE, TRIES = 60, 10


@dataclass(frozen=True)
class Stage:
    """A job with its database: what makes a container of the job, and what asks the database."""

    work: Any
    database: Any
    made: Callable[..., Any]
    gateway: str
    """The address of this machine as the job's containers see it."""

    def rows(self, query: str) -> list[str]:
        """Return the lines that the database answers with, once it answers.

        A command in a container that ends may be said to have succeeded: the last line proves it.
        """
        asked = f"{query}; SELECT '{WHOLE}'"
        command = ["psql", "-qAt", "-h", "127.0.0.1", "-U", databases.USER, "-c", asked]
        told: list[str] = []

        def answered() -> bool:
            self.database.reload()
            if self.database.status != "running":
                return False
            _, output = self.database.exec_run(command, environment={"PGPASSWORD": "slipway"})
            told[:] = output.decode().splitlines()
            return told[-1:] == [WHOLE]

        wait_until(answered, what="the database answers")
        return told[:-1]

    def check(self) -> None:
        """Assert that nothing is there which may never be."""
        counts = ", ".join(f"({query})" for query in self.work.WRONG.values())
        (line,) = self.rows(f"SELECT {counts}")
        found = dict(zip(self.work.WRONG, line.split("|"), strict=True))
        assert found == dict.fromkeys(found, "0")

    def kill_database(self) -> None:
        self.database.kill()
        self.database.start()


@pytest.fixture(scope="module")
def kills(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--runs"))


@pytest.fixture(scope="module")
def trained(folder: Path, root: Path, client: Any, tmp_path_factory: Any) -> tuple[JobSpec, Path]:
    """A job that brings a ``withstand.py``, and the artifacts of its run on the sample."""
    if not (folder / "withstand.py").is_file():
        pytest.skip(f"{folder.name} has no withstand.py")
    spec, out = JobSpec.read(folder), tmp_path_factory.mktemp(folder.name)
    running.run_verb(client, root, spec, out, RUN, allowed=(0, 3))
    return spec, out


@pytest.fixture
def stage(
    trained: tuple[JobSpec, Path], root: Path, client: Any, tmp_path: Path
) -> Iterator[Stage]:
    """The job beside an empty database."""
    spec, out = trained
    work = importlib.import_module(f"jobs.{spec.name}.withstand")
    image = build.build_job(client, root, spec)
    with contextlib.ExitStack() as stack:
        beside = stack.enter_context(
            databases.beside(client, root, spec, [work.DATABASE], keep=False)
        )
        environ = {databases.URL: beside.urls[work.DATABASE]}

        def made(*arguments: str, more: Mapping[str, str] | None = None, **mounts: Path) -> Any:
            paths = {path: (f"/{name}", "ro") for name, path in mounts.items()}
            place = container.Place({out: ("/artifacts", "rw")} | paths, environ | (more or {}))
            found = container.create(client, image, spec, place, arguments, **beside.options)
            stack.callback(found.remove, force=True, v=True)
            found.start()
            return found

        database = client.containers.get(f"{beside.network}-{work.DATABASE}")
        yield Stage(work, database, made, running.gateway(client, beside.network))


@dataclass
class Clients:
    """Clients that send ever new pictures, each until it is acknowledged, and note which were."""

    stage: Stage
    server: Any
    over: bool = False
    number: int = 0
    revived: int = 0
    promised: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Clients:
        self.find()
        self.threads = [threading.Thread(target=self.send) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        for thread in self.threads:
            thread.join()

    def find(self) -> None:
        """Learn where the server listens: it may have another address after a start."""
        self.server.reload()
        (network,) = self.server.attrs["NetworkSettings"]["Networks"].values()
        self.host = network["IPAddress"]

    def revive(self) -> None:
        """Start a server that gave up, as a platform does: two killed workers in a row are a crash
        loop to it.
        """  # fmt: skip
        self.server.reload()
        if self.server.status == "exited":
            self.server.start()
            self.find()
            self.revived += 1

    def send(self) -> None:
        while not self.over:
            with self.lock:
                self.number += 1
                content = self.stage.work.picture(self.number)
            while not self.over and not self.acknowledged(content):
                FUSE.wait(0.02)

    def acknowledged(self, content: bytes) -> bool:
        """Send a picture; note what is promised, and tell whether anything is."""
        work = self.stage.work
        connection = http.client.HTTPConnection(self.host, PORT, timeout=20)
        with contextlib.closing(connection):
            try:
                connection.request("POST", work.SENT_TO, content, {"Content-Type": work.KIND})
                answer = connection.getresponse()
                row = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                return False
        if answer.status not in (200, 201):
            return False
        self.promised.append(work.acknowledged(row))
        return True

    def more(self, number: int) -> None:
        """Return when so many more pictures are acknowledged; if that fails, tell what was said."""
        wanted = len(self.promised) + number

        def came() -> bool:
            self.revive()
            return len(self.promised) >= wanted

        try:
            wait_until(came, pause=0.1, what=f"{number} more are acknowledged")
        except pytest.fail.Exception:
            for container in (self.server, self.stage.database):
                container.reload()
                print(f"{container.name}, {container.status}:", container.logs(tail=60).decode())
            raise


def test_no_acknowledged_upload_is_lost(stage: Stage, kills: int, figures: dict[str, str]) -> None:
    server, draw, struck = stage.made("serve"), random.Random(0), Counter[str]()
    with Clients(stage, server) as clients:

        def kill_container() -> None:
            server.kill()
            server.start()
            clients.find()

        def kill_process() -> None:
            server.reload()
            first = str(server.attrs["State"]["Pid"])  # without it there is no container
            numbers = [number for (number,) in server.top(ps_args="-eo pid")["Processes"]]
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(draw.choice(sorted(set(numbers) - {first}))), signal.SIGKILL)

        blows = [kill_container, kill_process, stage.kill_database]
        clients.more(1)
        for number in range(kills):
            clients.more(draw.randrange(1, 60))
            FUSE.wait(draw.random() * 0.2)
            blow = blows[number] if number < len(blows) else draw.choice(blows)
            blow()
            struck[blow.__name__] += 1
            promised = list(clients.promised)
            assert set(promised) <= set(stage.rows(stage.work.KEPT))
            clients.more(1)
            print(f"{number + 1} {blow.__name__}: {len(promised)} acknowledged, all there")
    assert len(clients.promised) == len(set(clients.promised))
    assert set(clients.promised) <= set(stage.rows(stage.work.KEPT))
    stage.check()
    told = ", ".join(f"{name} {count}" for name, count in sorted(struck.items()))
    figures["uploads"] = (
        f"{kills} kills ({told}), {clients.revived} gave up and were started again: "
        f"{len(clients.promised)} acknowledged, 0 lost, 0 twice, 0 orphans"
    )


def laid(work: Any, place: Path, there: int, wanted: int) -> int:
    """Add pictures to a folder until there are as many as wanted; return how many there are."""
    for number in range(there, wanted):
        path = place / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(work.picture(number))
    return max(there, wanted)


def test_a_killed_ingest_goes_on(
    stage: Stage, kills: int, figures: dict[str, str], tmp_path: Path
) -> None:
    place, draw, within, files = tmp_path / "pictures", random.Random(1), 0, 0
    done = lambda: int(stage.rows(stage.work.INGESTED)[0])  # noqa: E731
    assert stage.made("migrate").wait()["StatusCode"] == 0
    seen = [0]
    for number in range(kills):
        files = laid(stage.work, place, files, seen[-1] + FILES_AHEAD)
        working = stage.made(*stage.work.INGEST, pictures=place)
        aim = seen[-1] + draw.randrange(1, FILES_A_KILL)
        wait_until(lambda aim=aim: done() >= aim, what=f"{aim} are ingested")  # type: ignore[misc]
        FUSE.wait(draw.random() * 0.05)
        if draw.random() < 0.5:
            stage.kill_database()
            FUSE.wait(draw.random())
        with contextlib.suppress(Exception):
            working.kill()
        assert working.wait()["StatusCode"] in (0, 33, 137)
        seen.append(done())
        within += 0 < seen[-1] < files
        stage.check()
        print(f"{number + 1} killed at {seen[-1]} of {files}")
    assert seen == sorted(seen)
    assert stage.made(*stage.work.INGEST, pictures=place).wait()["StatusCode"] == 0
    assert done() == files
    stage.check()
    figures["ingest"] = f"{kills} kills, {within} of them between the first commit and the last: " \
        f"{files} files, each there once, 0 orphans"  # fmt: skip


@pytest.mark.parametrize("steady", [True, False], ids=["steady", "unreliable"])
def test_pictures_of_a_store_are_ingested(stage: Stage, steady: bool) -> None:
    with (
        disorder.store(random.Random(0), stage.gateway) as (address, cut_off),
        disorder.bucket(address, "bucket") as s3,
    ):
        for number in range(IN_STORE):
            key = f"some/pictures/train/{number % 10}/{number}.png"
            s3.put_object(Bucket="bucket", Key=key, Body=stage.work.picture(number))
        more = disorder.KEYS | {"AWS_ENDPOINT_URL": address if steady else cut_off}
        codes = []
        while 0 not in codes and len(codes) < TRIES:
            working = stage.made("ingest", "--source", "s3://bucket/some/pictures", more=more)
            codes.append(working.wait()["StatusCode"])
    assert codes[-1] == 0
    assert set(codes[:-1]) <= {33}
    assert stage.rows(stage.work.INGESTED) == [str(IN_STORE)]
    stage.check()
