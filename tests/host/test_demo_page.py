"""What the demo page is made of, without the page: fields, refusals, answers, files."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

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


Told = list[tuple[int, Any, dict[str, str]]]


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
        ("tags", "[NaN]", "tags: found '[NaN]'; wanted JSON"),
        ("income", "inf", "income: found 'inf'; wanted a number"),
        ("age", "nan", "Age: found 'nan'; wanted a whole number"),
        ("member", "perhaps", "member: found 'perhaps'; wanted true or false"),
    ],
)
def test_what_cannot_be_sent_is_told_in_words(
    name: str, value: Any, told: str, description: Description
) -> None:
    with pytest.raises(NotAValue) as error:
        field(description, name).sent(value)
    assert str(error.value) == told


def lone(field: dict[str, Any], *raw: str) -> Description:
    """Describe a scorer whose row is one file."""
    row = {"type": "object", "required": ["file"], "properties": {"file": field}}
    found = document(row)
    content = found["paths"]["/score"]["post"]["requestBody"]["content"]
    content |= {kind: {"schema": {"type": "string"}} for kind in raw}
    content["application/json"]["example"] = {}
    return described(found)


def picture(path: Path, colour: str = "white", mark: str = "black") -> Path:
    with Image.new("RGB", (8, 8), colour) as made:
        made.putpixel((2, 2), ImageColor.getrgb(mark))
        made.save(path)
    return path


PNG = {"type": "string", "contentMediaType": "image/png"}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (PNG | {"drawn": True}, "sheet"),
        (PNG, "image"),
        ({"contentMediaType": "image/tiff"}, "file"),
        ({"contentMediaType": "video/mp4"}, "video"),
        ({"contentMediaType": "application/gzip"}, "file"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": "string", "format": "date-time"}, "moment"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "columns"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, "json"),
        ({"enum": ["a", None]}, "choice"),
    ],
)
def test_the_schema_alone_says_what_a_person_does(entry: dict[str, Any], kind: str) -> None:
    assert lone(entry).fields[0].kind == kind


def test_a_lone_picture_goes_as_it_is_where_the_scorer_says_so(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    content = path.read_bytes()
    assert lone(PNG, "image/png").body([str(path)]) == ("image/png", content)
    kind, body = lone(PNG).body([str(path)])
    assert kind == "application/json"
    assert json.loads(body) == {"file": base64.b64encode(content).decode()}


def test_a_picture_of_a_type_that_is_not_taken_is_written_anew(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.bmp")
    kind, body = lone(PNG, "image/png").body([str(path)])
    assert (kind, body[:4]) == ("image/png", b"\x89PNG")
    with Image.open(io.BytesIO(body)) as sent, Image.open(path) as given:
        assert sent.tobytes() == given.tobytes()
    taken = PNG | {"accept": ["image/png", "image/bmp"]}
    assert lone(taken, "image/bmp").body([str(path)]) == ("image/bmp", path.read_bytes())


def test_a_sound_is_called_what_the_scorer_calls_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")
    taken = {"contentMediaType": "audio/wav", "accept": ["audio/wav", "audio/flac"]}
    assert lone(taken, "audio/wav").body([str(path)]) == ("audio/wav", b"RIFF")


@pytest.mark.parametrize(("mark", "sent"), [("black", True), ("white", False)])
def test_an_empty_sheet_is_not_sent(mark: str, sent: bool, tmp_path: Path) -> None:
    drawn = {"composite": str(picture(tmp_path / "a.png", mark=mark))}
    sheet = lone(PNG | {"drawn": True}, "image/png")
    if sent:
        assert sheet.body([drawn])[0] == "image/png"
    else:
        with pytest.raises(NotAValue, match="file: found nothing; wanted a drawing or a picture"):
            sheet.body([drawn])


def test_every_field_that_is_wrong_is_named(description: Description) -> None:
    values = ["old", None, "Rom", True, "", None, None, None, "["]
    with pytest.raises(NotAValue, match="4 fields are wrong") as error:
        description.row(values)
    found = [entry["path"] for entry in error.value.fields]
    assert found == ["/age", "/town", "/picture", "/tags"]


FREE = {
    "type": "object",
    "required": ["cells"],
    "properties": {"cells": {"type": "object", "additionalProperties": {"type": "number"}}},
}


@pytest.mark.parametrize(
    "text", ["a,b,c,d\n1,x,,2.5", '{"a": 1, "b": "x", "d": 2.5}', "a,b,c,d\r\n1,x,,2.5\r\n"]
)
def test_free_columns_are_a_json_object_or_a_line_of_csv(text: str) -> None:
    found = described(document(FREE)).row([text])
    assert found == {"cells": {"a": 1, "b": "x", "d": 2.5}}


@pytest.mark.parametrize("text", ["a,b", "a,b\n1", "a\n1\n2", "[1]", "{"])
def test_other_text_is_no_columns(text: str) -> None:
    with pytest.raises(NotAValue, match="wanted a JSON object, or a line of CSV"):
        described(document(FREE)).row([text])


@given(st.text())
@settings(database=None, max_examples=200)
def test_any_text_is_columns_or_is_told(text: str) -> None:
    try:
        found = described(document(FREE)).row([text])
    except NotAValue:
        return
    assert isinstance(found["cells"], dict)


def test_cells_of_columns_that_hold_texts_alone_stay_texts() -> None:
    row = {"type": "object", "additionalProperties": {"type": "string"}}
    assert described(document(row)).row(["zip\n01234"]) == {"zip": "01234"}


@pytest.mark.parametrize(
    ("row", "sent"),
    [
        (FREE, {"cells": {"x": 1, "y": "a"}}),
        ({"type": "object", "additionalProperties": True}, {"x": 1, "y": "a"}),
    ],
)
def test_a_file_fills_free_columns(
    row: dict[str, Any], sent: dict[str, Any], scorer: Scorer, told: Told, asked: list[Any]
) -> None:
    description = described(document(row))
    lines = files.read(b"x,y\n1,a\n", description)
    told.append((200, [{"p": 1}], {}))
    assert list(files.scored(lines, description, scorer)) == [1]
    assert asked == [[sent]]


def test_a_list_of_probabilities_is_bars_in_the_order_of_the_classes() -> None:
    schema = {"properties": {"kind": {"enum": ["cat", "dog", "cow"]}}}
    found = answers.shown({"kind": "dog", "probabilities": [0.1, 0.7, 0.2]}, schema)
    assert [found.index(f">{name}</span>") for name in ("cat", "dog", "cow")] == sorted(
        found.index(f">{name}</span>") for name in ("cat", "dog", "cow")
    )
    assert '<p class="verdict">dog <span class="sure">70.0 %</span></p>' in found


def test_of_many_classes_the_most_probable_are_shown() -> None:
    shares = {f"class {number}": number / 1000 for number in range(40)}
    found = answers.shown({"probabilities": shares}, {})
    assert found.count('class="bar') == 11  # ten of them, and what holds them
    assert "and 30 more" in found


def test_a_list_of_labels_with_shares_is_bars_too() -> None:
    found = answers.shown(
        {"top": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.1}]}, {}
    )
    assert "75.0 %" in found
    assert "width:10.0%" in found


def test_a_number_has_its_unit_and_what_it_means() -> None:
    price = {"type": "number", "unit": "dollars", "description": "Of a <house>."}
    found = answers.shown({"price": 183250.4}, {"properties": {"price": price}})
    assert '<p class="verdict">183,250 dollars</p>' in found
    assert "Of a &lt;house&gt;." in found


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("audio/wav", '<audio controls src="data:audio/wav;base64,aGk="'),
        ("video/mp4", '<video controls src="data:video/mp4;base64,aGk="'),
        ("application/gzip", '<a download="file" href="data:application/gzip;base64,aGk="'),
        ("image/png", "image/png"),
    ],
)
def test_files_of_an_answer_are_played_or_can_be_taken(kind: str, sign: str) -> None:
    schema = {"properties": {"file": {"contentMediaType": kind}}}
    assert sign in answers.shown({"file": "aGk="}, schema)


def test_what_is_wrong_says_at_which_field() -> None:
    entry = {"path": "/a/0", "found": "", "wanted": "Value error, <less>"}
    found = answers.wrong("No", [entry])
    assert 'data-field="a" data-told="wanted: &lt;less&gt;"' in found


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


@pytest.mark.parametrize("there", [True, False])
def test_a_picture_that_may_be_absent_is_shown_where_it_is_there(there) -> None:
    media = {"type": "string", "contentMediaType": "image/png"}
    schema = {"properties": {"label": {"type": "string"}, "map": media}}
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()

    html = answers.shown({"label": "cat", "map": picture if there else None}, schema)

    assert there == ('<img src="data:image/png;base64,' in html)
    assert there == ("map" in html)
    assert "none" not in html
