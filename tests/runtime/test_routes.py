"""Routes of a job's own: beside the scorer's, described, counted, and never in their place."""

import pytest
from flask import jsonify, request
from pydantic import BaseModel

from slipway import bodies
from slipway.errors import InputInvalid, NotReady
from slipway.scorer import create_app


class Asked(BaseModel):
    """What a question takes."""

    most: int = 5


def add(routes, scorer):
    @routes.get("/words/<word>")
    def words(word):
        """Tell a word again.

        As often as asked.
        """
        return jsonify([word] * Asked.model_validate(request.args.to_dict()).most)

    words.asks = Asked

    @routes.post("/keep")
    def keep():
        """Score rows and keep them."""
        asked = bodies.read(request, scorer.job.row)
        return jsonify(kept=scorer.score(asked.rows))

    @routes.get("/broken")
    def broken():
        """Fail."""
        raise NotReady("the store does not answer")


@pytest.fixture
def app(toy, finished_run):
    job = toy.job
    assert job.routes(add) is add
    return create_app(job, finished_run / "out", background=False)


@pytest.fixture
def client(app):
    return app.test_client()


def test_a_route_of_the_job_answers_and_scores_like_score(client) -> None:
    assert ["a", "a"] == client.get("/words/a?most=2").json
    row = {"text": "win a prize"}
    assert client.post("/keep", json=[row]).json["kept"] == [client.post("/score", json=row).json]


def test_its_errors_are_told_as_elsewhere(client) -> None:
    reply = client.get("/broken")
    assert (503, "1") == (reply.status_code, reply.headers["Retry-After"])
    assert "the store does not answer" == reply.json["error"]
    reply = client.post("/keep", json={"text": 7})
    assert (422, "/text") == (reply.status_code, reply.json["fields"][0]["path"])


def test_it_is_described_and_counted(client) -> None:
    client.get("/words/a")
    found = client.get("/openapi.json").json["paths"]
    assert "Tell a word again." == found["/words/{word}"]["get"]["summary"]
    assert {"word", "most"} == {
        entry["name"] for entry in found["/words/{word}"]["get"]["parameters"]
    }
    assert ["post"] == list(found["/keep"])
    assert 'route="/words/<word>"' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/score", "/runs", "/invocations"])
def test_a_route_of_ours_is_not_replaced(toy, finished_run, path) -> None:
    job = toy.job
    job.routes(
        lambda routes, _: routes.add_url_rule(path, "x", lambda: "", methods=["GET", "POST"])
    )
    with pytest.raises(InputInvalid, match=f"{path}: a route of the scorer"):
        create_app(job, finished_run / "out", background=False)


def test_a_job_without_routes_has_none(toy, finished_run) -> None:
    app = create_app(toy.job, finished_run / "out", background=False)
    assert "own" not in app.blueprints
