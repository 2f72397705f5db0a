"""Many containers of one job: started by an engine, watched, tried again, capped, tallied.

What is done stands in the parts themselves, which the image writes whole or not at all. The state
beside the logs, in ``artifacts/<job>/batches/<id>``, is for people and for the next command:
the same command goes on from there, on the same or another engine.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from slipway.errors import CapReached, SlipwayError, Stopped
from slipway.host import catalog, engines
from slipway.host.engines import Ended, Engine, Work, is_retryable
from slipway.host.plan import Request, check, fingerprint, make_work, merging
from slipway.spec import JobSpec, Resources

TICK = 0.5  # seconds between looks at caps and signals
FIRST_PAUSE = 1.0  # before the first try again; twice as long before each further one
LONGEST_PAUSE = 30.0
COLUMNS = ("shard", "state", "attempts", "rows", "bad", "seconds", "where")
RETRYABLE = 33


class ShardsFailed(SlipwayError):
    """Some shards cannot be finished; the exit code is that of the first."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


@dataclass
class Batch:
    """The state of one batch on disk; ``record`` is what state.json holds."""

    folder: Path
    record: dict[str, Any]
    saved: float = field(default=0.0, repr=False)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a shard, in order."""
        return self.record["table"]  # type: ignore[no-any-return]

    def todo(self) -> list[int]:
        """Return the shards that are not done."""
        return [row["shard"] for row in self.table if row["state"] != "done"]

    def count(self, state: str) -> int:
        """Return how many shards are in a state."""
        return sum(row["state"] == state for row in self.table)

    def save(self, least: float = 0.0) -> None:
        """Write the state, whole or not at all; not again within ``least`` seconds."""
        if time.monotonic() - self.saved < least:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / ".state.json"
        part.write_text(json.dumps(self.record, indent=1), "utf-8")
        part.replace(self.folder / "state.json")
        self.saved = time.monotonic()


def read_state(folder: Path) -> dict[str, Any]:
    """Return what state.json holds, nothing where there is none or one of another version."""
    try:
        found = json.loads((folder / "state.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def open_batch(folder: Path, count: int, facts: dict[str, Any]) -> Batch:
    """Return the batch with what an earlier command finished, if that was from the same bytes."""
    old = read_state(folder)
    same = bool(facts["fingerprint"]) and old.get("fingerprint") == facts["fingerprint"]
    done = {row["shard"]: row for row in old.get("table", ()) if same and row["state"] == "done"}
    fresh = [
        {"state": "waiting", "attempts": 0, "rows": None, "bad": None, "seconds": 0.0, "where": ""}
        for _ in range(count)
    ]
    table = [done.get(shard, {"shard": shard, **row}) for shard, row in enumerate(fresh)]
    kept = {key: old.get(key, default) for key, default in (("paid", 0.0), ("handle", ""))}
    return Batch(folder, {**kept, **facts, "state": "running", "table": table})


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold the batch: two commands on one batch would stop each other's containers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SlipwayError(
                f"{folder}: process {lock.read() or '?'} is at work on this batch"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def signals() -> Iterator[list[int]]:
    """Give a list that gets the signals that ask to stop; a second Ctrl-C does not wait."""
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Caps:
    """What a batch may take: minutes of this command, money in all."""

    minutes: float | None = None
    price: float = 0.0
    cost: float | None = None

    def check(self, seconds: float, paid: float) -> None:
        """Raise CapReached when wall seconds or paid container seconds are past a cap."""
        again = "stopped at the cap; with a higher one the same command goes on"
        if self.minutes is not None and seconds > self.minutes * 60:
            raise CapReached(f"{seconds / 60:.1f} of --max-minutes {self.minutes:g}: {again}")
        spent = paid / 3600 * self.price
        if self.cost is not None and spent > self.cost:
            raise CapReached(f"{spent:.2f} of --max-cost {self.cost:g}: {again}")


class Drive:
    """One command's way through a batch: start, wait, try again, until all is over."""

    def __init__(self, batch: Batch, engine: Engine, work: Work, caps: Caps, parts: str) -> None:
        self.batch, self.engine, self.work, self.caps, self.parts = batch, engine, work, caps, parts
        self.later: list[tuple[float, int]] = []
        self.failed: list[tuple[int, int]] = []
        self.again = 0
        self.open: set[int] = set()

    def run(self, came: Sequence[int]) -> None:
        """Bring all shards to an end; raise what stopped it, with every container stopped."""
        started = last = time.monotonic()
        self.open = set(self.batch.todo())
        try:
            self.engine.start(sorted(self.open))
            self.batch.record["handle"] = self.engine.handle
            self.batch.save()
            while self.open:
                for ended in self.engine.wait(TICK):
                    self._note(ended)
                self._start_again()
                now = time.monotonic()
                self.batch.record["paid"] += self.engine.running() * (now - last)
                last = now
                self._raise_what_stops(came, now - started)
                self._tell(now - started)
        except BaseException as error:
            click.echo("\nbatch: stopping the containers", err=True)
            self.engine.stop()
            self._close(error)
            raise
        self._close(None)
        if self.failed:
            raise self._failure()

    def _note(self, ended: Ended) -> None:
        """Take an end into the table, and put the shard back where another try may help."""
        row = self.batch.table[ended.shard]
        row["attempts"] += ended.attempts
        row |= {"seconds": round(row["seconds"] + ended.seconds, 1), "where": ended.where}
        code = "lost" if ended.code is None else ended.code
        if ended.code == 0:
            row |= {"state": "done", "code": 0} | read_record(
                self.parts, ended.shard, self.work.shards
            )
            self.open.discard(ended.shard)
        elif (
            is_retryable(ended.code)
            and not self.engine.retries_itself
            and row["attempts"] <= self.work.retries
        ):
            row |= {"state": "again", "code": ended.code}
            self.again += 1
            pause = min(FIRST_PAUSE * 2 ** (row["attempts"] - 1), LONGEST_PAUSE)
            self.later.append((time.monotonic() + pause, ended.shard))
            click.echo(f"\nshard {ended.shard}: {code} on {ended.where}; again", err=True)
        else:
            row |= {"state": "failed", "code": ended.code}
            self.open.discard(ended.shard)
            final = RETRYABLE if is_retryable(ended.code) else int(ended.code or 1)
            self.failed.append((ended.shard, final))
            log = self.work.log(ended.shard)
            click.echo(f"\nshard {ended.shard}: {code}, failed; {last_line(log)}", err=True)
        self.batch.save(least=1.0)

    def _start_again(self) -> None:
        now = time.monotonic()
        due = [shard for when, shard in self.later if when <= now]
        self.later = [(when, shard) for when, shard in self.later if when > now]
        if due:
            self.engine.start(due)

    def _raise_what_stops(self, came: Sequence[int], seconds: float) -> None:
        if came:
            told = "stopped; the same command goes on from here"
            raise Stopped(told) if came[0] == signal.SIGTERM else click.Abort(told)
        if len(self.failed) > self.work.max_failed:
            raise self._failure()
        if self.open:
            self.caps.check(seconds, self.batch.record["paid"])

    def _failure(self) -> ShardsFailed:
        shard, code = self.failed[0]
        log = self.work.log(shard)
        return ShardsFailed(
            f"{len(self.failed)} of {len(self.batch.table)} shards failed, the first is {shard}: "
            f"{last_line(log)} ({log})",
            code,
        )

    def _close(self, error: BaseException | None) -> None:
        """Write how it ended: done, failed, capped or stopped."""
        kinds = ((ShardsFailed, "failed"), (CapReached, "capped"), (BaseException, "stopped"))
        ended = "failed" if self.failed else "done"
        if error:
            ended = next(name for kind, name in kinds if isinstance(error, kind))
        for row in self.batch.table:
            if row["state"] in ("waiting", "again"):
                row["state"] = "stopped"
        self.batch.record["state"] = ended
        self.batch.save()
        self._tell(0.0, last=True)

    def _tell(self, seconds: float, last: bool = False) -> None:
        """Show how far it is: one line on a terminal, a line at times elsewhere."""
        on_terminal = sys.stderr.isatty()
        if not last and seconds % (0.5 if on_terminal else 10) > TICK:
            return
        done, failed, spent = self.batch.count("done"), len(self.failed), self.batch.record["paid"]
        cost = f", cost {spent / 3600 * self.caps.price:.2f}" if self.caps.price else ""
        line = f"batch: {done} of {len(self.batch.table)} shards done, {self.again} again, "
        line += f"{failed} failed{cost}"
        over = on_terminal and not last  # the next line goes over this one
        click.echo(f"\r{line}" if over else line, err=True, nl=not over)


def last_line(log: Path) -> str:
    """Return the last line of a log, nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return "no log"
    return lines[-1] if lines else "it said nothing"


def read_record(parts: str, shard: int, count: int | None) -> dict[str, Any]:
    """Return rows and bad of a part from the record beside it, nothing where it is out of reach."""
    if not (parts and count):
        return {}
    name = f"part-{shard:05d}-of-{count:05d}.json"
    try:
        text = (
            read_s3(f"{parts}/{name}")
            if parts.startswith("s3://")
            else Path(parts, name).read_text("utf-8")
        )
        found = json.loads(text)
        return {"rows": found["rows"], "bad": found["bad"]}
    except (OSError, ValueError, KeyError):
        return {}


def read_s3(address: str) -> str:
    """Return an object's text; raise OSError where boto3 is absent or cannot read it."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise OSError(str(error)) from None
    bucket, _, key = address.removeprefix("s3://").partition("/")
    try:
        found = boto3.client("s3").get_object(Bucket=bucket, Key=key.replace("//", "/"))
        return str(found["Body"].read().decode())
    except (BotoCoreError, ClientError) as error:
        raise OSError(str(error)) from None


def text_table(batch: Batch) -> str:
    """Return the table of shards, with a last line for all."""
    rows = [[shown(row[name]) for name in COLUMNS] for row in batch.table]
    known = [row for row in batch.table if row["rows"] is not None]
    total = {name: sum(row[name] for row in known) if known else None for name in ("rows", "bad")}
    sums = {
        "shard": "all",
        "state": batch.record["state"],
        "attempts": sum(row["attempts"] for row in batch.table),
        "seconds": round(sum(row["seconds"] for row in batch.table), 1),
        "where": f"places: {len({row['where'] for row in batch.table} - {''})}",
    } | total
    cells = [COLUMNS, *rows, [shown(sums[name]) for name in COLUMNS]]
    return catalog.text_table([tuple(row) for row in cells])


def shown(value: object) -> str:
    """Return a value of the table; what is not known is a dash."""
    return "-" if value in (None, "") else str(value)


def perform(root: Path, spec: JobSpec, request: Request) -> int:
    """Run a batch or one container on an engine, print the table, and merge the parts."""
    folder = root / "artifacts" / spec.name / "batches" / request.identity(spec.name)
    check(request)
    if request.dry_run:
        work, _ = make_work(root, spec, request, folder / "logs")
        click.echo(engines.dry_run(root, request.engine, work), nl=False)
        return 0
    engines.require(root, request.engine)  # before there is anything to lose
    with owned(folder), signals() as came:
        work, image = make_work(root, spec, request, folder / "logs")
        facts = {
            "id": folder.name,
            "job": spec.name,
            "engine": request.engine,
            "verb": list(request.verb),
            "input": request.source,
            "output": request.target,
            "name": work.name,
            "places": dict(request.places),
            "fingerprint": fingerprint(root, spec, request, image),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        caps = Caps(request.minutes, request.price, request.cost)
        bring_to_end(root, request, work, open_batch(folder, work.count, facts), caps, came)
        if request.is_merged:
            work, facts = merging(work, request), facts | {"fingerprint": ""}
            click.echo("merging the parts", err=True)
            merge = open_batch(work.logs, 1, facts)
            bring_to_end(root, request, work, merge, caps, came, table=False)
            click.echo(f"merged  {request.target}")
    return 0


def bring_to_end(
    root: Path,
    request: Request,
    work: Work,
    batch: Batch,
    caps: Caps,
    came: Sequence[int],
    table: bool = True,
) -> None:
    """Drive a batch and print its table, however it ends."""
    work.logs.mkdir(parents=True, exist_ok=True)
    if batch.todo():
        engine = engines.open_engine(root, request.engine, work, batch.record["handle"])
        try:
            Drive(batch, engine, work, caps, request.parts if request.source else "").run(came)
        finally:
            engine.close()
            if table:
                click.echo(text_table(batch))
        return
    batch.record["state"] = "done"
    batch.save()
    click.echo(text_table(batch))


def listed(root: Path, job: str) -> list[tuple[str, ...]]:
    """Return a line for each batch of a job, the newest last."""
    found = [read_state(path.parent) for path in root.glob(f"artifacts/{job}/batches/*/state.json")]
    lines: list[tuple[str, ...]] = [("id", "started", "engine", "state", "done", "what")]
    for state in sorted((one for one in found if one), key=lambda one: str(one["started"])):
        done = sum(row["state"] == "done" for row in state["table"])
        what = " ".join([*state["verb"], state["input"], state["output"]]).strip()
        share = f"{done}/{len(state['table'])}"
        lines.append((state["id"], state["started"], state["engine"], state["state"], share, what))
    return lines


def cancel(root: Path, spec: JobSpec, name: str) -> str:
    """Stop a batch and say how: its command where one is at work, else its containers."""
    folder = root / "artifacts" / spec.name / "batches" / name
    state = read_state(folder)
    if not state:
        raise click.UsageError(f"{name}: no such batch; see `slipway batches {spec.name}`")
    try:
        with owned(folder):
            return _stop_left(root, spec, state, folder)
    except SlipwayError as error:
        owner = (folder / "lock").read_text()
        if not owner.isdecimal():
            raise error
    os.kill(int(owner), signal.SIGTERM)
    return f"told process {owner} to stop"


def _stop_left(root: Path, spec: JobSpec, state: dict[str, Any], folder: Path) -> str:
    """Stop what a command left behind that is no more, or that handed its work to a platform."""
    if state["engine"] == "ray":
        return "its command is no more, and Ray's tasks ended with it"
    work = Work(
        name=state["name"],
        image="",
        arguments=(),
        shards=len(state["table"]),
        needs=Resources(),
        logs=folder / "logs",
        places=state["places"],
    )
    engine = engines.open_engine(root, state["engine"], work, state["handle"])
    try:
        engine.stop()
    finally:
        engine.close()
    Batch(folder, state | {"state": "stopped"}).save()
    return f"stopped on {state['engine']}"
