"""The scorer over HTTP: answers, refusals with their reason, and what it tells of itself."""

import hashlib
import json
import threading

import pytest

from slipway.scorer import create_app


@pytest.fixture
def app(toy, finished_run):
    return create_app(toy.job, finished_run / "out", background=False)


@pytest.fixture
def client(app):
    return app.test_client()


def post(client, body: object, **more: object):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/score", data=data, content_type="application/json", **more)


def test_one_row_gets_one_answer(client) -> None:
    reply = post(client, {"text": "win a prize"})

    assert 200 == reply.status_code
    assert {"prediction", "propensity"} == set(reply.json)
    assert reply.json["propensity"] > 0.5


def test_a_list_gets_one_answer_a_row_in_order(client) -> None:
    texts = ["win a prize", "see you", "win a prize", "see you"]
    found = post(client, [{"text": text} for text in texts]).json
    alone = [post(client, {"text": text}).json for text in texts]

    assert [True, False, True, False] == [answer["prediction"] for answer in found]
    assert alone == found


def test_an_empty_list_gets_an_empty_list(client) -> None:
    reply = post(client, b" [ ]")

    assert (200, []) == (reply.status_code, reply.json)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"text": "a"}, {"text": "b"}',
        b'{"text": "a"}, 5',
        b"[1",
        b"1],[2",
        b"\xff",
        b'{"text": "\\ud800"}',
        b"[" * 1900,
    ],
)
def test_a_body_that_is_no_json_is_400(client, body) -> None:
    reply = post(client, body)

    assert 400 == reply.status_code
    assert reply.json["error"].startswith("the body is no JSON: ")


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        ({"text": 7}, "/text", "7"),
        ({}, "/text", "{}"),
        ({"text": "a", "txt": "b"}, "/txt", "'b'"),
        ([{"text": "a"}, {"text": None}], "/1/text", "None"),
        ({"text": "x" * 51}, "/text", "'xxx"),
        ({"text": "a", "weight": "1"}, "/weight", "'1'"),
        ({"text": "a", "weight": -1}, "/weight", "-1"),
        ({"text": "a", "weight": 10**400}, "/weight", ""),
        (b'{"text": "a", "weight": NaN}', "/weight", "nan"),
        (b'{"text": "a", "weight": 1e999}', "/weight", "inf"),
        ("text", "/", "'text'"),
        (7, "/", "7"),
        (None, "/", "None"),
        ([[]], "/0", "[]"),
    ],
)
def test_a_wrong_field_is_422_with_its_path(client, body, path, found) -> None:
    reply = post(client, body)

    assert 422 == reply.status_code
    assert path == reply.json["fields"][0]["path"]
    assert reply.json["fields"][0]["found"].startswith(found)
    assert reply.json["fields"][0]["wanted"]


def test_too_many_rows_are_422_and_not_looked_at_one_by_one(client) -> None:
    reply = post(client, [{}] * 6 + [{"text": "a"}] * 20)

    assert 422 == reply.status_code
    assert "at most 5 items" in reply.json["fields"][-1]["wanted"]
    assert len(reply.json["fields"]) <= 6


def test_a_body_that_is_too_large_is_413(client) -> None:
    reply = post(client, {"text": "x" * 3000})

    assert 413 == reply.status_code
    assert "close" == reply.headers["Connection"]
    assert reply.json["error"]


@pytest.mark.parametrize("kind", [None, "application/xml", "application/x-www-form-urlencoded"])
def test_another_content_type_is_415(client, kind) -> None:
    reply = client.post("/score", data=b"{}", content_type=kind)

    assert 415 == reply.status_code
    assert "wanted application/json" in reply.json["error"]


def test_a_charset_beside_the_content_type_is_accepted(client) -> None:
    reply = client.post(
        "/score", data=b'{"text": "a"}', content_type="application/json; charset=utf-8"
    )

    assert 200 == reply.status_code


def test_another_method_and_another_path_are_told_in_json(client) -> None:
    assert (405, "POST") == (
        client.get("/score").status_code,
        client.get("/score").headers["Allow"].replace("OPTIONS, ", ""),
    )
    assert "error" in client.get("/nothing").json


def test_before_the_model_is_warm_the_answer_is_503_with_retry_after(toy) -> None:
    client = create_app(toy.job, toy.out, background=False).test_client()
    reply = post(client, {"text": "a"})

    assert (503, "1") == (reply.status_code, reply.headers["Retry-After"])
    assert "no model; run train first" in reply.json["error"]
    assert 200 == client.get("/livez").status_code
    for path in ("/readyz", "/healthz"):
        assert (503, False) == (client.get(path).status_code, client.get(path).json["ready"])
    assert "slipway_ready 0.0" in client.get("/metrics").text


def test_a_model_is_loaded_while_the_port_answers(toy, finished_run) -> None:
    app = create_app(toy.job, finished_run / "out")
    service = app.extensions["slipway"]
    for thread in threading.enumerate():
        if thread.name == "loading":
            thread.join(20)

    assert "ready" == service.state
    assert {"ready": True} == app.test_client().get("/readyz").json


def test_while_draining_it_answers_and_lets_the_client_go(toy, finished_run) -> None:
    app = create_app(toy.job, finished_run / "out", background=False, draining=lambda: True)
    reply = post(app.test_client(), {"text": "a"})

    assert (200, "close") == (reply.status_code, reply.headers["Connection"])
    assert {"ready": False, "reason": "draining"} == app.test_client().get("/readyz").json


@pytest.mark.parametrize(
    "text", ["explode", "short", "nan"], ids=["raises", "gives too few answers", "gives NaN"]
)
def test_a_score_that_fails_is_500_and_its_reason_stays_in_the_log(client, caplog, text) -> None:
    with caplog.at_level("ERROR"):
        reply = post(client, [{"text": text}, {"text": "a"}])

    assert 500 == reply.status_code
    assert {"error": "the scorer failed; its log has the reason"} == reply.json
    assert "Traceback" in caplog.text
    assert 200 == post(client, {"text": "a"}).status_code


def test_the_form_shows_each_field_with_its_example_escaped(client) -> None:
    page = client.get("/").text

    assert '<textarea name="text" rows="3" maxlength="50">WIN a prize</textarea>' in page
    assert "The &lt;i&gt;message&lt;/i&gt;." in page
    assert 'name="weight" type="number" value="1.0"' in page
    assert "Toy &lt;b&gt;mail&lt;/b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_openapi_document_is_valid_and_holds_the_types(client) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    document = client.get("/openapi.json").json
    validator.validate(document)
    rows = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]

    assert {"Error", "Message", "Verdict"} == set(document["components"]["schemas"])
    assert 5 == rows["schema"]["oneOf"][1]["maxItems"]
    assert {"text": "WIN a prize", "weight": 1.0} == rows["example"]


def test_metrics_count_requests_by_route_and_status(client) -> None:
    post(client, [{"text": "a"}, {"text": "b"}])
    post(client, b"{")
    client.get("/nowhere")
    told = client.get("/metrics").text

    assert 'slipway_requests_total{route="/score",status="200"} 1.0' in told
    assert 'slipway_requests_total{route="/score",status="400"} 1.0' in told
    assert 'slipway_requests_total{route="unknown",status="404"} 1.0' in told
    assert "slipway_rows_total 2.0" in told
    assert "slipway_ready 1.0" in told


def test_version_names_the_model_and_its_data(client, finished_run) -> None:
    told = client.get("/version").json

    assert ("toy", "sample", 0) == (told["job"], told["tier"], told["seed"])
    assert 12 == len(told["model"])
    assert "trained" == told["form"]
    assert ["average_precision"] == list(told["figures"])
    assert ["CC0"] == told["licences"]


def test_the_score_log_has_one_line_a_row_and_not_the_input(toy, finished_run) -> None:
    log = toy.out / "scores.jsonl"
    app = create_app(toy.job, finished_run / "out", str(log), background=False)
    rows = [{"text": "win a secret prize"}, {"text": "see you"}]
    answers = post(app.test_client(), rows).json
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]

    assert answers == [line["prediction"] for line in lines]
    assert [{"time", "model", "input", "prediction", "latency_ms"}] * 2 == [*map(set, lines)]
    assert (
        hashlib.sha256(b'{"text":"win a secret prize","weight":1.0}').hexdigest()
        == lines[0]["input"]
    )
    assert "secret" not in log.read_text("utf-8")


def test_many_threads_write_whole_lines_to_one_score_log(toy, finished_run) -> None:
    log = toy.out / "scores.jsonl"
    app = create_app(toy.job, finished_run / "out", str(log), background=False)
    threads = [
        threading.Thread(target=post, args=(app.test_client(), [{"text": "a"}] * 5))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 40 == len([json.loads(line) for line in log.read_text("utf-8").splitlines()])
