"""A client of the scorer: pictures sent by many at once, how fast and how well they are labelled.

Data:    files of `sources`, or pictures of noise, each another one.
Source:  none.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from slipway import Run
from slipway.errors import InputInvalid, Retryable

from .sources import Found, png

LABEL, ROW = "label alone", "this job: label and committed row"
WAYS = (("/score", LABEL), ("/images", ROW))
TURNS = 2
TRIES = 20
"""Of one picture, while the scorer says that it is busy."""


@dataclass
class Sent:
    """What came of many requests: an answer for each picture that was sent, and its seconds."""

    answers: dict[int, Any] = field(default_factory=dict)
    taken: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def sent(url: str, path: str, files: Sequence[bytes], clients: int, seconds: float) -> Sent:
    """Let clients send each its share of the files, for so long at most."""
    found, end = Sent(), time.perf_counter() + seconds

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


def rates(run: Run, url: str, clients: int, seconds: float, seed: int) -> None:
    """Ask a running scorer for labels alone and with a committed row, in turns."""
    import numpy as np

    rows: list[dict[str, Any]] = []
    for turn in range(TURNS):
        for path, way in WAYS:
            files = list(_noise([seed, turn, len(path), time.time_ns() % 2**32], clients * 400))
            found = sent(url, path, files, clients, seconds)
            p50, p95 = np.percentile(found.taken, [50, 95]) * 1e3
            rate = len(found.answers) / seconds
            rows.append({"way": way, "rate": rate, "p50 ms": p50, "p95 ms": p95})
    best = {way: max(row["rate"] for row in rows if row["way"] == way) for way in (LABEL, ROW)}
    run.table("uploads", rows, f"Pictures a second, {clients} clients, {seconds:g} s each")
    run.note(f"With a committed row {best[ROW] / best[LABEL]:.0%} of the labels alone.")


def _noise(seed: Sequence[int], number: int) -> Iterator[bytes]:
    """Yield pictures that nobody has sent before."""
    import numpy as np

    draw = np.random.default_rng(seed)
    for _ in range(number):
        yield png(draw.integers(0, 256, (28, 28), np.uint8))
