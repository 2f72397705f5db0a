"""Object stores: a real S3 server on loopback, and one that fails and cuts connections."""

import http.client
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from slipway.errors import DataUnavailable, Retryable
from slipway.scoring import stores
from slipway.scoring.merge import merge_parts
from slipway.scoring.score import Wishes, score_file

moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server():
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield running.get_host_and_port()
    running.stop()


INTERNAL = b"<Error><Code>InternalError</Code><Message>Try again</Message></Error>"


class Flaky(BaseHTTPRequestHandler):
    """Passes requests on; answers some with 500 and cuts others in the middle."""

    protocol_version = "HTTP/1.1"
    seen = 0
    down = False
    down_after = 10**9
    origin = ("", 0)

    def pass_on(self) -> None:
        type(self).seen += 1
        body = self.body()
        headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        if self.down or self.seen > self.down_after or self.seen % 7 == 6:
            self.answer(500, {"Content-Type": "application/xml"}, INTERNAL)
            return
        line = http.client.HTTPConnection(*self.origin, timeout=10)
        line.request(self.command, self.path, body, headers)
        answer = line.getresponse()
        content = answer.read()
        self.answer(answer.status, dict(answer.headers), content, cut=self.seen % 11 == 5)
        line.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return found

    def answer(self, code, headers, content, cut=False) -> None:
        self.send_response_only(code)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        size = len(content)
        if self.command == "HEAD":
            size = headers.get("Content-Length", "0")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def flaky(server):
    socketserver.TCPServer.allow_reuse_address = True
    handler = type("Handler", (Flaky,), {"origin": server, "seen": 0, "down": False})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    proxy.handler = handler
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def s3(server, monkeypatch):
    """Point the usual variables at a server, and make a bucket."""
    import boto3

    monkeypatch.setattr(stores, "PAUSES", (0.0,) * 4)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*server))
    client.create_bucket(Bucket="rows")

    def use(address) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*address))
        stores._s3.cache_clear()

    use(server)
    client.use = use
    yield client
    stores._s3.cache_clear()
    for entry in client.list_objects_v2(Bucket="rows").get("Contents", []):
        client.delete_object(Bucket="rows", Key=entry["Key"])


@pytest.fixture
def score(toy, finished_run):
    job = toy.job

    def run(source, target, shard=None) -> None:
        score_file(job, finished_run / "out" / "model", source, target, Wishes(shard, 5))

    run.job = job
    return run


ROWS = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(200)).encode()


def keys(s3) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket="rows").get("Contents", [])]


@pytest.mark.parametrize("kind", ["steady", "flaky"])
def test_shards_from_and_into_a_store_are_merged_there(s3, flaky, score, capsys, kind) -> None:
    s3.put_object(Bucket="rows", Key="in/a.jsonl", Body=ROWS)
    if kind == "flaky":
        s3.use(flaky.server_address)
    for shard in ("0/2", "1/2", "1/2"):
        score("s3://rows/in/a.jsonl", "s3://rows/parts", shard)

    assert "is finished; skipped" in capsys.readouterr().err
    merge_parts(score.job, "s3://rows/parts", "s3://rows/in/a.jsonl", "s3://rows/all.jsonl")
    merged = s3.get_object(Bucket="rows", Key="all.jsonl")["Body"].read().splitlines()

    assert list(range(1, 201)) == [json.loads(line)["line"] for line in merged]


def test_a_store_that_stays_down_is_retryable_and_nothing_is_half_written(
    s3, flaky, score, monkeypatch
) -> None:
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    monkeypatch.setattr(stores, "PAUSES", (0.0,))
    s3.put_object(Bucket="rows", Key="a.jsonl", Body=ROWS)
    s3.use(flaky.server_address)
    before = stores._upload

    def falls(address, file) -> None:
        flaky.handler.down = True
        before(address, file)

    monkeypatch.setattr(stores, "_upload", falls)
    flaky.handler.seen = 0
    with pytest.raises(Retryable, match=r"s3://rows/out\.jsonl"):
        score("s3://rows/a.jsonl", "s3://rows/out.jsonl")

    assert ["a.jsonl"] == keys(s3)


@pytest.fixture
def silent():
    """A port whose connections end without an answer, and how many there were."""

    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.server.seen += 1

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        server.seen = 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("patience", "tries"), [(90.0, 5), (-1.0, 1)])
def test_no_layer_multiplies_the_tries_of_another(s3, silent, monkeypatch, patience, tries) -> None:
    monkeypatch.setattr(stores, "ATTEMPTS", 1)
    monkeypatch.setattr(stores, "PATIENCE", patience)
    s3.use(silent.server_address)
    with pytest.raises(Retryable, match=r"s3://rows/a\.jsonl"):
        stores.size_of("s3://rows/a.jsonl")

    assert tries <= silent.seen <= 2 * tries  # aiohttp asks once more where that does no harm


def test_a_large_upload_that_breaks_is_never_completed(s3, flaky, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stores, "ATTEMPTS", 1)
    monkeypatch.setattr(stores, "PAUSES", ())
    s3.use(flaky.server_address)
    flaky.handler.down_after = 3  # the upload's beginning and two of its pieces
    part = stores.Staged("s3://rows/large.bin")
    part.write(bytes(40 * 2**20))
    with pytest.raises(Retryable):
        part.publish()
    part.discard()

    assert [] == keys(s3)


def test_a_folder_and_a_pattern_in_a_store(s3) -> None:
    for key in ("in/a.jsonl", "in/b.jsonl", "in/_SUCCESS", "in/deep/c.csv", "other.jsonl"):
        s3.put_object(Bucket="rows", Key=key, Body=b"{}")

    assert ["a.jsonl", "b.jsonl", "deep/c.csv"] == [e.name for e in stores.entries("s3://rows/in")]
    assert ["a.jsonl", "b.jsonl"] == [e.name for e in stores.entries("s3://rows/in/*.jsonl")]
    assert [""] == [entry.name for entry in stores.entries("s3://rows/other.jsonl")]


@pytest.mark.parametrize("address", ["s3://rows/none.jsonl", "s3://nobucket/none.jsonl"])
def test_what_is_not_there_is_told(s3, address) -> None:
    with pytest.raises(DataUnavailable, match="none"):
        stores.entries(address)


def test_a_store_of_another_kind_comes_by_fsspec(score, tmp_path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe("/in.jsonl", ROWS)
    score("memory://in.jsonl", str(tmp_path / "out.jsonl"))

    assert 200 == len((tmp_path / "out.jsonl").read_text().splitlines())
    with pytest.raises(DataUnavailable, match="nonsense://"):
        stores.entries("nonsense://a")
