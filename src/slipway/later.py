"""An answer that is given later, by another thread than the view's.

A view that waits holds a thread, and where many are let go at one time, as those whose rows are
committed together, they all finish when the last does: each has a share of Python's lock. A view
that returns a `Later` waits for nothing, and whoever has the answer sends it, one after the other.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Response, request

from slipway.bodies import JSON
from slipway.errors import NotReady, refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger("slipway.later")

TAKES = "slipway.later"
"""The key of an environment whose server takes a `Later` off the thread: a function of it."""
Send = Callable[[int, dict[str, str], bytes], None]


class Later(Response):
    """A response to return from a view; ``give`` or ``fail`` is called once, by any thread.

    Without an answer ``within`` so many seconds it is 503 with ``reason``. Only the first answer
    counts. Made within a request.
    """

    def __init__(self, within: float, reason: str) -> None:
        super().__init__(mimetype=JSON)
        self.within, self.reason = within, reason
        self.route = request.url_rule.rule if request.url_rule else "unknown"
        self._lock = threading.Lock()
        self._found: tuple[int, dict[str, str], bytes] | None = None
        self._send: Send | None = None

    def give(self, status: int, value: Any) -> None:
        """Answer with a value as JSON."""
        self._settle(status, {}, json.dumps(value).encode())

    def fail(self, error: Exception) -> None:
        """Answer with the status and the message that a view would have that raised this."""
        self._settle(*refusal(error))

    def late(self) -> None:
        """Say that there is no answer in time."""
        self.fail(NotReady(self.reason))

    def then(self, send: Send) -> None:
        """Have the answer sent, now or when it comes, by the thread that gives it."""
        with self._lock:
            self._send, found = send, self._found
        if found:
            send(*found)

    def _settle(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with self._lock:
            if self._found:
                return
            self._found, send = (status, headers, body), self._send
        if send:
            try:
                send(status, headers, body)
            except Exception:  # who gives it has other answers to give
                log.exception("an answer was not delivered")

    def waited(self) -> Response:
        """Return the answer itself, for a server that cannot do without the thread."""
        known = threading.Event()
        self.then(lambda *_: known.set())
        if not known.wait(self.within):
            self.late()
        assert self._found
        status, headers, body = self._found
        return Response(body, status, headers, JSON)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Go over to the server, which sends the answer itself."""
        environ[TAKES](self)
        return []
