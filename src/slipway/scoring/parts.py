"""One output: its files, the record that says it is finished, and how they come into place.

Errors first, then the answers, and last the record: an output without a record is not there. The
record holds a fingerprint of input, model and options; a rerun with the same one does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from slipway.errors import InputInvalid
from slipway.logs import say
from slipway.scoring.readers import FORMATS, format_of
from slipway.scoring.shards import Shard
from slipway.scoring.stores import (
    Entry,
    Staged,
    is_local,
    join,
    open_input,
    read_bytes,
    remove,
    size_of,
    staged,
)

WHOLE, SAMPLES, SAMPLE = 64 * 2**20, 64, 2**16
Record = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """The addresses of an output's three files, and its format."""

    answers: str
    errors: str
    record: str
    suffix: str

    @classmethod
    def of(cls, target: str, source: str, shard: Shard, wish: str | None = None) -> Output:
        """Return the output that ``target`` means: one file, or of shards one in a folder."""
        suffix = next((found for found in FORMATS if target.endswith(found)), "")
        if shard.given and not suffix:
            suffix = wish or format_of(source) or ".jsonl"
            stem, errors = join(target, f"part-{shard.stem}"), join(target, f"errors-{shard.stem}")
            return cls(stem + suffix, f"{errors}.jsonl", f"{stem}.json", suffix)
        if shard.count > 1:
            raise click.UsageError(
                f"{target}: {shard.count} shards need a folder; wanted a name without {suffix}, "
                "or --shard 0/1 to score everything here"
            )
        if not suffix or (wish and wish != suffix):
            ends = wish or ", ".join(FORMATS)
            raise click.UsageError(f"{target}: wanted a name that ends in {ends}, or -")
        stem = target.removesuffix(suffix)
        return cls(target, f"{stem}.errors.jsonl", f"{stem}.record.json", suffix)

    def finished(self, fingerprint: Record) -> bool:
        """Tell whether this output was written before from the same input, model and options."""
        kept = read_record(self.record)
        if not kept or kept["fingerprint"] != fingerprint:
            return False
        there = size_of(self.answers) == kept["output"]["bytes"]
        return there and (not kept["bad"] or size_of(self.errors) == kept["errors"]["bytes"])


def read_record(address: str) -> Record:
    """Return a record, empty where there is none or it is damaged."""
    try:
        found = json.loads(read_bytes(address) or b"{}")
    except ValueError:
        return {}
    needed = {"fingerprint", "output", "errors", "bad", "rows"}
    return found if isinstance(found, dict) and needed <= set(found) else {}


class Draft:
    """The files of an output in the making; the errors file comes with the first bad row."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.answers = Staged(output.answers)
        self.errors: Staged | None = None
        self.written = self.told = 0

    def write(self, content: bytes) -> None:
        """Append to the answers."""
        self.answers.write(content)
        self.written += len(content)

    def write_errors(self, content: bytes) -> None:
        """Append to the errors."""
        if content:
            self.errors = self.errors or Staged(self.output.errors)
            self.errors.write(content)
            self.told += len(content)

    def publish(self, record: Record) -> None:
        """Put all in place, the record last."""
        if self.output.finished(record["fingerprint"]):
            say(f"score: {self.output.answers} was finished by another process meanwhile")
            return
        remove(self.output.record)
        self.publish_errors()
        self.answers.publish()
        sizes = {"output": {"bytes": self.written}, "errors": {"bytes": self.told}}
        with staged(self.output.record) as file:
            file.write(json.dumps(record | sizes, indent=1).encode() + b"\n")

    def publish_errors(self) -> None:
        """Put the errors in place; where there is none, those of an earlier run go."""
        if self.errors:
            self.errors.publish()
        else:
            remove(self.output.errors)

    def discard(self) -> None:
        """Leave no trace of what is not published."""
        self.answers.discard()
        if self.errors:
            self.errors.discard()


def fingerprint(files: Sequence[Entry], model: str, options: Record) -> Record:
    """Return what an output depends on. ``content`` alone is the same for each copy of an input.

    Of a large file it is its size and a sample of its bytes, so its date counts as well. A file in
    a store is known by its size and date, and no stream is like another.
    """
    content, dates = hashlib.sha256(), hashlib.sha256()
    if not files:
        content.update(secrets.token_bytes(16))
    for entry in files:
        local = is_local(entry.address)
        content.update(f"{entry.name} {entry.size} ".encode())
        content.update(_sampled(entry) if local else entry.stamp.encode())
        if local and entry.size > WHOLE:
            dates.update(f"{entry.name} {entry.stamp} ".encode())
    return {
        "content": content.hexdigest()[:32],
        "dates": dates.hexdigest()[:32],
        "model": model,
        "options": options,
    }


def _sampled(entry: Entry) -> bytes:
    """Return the sha256 of a file, of a large one that of 64 places in it."""
    digest = hashlib.sha256()
    with open_input(entry.address) as file:
        if entry.size <= WHOLE:
            return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        for place in range(SAMPLES):
            file.seek((entry.size - SAMPLE) * place // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return digest.digest()


def require_other(target: str, files: Sequence[Entry]) -> None:
    """Raise UsageError where an output would replace its input."""
    from pathlib import Path

    there = Path(target).stat() if is_local(target) and Path(target).exists() else None
    for entry in files:
        same = entry.address == target
        if there and is_local(entry.address):  # an output that is not there replaces nothing
            same = os.path.samestat(there, Path(entry.address).stat())
        if same:
            raise click.UsageError(f"{target}: OUTPUT is INPUT; wanted another file")


def damaged(told: str) -> InputInvalid:
    """Return the error of parts that are not one whole."""
    return InputInvalid(f"merge: {told}")
