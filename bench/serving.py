"""Measure servers one after the other, again and again: `make bench JOB=NAME`.

In each repeat every contestant is started anew, its answers are compared with the model's own,
and it is measured with 1, 4 and 32 connections that wait for their answers, then at two rates
that do not wait. The order moves on by one each time.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestants import Contestant, answer_of

PORT, PATIENCE, PARITY = 18080, 60.0, 1e-6
CONNECTIONS = (1, 4, 32)
WARM_UP = 1.0
AGAIN = 2  # a server with an idle worker at 32 connections is measured again so often, at most
IDLE_WORKER = 0.65  # of all cores: below it, one of two workers had next to nothing
SCRATCH = Path("/tmp/bench")


class Failed(Exception):
    """A contestant cannot be measured; the message says why."""


@dataclass
class Plan:
    """What a run of the suite measures."""

    contestants: list[Contestant]
    repeats: int
    seconds: float
    workers: int


def prepare(python: str = sys.executable) -> dict[str, Any]:
    """Return held-out rows with the model's answers, made in a process of its own."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    path = SCRATCH / "rows.json"
    subprocess.run([python, "-m", "bench.rows", "bodies", str(path)], check=True)
    return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]


def write_bodies(contestant: Contestant, rows: list[Any]) -> Path:
    """Write one request body a line and return the file."""
    path = SCRATCH / f"{contestant.name}.bodies"
    path.write_text("\n".join(map(contestant.body, rows)) + "\n", "utf-8")
    return path


@contextmanager
def server(contestant: Contestant, workers: int, body: str) -> Iterator[tuple[float, Any]]:
    """Start a server and give the seconds to its first answer, and that answer; stop it after."""
    log = SCRATCH / f"{contestant.name}.log"
    environ = {**os.environ, **contestant.environ}
    with log.open("wb") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            contestant.started(PORT, workers), stdout=output, stderr=output, env=environ,
            start_new_session=True,
        )  # fmt: skip
        try:
            answer = first_answer(contestant, process, body, log)
            yield time.perf_counter() - began, answer
        finally:
            stop(process)


def first_answer(contestant: Contestant, process: Any, body: str, log: Path) -> Any:
    """Ask until the server answers 200; raise Failed with the end of its log."""
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end and process.poll() is None:
        status, content = ask(contestant, PORT, body)
        if status == 200:
            return json.loads(content)
        time.sleep(0.01)
    told = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
    raise Failed(f"no answer within {PATIENCE:.0f} s: {' | '.join(told)[-400:]}")


def until_ready(contestant: Contestant) -> None:
    """Wait until a server says that all its workers are ready: the first to answer is one."""
    end = time.perf_counter() + PATIENCE
    url = f"http://127.0.0.1:{PORT}{contestant.ready}"
    while contestant.ready:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except OSError as error:
            if time.perf_counter() > end:
                raise Failed(f"{contestant.ready}: {error}") from None
        time.sleep(0.01)


def ask(contestant: Contestant, port: int, body: str) -> tuple[int, bytes]:
    """Post one body; 0 where nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(
            "POST", contestant.path, body.encode(), {"Content-Type": "application/json"}
        )
        found = connection.getresponse()
        return found.status, found.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a server and all it started: nothing is to be saved, and the next one must be alone."""
    end = time.monotonic() + 5
    while (left := [pid for pid in machine.others() if _alive(pid)]) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.02)
    process.wait()


def _alive(pid: int) -> bool:
    try:
        return machine.PROC.joinpath(str(pid), "stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def same_work(contestant: Contestant, rows: list[Any], answers: list[Any]) -> None:
    """Raise Failed unless the server's answers are the model's."""
    if not contestant.answers:
        return
    for row, wanted in zip(rows, answers, strict=False):
        status, content = ask(contestant, PORT, contestant.body(row))
        if status != 200:
            raise Failed(f"answered {status}: {content[:200]!r}")
        found = answer_of(json.loads(content))
        if not alike(found, wanted):
            raise Failed(f"answered {found}; wanted {wanted}")


def alike(found: Any, wanted: Any) -> bool:
    """Compare two answers; numbers may differ by what another arithmetic does."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(alike(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(alike, found, wanted))
    if isinstance(wanted, float):
        return bool(abs(found - wanted) <= PARITY * max(1.0, abs(wanted)))
    return bool(found == wanted)


def closed(contestant: Contestant, bodies: Path, connections: int, seconds: float) -> Any:
    """Measure with wrk: each connection sends when it has its answer."""
    command = ["wrk", "-t", str(min(2, connections)), "-c", str(connections),
               "-d", f"{max(1, round(seconds))}s", "--timeout", "5s",
               "-s", str(Path(__file__).with_name("wrk.lua")),
               f"http://127.0.0.1:{PORT}{contestant.path}"]  # fmt: skip
    before = machine.read(machine.GENERATORS)
    done = subprocess.run(
        command, env={**os.environ, "BENCH_BODIES": str(bodies)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    used = machine.between(before, machine.read(machine.GENERATORS))
    if done.returncode:
        raise Failed(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    return closed_figures(done.stdout, used)


def closed_figures(printed: str, used: dict[str, float]) -> dict[str, float]:
    """Return the figures of wrk.lua's line, with the CPU time of each request."""
    found = json.loads(printed.strip().splitlines()[-1])
    wrong = found["bad_status"] + found["broken"] + found["refused"] + found["timeouts"]
    answered = max(1, found["requests"])
    return {
        "rps": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "success": max(0.0, 1 - wrong / answered),
        "cpu_us": used["cpu"] / answered * 1e6,
        "cores": used["cores"],
        "foreign": used["foreign"],
    }


def open_loop(path: str, bodies: Path, rate: float, seconds: float, *more: str) -> Any:
    """Measure at a constant rate."""
    command = [sys.executable, "-m", "bench.openloop", "--port", str(PORT), "--path", path,
               "--bodies", str(bodies), "--rate", f"{rate:.2f}", "--seconds", f"{seconds:.2f}",
               *more]  # fmt: skip
    before = machine.read(machine.GENERATORS)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = machine.between(before, machine.read(machine.GENERATORS))
    if done.returncode:
        raise Failed(f"open loop: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout)
    answered = max(1, sum(found["ended"].values()))
    spent = {"cpu_us": used["cpu"] / answered * 1e6, "cores": used["cores"]}
    return {"rate": rate, **found, **spent, "foreign": used["foreign"]}


def measure(
    contestant: Contestant, plan: Plan, work: dict[str, Any], common: float
) -> list[dict[str, Any]]:
    """Return the figures of one start of one contestant, a row for each phase."""
    bodies = write_bodies(contestant, work["rows"])
    found: list[dict[str, Any]] = []

    def note(phase: str, figures: dict[str, Any]) -> None:
        found.append({"contestant": contestant.name, "phase": phase, **figures})

    with server(contestant, plan.workers, contestant.body(work["rows"][0])) as (began, _):
        note("start", {"seconds": began})
        until_ready(contestant)
        same_work(contestant, work["rows"], work["answers"])
        closed(contestant, bodies, CONNECTIONS[-1], WARM_UP)
        note("memory", {"pss_mib": machine.memory()})
        for connections in CONNECTIONS:
            note(f"closed-{connections}", best(contestant, bodies, connections, plan))
        own = found[-1]["rps"]
        note("open-own", open_loop(contestant.path, bodies, 0.8 * own, plan.seconds))
        note("open-common", open_loop(contestant.path, bodies, common or own / 2, plan.seconds))
    return found


def best(contestant: Contestant, bodies: Path, connections: int, plan: Plan) -> Any:
    """Measure; with many connections again while a worker idles, for the rival's better mode."""
    found = closed(contestant, bodies, connections, plan.seconds)
    for _ in range(AGAIN if connections == CONNECTIONS[-1] else 0):
        if found["cores"] >= IDLE_WORKER * plan.workers:
            break
        other = closed(contestant, bodies, connections, plan.seconds)
        found = max(found, other, key=lambda figures: figures["rps"])
    return found


def suite(plan: Plan, say: Any) -> dict[str, Any]:
    """Measure all contestants; one that fails is named with its reason, the others go on."""
    work = prepare()
    runs: list[dict[str, Any]] = []
    failed = set_up(plan.contestants)
    common = 0.0
    for repeat in range(plan.repeats):
        turn = repeat % len(plan.contestants)
        order = plan.contestants[turn:] + plan.contestants[:turn] if common else plan.contestants
        for entry in order:
            if entry.name in failed:
                continue
            try:
                found = measure(entry, plan, work, common)
            except Exception as error:  # whatever a rival does, the others are measured
                failed[entry.name] = reason(error)
                say(f"{entry.title}: FAILED, {failed[entry.name]}")
                continue
            runs += [{"repeat": repeat, **row} for row in found]
            rps = next(row["rps"] for row in found if row["phase"] == "closed-32")
            common = common or rps / 2
            say(f"{repeat + 1}/{plan.repeats}  {entry.title}: {rps:,.0f} requests/s")
    return {"runs": runs, "failed": failed, "common_rate": common}


def reason(error: Exception) -> str:
    """Return why a contestant was given up; what no one foresaw with its type."""
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"


def set_up(entries: list[Contestant]) -> dict[str, str]:
    """Make what some contestants serve; return why where one cannot."""
    failed = {}
    for entry in entries:
        if entry.before:
            environ = {**os.environ, **entry.environ}
            done = subprocess.run(
                entry.before, env=environ, capture_output=True, text=True, check=False
            )
            if done.returncode:
                failed[entry.name] = f"its model cannot be saved: {done.stderr.strip()[-300:]}"
    return failed
