"""A job whose rows only the model knows: checked, described and read from files by the model's."""

import json

import pytest
from pydantic import create_model

from slipway.scorer import create_app
from slipway.types import Field, Input


class Any(Input):
    """Any row."""


@pytest.fixture
def job(toy, trained):
    """The toy, whose model says that it takes a text and a tone."""
    found = toy.job
    plain = found.scorer

    def score(model: object, rows: list[Any]) -> list[found.answer]:
        return plain(model, rows)

    fields = {"text": (str, Field(examples=["win a prize"])), "tone": (float, Field(examples=[1]))}
    score.__annotations__ = {"rows": list[Any], "return": list[found.answer]}
    found.score(score)
    found.rows_of(lambda model: create_model("Row", __base__=Input, **fields))
    return found


@pytest.fixture
def client(job, trained):
    return create_app(job, trained.out, background=False).test_client()


def test_before_a_model_is_loaded_rows_are_any(job) -> None:
    assert job.row is Any


def test_a_row_of_the_models_columns_is_scored(client) -> None:
    reply = client.post("/score", json={"text": "win a prize", "tone": 2})
    assert 200 == reply.status_code
    assert reply.json["prediction"] is True


def test_missing_and_unknown_columns_are_named(client) -> None:
    reply = client.post("/score", json={"text": "win", "tome": 2})
    assert 422 == reply.status_code
    assert {"/tone", "/tome"} == {field["path"] for field in reply.json["fields"]}


def test_the_description_and_the_form_are_of_the_models_columns(client) -> None:
    schema = client.get("/openapi.json").json["components"]["schemas"]["Row"]
    assert ["text", "tone"] == schema["required"]
    assert 'name="tone"' in client.get("/").text


def test_the_description_of_any_row_is_one_too(job, toy) -> None:
    empty = create_app(job, toy.out / "none", background=False).test_client()
    assert 200 == empty.get("/openapi.json").status_code


def test_a_table_with_those_columns_is_scored(job, trained, tmp_path) -> None:
    from slipway.scoring.score import Wishes, score_file

    table = tmp_path / "rows.csv"
    table.write_text("label,tone,text\n1,2,win a prize\n0,loud,see you\n", "utf-8")
    target = tmp_path / "answers.jsonl"
    score_file(job, trained.out / "model", str(table), str(target), Wishes(workers=1))

    assert 1 == len(target.read_text("utf-8").splitlines())
    (bad,) = map(json.loads, (tmp_path / "answers.errors.jsonl").read_text("utf-8").splitlines())
    assert (3, "/tone") == (bad["line"], bad["problems"][0]["path"])
