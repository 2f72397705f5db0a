"""The routes of platforms: envelopes and tensors onto one score function."""

import base64
import json
import struct
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Literal

import click
import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import platforms, tensors
from slipway.types import Field, Input, Media, Output

JSON, HEADER = "application/json", platforms.HEADER
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


class Colour(Enum):
    """A choice."""

    RED = "red"


class House(Input):
    """A row with a field of each datatype."""

    max_rows = 3
    name: str = Field(max_length=10)
    area: float
    rooms: int = 2
    garden: bool = False
    colour: Literal["red", "blue"] = "red"
    parts: list[int] = []  # noqa: RUF012 - pydantic copies it


class Price(Output):
    """What is echoed."""

    name: str
    area: float
    rooms: int
    garden: bool
    parts: list[int]


class Text(Input):
    """A row of one field."""

    text: str


class Scan(Input):
    """A row of an image."""

    image: Annotated[bytes, Media("image/png")]


def echoed(answer):
    """Return a score function that gives back what the answer's type knows of a row."""
    return lambda rows: [
        {k: v for k, v in row.model_dump(mode="json").items() if k in answer.model_fields}
        for row in rows
    ]


def make_service(row, answer):
    job = SimpleNamespace(row=row, answer=answer, spec=SimpleNamespace(name="toy"))
    return SimpleNamespace(job=job, ready=True, model_id="abc", score=echoed(answer))


def app_of(service):
    app = Flask("platforms")
    app.add_url_rule("/score", "score", lambda: "", methods=["POST"])
    platforms.add_routes(app, service)
    return app


@pytest.fixture(autouse=True)
def quiet_platform(monkeypatch):
    for name in ("AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE", "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service():
    return make_service(House, Price)


@pytest.fixture
def client(service):
    return app_of(service).test_client()


@pytest.fixture
def texts():
    return app_of(make_service(Text, Text)).test_client()


ROWS = [{"name": "mill", "area": 70.5}, {"name": "barn", "area": 9.0, "rooms": 1}]
NAMES = ["mill", "barn"]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": ROWS},
        {"instances": ROWS, "parameters": {}},
        {"instances": [["mill", 70.5, 2, False, "red", []], ["barn", 9, 1, True, "blue", [1]]]},
        {"inputs": {"name": NAMES, "area": [70.5, 9]}},
        {"inputs": ROWS, "params": None},
        {"dataframe_records": [row | {"label": 1} for row in ROWS]},
        {"dataframe_split": {"columns": ["area", "name", "x"], "index": [0, 1],
                             "data": [[70.5, "mill", 0], ["9", "barn", 0]]}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/invocations", "/predict"])
def test_every_envelope_gives_the_same_rows(client, path, body) -> None:
    reply = client.post(path, json=body).json
    bare = path == "/predict" and "inputs" in body  # Hugging Face's answers have no envelope
    found = reply if bare else reply["predictions"]

    assert NAMES == [row["name"] for row in found]
    assert [70.5, 9.0] == [row["area"] for row in found]


def test_hugging_face_answers_in_the_shape_of_its_inputs(texts) -> None:
    assert {"text": "a"} == texts.post("/predict", json={"inputs": "a"}).json
    assert [{"text": "a"}] == texts.post("/predict", json={"inputs": ["a"]}).json
    assert {"text": "a"} == texts.post("/predict", json={"inputs": {"text": "a"}}).json
    assert {"text": "a"} == texts.post("/predict", json={"text": "a"}).json


def test_a_row_of_one_field_may_be_its_value(texts) -> None:
    body = {"instances": ["a", {"text": "b"}, ["c"]]}

    assert [{"text": "a"}, {"text": "b"}, {"text": "c"}] == texts.post(
        "/v1/models/toy:predict", json=body
    ).json["predictions"]


@pytest.mark.parametrize(
    "entry", [{"image": {"b64": "IMG"}}, {"b64": "IMG"}, "IMG", {"image": "IMG"}]
)
def test_bytes_in_an_instance_are_base64(entry) -> None:
    client = app_of(make_service(Scan, Scan)).test_client()
    encoded = base64.b64encode(PNG).decode()
    body = json.dumps({"instances": [entry]}).replace("IMG", encoded)
    reply = client.post("/invocations", data=body, content_type=JSON)

    assert [{"image": encoded}] == reply.json["predictions"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"instances": [{"name": "a", "area": "1"}]}, "/instances/0/area"),
        ({"instances": [{"name": "a", "area": 1, "x": 1}]}, "/instances/0/x"),
        ({"instances": {"name": "a"}}, "/instances"),
        ({"instances": ROWS * 2}, "/instances"),
        ({"instances": ROWS, "inputs": ROWS}, "/"),
        ({"instances": ROWS, "params": {"heat": 1}}, "/params"),
        ({"instances": ROWS, "signature": ""}, "/signature"),
        ({"inputs": {"name": NAMES, "area": [1]}}, "/inputs"),
        ({"inputs": {"name": NAMES, "area": 1}}, "/inputs"),
        ({"dataframe_records": 7}, "/dataframe_records"),
        ({"dataframe_records": [{"name": "a"}]}, "/dataframe_records/0/area"),
        ({"dataframe_records": ROWS * 2}, "/dataframe_records"),
        ({"dataframe_split": {"columns": ["name"], "data": [[1, 2]]}}, "/dataframe_split/data/0"),
        ({"dataframe_split": {"columns": ["name"]}}, "/dataframe_split"),
        ({"dataframe_split": [1]}, "/dataframe_split"),
        ({"name": "a"}, "/area"),
    ],
)
def test_what_is_wrong_in_an_envelope_has_its_path(client, body, path) -> None:
    reply = client.post("/invocations", json=body)

    assert 422 == reply.status_code
    assert path == reply.json["fields"][0]["path"]


def test_a_field_named_like_an_envelope_is_a_field() -> None:
    class Order(Input):
        """A row with MLflow's word for a field."""

        inputs: int

    client = app_of(make_service(Order, Order)).test_client()

    assert {"inputs": 7} == client.post("/invocations", json={"inputs": 7}).json


def test_sagemakers_formats_by_content_type_and_accept(client, monkeypatch) -> None:
    line = json.dumps(ROWS[0])
    reply = client.post("/invocations", data=line, content_type="application/jsonlines")

    assert ("application/jsonlines", "mill") == (reply.mimetype, json.loads(reply.text)["name"])

    reply = client.post("/invocations", data="name,area\nmill,7\n", content_type="text/csv")

    assert "mill" == reply.json["predictions"][0]["name"]

    reply = client.post("/invocations", json=ROWS, headers={"Accept": "text/csv"})

    assert reply.text.startswith("name,area,rooms,garden,parts\r\nmill,70.5,2,False,[]\r\n")

    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "application/jsonlines")

    assert "application/jsonlines" == client.post("/invocations", json=ROWS).mimetype
    assert 415 == client.post("/invocations", data="x", content_type="image/png").status_code

    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "image/png")

    assert 406 == client.post("/invocations", json={"instances": ROWS}).status_code


def test_a_batch_transform_may_send_what_the_limits_allow(client) -> None:
    told = client.get("/execution-parameters").json

    assert (8, "MULTI_RECORD") == (told["MaxPayloadInMB"], told["BatchStrategy"])
    assert 1 <= told["MaxConcurrentTransforms"] <= 12


HEALTH = ("/ping", "/health", "/v1/models/toy", "/v2/health/ready", "/v2/models/toy/ready",
          "/v2/models/toy/versions/abc/ready")  # fmt: skip


@pytest.mark.parametrize("path", HEALTH)
def test_readiness_is_the_scorers(client, service, path) -> None:
    assert 200 == client.get(path).status_code
    service.ready = False

    assert 503 == client.get(path).status_code
    assert 200 == client.get("/v2/health/live").status_code


def test_ping_has_no_body(client) -> None:
    assert b"" == client.get("/ping").data


def test_vertex_names_its_routes(service, monkeypatch) -> None:
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/v1/endpoints/1/deployedModels/2")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/1/deployedModels/2:predict")
    client = app_of(service).test_client()

    assert 200 == client.get("/v1/endpoints/1/deployedModels/2").status_code
    reply = client.post("/v1/endpoints/1/deployedModels/2:predict", json={"instances": ROWS})

    assert NAMES == [row["name"] for row in reply.json["predictions"]]


@pytest.mark.parametrize("route", ["predict", "/<path:x>", "/score"])
def test_a_route_that_vertex_cannot_have_is_told(service, monkeypatch, route) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", route)

    with pytest.raises(click.UsageError, match="AIP_PREDICT_ROUTE"):
        app_of(service)


def test_routes_of_ours_that_vertex_names_stay(service, monkeypatch) -> None:
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")

    assert NAMES == [
        row["name"]
        for row in app_of(service)
        .test_client()
        .post("/predict", json={"instances": ROWS})
        .json["predictions"]
    ]


def test_v2_metadata_has_a_tensor_for_each_field(client) -> None:
    told = client.get("/v2/models/toy/versions/abc").json
    types = {entry["name"]: (entry["datatype"], entry["shape"]) for entry in told["inputs"]}

    assert ("toy", ["abc"]) == (told["name"], told["versions"])
    assert {
        "name": ("BYTES", [-1]),
        "area": ("FP64", [-1]),
        "rooms": ("INT64", [-1]),
        "garden": ("BOOL", [-1]),
        "colour": ("BYTES", [-1]),
        "parts": ("BYTES", [-1]),
    } == types
    assert 404 == client.get("/v2/models/toy/versions/2").status_code
    assert 404 == client.get("/v2/models/other").status_code


@pytest.mark.parametrize(
    ("annotation", "datatype"),
    [(int | None, "INT64"), (Colour, "BYTES"), (bytes, "BYTES"), (dict, "BYTES"),
     (Literal[1, 2], "INT64"), (int | str, "BYTES"), (Annotated[float, 1], "FP64")],
)  # fmt: skip
def test_a_datatype_follows_from_the_type(annotation, datatype) -> None:
    assert datatype == tensors.datatype_of(annotation)


def tensor(name, datatype, data, shape=None):
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


INPUTS = [
    tensor("name", "BYTES", NAMES),
    tensor("area", "FP32", [70.5, 9]),
    tensor("rooms", "INT32", [[2], [1]], [2, 1]),
    tensor("garden", "BOOL", [True, False]),
    tensor("parts", "BYTES", ["[1]", "[]"]),
]


def infer(client, inputs, **more):
    return client.post("/v2/models/toy/infer", json={"inputs": inputs, **more})


def test_tensors_become_rows_and_answers_tensors(client) -> None:
    told = infer(client, INPUTS, id="seven").json
    found = {entry["name"]: (entry["datatype"], entry["data"]) for entry in told["outputs"]}

    assert ("seven", "toy", "abc") == (told["id"], told["model_name"], told["model_version"])
    assert {
        "name": ("BYTES", NAMES),
        "area": ("FP64", [70.5, 9.0]),
        "rooms": ("INT64", [2, 1]),
        "garden": ("BOOL", [True, False]),
        "parts": ("BYTES", ["[1]", "[]"]),
    } == found
    assert ["area"] == [entry["name"] for entry in infer(client, INPUTS, outputs=[{"name": "area"}])
                        .json["outputs"]]  # fmt: skip


def packed(*texts):
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(name, datatype, content, shape):
    told = {"name": name, "datatype": datatype, "shape": shape}
    return told | {"parameters": {"binary_data_size": len(content)}}, content


def infer_binary(client, parts, **more):
    head = json.dumps({"inputs": [told for told, _ in parts], **more}).encode()
    body = head + b"".join(content for _, content in parts)
    return client.post("/v2/models/toy/infer", data=body, headers={HEADER: str(len(head))})


def test_binary_tensors_both_ways(client) -> None:
    parts = [
        binary("name", "BYTES", packed(b"mill", "bärn".encode()), [2]),
        binary("area", "FP16", struct.pack("<2e", 70.5, 9), [2, 1]),
        binary("rooms", "UINT8", b"\x02\x01", [2]),
        binary("garden", "BOOL", b"\x01\x00", [2]),
    ]
    reply = infer_binary(client, parts, parameters={"binary_data_output": True})
    size = int(reply.headers[HEADER])
    told, rest = json.loads(reply.data[:size]), reply.data[size:]
    found = {}
    for entry in told["outputs"]:
        length = entry["parameters"]["binary_data_size"]
        found[entry["name"]], rest = rest[:length], rest[length:]

    assert b"" == rest
    assert packed(b"mill", "bärn".encode()) == found["name"]
    assert struct.pack("<2d", 70.5, 9) == found["area"]
    assert struct.pack("<2q", 2, 1) == found["rooms"]
    assert b"\x01\x00" == found["garden"]


def test_an_output_may_be_json_beside_binary_ones(client) -> None:
    wanted = [{"name": "area", "parameters": {"binary_data": False}}, {"name": "rooms"}]
    reply = infer(client, INPUTS, outputs=wanted, parameters={"binary_data_output": True})
    size = int(reply.headers[HEADER])
    told = json.loads(reply.data[:size])["outputs"]

    assert [70.5, 9.0] == told[0]["data"]
    assert struct.pack("<2q", 2, 1) == reply.data[size:]


def test_an_image_is_a_binary_tensor_or_base64() -> None:
    client = app_of(make_service(Scan, Scan)).test_client()
    encoded = base64.b64encode(PNG).decode()
    reply = infer_binary(client, [binary("image", "BYTES", packed(PNG), [1])])

    assert [encoded] == reply.json["outputs"][0]["data"]

    wanted = [{"name": "image", "parameters": {"binary_data": True}}]
    reply = infer(client, [tensor("image", "BYTES", [encoded])], outputs=wanted)

    assert packed(PNG) == reply.data[int(reply.headers[HEADER]) :]


def with_shape(shape):
    return [INPUTS[0] | {"shape": shape}, INPUTS[1]]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([], "/inputs"),
        ([tensor("x", "BYTES", ["a"])], "/inputs/x"),
        ([INPUTS[0]], "/0/area"),
        ([INPUTS[0], INPUTS[0]], "two tensors of this name"),
        ([INPUTS[0], tensor("area", "FP64", [1])], "tensors of 1, 2 rows"),
        ([tensor("name", "INT64", [1, 2])], "/inputs/name/datatype"),
        ([tensor("area", "FP64", [True, 1])], "FP64 values"),
        ([tensor("rooms", "INT64", [1.5])], "INT64 values"),
        ([tensor("garden", "BOOL", [1])], "BOOL values"),
        ([tensor("name", "BYTES", [1])], "BYTES values"),
        (with_shape([2, 2]), "/inputs/name/shape"),
        (with_shape([1]), "2 values"),
        (with_shape([-1]), "/inputs/0/shape/0"),
        (with_shape([2, 1, 1]), "/inputs/0/shape"),
        (with_shape([10**9]), "at most 3"),
        ([{"name": "name", "datatype": "BYTES", "shape": [1]}], "data, or binary_data_size"),
        ([{"name": "name", "datatype": "TEXT", "shape": [1], "data": [""]}], "/inputs/0/datatype"),
        ([*INPUTS[:2], tensor("parts", "BYTES", ["[", "[]"])], "no JSON"),
        ([*INPUTS[:2], tensor("colour", "BYTES", ["red", "green"])], "/1/colour"),
    ],
)
def test_a_wrong_tensor_is_400_with_the_reason_in_error(client, inputs, told) -> None:
    reply = infer(client, inputs)

    assert 400 == reply.status_code
    assert told in reply.json["error"]


def test_an_unknown_output_is_400(client) -> None:
    assert 400 == infer(client, INPUTS, outputs=[{"name": "x"}]).status_code


@pytest.mark.parametrize(
    ("content", "shape", "told"),
    [
        (packed(b"a") + b"\1", [1], "data that ends at"),
        (struct.pack("<I", 2**32 - 1) + b"a", [1], "data that ends at"),
        (packed(b"\xff"), [1], "UTF-8 text"),
        (packed(b"a"), [2], "1 values"),
    ],
)
def test_wrong_binary_data_is_400(client, content, shape, told) -> None:
    reply = infer_binary(client, [binary("name", "BYTES", content, shape)])

    assert 400 == reply.status_code
    assert told in reply.json["error"]


def test_binary_sizes_are_those_of_the_body(client) -> None:
    told, content = binary("area", "FP64", struct.pack("<d", 1), [1])
    short = infer_binary(client, [(told, content[:-1])])
    odd = infer_binary(client, [binary("area", "FP64", b"1234567", [1])])
    long = infer_binary(client, [(told, content + b"1")])
    wrong = infer_binary(client, [(told | {"parameters": {"binary_data_size": -1}}, content)])

    assert "7 bytes; 8 bytes" in short.json["error"]
    assert "a multiple of 8" in odd.json["error"]
    assert "1 bytes after the last tensor" in long.json["error"]
    assert "as a whole number" in wrong.json["error"]
    assert [400] * 4 == [reply.status_code for reply in (short, odd, long, wrong)]


@pytest.mark.parametrize("length", ["99999", "-1", "x"])
def test_a_wrong_header_length_is_400(client, length) -> None:
    reply = client.post("/v2/models/toy/infer", data=b"{}", headers={HEADER: length})

    assert 400 == reply.status_code


def test_null_is_no_binary_value() -> None:
    class Maybe(Output):
        """An answer that may be missing."""

        text: str | None = None

    service = make_service(Text, Maybe)
    service.score = lambda rows: [{"text": None}] * len(rows)
    client = app_of(service).test_client()
    inputs = [tensor("text", "BYTES", ["a"])]

    assert [None] == infer(client, inputs).json["outputs"][0]["data"]
    assert 400 == infer(client, inputs, parameters={"binary_data_output": True}).status_code


NUMBERS = st.sampled_from([0, 1, -1, 2, 10**30, 1.5, True, None, "1", [1]])
CELLS = st.lists(NUMBERS | st.text(max_size=3), max_size=3)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["name", "area", "rooms", "garden", "parts", "x"]),
        "datatype": st.sampled_from([*tensors.DTYPES, "BYTES", "X"]),
        "shape": st.lists(st.integers(-1, 3), max_size=3),
    },
    optional={
        "data": CELLS,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20)}),
    },
)
CLIENT = app_of(make_service(House, Price)).test_client()


@settings(max_examples=400, deadline=None)
@given(inputs=st.lists(TENSORS, max_size=4), tail=st.binary(max_size=40))
def test_no_tensor_is_our_fault(inputs, tail) -> None:
    head = json.dumps({"inputs": inputs}).encode()
    reply = CLIENT.post("/v2/models/toy/infer", data=head + tail, headers={HEADER: str(len(head))})

    assert reply.status_code in (200, 400)


VALUES = st.recursive(
    NUMBERS | st.sampled_from(["name", "area", "é", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "area", "columns", "data", "b64"]), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*platforms.ENVELOPES, "params", "name", "area"])


@settings(max_examples=400, deadline=None)
@given(body=st.dictionaries(KEYS, VALUES, max_size=3), path=st.sampled_from(
    ["/invocations", "/predict", "/v1/models/toy:predict"]))  # fmt: skip
def test_no_envelope_is_our_fault(body, path) -> None:
    reply = CLIENT.post(path, json=body)

    assert reply.status_code in (200, 400, 422)
    assert 200 == reply.status_code or reply.json["error"]


def test_limits_of_rows_hold_for_csv_too(client) -> None:
    body = "name,area\n" + "a,1\n" * 4
    reply = client.post("/invocations", data=body, content_type="text/csv")

    assert 422 == reply.status_code
    assert "at most 3 items" in json.dumps(reply.json)
