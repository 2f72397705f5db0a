"""What the demo page is made of, without the page: fields, refusals, answers, files."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from images.demo import answers, files
from images.demo.fields import Description, Field, NotAValue, described
from images.demo.scorer import Refused, Scorer, Waiting

ROW = {
    "type": "object",
    "required": ["age", "town", "picture"],
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120, "title": "Age"},
        "income": {"type": "number", "exclusiveMinimum": 0, "default": 1.5},
        "town": {"$ref": "#/components/schemas/Town", "description": "Where"},
        "member": {"type": "boolean", "default": False},
        "note": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}], "default": None},
        "picture": {"type": "string", "contentMediaType": "image/png", "format": "base64"},
        "sound": {"type": "string", "contentMediaType": "audio/wav", "default": ""},
        "scan": {"type": "string", "format": "binary", "default": ""},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
    },
}
ANSWER = {
    "type": "object",
    "properties": {
        "prediction": {"type": "boolean"},
        "propensity": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    },
}


def one_or_many(name: str, **limits: int) -> dict[str, Any]:
    one = {"$ref": f"#/components/schemas/{name}"}
    return {"oneOf": [one, {"type": "array", "items": one, **limits}]}


def document(row: dict[str, Any] = ROW, most: int = 3) -> dict[str, Any]:
    content = {"schema": one_or_many("Row", maxItems=most), "example": {"age": 40, "town": "Ulm"}}
    reply = {"content": {"application/json": {"schema": one_or_many("Answer")}}}
    post = {
        "requestBody": {"content": {"application/json": content}},
        "responses": {"200": reply},
    }
    schemas = {"Row": row, "Answer": ANSWER, "Town": {"enum": ["Ulm", "Bonn"], "type": "string"}}
    return {
        "info": {"title": "Title", "description": "Question?"},
        "paths": {"/score": {"post": post}},
        "components": {"schemas": schemas},
    }


@pytest.fixture
def description() -> Description:
    return described(document())


def field(description: Description, name: str) -> Field:
    return next(one for one in description.fields if one.name == name)


def test_each_type_of_the_schema_has_a_kind_of_field(description: Description) -> None:
    assert {one.name: one.kind for one in description.fields} == {
        "age": "whole",
        "income": "number",
        "town": "choice",
        "member": "yes_no",
        "note": "text",
        "picture": "image",
        "sound": "audio",
        "scan": "file",
        "tags": "json",
    }
    assert (description.title, description.question, description.most) == ("Title", "Question?", 3)


def test_a_field_has_its_limits_example_and_hint(description: Description) -> None:
    age, town, note = (field(description, name) for name in ("age", "town", "note"))
    assert (age.low, age.high, age.value, age.label) == (0, 120, 40, "Age")
    assert (town.choices, town.value, town.hint) == (("Ulm", "Bonn"), "Ulm", "Where")
    assert (note.nullable, note.longest, note.required) == (True, 9, False)


@pytest.mark.parametrize(("low", "high", "step"), [(0, 1, 0.0001), (-124, -114, 0.001)])
def test_a_slider_of_numbers_has_a_thousand_steps_or_more(
    low: float, high: float, step: float
) -> None:
    assert Field("x", "number", "x", low=low, high=high).step == pytest.approx(step)


def test_a_document_without_score_is_told() -> None:
    with pytest.raises(NotAValue, match="describes no POST /score"):
        described({"paths": {}})


def test_a_row_leaves_out_what_is_empty_and_encodes_files(
    description: Description, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG")
    row = description.row([40.0, None, "Ulm", True, "", str(picture), None, None, '["a"]'])
    assert row == {
        "age": 40,
        "town": "Ulm",
        "member": True,
        "picture": base64.b64encode(b"\x89PNG").decode(),
        "tags": ["a"],
    }


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("age", "old", "Age: found 'old'; wanted a whole number"),
        ("age", None, "Age: found nothing; wanted a whole number"),
        ("town", "Rom", "town: found 'Rom'; wanted one of Ulm, Bonn"),
        ("tags", "[", "tags: found '['; wanted JSON"),
        ("member", "perhaps", "member: found 'perhaps'; wanted true or false"),
    ],
)
def test_what_cannot_be_sent_is_told_in_words(
    name: str, value: Any, told: str, description: Description
) -> None:
    with pytest.raises(NotAValue) as error:
        field(description, name).sent(value)
    assert str(error.value) == told


def test_an_answer_shows_verdict_share_and_the_rest_escaped() -> None:
    found = answers.shown({"prediction": True, "propensity": 0.25, "why": "<b>"}, ANSWER)
    assert '<p class="verdict">Yes</p>' in found
    assert "width:25.0%" in found
    assert "<td>&lt;b&gt;</td>" in found


def test_probabilities_by_class_are_bars_the_largest_first() -> None:
    found = answers.shown({"prediction": "cat", "probabilities": {"dog": 0.2, "cat": 0.8}}, {})
    assert found.index(">cat<", found.index("bars")) < found.index(">dog<")


@pytest.mark.parametrize(("share", "told"), [(1, "100.0 %"), (0.99999, "&gt;99.9 %"), (0, "0.0 %")])
def test_only_what_is_sure_is_a_hundred_percent(share: float, told: str) -> None:
    assert told in answers.shown({"propensity": share}, ANSWER | {"properties": SHARE})


SHARE = {"propensity": {"type": "number", "minimum": 0, "maximum": 1}}


def test_a_list_of_objects_is_a_table_and_a_picture_a_picture() -> None:
    schema = {"properties": {"mask": {"contentMediaType": "image/png"}}}
    found = answers.shown({"boxes": [{"x": 1, "y": 2}], "mask": "aGk="}, schema)
    assert "<th>x</th><th>y</th>" in found
    assert '<img src="data:image/png;base64,aGk="' in found


Told = list[tuple[int, Any, dict[str, str]]]


@pytest.fixture
def told() -> Told:
    """What the scorer answers next: status, body, headers."""
    return []


@pytest.fixture
def asked() -> list[Any]:
    """What the scorer was asked."""
    return []


@pytest.fixture
def scorer(told: Told, asked: list[Any]) -> Iterator[Scorer]:
    """A client of an HTTP server that answers as told; it waits without waiting."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            status, found, headers = told.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    url = f"http://127.0.0.1:{server.server_port}"
    yield Scorer(url, patience=5, clock=lambda: now[0], sleep=sleep)
    server.shutdown()
    server.server_close()


def test_a_scorer_that_warms_up_or_is_busy_is_asked_again(scorer: Scorer, told: Told) -> None:
    told += [(503, {"error": "loading"}, {}), (429, {}, {"Retry-After": "2"}), (200, [1], {})]
    steps = list(scorer.answers([{}]))
    assert steps == [
        Waiting("The model is warming up", 1),
        Waiting("The scorer has more to do than it takes", 2),
        [1],
    ]


def test_patience_ends(scorer: Scorer, told: Told) -> None:
    told += [(503, {"error": "loading"}, {"Retry-After": "4"})] * 3
    with pytest.raises(Refused, match="The model is warming up: loading"):
        list(scorer.answers([{}]))
    assert len(told) == 1


def test_a_scorer_without_a_model_is_not_waited_for(scorer: Scorer, told: Told) -> None:
    told.append((503, {"error": "the model is not ready: no model; run train first"}, {}))
    with pytest.raises(Refused, match="run train first"):
        list(scorer.answers([{}]))


def test_a_wrong_field_is_told_with_its_path(scorer: Scorer, told: Told) -> None:
    entry = {"path": "/0/age", "found": "7", "wanted": "a string"}
    told.append((422, {"error": "1 field is wrong", "fields": [entry]}, {}))
    with pytest.raises(Refused) as refusal:
        list(scorer.answers([{}]))
    assert refusal.value.fields == [entry]
    assert "age</b>: found 7; wanted: a string" in answers.wrong("No", refusal.value.fields)


def test_nobody_there_is_told_with_the_address() -> None:
    scorer = Scorer("http://127.0.0.1:9", patience=0)
    with pytest.raises(Refused, match=r"No scorer answers at http://127\.0\.0\.1:9: "):
        list(scorer.answers([{}]))
    assert scorer.version() == {}


SMALL = {key: ROW[key] for key in ("type",)} | {
    "required": ["age"],
    "properties": {"age": {"type": "integer"}, "member": {"type": "boolean"}},
}


def test_a_file_is_scored_in_requests_and_a_bad_row_keeps_its_reason(
    scorer: Scorer, told: Told, asked: list[Any]
) -> None:
    description = described(document(SMALL, most=2))
    lines = files.read(b"age,member,name\n1,yes,a\nold,,b\n3,no,c\n-4,,d\n", description)
    wrong = {"path": "/1/age", "found": "-4", "wanted": "0 or more"}
    told += [(200, [{"p": 1}], {}), (422, {"fields": [wrong]}, {}), (200, [{"p": 3}], {})]
    assert list(files.scored(lines, description, scorer)) == [2, 4]
    assert asked == [
        [{"age": 1, "member": True}],
        [{"age": 3, "member": False}, {"age": -4}],
        [{"age": 3, "member": False}],
    ]
    assert files.written(lines).splitlines() == [
        "age,member,name,p,error",
        "1,yes,a,1,",
        "old,,b,,age: found 'old'; wanted a whole number",
        "3,no,c,3,",
        "-4,,d,,age: found -4; wanted: 0 or more",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"name\na\n", "the header lacks age; found name"),
        (b"age\n", "the file has 0 rows"),
        (b"age\n\xff\n", "no CSV in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_scored_is_told(content: bytes, reason: str) -> None:
    with pytest.raises(NotAValue, match=reason):
        files.read(content, described(document(SMALL)))
