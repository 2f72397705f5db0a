"""The scorer as a client meets it: asked again while it warms up, its refusals told in words."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

JSON = "application/json"
PATIENCE = 60
TIMEOUT = 120
LONGEST_PAUSE = 10
LATER = {429: "The scorer has more to do than it takes", 503: "The model is warming up"}
WORDS = {
    400: "The scorer could not read what was sent",
    413: "That is more than the scorer takes in one request",
    415: "The scorer does not take this kind of content",
    422: "The scorer does not take this",
}


class Refused(Exception):
    """The scorer's answer is no score; the text says why in words, ``fields`` where."""

    def __init__(
        self, told: str, fields: list[dict[str, str]] | None = None, status: int = 0
    ) -> None:
        super().__init__(told)
        self.fields = fields or []
        self.status = status


@dataclass(frozen=True)
class Waiting:
    """Nothing yet: why, and in how many seconds the scorer is asked again."""

    told: str
    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came over HTTP; status 0 where nothing did."""

    status: int
    body: Any
    pause: float = 1


@dataclass
class Scorer:
    """One scorer by its address."""

    url: str
    patience: float = PATIENCE
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def described(self) -> Iterator[Waiting | dict[str, Any]]:
        """Yield the OpenAPI document, after a `Waiting` for each time the scorer was not there."""
        yield from self._asked("/openapi.json")

    def version(self) -> dict[str, Any]:
        """Return what ``/version`` says of the model, nothing where the scorer does not answer."""
        reply = self._ask("/version")
        return reply.body if reply.status == 200 and isinstance(reply.body, dict) else {}

    def answers(self, rows: list[dict[str, Any]]) -> Iterator[Waiting | list[dict[str, Any]]]:
        """Yield one answer a row as a list, after a `Waiting` for each time it had to wait."""
        yield from self._asked("/score", json.dumps(rows, allow_nan=False).encode())

    def answer(self, kind: str, body: bytes) -> Iterator[Waiting | dict[str, Any]]:
        """Yield the answer for one row, a body of content type ``kind``, after every `Waiting`."""
        yield from self._asked("/score", body, kind)

    def _asked(self, path: str, body: bytes | None = None, kind: str = JSON) -> Iterator[Any]:
        end = self.clock() + self.patience
        while True:
            reply = self._ask(path, body, kind)
            if reply.status == 200:
                yield reply.body
                return
            waiting = self._may_come(reply)
            if waiting is None or self.clock() + waiting.seconds > end:
                raise Refused(self._words(reply), _entries(reply.body), reply.status)
            yield waiting
            self.sleep(waiting.seconds)

    def _may_come(self, reply: Reply) -> Waiting | None:
        """Tell whether asking again may help."""
        if reply.status == 0:
            return Waiting(f"No scorer answers at {self.url} yet ({reply.body})", 1)
        if reply.status == 503 and "no model" in _error(reply.body):
            return None
        if reply.status in LATER:
            return Waiting(LATER[reply.status], min(reply.pause, LONGEST_PAUSE))
        return None

    def _words(self, reply: Reply) -> str:
        if reply.status == 0:
            return f"No scorer answers at {self.url}: {reply.body}"
        known = WORDS | LATER
        told = known.get(reply.status, f"The scorer failed (HTTP {reply.status})")
        reason = _error(reply.body)
        return f"{told}: {reason}" if reason and not _entries(reply.body) else told

    def _ask(self, path: str, body: bytes | None = None, kind: str = JSON) -> Reply:
        headers = {"Content-Type": kind} if body else {}
        request = urllib.request.Request(f"{self.url.rstrip('/')}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return Reply(answer.status, _read(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                pause = error.headers.get("Retry-After", "")
                return Reply(
                    error.code, _read(error.read()), float(pause) if pause.isdecimal() else 1
                )
        except (OSError, http.client.HTTPException) as error:
            return Reply(0, str(getattr(error, "reason", error)))


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body[:300].decode("utf-8", "replace")


def _error(body: Any) -> str:
    return str(body.get("error", "")) if isinstance(body, dict) else str(body)


def _entries(body: Any) -> list[dict[str, str]]:
    found = body.get("fields") if isinstance(body, dict) else None
    return found if isinstance(found, list) else []
