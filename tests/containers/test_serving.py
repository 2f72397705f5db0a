"""The scorer as a client meets it: routes, limits, readiness."""

import http.client
import itertools
import json
import socket

import pytest


def test_readiness_is_503_until_the_model_is_warm_and_200_ever_after(warmed):
    server, seen = warmed
    seen += [server.status("/readyz") for _ in range(20)]
    told = [code for code, _ in itertools.groupby(seen) if code]
    # On a busy machine a quick model is warm before the engine has told us the port.
    assert told in ([503, 200], [200])
    assert server.status("/livez") == 200


@pytest.mark.once
def test_a_server_without_a_model_lives_and_says_why_it_is_not_ready(subject, out, rows, wait_for):
    with subject.serving(out) as server:
        wait_for(lambda: server.status("/livez") == 200)
        wait_for(lambda: "no model" in server.ask("/readyz")[2])
        code, answer = server.score(rows[0])
    assert code == 503
    assert "run train first" in answer["error"]


def test_a_row_and_a_list_of_rows_answer_alike(server, rows, described):
    code, many = server.score(rows)
    assert code == 200
    assert len(many) == len(rows)
    assert set(many[0]) == set(described["output"]["properties"])
    code, one = server.score(rows[0])
    assert code == 200
    assert one == many[0]
    assert server.score([]) == (200, [])


def test_the_served_answers_are_those_of_the_file_scorer(
    server, subject, trained, make_folder, rows, write_rows, read_rows
):
    place = make_folder(trained)
    write_rows(place / "rows.jsonl", rows)
    subject.run("score", "/artifacts/rows.jsonl", "/artifacts/scores.jsonl", out=place)
    numbered = [{"line": n} | answer for n, answer in enumerate(server.score(rows)[1], start=1)]
    assert numbered == read_rows(place / "scores.jsonl")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_health_routes_answer(server, path):
    assert server.ask(path)[0] == 200


def test_the_form_is_a_page_with_every_field(server, subject, rows):
    code, headers, page = server.ask("/")
    assert code == 200
    assert headers.get_content_type() == "text/html"
    for name in rows[0]:
        assert f'"{name}"' in page or f">{name}" in page
    assert "http://" not in page.replace(server.url, "").replace("http://www.w3.org", "")


def test_metrics_count_what_was_asked(server, rows):
    server.score(rows)
    code, _, text = server.ask("/metrics")
    assert code == 200
    assert "slipway_ready 1.0" in text
    assert 'slipway_requests_total{route="/score",status="200"}' in text
    assert "slipway_score_seconds_bucket" in text


def test_version_names_job_model_and_build(server, subject, trained):
    found = json.loads(server.ask("/version")[2])
    record = json.loads((trained / "run.json").read_text("utf-8"))["train"]
    assert found["job"] == subject.spec.name
    assert found["built"]["commit"] == subject.image.labels["org.opencontainers.image.revision"]
    assert (found["tier"], found["seed"]) == (record["tier"], 0)
    assert len(found["model"]) == 12


def test_openapi_describes_the_row(server, rows):
    found = json.loads(server.ask("/openapi.json")[2])
    assert found["openapi"].startswith("3.1")
    schemas = found["components"]["schemas"]
    assert any(set(rows[0]) <= set(entry["properties"]) for entry in schemas.values())


@pytest.mark.parametrize("kind", ["application/xml", "application/x-www-form-urlencoded", ""])
def test_another_content_type_is_415(server, rows, kind):
    code, _, text = server.ask("/score", json.dumps(rows[0]).encode(), Content_Type=kind)
    assert code == 415
    assert "wanted application/json" in text


def test_a_body_that_is_no_json_is_400(server):
    assert server.score(b'{"torn')[0] == 400
    assert server.score(b"")[0] == 400


def test_a_wrong_field_is_422_with_its_path(server, rows, wrong):
    name = next(iter(wrong))
    code, answer = server.score(wrong)
    assert code == 422
    assert answer["fields"][0]["path"].startswith(f"/{name}")
    assert {"path", "found", "wanted"} == set(answer["fields"][0])
    code, answer = server.score([rows[0], wrong])
    assert code == 422
    assert answer["fields"][0]["path"].startswith(f"/1/{name}")
    code, answer = server.score(rows[0] | {"misspelt": 1})
    assert (code, answer["fields"][0]["path"]) == (422, "/misspelt")


def test_more_rows_than_the_limit_are_422(server, rows):
    found = json.loads(server.ask("/openapi.json")[2])
    body = found["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    limit = body["schema"]["oneOf"][1]["maxItems"]
    code, answer = server.score([rows[0]] * (limit + 1))
    assert code in (413, 422)
    assert code == 413 or str(limit) in json.dumps(answer)


def raw(server, head, chunks):
    """Send a request piece by piece and return the status of the answer."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(f"POST /score HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
        try:
            for chunk in chunks:
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent
        return int(connection.recv(4096).split()[1])


@pytest.mark.once
def test_a_body_declared_too_large_is_413_before_it_is_sent(server):
    head = f"Content-Type: application/json\r\nContent-Length: {2**40}"
    assert raw(server, head, []) == 413


@pytest.mark.once
def test_a_body_too_large_that_declares_nothing_is_413(server):
    head = "Content-Type: application/json\r\nTransfer-Encoding: chunked"
    size = 2**20
    chunk = f"{size:x}\r\n".encode() + b" " * size + b"\r\n"
    assert raw(server, head, itertools.repeat(chunk, 128)) == 413


@pytest.mark.parametrize(("path", "code"), [("/nowhere", 404), ("/score", 405)])
def test_a_wrong_route_is_told_in_json(server, path, code):
    found, headers, text = server.ask(path)
    assert found == code
    assert headers.get_content_type() == "application/json"
    assert json.loads(text)["error"]


SLOW = 200
LARGE = 100 * 2**20
HEADS = (
    b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n[[\r\n",
)


@pytest.mark.once
def test_slow_clients_hold_up_neither_health_nor_good_requests(server, rows):
    place = (server.host, server.port)
    slow = [socket.create_connection(place, timeout=60) for _ in range(SLOW)]
    try:
        for connection, head in zip(slow, itertools.cycle(HEADS), strict=False):
            connection.sendall(head)
        for _ in range(20):
            assert server.ask("/livez")[0] == 200
            assert server.ask("/readyz")[0] == 200
            assert server.score(rows[0])[0] == 200
    finally:
        for connection in slow:
            connection.close()
    assert server.score(rows[:2])[0] == 200


@pytest.mark.once
def test_a_body_of_100_megabytes_is_413_and_never_in_memory(server, rows):
    before = resident(server)
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("POST", "/score", b" " * LARGE, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (413, "close")
    connection.close()
    assert resident(server) - before < LARGE / 2
    assert server.score(rows[0])[0] == 200


def resident(server):
    """Return the bytes that the container's processes hold."""
    return server.container.stats(stream=False)["memory_stats"]["usage"]


@pytest.mark.once
def test_a_worker_that_is_killed_is_replaced(subject, trained, make_folder, rows, wait_for):
    with subject.serving(make_folder(trained), "--workers", "2") as server:
        wait_for(lambda: server.status("/readyz") == 200)
        code = "import os, signal; os.kill(max(int(p) for p in os.listdir('/proc') if p.isdigit()"
        code += " and int(p) != os.getpid()), signal.SIGKILL)"
        server.container.exec_run(["/opt/venv/bin/python", "-c", code])
        wait_for(lambda: "another takes its place" in server.log())
        wait_for(lambda: scored(server, rows[0]))
        assert all(scored(server, rows[0]) for _ in range(20))


def scored(server, row):
    try:
        return server.score(row)[0] == 200
    except OSError:
        return False
