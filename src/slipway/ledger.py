"""Runs on disk: what was asked, how far it is, what came of it; no broker and no database.

Each run is a folder. It appears whole or not at all, because it is made aside and renamed. Who
executes it holds a lock of the kernel's on its ``claim``, which goes with the process however that
ends; so a run that is not over and not claimed is free to be executed again, by any worker.

| in a run's folder | what it is |
|---|---|
| ``request.json`` ``body`` | what was asked; never changes |
| ``state.json`` | where it stands; replaced whole, by who holds the claim |
| ``events.jsonl`` | one line an event; the place after a line is the event's id |
| ``result`` | the body of the answer; it counts once ``state.json`` says so |
| ``cancel`` | somebody asked for its end |
| ``delivery.json`` | which events its webhook has |

Beside the runs: ``.queue`` names those that are not over, ``.deliver`` those whose webhook waits,
``.keys`` the idempotency keys.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from slipway.data import CHUNK, written
from slipway.errors import Busy, DataUnavailable, InputInvalid, Retryable

ID = re.compile(r"[0-9a-f]{24}")
OVER = ("succeeded", "failed", "cancelled")
KINDS = ("request", "verb")
STATES = ("queued", "running", *OVER)
EVENTS = ("queued", "start", "log", "progress", "completed")
NEW, GONE = ".new-", ".gone-"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
RESERVE = 16 * 2**20
"""Bytes of the disk that no new run may take, so that those which wait can be brought to an end."""
LEFTOVER_SECONDS = 3600
"""Age at which what a killed process left half-made is taken away."""


@dataclass(frozen=True)
class LongWork:
    """What `serve` was told about runs, webhooks and control."""

    keep_runs: int = 1000
    keep_days: float = 7.0
    queue_runs: int = 1000
    webhook_hosts: tuple[str, ...] = ()
    webhook_secret: str = ""
    control_token: str = ""


class Full(Retryable):
    """The disk has no room for a run; over HTTP a 507."""


class Unwritable(DataUnavailable):
    """The folder of the runs takes no files; over HTTP a 501."""


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name, also while it is being made; names sort by time."""
        return self.folder.name.removeprefix(NEW)

    def request(self) -> dict[str, Any]:
        """Return what was asked, empty where the file is damaged."""
        return read_object(self.folder / "request.json")

    def state(self) -> dict[str, Any]:
        """Return where the run stands. A damaged file counts as none: what waits runs again."""
        found = read_object(self.folder / "state.json")
        if found.get("state") in STATES and type(found.get("attempt")) is int:
            return found
        queue = self.folder.parent / ".queue"
        if any((queue / f"{self.id}.{kind}").exists() for kind in KINDS):
            return {"state": "queued", "attempt": 0}
        return {"state": "failed", "attempt": 0, "error": "the record of this run is damaged"}

    @property
    def over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state()["state"] in OVER

    def change(self, **more: Any) -> None:
        """Set parts of the state; only for who holds the claim."""
        put(self.folder / "state.json", encoded(self.state() | more))

    def append(self, kind: str, **data: Any) -> None:
        """Add an event. A line that a killed process left torn goes: it was never given out."""
        event = {"type": kind, "time": now(), "data": {"id": self.id, **data}}
        with (self.folder / "events.jsonl").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_torn_line(file)
            size = file.seek(0, os.SEEK_END)
            try:
                file.write(encoded(event) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)
                raise

    def events(self, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each event after the one of that id, with its own id; damaged lines are left out.

        An id that is none of this run's gives all of them.
        """
        try:
            file = (self.folder / "events.jsonl").open("rb")
        except OSError:
            return
        with file:
            place = _place(file, after)
            file.seek(place)
            for line in file:
                place += len(line)
                if not line.endswith(b"\n"):
                    return
                event = parsed(line)
                if event.get("type") in EVENTS and isinstance(event.get("data"), dict):
                    yield place, event

    @contextmanager
    def claimed(self, name: str = "claim") -> Iterator[int | None]:
        """Hold the run, or give None where another does; the lock goes with its holder."""
        with locked(self.folder / name, wait=False) as held:
            yield held

    def cancel(self) -> None:
        """Ask who executes it to stop."""
        (self.folder / "cancel").touch()

    @property
    def unwanted(self) -> bool:
        """Whether somebody asked for its end."""
        return (self.folder / "cancel").exists()


class Ledger:
    """All runs below one folder, shared by any number of processes."""

    def __init__(self, folder: Path, settings: LongWork) -> None:
        self.folder = folder
        self.settings = settings
        self.queue = folder / ".queue"
        self.deliver = folder / ".deliver"
        self.keys = folder / ".keys"

    def create(self, request: dict[str, Any], body: IO[bytes], key: str = "") -> tuple[Run, bool]:
        """Keep a request as a run and tell whether it is new: an idempotency key gives the old one.

        Raises Busy when too many wait, InputInvalid when the key came with another request,
        Full and Unwritable where the disk refuses; then nothing is left behind.
        """
        run = f"{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"
        part = self.folder / f"{NEW}{run}"
        try:
            with self._stored():
                self._make_folders(part)
                if shutil.disk_usage(self.folder).free < RESERVE:
                    raise OSError(errno.ENOSPC, "No space left on device")
                digest = _copy(body, part / "body", request.get("length"))
                mark = hashlib.sha256(encoded(request["same"]) + digest).hexdigest()
                request = request | {"mark": mark, "key": _digest(key), "created": now()}
                put(part / "request.json", encoded(request))
                Run(part).append("queued")
                with locked(self.folder / ".lock"):
                    found = self._known(key, mark)
                    return (found, False) if found else (self._enter(part, run, request), True)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _make_folders(self, part: Path) -> None:
        for folder in (self.queue, self.deliver, self.keys):
            folder.mkdir(parents=True, exist_ok=True)
        part.mkdir()

    @contextmanager
    def _stored(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                told = f"{self.folder}: no room for another run ({error.strerror})"
                raise Full(told) from None
            if error.errno in REFUSED:
                told = f"{self.folder}: runs cannot be kept there ({error.strerror})"
                raise Unwritable(f"{told}; ask without Prefer: respond-async") from None
            raise

    def _known(self, key: str, mark: str) -> Run | None:
        if not key:
            return None
        run = self.run(str(read_object(self.keys / _digest(key)).get("run")))
        if run and run.request().get("mark") != mark:
            raise InputInvalid("this Idempotency-Key came with another request before")
        return run

    def _enter(self, part: Path, run: str, request: dict[str, Any]) -> Run:
        """Let a run appear. What names it comes first: a name without a run is passed over."""
        if len(listed(self.queue)) >= self.settings.queue_runs:
            raise Busy(f"{self.settings.queue_runs} runs wait already; try again later")
        if request["key"]:
            put(self.keys / request["key"], encoded({"run": run}))
        if request.get("webhook"):
            (self.deliver / run).touch()
        marker = self.queue / f"{run}.{request['kind']}"
        marker.touch()
        try:
            sync(self.queue)
            part.rename(self.folder / run)
        except OSError:
            marker.unlink(missing_ok=True)
            raise
        sync(self.folder)
        return Run(self.folder / run)

    def run(self, name: str) -> Run | None:
        """Return the run of that name, None where there is none."""
        folder = self.folder / name
        return Run(folder) if ID.fullmatch(name) and folder.is_dir() else None

    def latest(self, limit: int, before: str = "") -> list[Run]:
        """Return the newest runs, those older than ``before`` where it is given."""
        names = [name for name in listed(self.folder) if ID.fullmatch(name)]
        older = [name for name in names if not before or name < before]
        return [Run(self.folder / name) for name in sorted(older, reverse=True)[:limit]]

    def queued(self, kind: str) -> list[Run]:
        """Return the runs of a kind that are not over, oldest first."""
        names = sorted(name for name in listed(self.queue) if name.endswith(f".{kind}"))
        return self._there(self.queue, names)

    def undelivered(self) -> list[Run]:
        """Return the runs whose webhook may have an event to come."""
        return self._there(self.deliver, sorted(listed(self.deliver)))

    def _there(self, folder: Path, names: list[str]) -> list[Run]:
        found = [(name, self.run(name.partition(".")[0])) for name in names]
        for name, run in found:
            if not run and _age(folder / name) > LEFTOVER_SECONDS:
                (folder / name).unlink(missing_ok=True)
        return [run for _, run in found if run]

    def finish(self, run: Run, state: str, **more: Any) -> None:
        """End a run whose claim is held: state, then event, then out of the queue.

        A crash between two of them is made good by `settle`.
        """
        run.change(state=state, finished=now(), **more)
        self.settle(run)

    def settle(self, run: Run) -> None:
        """Do what a run that is over still lacks."""
        state = run.state()
        last = None
        for _, event in run.events():
            last = event["type"]
        if last != "completed":
            told = {name: state.get(name) for name in ("state", "status", "error", "attempt")}
            run.append("completed", **told, result=f"/runs/{run.id}/result")
        for kind in KINDS:
            (self.queue / f"{run.id}.{kind}").unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove runs that are over and too old or too many, and what killed processes left."""
        busy = {name.partition(".")[0] for name in listed(self.queue) + listed(self.deliver)}
        names = sorted((name for name in listed(self.folder) if ID.fullmatch(name)), reverse=True)
        oldest = (time.time() - self.settings.keep_days * 86400) * 1e6
        for place, name in enumerate(name for name in names if name not in busy):
            if place >= self.settings.keep_runs or int(name[:14], 16) < oldest:
                self._remove(Run(self.folder / name))
        for name in listed(self.folder):
            if name.startswith((NEW, GONE)) and _age(self.folder / name) > LEFTOVER_SECONDS:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _remove(self, run: Run) -> None:
        gone = self.folder / f"{GONE}{run.id}"
        key = str(run.request().get("key") or "")
        with suppress(OSError):  # another worker is at it
            run.folder.rename(gone)
            if re.fullmatch("[0-9a-f]{64}", key):
                (self.keys / key).unlink(missing_ok=True)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int | None]:
    """Hold a lock of the kernel's on a file; without ``wait`` give None where another holds it."""
    try:
        held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:
        if wait:
            raise
        yield None
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(held)
        yield None
        return
    try:
        yield held
    finally:
        os.close(held)


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def encoded(value: Any) -> bytes:
    """Return a value as one line of JSON, the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def parsed(content: bytes) -> dict[str, Any]:
    """Return a JSON object, empty where the bytes are none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, empty where it is absent or damaged: one run stops no other."""
    try:
        return parsed(path.read_bytes())
    except OSError:
        return {}


def put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and so that it outlives the machine's power."""
    with written(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder outlive the machine's power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def listed(folder: Path) -> list[str]:
    """Return the names in a folder, none where there is none."""
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _copy(body: IO[bytes], path: Path, length: int | None) -> bytes:
    """Store a body and return its digest. Raises InputInvalid when less came than was declared."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        while chunk := body.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if length is not None and size != length:
        raise InputInvalid(f"the body ended after {size} of {length} bytes")
    return digest.digest()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest() if key else ""


def _drop_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    whole = size
    while whole:
        start = max(0, whole - 4096)
        file.seek(start)
        found = file.read(whole - start).rfind(b"\n")
        whole = start + found + 1 if found >= 0 else start
        if found >= 0:
            break
    if whole < size:
        os.ftruncate(file.fileno(), whole)


def _place(file: BinaryIO, after: int) -> int:
    """Return ``after`` where a line ends there, else 0."""
    if not 0 < after <= file.seek(0, os.SEEK_END):
        return 0
    file.seek(after - 1)
    return after if file.read(1) == b"\n" else 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
