"""A receiver of webhooks, for the runtime's tests and for a server in a container."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """An HTTP server that answers with the given statuses, then 204, and keeps what it got."""

    def __init__(self, host: str) -> None:
        self.statuses: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep the event and answer as planned."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                receiver.got.append((dict(self.headers), body))
                self.send_response(status)
                self.send_header("Location", "http://169.254.169.254/")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self.server.server_port}/hook?a=b"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def told(self) -> list[dict]:
        """The bodies that came, in order."""
        return [json.loads(body) for _, body in self.got]


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Receiver]:
    """Give a receiver that listens on an address of this machine."""
    found = Receiver(host)
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
