"""Which share of an input is mine: the option, each platform's variables, and the ranges.

A share is a range of bytes over all files laid end to end, so that shares are equal in size and
tile the input exactly. What cannot be entered in the middle is dealt out in stripes instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import click

from slipway.scoring.stores import Entry

INDEX_VARIABLES = (
    "JOB_COMPLETION_INDEX",
    "AWS_BATCH_JOB_ARRAY_INDEX",
    "CLOUD_RUN_TASK_INDEX",
    "SKYPILOT_NODE_RANK",
    "BT_NODE_RANK",
)
COUNT_VARIABLES = ("CLOUD_RUN_TASK_COUNT", "SKYPILOT_NODE_IPS", "BT_GROUP_SIZE")


@dataclass(frozen=True)
class Shard:
    """The ``index``-th of ``count`` shares; ``given`` tells that someone asked for shares."""

    index: int = 0
    count: int = 1
    given: bool = False

    @property
    def stem(self) -> str:
        """The place of a part in its name."""
        return f"{self.index:05d}-of-{self.count:05d}"


def parse_shard(text: str | None) -> Shard:
    """Read ``I/N``, ``/N`` (the index is the platform's), ``auto`` (both are); None is auto."""
    known = platform_count()
    if text in (None, "auto"):
        if not known or known == 1:
            return Shard(given=text is not None)
        text = f"/{known}"
    index, _, count = str(text).rpartition("/")
    found = index or next(filter(None, map(os.environ.get, INDEX_VARIABLES)), "")
    if not (found.isdecimal() and count.isdecimal() and int(found) < int(count)):
        raise click.UsageError(
            f"--shard {text}: wanted I/N with I from 0 to N-1, or /N with the index in one of "
            f"{', '.join(INDEX_VARIABLES)}"
        )
    if not index and known and known != int(count):
        raise click.UsageError(f"--shard {text}: this platform runs {known} tasks; wanted /{known}")
    return Shard(int(found), int(count), True)


def platform_count() -> int | None:
    """Return how many tasks the platform runs of this command, where it tells."""
    for name in COUNT_VARIABLES:
        if value := os.environ.get(name, "").strip():
            if name == "SKYPILOT_NODE_IPS":
                return len(value.splitlines())
            if value.isdecimal():
                return int(value)
    return None


@dataclass(frozen=True)
class Share:
    """What to read of one file: the rows that begin at a byte from ``start`` up to ``stop``.

    With ``turn`` (index, count) it is every count-th chunk of the file, from the index-th.
    """

    entry: Entry
    start: int
    stop: int
    turn: tuple[int, int] = (0, 1)


def shares(files: Sequence[Entry], shard: Shard, whole: bool = False) -> list[Share]:
    """Return this shard's share of each file, in order, without the empty ones.

    Only plain JSONL and Parquet can be entered in the middle. With enough files, and when
    ``whole``, the others are dealt out by their number; else their chunks are.
    """
    total = sum(entry.size for entry in files)
    first, last = (total * place // shard.count for place in (shard.index, shard.index + 1))
    whole = whole or len(files) >= shard.count
    found = []
    offset = 0
    for number, entry in enumerate(files):
        turn = (shard.index - number) % shard.count
        start, stop = max(first - offset, 0), min(last - offset, entry.size)
        offset += entry.size
        if enterable(entry) and start < stop:
            found.append(Share(entry, start, stop))
        elif not enterable(entry) and (not whole or turn == 0):
            found.append(Share(entry, 0, entry.size, (0, 1) if whole else (turn, shard.count)))
    return found


def enterable(entry: Entry) -> bool:
    """Tell whether a file can be read from the middle on."""
    return (entry.name or entry.address).endswith((".jsonl", ".parquet"))
