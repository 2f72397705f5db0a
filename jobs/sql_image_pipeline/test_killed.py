"""kill -9 at random moments, of the ingest and of the service: nothing acknowledged is lost.

``KILLS`` says how often (2 by default); ``RESTART`` is a command that kills and restarts the
database server, for a machine that has one to kill. After each kill the same work is done again.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from jobs.sql_image_pipeline import database
from jobs.sql_image_pipeline.conftest import noise, rows_of
from jobs.sql_image_pipeline.job import job
from jobs.sql_image_pipeline.test_database import is_whole

KILLS = int(os.environ.get("KILLS", "2"))
RESTART = os.environ.get("RESTART", "")
CLIENTS = 6
PATIENCE = 120
WINDOW_SECONDS = 1.5
"""A kill comes so long after the first file at most; an ingest of 4,000 takes about as long."""


def started(out, *arguments, stderr=subprocess.DEVNULL):
    """Start a verb of the job as a process group of its own, over the same database."""
    environ = os.environ | {
        "SLIPWAY_JOB": str(job.spec.folder),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "slipway", *arguments, f"--out={out}"]
    return subprocess.Popen(command, env=environ, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=stderr)  # fmt: skip


def killed(process):
    """Kill a process and all that it started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def restarted():
    """Kill the database server and start it again."""
    subprocess.run(RESTART, shell=True, check=True, capture_output=True)


def test_a_killed_ingest_goes_on_and_leaves_no_half_picture(engine, out, tmp_path):
    place = tmp_path / "pictures"
    count = 4000
    for number in range(count):
        path = place / f"{number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(number))
    draw = random.Random(0)
    seen = []
    for _ in range(KILLS):
        process = started(out, "ingest", "--source", str(place), stderr=subprocess.PIPE)
        for line in process.stderr:
            if b"ingest pictures" in line:  # the first file is read now
                break
        threading.Event().wait(draw.random() * WINDOW_SECONDS)
        if RESTART and draw.random() < 0.5:
            restarted()
        killed(process)
        process.stderr.close()
        seen.append(rows_of(engine, "SELECT COUNT(*) FROM images")[0][0])
        is_whole(engine)
    assert seen == sorted(seen)
    assert started(out, "ingest", "--source", str(place)).wait(PATIENCE) == 0
    assert rows_of(engine, "SELECT COUNT(*) FROM images") == [(count,)]
    is_whole(engine)
    print(f"{KILLS} kills, {seen} pictures after each, {count} in the end")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Clients:
    """Clients that send ever new pictures and note each that was acknowledged."""

    def __init__(self, port, start):
        self.port, self.over, self.next = port, False, start
        self.acknowledged = {}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.send) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def send(self):
        while not self.over:
            with self.lock:
                self.next += 1
                number = self.next
            content = noise(number)
            while not self.over:  # until it is acknowledged, as a careful client does
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    if self.told(content):
                        break
                threading.Event().wait(0.02)

    def told(self, content):
        """Send a picture and note its row; tell whether it was acknowledged."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/images", content, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            row = json.loads(answer.read())
        if answer.status in (200, 201):
            self.acknowledged[row["id"]] = row["sha256"]
        return answer.status in (200, 201)

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()


def test_a_killed_service_loses_no_acknowledged_row(engine, out, trained):
    import shutil

    shutil.copytree(trained / "model", out / "model")
    port, draw, acknowledged = free_port(), random.Random(1), {}
    process = started(out, "serve", "--port", str(port), "--host=127.0.0.1", "--workers=2")
    start = 1_000_000
    for _ in range(KILLS):
        clients = Clients(port, start)
        end = time.monotonic() + PATIENCE
        enough = draw.randrange(1, 60)
        while len(clients.acknowledged) < enough:
            assert time.monotonic() < end, "the service does not come up"
            threading.Event().wait(0.005)
        threading.Event().wait(draw.random() * 0.2)
        if RESTART and draw.random() < 0.5:
            restarted()  # the service stays and must find its way back
            before = len(clients.acknowledged)
            while len(clients.acknowledged) == before:
                assert time.monotonic() < end, "the service does not reach the database again"
                threading.Event().wait(0.01)
        else:
            killed(process)
            arguments = ("--port", str(port), "--host=127.0.0.1", "--workers=2")
            process = started(out, "serve", *arguments)
        clients.stop()
        start = clients.next
        acknowledged |= clients.acknowledged
        kept = dict(rows_of(engine, "SELECT p.id, i.sha256 FROM predictions p"
                            " JOIN images i ON i.id = p.image_id"))  # fmt: skip
        assert acknowledged.items() <= kept.items()
    killed(process)
    assert len(set(acknowledged.values())) == len(acknowledged)
    is_whole(engine)
    database.upgrade(engine)
    print(f"{KILLS} kills, {len(acknowledged)} acknowledged uploads, none lost")
