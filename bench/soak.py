"""Load our server for minutes as the internet would: `make bench JOB=NAME SUITE=soak`.

First its maximum is measured, by the client that then loads it: on one machine the client takes
its share of the cores, and a lighter one would find more than there then is. Then 30 s at 10 % of
it, then minutes at 80 % with 1 % bad bodies among the good ones, beside slow clients, clients that
vanish and bodies of 100 MB. At the end it gets SIGTERM while requests still come: whatever it had
taken must be answered.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestants import Contestant
from bench.serving import (
    PORT,
    closed,
    first_answer,
    open_loop,
    prepare,
    same_work,
    stop,
    until_ready,
    write_bodies,
)

CALM, AFTER, SUSTAINED = 30.0, 10.0, 20.0
CONNECTIONS, OFFERED = 32, 1.5
"""Of the maximum: connections, and requests that fall due, in what wrk found."""
BAD_EVERY = 100
LOAD = 0.8


@dataclass
class Plan:
    """What a run of the suite measures."""

    contestant: Contestant
    minutes: float
    seconds: float
    workers: int
    load: float = LOAD


def suite(plan: Plan, say: Any) -> dict[str, Any]:
    """Load the server and return what became of its requests, its memory and its latency."""
    entry, work = plan.contestant, prepare()
    bodies = write_bodies(entry, work["rows"])
    log = Path("/tmp/bench/soak.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            entry.started(PORT, plan.workers), stdout=output, stderr=output, start_new_session=True
        )
        try:
            first_answer(entry, process, entry.body(work["rows"][0]), log)
            until_ready(entry)
            same_work(entry, work["rows"], work["answers"])
            return loaded(plan, process, bodies, say)
        finally:
            stop(process)


def loaded(plan: Plan, process: Any, bodies: Path, say: Any) -> dict[str, Any]:
    """Measure the maximum, the calm, and the storm with its SIGTERM."""
    entry = plan.contestant
    closed(entry, bodies, CONNECTIONS, 1.0)
    light = closed(entry, bodies, CONNECTIONS, plan.seconds)["rps"]
    most = open_loop(entry.path, bodies, OFFERED * light, SUSTAINED,
                     "--most", str(CONNECTIONS))["rps"]  # fmt: skip
    say(f"maximum {most:,.0f} requests/s; {light:,.0f} by wrk, which takes less of the cores")
    calm = open_loop(entry.path, bodies, 0.1 * most, min(CALM, plan.minutes * 60))
    say(f"at 10 %: p99 {calm['p99_ms']:.2f} ms; now {plan.minutes:g} minutes at {plan.load:.0%}")
    nuisance = subprocess.Popen(
        [sys.executable, "-m", "bench.nuisance", str(PORT), entry.path, str(bodies)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    seconds = plan.minutes * 60
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGTERM])
    timer.start()
    try:
        with machine.Watch(1.0, partial(machine.session, process.pid)) as memory:
            storm = open_loop(
                entry.path, bodies, plan.load * most, seconds + AFTER,
                "--bad-every", str(BAD_EVERY), "--seconds-apart",
            )  # fmt: skip
        nuisance.send_signal(signal.SIGTERM)
        others = json.loads(nuisance.communicate(timeout=20)[0])
    finally:
        timer.cancel()
        nuisance.kill()
    try:
        code = process.wait(30)
    except subprocess.TimeoutExpired:
        code = -1
    return report(plan, most, calm, storm, memory.series, others, code)


def report(
    plan: Plan, most: float, calm: Any, storm: Any, memory: Any, others: Any, code: int
) -> dict[str, Any]:
    """Return the figures that the bars ask for, and all that led to them."""
    seconds = plan.minutes * 60
    during = [row for row in storm["by_second"] if row["second"] < int(seconds)]
    after = [row for row in storm["by_second"] if row["second"] >= int(seconds)]
    good, bad = counted(during, "ended"), counted(during, "bad_ended")
    leaving = counted(after, "ended") + counted(after, "bad_ended")
    statuses = good + bad + leaving
    figures = {
        "requests_per_second": plan.load * most,
        "p99": statistics.median(row["p99_ms"] for row in during) or float("inf"),
        "p99_worst_second": max(row["p99_ms"] for row in during),
        "p99_calm": calm["p99_ms"],
        "good_answered": good["200"] / max(1, good.total()),
        "faults": sum(n for how, n in statuses.items() if how[0] == "5" and how != "503"),
        "unanswered": sum(good[how] for how in ("unsent", "refused", "cut", "timeout")),
        "lost": leaving["cut"] + leaving["timeout"],
        "drift": drift(memory, seconds),
        "exit_code": code,
        "late_p99_ms": storm["late_p99_ms"],
        "foreign": storm["foreign"],
    }
    ended = {"good": good, "bad bodies": bad, "after SIGTERM": leaving, "unwanted clients": others}
    return {
        "soak": figures,
        "ended": {kind: dict(found) for kind, found in ended.items()},
        "memory": memory,
        "cuts": storm["cuts"],
        "by_second": storm["by_second"],
        "calm": calm,
        "runs": [],
        "failed": {},
    }


def counted(rows: Iterable[dict[str, Any]], name: str) -> Counter[str]:
    """Add up the statuses of some seconds."""
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row[name])
    return total


def drift(memory: list[tuple[float, float]], seconds: float) -> float:
    """Return how far the last minute's memory is from the second minute's, as a share.

    Of a run shorter than three minutes the thirds stand in for minutes.
    """
    minute = min(60.0, seconds / 3)
    second = [value for at, value in memory if minute <= at < 2 * minute]
    last = [value for at, value in memory if seconds - minute <= at < seconds]
    if not (second and last):
        return float("inf")
    return abs(statistics.median(last) / statistics.median(second) - 1)
