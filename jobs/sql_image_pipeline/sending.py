"""A client of the scorer: pictures sent by many at once, how fast and how well they are labelled.

Data:    files of `sources`.
Source:  none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import statistics
import struct
import threading
import time
import urllib.parse
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway import Run
from slipway.errors import InputInvalid, Retryable

from .sources import Found

LABEL, ROW = "label alone", "this job: label and committed row"
WAYS = (("/score", LABEL), ("/images", ROW))
TURNS = 5
PNG_HEAD = 33
"""Bytes of a PNG file's signature and first chunk."""
REMARKED = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How files begin that can be given a remark."""
TRIES = 20
"""Of one picture, while the scorer says that it is busy."""


@dataclass
class Sent:
    """What came of many requests: an answer for each picture that was sent, and its seconds."""

    answers: dict[int, Any] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def sent(url: str, path: str, files: Sequence[bytes], clients: int, seconds: float) -> Sent:
    """Let clients send each its share of the files, for so long at most."""
    found, start = Sent(), time.perf_counter()
    end = start + seconds

    def send(number: int) -> None:
        place = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        with contextlib.closing(connection):
            for at in range(number, len(files), clients):
                began = time.perf_counter()
                if began > end or found.wrong:
                    return
                try:
                    found.answers[at] = _answer(connection, path, files[at])
                except (OSError, http.client.HTTPException, Retryable) as error:
                    found.wrong.append(str(error))
                found.taken.append(time.perf_counter() - began)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.perf_counter() - start
    if found.wrong:
        raise Retryable(f"{url}{path}: {found.wrong[0]}")
    return found


def _answer(connection: http.client.HTTPConnection, path: str, content: bytes) -> Any:
    """Return what one picture is answered with; a busy scorer is asked again."""
    for _ in range(TRIES):
        connection.request("POST", path, content, {"Content-Type": _kind(content)})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status in (200, 201):
            return json.loads(body)
        if answer.status != 429:
            raise Retryable(f"found {answer.status} {body[:200]!r}; wanted 200 or 201")
        time.sleep(float(answer.headers.get("Retry-After", 1)))
    raise Retryable("the scorer stays busy")


def _kind(content: bytes) -> str:
    from slipway.types import begins_as

    from .pixels import KINDS

    return next((kind for kind in KINDS if begins_as(kind, content)), KINDS[0])


def accuracy(run: Run, url: str, files: Sequence[Found], clients: int) -> None:
    """Upload labelled files and compare what they are called with their names."""
    if not files:
        raise InputInvalid("found no picture with a label; wanted a folder for each label")
    found = sent(url, "/images", [entry.content for entry in files], clients, float("inf"))
    right = [found.answers[at]["label"] == entry.label for at, entry in enumerate(files)]
    known = sum(row["known"] for row in found.answers.values())
    run.log(upload_accuracy=sum(right) / len(right), uploads=len(right))
    run.note(
        f"{sum(right):,} of {len(right):,} uploads are labelled as their names say, "
        f"{sum(right) / len(right):.4f}; {known:,} were there before."
    )


def rates(run: Run, url: str, clients: int, seconds: float, files: Sequence[bytes]) -> None:
    """Ask a running scorer for labels alone and with a committed row, in turns.

    A slow minute of the machine hits both ways of a turn, so each turn gives a share of its own.
    """
    import numpy as np

    if not files:
        raise InputInvalid("found no PNG or JPEG file to send")
    rows: list[dict[str, Any]] = []
    for turn in range(TURNS):
        for path, way in WAYS if turn % 2 else reversed(WAYS):
            found = sent(url, path, Anew(files), clients, seconds)
            p50, p95 = np.percentile(found.taken, [50, 95]) * 1e3
            rate = len(found.answers) / found.seconds
            rows.append({"turn": turn + 1, "way": way, "rate": rate, "p50 ms": p50, "p95 ms": p95})
    each = {way: [row["rate"] for row in rows if row["way"] == way] for way in (LABEL, ROW)}
    shares = [row / label for row, label in zip(each[ROW], each[LABEL], strict=True)]
    run.table("uploads", rows, f"Pictures a second, {clients} clients, {seconds:g} s each")
    run.note(
        f"With a committed row {statistics.median(shares):.0%} of the labels alone, the median of "
        f"{TURNS} turns ({min(shares):.0%} to {max(shares):.0%})."
    )


class Anew(Sequence[bytes]):
    """Ever new files that show what a few show: each has another remark."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files, self.mark = files, secrets.token_bytes(8)

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, at: Any) -> bytes:
        """Return the file at a place."""
        return remarked(self.files[at % len(self.files)], self.mark + at.to_bytes(8, "big"))


def remarked(content: bytes, remark: bytes) -> bytes:
    """Return a PNG or JPEG file with a remark that changes its bytes and no pixel."""
    text = remark.hex().encode()
    if content.startswith(b"\xff\xd8"):
        return content[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + content[2:]
    body = b"tEXtComment\0" + text
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return content[:PNG_HEAD] + chunk + content[PNG_HEAD:]
