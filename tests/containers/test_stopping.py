"""SIGTERM in training and under load; shards, and a rerun of what was finished."""

import http.client
import json
import re
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

PROGRESS = re.compile(r"^[^:\n]+: \d+( of \d+)?$", re.MULTILINE)
CLIENTS = 16
LOADED_SECONDS = 2
LEAVE_SECONDS = 25
TOO_SOON = 2


def test_training_stopped_and_resumed_ends_in_the_same_model(
    subject, trained, make_folder, digests, wait_for, leave, figures
):
    out = make_folder(trained)
    shutil.rmtree(out / "model")
    with subject.started("train", "--seed", "0", out=out) as container:
        wait_for(lambda: progressed(container) or gone(container))
        asked = time.monotonic()
        if not gone(container):
            container.kill("SIGTERM")
        stopped = leave(container)
        took = time.monotonic() - asked
    if stopped.code == 0 and took < TOO_SOON:
        pytest.skip("train ends on the sample as soon as it tells of progress: nothing to resume")
    assert stopped.code == 143, stopped.err
    assert took < LEAVE_SECONDS + 5
    assert "Traceback" not in stopped.err
    assert list((out / "checkpoints").iterdir())
    again = subject.run("train", "--seed", "0", out=out)
    assert again.code == 0, again.err
    assert "resuming train" in again.err
    found, wanted = digests(out / "model"), digests(trained / "model")
    assert found == {name: wanted[name] for name in wanted if not name.startswith("export")}
    figures[f"{subject.spec.name} train after SIGTERM"] = f"left in {took:.1f} s and resumed"


def progressed(container):
    return PROGRESS.search(container.logs(stdout=False, stderr=True).decode())


def gone(container):
    container.reload()
    return container.status == "exited"


@dataclass
class Load:
    """Clients that keep their connection and open no new one when the balancer says so."""

    server: object
    body: bytes
    ready: bool = True
    over: bool = False
    statuses: Counter = field(default_factory=Counter)
    lost: list = field(default_factory=list)

    def balance(self):
        while not self.over:
            self.ready = self.server.status("/readyz") == 200
            threading.Event().wait(0.1)

    def ask(self):
        connection = None
        while not self.over and (connection or self.ready):
            connection = connection or http.client.HTTPConnection(
                self.server.host, self.server.port, timeout=30
            )
            connection = self.exchange(connection)

    def exchange(self, connection):
        """Send one request; return the connection while it may be used again."""
        try:
            connection.request("POST", "/score", self.body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
            connection.close()
            return None
        self.statuses[answer.status] += 1
        if answer.will_close:
            connection.close()
            return None
        return connection


def test_no_answer_is_lost_when_a_loaded_server_is_stopped(
    subject, trained, make_folder, rows, wait_for, leave, figures
):
    with subject.serving(make_folder(trained)) as server:
        wait_for(lambda: server.status("/readyz") == 200)
        load = Load(server, json.dumps(rows[0]).encode())
        clients = [threading.Thread(target=load.ask) for _ in range(CLIENTS)]
        balancer = threading.Thread(target=load.balance)
        for thread in (balancer, *clients):
            thread.start()
        wait_for(lambda: load.statuses[200] > 100)
        threading.Event().wait(LOADED_SECONDS)
        before, asked = load.statuses[200], time.monotonic()
        server.container.kill("SIGTERM")
        stopped = leave(server.container)
        took = time.monotonic() - asked
        load.over = True
        for thread in (balancer, *clients):
            thread.join()
    figures[f"{subject.spec.name} serve after SIGTERM"] = (
        f"{load.statuses.total()} answers, {load.statuses[200] - before} of them after SIGTERM, "
        f"{len(load.lost)} lost, left in {took:.1f} s"
    )
    assert load.lost == []
    assert set(load.statuses) == {200}
    assert stopped.code == 0, stopped.err
    assert took < LEAVE_SECONDS
    assert "Traceback" not in stopped.err


@pytest.mark.once
def test_shards_together_are_the_whole(subject, trained, make_folder, rows, write_rows, read_rows):
    place = make_folder(trained)
    write_rows(place / "rows.jsonl", rows)
    whole = subject.run("score", "/artifacts/rows.jsonl", "/artifacts/whole.jsonl", out=place)
    assert whole.code == 0, whole.err
    command = ("score", "/artifacts/rows.jsonl", "/artifacts/parts")
    environ = {"JOB_COMPLETION_INDEX": "2"}  # as Kubernetes gives it
    for shard in ("0/3", "1/3", "/3"):
        part = subject.run(*command, "--shard", shard, out=place, environ=environ)
        assert part.code == 0, part.err
    parts = sorted((place / "parts").glob("part-*.jsonl"))
    found = [row for part in parts for row in read_rows(part)]
    assert len(parts) == 3
    assert read_rows(place / "whole.jsonl") == sorted(found, key=lambda row: row["line"])


@pytest.mark.once
def test_a_finished_shard_is_skipped_and_a_changed_input_is_not(
    subject, trained, make_folder, rows, write_rows
):
    place = make_folder(trained)
    write_rows(place / "rows.jsonl", rows)
    command = ("score", "/artifacts/rows.jsonl", "/artifacts/parts", "--shard", "0/3")
    assert "skipped" not in subject.run(*command, out=place).err
    before = {path.name: path.stat().st_mtime_ns for path in (place / "parts").iterdir()}
    assert "skipped" in subject.run(*command, out=place).err
    assert before == {path.name: path.stat().st_mtime_ns for path in (place / "parts").iterdir()}
    write_rows(place / "rows.jsonl", rows[1:])
    assert "skipped" not in subject.run(*command, out=place).err
