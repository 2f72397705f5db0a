"""The HTTP routes: pictures in, their labels out, and questions about what was predicted.

Each worker process has one engine and one recorder, made at the first request that needs them:
connections do not survive a fork. A database that does not answer is 503 with Retry-After, and the
plain scorer at ``/score`` goes on.

Data:    pictures as `/score` takes them: raw, multipart or base64 in JSON.
Source:  none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Blueprint, Response, abort, jsonify, request
from pydantic import BaseModel, ValidationError

from slipway import bodies
from slipway.errors import InputInvalid, NotReady
from slipway.later import Later
from slipway.types import problems

from . import database, review
from .ingest import Picture
from .questions import QUESTIONS, Question, answered
from .recorder import Asked, Recorded, Recorder

if TYPE_CHECKING:
    from slipway.scorer import Service

PAGE = Path(__file__).parent / "pages" / "review.html"
POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src 'nonce-NONCE'; "
    "script-src 'nonce-NONCE'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but the page's own script and style runs, and nothing leaves for another host."""
DIGEST = re.compile(r"[0-9a-f]{64}")
UPLOADS = "upload"
"""The collection of pictures that came over HTTP."""
WAIT_SECONDS = 120.0
"""For label and commit; a row waits for the model half as long at most."""
Asks = TypeVar("Asks", bound=BaseModel)


class Wrong(InputInvalid):
    """Fields that are not as wanted."""

    def __init__(self, error: ValidationError) -> None:
        self.fields = problems(error)
        first = self.fields[0]
        super().__init__(f"{first['path']}: found {first['found']}; wanted {first['wanted']}")


class Store:
    """The database as one worker process uses it."""

    def __init__(self, scorer: Service) -> None:
        self.scorer = scorer
        self.lock = threading.Lock()
        self.recorders: dict[str, Recorder] = {}

    @cached_property
    def engine(self) -> Any:
        """The engine, with the newest schema."""
        engine = database.opened(self.scorer.out)
        database.upgrade(engine)
        return engine

    def recorder(self) -> Recorder:
        """Return the recorder of the model that is served now; ``/reload`` may have changed it."""
        from .versions import registered

        digest = self.scorer.model_id
        with self.lock:
            if digest not in self.recorders:
                if not digest:
                    raise NotReady(f"the model is not ready: {self.scorer.reason}")
                version = registered(self.engine, digest)
                self.recorders[digest] = Recorder(self.engine, version)
            return self.recorders[digest]


def add_routes(routes: Blueprint, scorer: Service) -> None:
    """Add all routes of the job."""
    store = Store(scorer)
    _upload_route(routes, store)
    for question in QUESTIONS:
        _question_route(routes, store, question)
    _picture_routes(routes, store)
    _review_routes(routes, store)

    @routes.errorhandler(Wrong)
    def wrong(error: Wrong) -> tuple[Response, int]:
        return jsonify(error=str(error), fields=error.fields), 422


def _upload_route(routes: Blueprint, store: Store) -> None:
    @routes.post("/images")
    def upload() -> Response:
        """Label pictures and keep them: answered once picture and prediction are committed."""
        asked = bodies.read(request, store.scorer.job.row)
        recorder = store.recorder()
        pictures = [_picture(row) for row in asked.rows]
        later = Later(WAIT_SECONDS, "the database is slow; send this again, nothing comes twice")
        ask = partial(store.scorer.submit, asked.rows)
        recorder.record(pictures, ask, partial(_answer, later, asked.many))
        return later


def _answer(later: Later, many: bool, found: list[Recorded], error: Exception | None) -> None:
    """Tell the client; called by the thread that committed."""
    if error:
        later.fail(error)
        return
    rows = [vars(row) | {"created_at": row.created_at.isoformat()} for row in found]
    status = 200 if all(row["known"] for row in rows) else 201
    later.give(status, rows if many else rows[0])


def _picture(row: Any) -> Picture:
    content = bytes(row.image)
    kind, (height, width) = row.image.read.media_type, row.image.read.pixels.shape[:2]
    digest = hashlib.sha256(content).hexdigest()
    return Picture(digest, content, kind, width, height, None, UPLOADS, "new")


def _question_route(routes: Blueprint, store: Store, question: type[Question]) -> None:
    def view() -> Response:
        began = time.perf_counter()
        given = read(question, request.args.to_dict())
        with database.reading(store.engine) as connection:
            rows = answered(connection, given, datetime.now(UTC))
        found = {"rows": [row.model_dump(mode="json") for row in rows]}
        if question.place:
            found["next"] = given.next_page(rows)
        milliseconds = (time.perf_counter() - began) * 1e3
        with_defaults = given.model_dump_json()
        with suppress(NotReady):  # a question is answered without a model, and then not kept
            store.recorder().note(Asked(question.name, with_defaults, len(rows), milliseconds))
        return jsonify(found)

    view.__doc__ = question.__doc__
    view.asks = question  # type: ignore[attr-defined]
    routes.add_url_rule(f"/queries/{question.name}", f"query_{question.name}", view)


def read(kind: type[Asks], given: Any) -> Asks:
    """Return a question or a body that is as wanted. Raises Wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise Wrong(error) from None


def _picture_routes(routes: Blueprint, store: Store) -> None:
    @routes.get("/images/<sha256>")
    def picture(sha256: str) -> Response:
        """The bytes of a picture, by the sha256 of its file."""
        from sqlalchemy import select

        from .schema import Content, Image

        if not DIGEST.fullmatch(sha256):
            abort(404)
        asked = (
            select(Image.media_type, Content.content)
            .join(Content, Content.sha256 == Image.sha256)
            .where(Image.sha256 == sha256)
        )
        with database.reading(store.engine) as connection:
            row = connection.execute(asked).first()
        if row is None:
            abort(404)
        answer = Response(row.content, mimetype=row.media_type)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    @routes.get("/labels")
    def labels() -> Response:
        """The labels that there are, in alphabetical order."""
        from sqlalchemy import select

        from .schema import Label

        with database.reading(store.engine) as connection:
            return jsonify(sorted(connection.scalars(select(Label.name))))


def _review_routes(routes: Blueprint, store: Store) -> None:
    @routes.post("/corrections")
    def correct() -> Response:
        """Say what the picture of a prediction truly shows."""
        if request.mimetype != "application/json":  # a form of another site can send no JSON
            abort(415, "wanted application/json")
        given = read(review.Correction, request.get_json())
        return jsonify(review.correct(store.engine, given))

    @routes.get("/review")
    def page() -> Response:
        """A page to look through the least sure predictions and to correct them."""
        nonce = secrets.token_urlsafe(16)
        answer = Response(PAGE.read_text("utf-8").replace("NONCE", nonce), mimetype="text/html")
        answer.headers["Content-Security-Policy"] = POLICY.replace("NONCE", nonce)
        return answer
