"""What goes wrong on purpose while a batch runs."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
FRAMING = ("transfer-encoding", "content-length", "connection", "expect")
Blow = Callable[[signal.Signals], object]


@contextmanager
def killer(
    rng: random.Random, victims: Callable[[], Sequence[Blow]], most: int = 6, apart: float = 0.6
) -> Iterator[list[str]]:
    """Strike random victims at random times, at most so often; give the list of the blows.

    The first blow falls as soon as there is a victim: a fast machine may leave no time later.
    """
    over, struck = threading.Event(), list[str]()

    def strike() -> None:
        wait = 0.1
        while len(struck) < most and not over.wait(wait):
            found = victims()
            if found:
                number = rng.choice(SIGNALS)
                struck.append(number.name)
                with suppress(ProcessLookupError):
                    rng.choice(found)(number)
                wait = rng.uniform(0.1, apart)
            else:
                wait = 0.1

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    try:
        yield struck
    finally:
        over.set()
        thread.join()


def processes(*words: str) -> list[Blow]:
    """Return a blow for each process whose command line holds all the words."""

    def hits(path: Path) -> bool:
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:  # it ended meanwhile
            return False
        return all(word in line for word in words)

    numbers = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if hits(path))
    return [lambda sign, number=number: os.kill(number, sign) for number in numbers]


def containers(client: Any, label: str) -> list[Blow]:
    """Return a blow for each container that runs and has the label."""

    def blow(container: Any) -> Blow:
        def strike(sign: signal.Signals) -> None:
            from docker.errors import APIError

            with suppress(APIError):  # it ended meanwhile
                container.kill(signal=sign.name)

        return strike

    found = client.containers.list(filters={"label": label}, ignore_removed=True)
    return [blow(one) for one in found]


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of so many KiB at ``path``; give a file that fills it."""
    path.mkdir(parents=True, exist_ok=True)
    size = f"size={kilobytes}k,mode=777"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    ballast = path / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        yield ballast
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Unreliable(BaseHTTPRequestHandler):
    """Passes requests on to a store; answers some with 500, and cuts some in the middle."""

    protocol_version = "HTTP/1.1"
    origin = ("", 0)
    rng = random.Random(0)
    share = 0.15  # of requests that go wrong, each way

    def pass_on(self) -> None:
        """Answer one request, or not."""
        body = b"".join(self.chunks())
        fate = self.rng.random()
        if fate < self.share:
            self.answer(500, {}, b"<Error><Code>InternalError</Code></Error>", 1.0)
            return
        line = http.client.HTTPConnection(*self.origin)
        headers = {name: text for name, text in self.headers.items() if name.lower() not in FRAMING}
        line.request(self.command, self.path, body, headers)
        answer = line.getresponse()
        content = answer.read()
        line.close()
        whole = 0.5 if fate < 2 * self.share else 1.0
        self.answer(answer.status, dict(answer.headers), content, whole)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body, which a store's client may send in chunks without a length."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def answer(self, code: int, headers: dict[str, str], content: bytes, whole: float) -> None:
        """Send an answer, or a part of one that says it is longer."""
        self.send_response_only(code)
        for name, text in headers.items():
            if name.lower() not in FRAMING:
                self.send_header(name, text)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: int(len(content) * whole)])
        self.close_connection = whole < 1

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def bucket(address: str, name: str) -> Iterator[Any]:
    """Give a client of an S3 server on which a bucket was made."""
    boto3 = pytest.importorskip("boto3")
    client = boto3.client(
        "s3", endpoint_url=address, region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    client.create_bucket(Bucket=name)
    yield client
    client.close()


@contextmanager
def store(rng: random.Random, host: str) -> Iterator[tuple[str, str]]:
    """Give the addresses of an S3 server and of an unreliable way to it, on this host."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(host, 0, verbose=False)
    server.start()
    origin = server.get_host_and_port()
    handler = type("Handler", (Unreliable,), {"origin": origin, "rng": rng})
    proxy = ThreadingHTTPServer((host, 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{origin[1]}", f"http://{host}:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()
