"""Whatever is posted, the scorer answers, and never with a 5xx or a traceback."""

import gzip
import http.client
import json
import random
import re
import socket
import string
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BODIES = 10_000
THREADS = 4
PIPELINED = 8
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
EXAMPLES = 20  # of each route
JSON = "application/json"
KINDS = (
    "", "text/plain", "application/xml", "application/json; charset=utf-16", "application/JSON",
    "multipart/form-data; boundary=x", "application/json;;;", "a" * 300, "application/x-ndjson",
)  # fmt: skip
NUMBERS = (
    "1e309", "-1e309", "NaN", "Infinity", "-Infinity", "1" * 5000, "-0", "0.1e-400",
    "18446744073709551616", "1e", "0x1F", "01",
)  # fmt: skip
TEXTS = (
    r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"\ufeff"', '"\x7f\x1b[2J"', '"\u202e\u0301"',
    r'"\x"', '"unended', '""', '"' + "a" * 100_000 + '"', '"' + "\U0001f600" * 9_000 + '"',
)  # fmt: skip
VALUES = ("null", "true", "[]", "{}", "[[]]", '{"":{}}', "[null]", '{"a":1,"a":2}')


def value_of(chance):
    return chance.choice((*NUMBERS, *TEXTS, *VALUES))


def fields_of(row, chance):
    """Write a row as JSON text, each field perhaps with another value, name or twice."""
    parts = []
    for name, value in row.items():
        shown = value_of(chance) if chance.random() < 0.5 else json.dumps(value)
        key = json.dumps(name if chance.random() < 0.8 else name[::-1] + chance.choice("\0 é"))
        parts += [f"{key}:{shown}"] * chance.choice((0, 1, 1, 1, 2))
    return "{" + ",".join(parts) + "}"


def values(row, chance):
    text = fields_of(row, chance)
    return f"[{','.join([text] * chance.randrange(4))}]" if chance.random() < 0.3 else text


def flipped(row, chance):
    content = bytearray(json.dumps(row).encode())
    for _ in range(chance.randrange(1, 6)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content)


def truncated(row, chance):
    content = json.dumps([row, row]).encode()
    return content[chance.randrange(len(content)) :][: chance.randrange(len(content))]


def nested(row, chance):
    depth = chance.choice((10, 200, 1000, 5000, 50_000))
    opening, closing = chance.choice((("[", "]"), ('{"a":', "}")))
    inner = json.dumps(row) if chance.random() < 0.5 else "1"
    text = opening * depth + inner + closing * (depth if chance.random() < 0.7 else 0)
    name = json.dumps(next(iter(row)))
    return f"{{{name}:{text}}}" if chance.random() < 0.5 else text


def encoded(row, chance):
    text = json.dumps(row, ensure_ascii=False)
    coding = chance.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7"))
    return text.encode(coding)


def squeezed(row, chance):
    packed = gzip.compress(json.dumps(row).encode())
    return packed[: chance.randrange(len(packed))] if chance.random() < 0.5 else packed


def noise(_, chance):
    return chance.randbytes(chance.choice((0, 1, 10, 1000)))


def words(row, chance):
    text = "".join(chance.choices(string.printable, k=chance.randrange(200)))
    return json.dumps(row | {next(iter(row)): text}) + chance.choice(("", "", "x", "\n{}", ",1"))


def repeated(row, chance):
    return json.dumps([row] * chance.choice((0, 1, 2, 999, 1001)))


MUTATIONS = (values, values, values, flipped, flipped, truncated, nested, encoded, squeezed)
RARE = (noise, words, repeated)


def request_of(number, rows):
    """Return headers and body of one request; its number seeds every choice."""
    chance = random.Random(number)
    mutation = chance.choice(MUTATIONS + RARE)
    body = mutation(chance.choice(rows), chance)
    body = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    kind = JSON if chance.random() < 0.9 else chance.choice(KINDS)
    headers = {"Content-Type": kind} if kind else {}
    if mutation is squeezed:
        headers["Content-Encoding"] = "gzip"
    return headers, body


def exchange(server, connection, number, rows):
    """Send one request; return its status, "lost" where the connection broke."""
    headers, body = request_of(number, rows)
    try:
        connection.request("POST", "/score", body, headers)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return "lost"
    return answer.status


def one_after_another(server, numbers, rows):
    """Send requests over one connection that is kept; return how often each status came."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    found = Counter(exchange(server, connection, number, rows) for number in numbers)
    connection.close()
    return found


def all_at_once(server, numbers, rows):
    """Send several requests before reading an answer; return the statuses in order."""
    sent = b""
    for place, number in enumerate(numbers, start=1):
        headers, body = request_of(number, rows)
        last = "Connection: close\r\n" if place == len(numbers) else ""
        told = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
        sent += f"POST /score HTTP/1.1\r\nHost: x\r\n{told}{last}".encode()
        sent += f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return [int(code) for code in STATUS.findall(received)]


@pytest.mark.once
def test_no_body_gives_a_5xx_or_a_traceback(server, rows, figures, subject):
    apart = range(0, BODIES * 4 // 5)
    together = range(apart.stop, BODIES, PIPELINED)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [apart[start::THREADS] for start in range(THREADS)]
        found = sum(pool.map(lambda n: one_after_another(server, n, rows), parts), Counter())
        groups = [range(start, start + PIPELINED) for start in together]
        for group, codes in zip(
            groups, pool.map(lambda n: all_at_once(server, n, rows), groups), strict=True
        ):
            assert len(codes) == len(group), f"requests {group}: {codes}"
            found.update(codes)
    told = ", ".join(f"{count} of {code}" for code, count in sorted(found.items(), key=str))
    figures[f"{subject.spec.name} fuzzed bodies"] = f"{found.total()}: {told}"
    assert found.total() == BODIES
    assert set(found) <= {200, 400, 413, 415, 422}
    assert "Traceback" not in server.log()
    assert server.score(rows[0])[0] == 200


def test_schemathesis_finds_nothing(server, described, tmp_path):
    fields = described["input"]["properties"].values()
    files = any("contentEncoding" in field for field in fields)  # a schema describes no picture
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json",
        "--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color",
        "--request-timeout", "60",
        *(["--exclude-checks", "positive_data_acceptance"] if files else []),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in server.log()
