"""``score INPUT OUTPUT``: read chunks, score them on all cores, write the answers in order."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway import store
from slipway.errors import DataUnavailable, InputInvalid, Retryable
from slipway.logs import say
from slipway.machine import on_gpu, usable_cores
from slipway.scoring import folders, readers, rows
from slipway.scoring.parts import Draft, Output, fingerprint, require_other
from slipway.scoring.pool import Pool, Result, Work
from slipway.scoring.readers import Chunk, format_of
from slipway.scoring.shards import Shard, Share, parse_shard, shares
from slipway.scoring.stores import Entry, entries
from slipway.scoring.writers import Sink, encoder
from slipway.types import media_fields

if TYPE_CHECKING:
    from slipway.job import Job

SAY_SECONDS = 5.0
FILES = 32
"""Rows of files in one call on a CPU: what the layers of more of them hold falls out of its cache.
A ResNet takes 0.60 ms for a picture of 32 x 32 among 32, 0.69 among 256."""
ALONE = 2**18
"""Bytes of an input for which it does not pay to start further processes."""


@dataclass(frozen=True)
class Wishes:
    """The options of the verb."""

    shard: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    format: str | None = None
    form: str = "auto"


@dataclass
class Input:
    """What there is to read: all files, this shard's share of them, and what they are."""

    source: str
    files: list[Entry]
    shares: list[Share]
    kind: str

    @property
    def several(self) -> bool:
        """Tell whether a row is named by its file as well."""
        return any(entry.name for entry in self.files)

    @property
    def bytes(self) -> int:
        """How much this shard reads, where that is known before."""
        if self.kind in ("raw", "folders"):
            return len(self.shares)
        return sum(share.stop - share.start for share in self.shares)


@dataclass
class Tally:
    """Rows done, told now and then on stderr."""

    total: int
    good: int = 0
    bad: int = 0
    first: str = ""
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def add(self, result: Result) -> None:
        """Count a chunk, and tell how far it is."""
        self.good += result.good
        self.bad += result.bad
        self.first = self.first or result.first
        self.done = max(self.done, result.done)
        if time.monotonic() - self.last > SAY_SECONDS:
            self.last = time.monotonic()
            say(f"score: {self.good + self.bad} rows, {self.rate:,.0f} rows/s{self._left()}")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Rows a second."""
        return (self.good + self.bad) / max(self.seconds, 1e-9)

    def _left(self) -> str:
        if not 0 < self.done <= self.total:
            return ""
        left = self.seconds * (self.total - self.done) / self.done
        return f", {self.done / self.total:.0%}, {left:.0f} s left"


def score_file(job: Job, model_folder: Path, source: str, target: str, wishes: Wishes) -> None:
    """Score ``source`` into ``target``; InputInvalid when not one row of a whole input is good."""
    shard = parse_shard(wishes.shard)
    found = find_input(job, source, shard)
    require_model(model_folder)
    job.meet(model_folder)
    wishes = replace(wishes, form=job.chosen_form(model_folder, wishes.form))
    if target == "-":
        _to_stdout(job, model_folder, found, wishes)
        return
    output = Output.of(target, _first_name(found), shard, wishes.format)
    require_other(output.answers, found.files)
    options = {"shards": shard.count, "format": output.suffix}
    options["batch_size"] = batch_rows(job, wishes)
    options["form"] = wishes.form
    with ExitStack() as stack:
        # begun first: the model is loaded while the input is looked through
        scored = _scoring(job, model_folder, found, output.suffix, wishes, stack)
        mark = fingerprint(found.files, store.identity(model_folder), options)
        if source != "-" and output.finished(mark):
            say(f"score: {output.answers} is finished; skipped")
            return
        draft = Draft(output)
        stack.callback(draft.discard)
        sink = Sink(job, output.suffix, found.several, draft.write)
        stack.callback(sink.abandon)
        tally = Tally(found.bytes)
        for result in scored(all_chunks(job, found)):
            sink.add(result.answers)
            draft.write_errors(result.errors)
            tally.add(result)
        sink.close()
        bad = f", {tally.bad} bad (see {output.errors})" if tally.bad else ", 0 bad"
        told = f"score: {tally.good} rows scored{bad}"
        if tally.bad and not tally.good and not shard.given:  # the errors stay, the output not
            draft.publish_errors()
            say(told)
            raise InputInvalid(
                f"{source}: not one of {tally.bad} rows could be scored; {tally.first}"
            )
        draft.publish(_record(found, shard, tally, mark))
    say(f"{told}, by the {wishes.form} model, {tally.seconds:.1f} s, {tally.rate:,.0f} rows/s")


def find_input(job: Job, source: str, shard: Shard) -> Input:
    """Return what there is to read; UsageError where its names are of no known kind."""
    if source == "-":
        if shard.count > 1:
            raise click.UsageError("-: a stream cannot be split in shards")
        return Input(source, [], [], "stream")
    single = "://" not in source and not Path(source).is_dir() and not set(source) & set("*?[")
    wanted = f"wanted a name that ends in {', '.join(readers.FORMATS)}, or -"
    if single and not format_of(source):
        raise click.UsageError(f"{source}: {wanted}")
    files = entries(source)
    formats = {format_of(entry.name or entry.address) for entry in files}
    named = rows.raw_field(job) if files and files[0].name else ""
    # Among pictures a table is a file like any other that is no picture: a line of the errors.
    if "" in formats and named in media_fields(job.row):
        return Input(source, files, shares(files, shard, whole=True), "raw")
    if formats == {""} and folders.are_rows(job, files):
        found = shares(folders.as_entries(files), shard, whole=True)
        return Input(source, files, found, "folders")
    if formats == {""} and named:
        return Input(source, files, shares(files, shard, whole=True), "raw")
    if "" in formats:
        odd = next(entry for entry in files if not format_of(entry.name or entry.address))
        raise click.UsageError(f"{odd.address}: {wanted}")
    return Input(source, files, shares(files, shard), "rows")


def _first_name(found: Input) -> str:
    return found.files[0].name or found.files[0].address if found.files else ""


def _record(found: Input, shard: Shard, tally: Tally, mark: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": tally.good,
        "bad": tally.bad,
        "seconds": round(tally.seconds, 3),
        "input": found.source,
        "model": mark["model"],
        "options": mark["options"],
        "shard": [shard.index, shard.count],
        "fingerprint": mark,
    }


def all_chunks(job: Job, found: Input) -> Iterator[Chunk]:
    """Yield the chunks of an input, with how much of it is read."""
    longest = rows.longest_line(job)
    if found.kind == "stream":
        yield from readers.stream(longest)
        return
    if found.kind == "raw":
        yield from readers.raw([share.entry for share in found.shares], longest)
        return
    if found.kind == "folders":
        entries_of = [share.entry for share in found.shares]
        yield from folders.chunks(entries_of, found.files, job, longest)
        return
    before = 0
    for share in found.shares:
        for chunk in readers.chunks(share, rows.columns(job), longest):
            chunk.done += before
            yield chunk
        before += share.stop - share.start


def _scoring(
    job: Job, folder: Path, found: Input, suffix: str, wishes: Wishes, stack: ExitStack
) -> Callable[[Iterator[Chunk]], Iterator[Result]]:
    """Return what scores chunks in order, in other processes where that pays: these begin now."""
    workers = wishes.workers or usable_cores()
    start = worker(job, folder, suffix, batch_rows(job, wishes), wishes.form)
    small = found.kind == "rows" and found.bytes <= ALONE
    if workers == 1 or (small and wishes.workers is None):
        return lambda chunks: map(start(), chunks)
    pool = Pool(start, workers)
    stack.callback(pool.close)
    return partial(pool.results, eager=found.kind != "stream")


def batch_rows(job: Job, wishes: Wishes) -> int:
    """Return how many rows one call of the model has."""
    most = job.row.max_rows
    if media_fields(job.row) and not on_gpu(job.spec):
        most = min(most, FILES)
    return wishes.batch_size or most


def require_model(folder: Path) -> None:
    """Raise DataUnavailable where there is no model, before processes are started for it."""
    if not any(folder.glob("model.*")):
        raise DataUnavailable(f"{folder}: no model; run train first, or mount one there")


def worker(job: Job, folder: Path, suffix: str, size: int, form: str) -> Callable[[], Work]:
    """Return what a process does first: load the model; that gives what it does for a chunk."""

    def start() -> Work:
        model = job.load(folder, form)
        check, encode = rows.Checker(job), encoder(job, suffix)

        def work(chunk: Chunk) -> Result:
            found = check(chunk)
            answers: list[Any] = []
            for place in range(0, len(found.rows), size):
                answers += job.answers(model, found.rows[place : place + size])
            bad = [json.dumps(entry).encode() + b"\n" for entry in found.bad]
            first = f"line {found.bad[0]['line']}: {found.bad[0]['problems'][0]}" if bad else ""
            told = encode(found, answers)
            return Result(told, b"".join(bad), len(answers), len(bad), first, chunk.done)

        return work

    return start


def _to_stdout(job: Job, folder: Path, found: Input, wishes: Wishes) -> None:
    """Write lines of JSON to stdout as they come, and those of bad rows to stderr."""
    tally = Tally(found.bytes)
    try:
        with ExitStack() as stack:
            scored = _scoring(job, folder, found, ".jsonl", wishes, stack)
            for result in scored(all_chunks(job, found)):
                sys.stdout.write(result.answers.decode())
                sys.stdout.flush()
                sys.stderr.write(result.errors.decode())
                tally.add(result)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Retryable("stdout was closed by its reader before all was scored") from None
    say(f"score: {tally.good} rows scored, {tally.bad} bad, by the {wishes.form} model")
    if tally.bad and not tally.good:
        raise InputInvalid(
            f"{found.source}: not one of {tally.bad} rows could be scored; {tally.first}"
        )
