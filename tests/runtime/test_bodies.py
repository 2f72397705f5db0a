"""Bodies: what fills a row, what is refused, and how answers leave."""

import base64
import io
import json
from typing import Annotated

import pytest
from flask import Flask, request
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import bodies
from slipway.errors import Busy
from slipway.types import Field, Input, Media

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 8
FORM, RAW = "multipart/form-data", "application/octet-stream"


class Text(Input):
    """One text."""

    max_rows = 250
    text: str = Field(max_length=20)


class House(Input):
    """Several fields."""

    area: float
    rooms: int = 3
    garden: bool = False


class Scan(Input):
    """An image with a note."""

    image: Annotated[bytes, Media("image/png", "image/jpeg")] = Field(max_length=50)
    note: str = ""


class Digit(Input):
    """A picture that a person may draw."""

    image: Annotated[bytes, Media("image/png", drawn=True)]


class Pair(Input):
    """Two images: no raw body can fill both."""

    left: Annotated[bytes, Media("image/png")]
    right: Annotated[bytes, Media("image/png")]


@pytest.mark.parametrize(("kind", "drawn"), [(Digit, True), (Scan, None)])
def test_the_schema_tells_which_picture_may_be_drawn(kind, drawn):
    image = kind.model_json_schema()["properties"]["image"]
    assert (image["contentMediaType"], image.get("drawn")) == ("image/png", drawn)


def test_the_schema_names_every_type_of_file():
    assert Scan.model_json_schema()["properties"]["image"]["accept"] == ["image/png", "image/jpeg"]


def answered(rows):
    return [json.loads(row.model_dump_json()) for row in rows]


@pytest.fixture
def calls():
    """The number of rows of each call of score()."""
    return []


@pytest.fixture
def client(calls):
    app = Flask("bodies")
    app.config["MAX_CONTENT_LENGTH"] = 20_000

    def score(rows):
        calls.append(len(rows))
        if any(getattr(row, "text", "") == "busy" for row in rows):
            raise Busy("no room")
        if any(getattr(row, "text", "") == "explode" for row in rows):
            raise RuntimeError("a secret")
        return answered(rows)

    for kind in (Text, House, Scan, Pair):

        def view(kind=kind):
            return bodies.respond(request, bodies.read(request, kind), score)

        app.add_url_rule(f"/{kind.__name__}", kind.__name__, view, methods=["POST"])
    app.register_error_handler(bodies.Refused, lambda error: error.answer())
    return app.test_client()


def post(client, kind, body, mime, **headers):
    sent = body.encode() if isinstance(body, str) else body
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post(f"/{kind}", data=sent, content_type=mime, headers=named)


@pytest.mark.parametrize(
    ("body", "mime"),
    [
        ("text\nhello\n\"see, you\"\n", "text/csv"),
        ("hello\n\"see, you\"\n", "text/csv"),
        ("label,text\nham,hello\nham,\"see, you\"\n", "text/csv; header=present"),
        ("hello\n\"see, you\"", "text/csv; header=absent"),
        ("\ufefftext\r\nhello\r\n\"see, you\"\r\n", "text/csv; charset=utf-8"),
        ('{"text": "hello"}\n\n{"text": "see, you"}\n', "application/jsonlines"),
        ('{"text": "hello"}\r\n{"text": "see, you"}', "application/x-ndjson"),
    ],
)  # fmt: skip
def test_a_table_and_lines_of_json_are_many_rows(client, body, mime) -> None:
    reply = post(client, "Text", body, mime)

    assert [{"text": "hello"}, {"text": "see, you"}] == reply.json


def test_without_a_header_the_word_of_the_field_is_a_row_when_it_is_declared(client) -> None:
    assert [{"text": "text"}] == post(client, "Text", "text\n", "text/csv; header=absent").json
    assert [] == post(client, "Text", "text\n", "text/csv").json


def test_cells_take_the_types_of_their_fields(client) -> None:
    reply = post(client, "House", "area,garden,price\n70.5,true,9\n60,false,8\n", "text/csv")

    assert [(70.5, 3, True), (60.0, 3, False)] == [tuple(row.values()) for row in reply.json]


@pytest.mark.parametrize(
    ("kind", "body", "mime", "code", "told"),
    [
        ("House", "70,3,true\n", "text/csv", 422, "a header with area"),
        ("House", "70\nlarge\n", "text/csv", 422, "/1/area"),
        ("House", "area,area\n1,2\n", "text/csv", 400, "'area' twice"),
        ("House", "area,rooms\n1\n", "text/csv", 422, "1 cells"),
        ("House", "area\nlarge\n", "text/csv", 422, "/0/area"),
        ("Text", 'text\n"torn', "text/csv", 400, "no CSV"),
        ("Text", b"text\n\xff", "text/csv", 400, "no UTF-8"),
        ("Text", b"\xff", "text/plain", 400, "no UTF-8"),
        ("Text", "x" * 21, "text/plain", 422, '"/text"'),
        ("Text", "a,b\n", "text/csv; header=absent", 422, "2 cells"),
        ("Text", '{"text": "a"}\n{"text": 7}', "application/jsonl", 422, "/1/text"),
        ("Text", '{"text": "a"}\n{"text"', "application/jsonl", 400, "/1 is no JSON"),
        ("Text", '{"text": "a"}, {"text": "b"}', "application/jsonl", 400, "/0 is no JSON"),
        ("Text", '{"text": "a", "label": 1}', "application/jsonl", 422, "/0/label"),
        ("Text", '{"text": "a"}\n' * 251, "application/jsonl", 422, "251 lines"),
        ("Text", "a\n" * 251, "text/csv", 422, "at most 250 items"),
        ("House", "70", "text/plain", 415, "wanted application/json, text/csv"),
        ("Pair", PNG, "image/png", 415, "multipart/form-data"),
        ("Scan", PNG, "image/gif", 415, "image/png, image/jpeg"),
        ("Scan", PNG, "image/jpeg", 422, "begins as image/jpeg does"),
        ("Scan", PNG + b"\0" * 50, "image/png", 422, "at most 50 bytes"),
        ("Scan", b"", "image/png", 422, "begins as image/png does"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    client, kind, body, mime, code, told
) -> None:
    reply = post(client, kind, body, mime)

    assert code == reply.status_code
    assert told in reply.get_data(as_text=True)


def test_a_raw_body_fills_the_one_field_of_its_media_type(client) -> None:
    found = post(client, "Scan", PNG, "image/png").json

    assert PNG == base64.b64decode(found["image"])
    assert "hello" == post(client, "Text", "hello", "text/plain; charset=utf-8").json["text"]


@pytest.mark.parametrize("content", [PNG, JPEG])
def test_base64_in_json_is_checked_like_a_raw_body(client, content) -> None:
    encoded = base64.b64encode(content).decode()

    assert (
        encoded == post(client, "Scan", json.dumps({"image": encoded}), bodies.JSON).json["image"]
    )


@pytest.mark.parametrize(("value", "told"), [("R0lG", "begins as"), ("*", "base64"), (7, "bytes")])
def test_a_field_of_bytes_refuses_other_content(client, value, told) -> None:
    reply = post(client, "Scan", json.dumps({"image": value}), bodies.JSON)

    assert 422 == reply.status_code
    assert "/image" == reply.json["fields"][0]["path"]
    assert told in reply.json["fields"][0]["wanted"]


def form(client, kind, **parts):
    return client.post(f"/{kind}", data=parts, content_type=FORM)


def file(content, mime):
    return (io.BytesIO(content), "scan", mime)


def test_a_form_fills_fields_by_name(client) -> None:
    reply = form(client, "Scan", image=file(JPEG, "image/jpeg"), note="left lung")

    assert JPEG == base64.b64decode(reply.json["image"])
    assert "left lung" == reply.json["note"]
    assert 200 == form(client, "Pair", left=file(PNG, RAW), right=file(PNG, "")).status_code


@pytest.mark.parametrize(
    ("parts", "code", "told"),
    [
        ({"image": (JPEG, "image/png")}, 422, "begins as image/png does"),
        ({"image": (JPEG, "audio/wav")}, 415, "wanted image/png, image/jpeg"),
        ({"image": (JPEG, RAW), "x": "y"}, 422, "/x"),
        ({"note": "only"}, 422, "/image"),
        ({"image": (b"GIF89a", RAW)}, 422, "begins as image/png or image/jpeg"),
    ],
)
def test_a_form_is_held_to_the_row(client, parts, code, told) -> None:
    sent = {name: file(*part) if isinstance(part, tuple) else part for name, part in parts.items()}
    reply = form(client, "Scan", **sent)

    assert code == reply.status_code
    assert told in reply.get_data(as_text=True)


def test_two_parts_of_one_name_are_refused(client) -> None:
    reply = form(client, "Scan", image=file(PNG, "image/png"), note=["a", "b"])

    assert (422, "/note") == (reply.status_code, reply.json["fields"][0]["path"])


def test_a_form_without_a_boundary_is_400(client) -> None:
    assert 400 == post(client, "Scan", b"--x\r\n\r\n", FORM).status_code


@pytest.mark.parametrize("kind", bodies.LINES)
def test_lines_of_json_leave_slice_by_slice(client, calls, kind) -> None:
    rows = [{"text": str(number)} for number in range(250)]
    reply = post(client, "Text", json.dumps(rows), bodies.JSON, Accept=kind)

    assert kind == reply.mimetype
    assert rows == [json.loads(line) for line in reply.text.splitlines()]
    assert [100, 100, 50] == calls
    assert "Content-Length" not in reply.headers


@pytest.mark.parametrize(
    ("text", "told"),
    [("busy", "no room"), ("explode", "the scorer failed; its log has the reason")],
)
def test_an_error_after_the_first_slice_is_the_last_line(client, text, told) -> None:
    rows = [{"text": "a"}] * 150 + [{"text": text}]
    reply = post(client, "Text", json.dumps(rows), bodies.JSON, Accept="application/jsonl")

    assert {"error": told} == json.loads(reply.text.splitlines()[-1])
    assert 101 == len(reply.text.splitlines())


def test_an_error_in_the_first_slice_is_a_status(client) -> None:
    client.application.register_error_handler(Busy, lambda error: (str(error), 429))
    rows = json.dumps([{"text": "busy"}])

    assert 429 == post(client, "Text", rows, bodies.JSON, Accept="application/jsonl").status_code


@pytest.mark.parametrize(
    ("accept", "mime"),
    [
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("text/*", "text/csv"),
        ("image/png, application/json;q=0.1", "application/json"),
        ("text/html, */*;q=0.5", "application/json"),
    ],
)
def test_the_accept_header_chooses_the_answer(client, accept, mime) -> None:
    reply = post(client, "House", '[{"area": 1}]', bodies.JSON, Accept=accept)

    assert mime == reply.mimetype


def test_an_answer_as_csv_has_a_header(client) -> None:
    reply = post(client, "House", '[{"area": 1}, {"area": 2}]', bodies.JSON, Accept="text/csv")

    assert "area,rooms,garden\r\n1.0,3,False\r\n2.0,3,False\r\n" == reply.text


def test_a_format_that_we_do_not_write_is_406(client) -> None:
    reply = post(client, "House", '{"area": 1}', bodies.JSON, Accept="image/png")

    assert 406 == reply.status_code
    assert "wanted application/json, text/csv" in reply.json["error"]


MIMES = st.sampled_from(
    ["text/csv", "text/csv; header=absent", "text/plain", "image/png", FORM + "; boundary=x",
     "application/jsonl", bodies.JSON]
)  # fmt: skip
PIECES = st.sampled_from(
    [b"--x\r\n", b"--x--", b'Content-Disposition: form-data; name="image"', b"\r\n\r\n", b"\r\n",
     b'"', b",", b"\n", b"text", b"area", b"image", b"{", b"}", b":", b"[", PNG, b"\xff", b"\0",
     b'; filename="a"', b"Content-Type: image/png", b"1e999", b"9" * 400, b"true"]
)  # fmt: skip
BODIES = st.lists(PIECES | st.binary(max_size=5), max_size=12).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from([Text, House, Scan, Pair]), mime=MIMES, body=BODIES)
def test_no_body_is_our_fault(kind, mime, body) -> None:
    app = Flask("bodies")
    with app.test_request_context("/", method="POST", data=body, content_type=mime):
        refused = None
        try:
            rows = bodies.read(request, kind).rows
        except bodies.Refused as error:
            refused = error
    if refused:
        assert refused.code in (400, 415, 422)
        assert json.loads(refused.answer()[0].get_data())["error"]
    else:
        assert all(isinstance(row, kind) for row in rows)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_a_table_brings_back_the_texts_that_it_was_written_of(texts) -> None:
    texts = [text for text in texts if text]
    body = bodies.as_csv([{"text": text} for text in texts]).encode("utf-8", "surrogatepass")
    app = Flask("bodies")
    with app.test_request_context("/", method="POST", data=body, content_type="text/csv"):
        assert texts == [row.text for row in bodies.read(request, Text).rows]
