"""The OpenAPI description of a scorer, made from the job's own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway.types import example

if TYPE_CHECKING:
    from slipway.job import Job

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "found", "wanted"],
                "properties": {key: {"type": "string"} for key in ("path", "found", "wanted")},
            },
        },
    },
}
RUN = {
    "type": "object",
    "required": ["id", "state"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["queued", "running", "succeeded", "failed", "cancelled"]},
        "status": {"type": ["integer", "null"]},
        "error": {"type": ["string", "null"]},
        "result": {"type": ["string", "null"]},
    },
}
ASYNC = {
    "Prefer": "`respond-async`: answer 202 at once and work later.",
    "Idempotency-Key": "With respond-async: the same key and request give the same run.",
    "Slipway-Webhook": "With respond-async: an address that is told what became of the run.",
    "Slipway-Webhook-Events": "Which events it is told: start, progress, completed.",
}
REFUSALS = {
    "400": "The body is no JSON.",
    "413": "The body is too large.",
    "415": "The content type is not application/json.",
    "422": "A field is wrong; `fields` tells which.",
    "503": "The model is not ready.",
}


def openapi(job: Job) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of the routes that a person or a client calls."""
    definitions: dict[str, Any] = {"Error": ERROR}
    row = _reference(job.row, definitions)
    answer = _reference(job.answer, definitions)
    error = {"$ref": "#/components/schemas/Error"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": job.spec.title,
            "version": "1",
            "description": job.spec.question,
        },
        "paths": {
            "/score": {"post": _score(job, row, answer)},
            "/livez": _plain("The process lives."),
            "/readyz": _plain("The model is warm.", {"503": _problem("Not ready yet.", {})}),
            "/version": _plain("The job, its model and what it was built from."),
            **_runs(error),
        },
        "components": {"schemas": definitions},
    }


def _score(job: Job, row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    def one_or_many(schema: dict[str, Any], **limits: int) -> dict[str, Any]:
        return {"oneOf": [schema, {"type": "array", "items": schema, **limits}]}

    rows = one_or_many(row, maxItems=job.row.max_rows)
    error = {"$ref": "#/components/schemas/Error"}
    return {
        "summary": job.spec.question,
        "parameters": [_header(name, text) for name, text in ASYNC.items()],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": rows, "example": example(job.row)}},
        },
        "responses": {
            "200": _problem("One answer a row, in the order of the rows.", one_or_many(answer)),
            "202": _problem("Kept, with Prefer: respond-async; Location names the run.", RUN),
            **{code: _problem(text, error) for code, text in REFUSALS.items()},
        },
    }


def _runs(error: dict[str, Any]) -> dict[str, Any]:
    """Describe what became of requests that were sent with ``Prefer: respond-async``."""
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    absent = {"404": _problem("No such run.", error)}
    one = _plain("Where the run stands, and its answer where that is small.", absent)
    gone = {
        "200": _problem("Cancelled.", RUN),
        "202": _problem("Asked to stop.", RUN),
        "409": _problem("Over already.", RUN),
    }
    return {
        "/runs": _plain("The newest runs, `limit` of them, those older than `before`."),
        "/runs/{id}": {
            "parameters": [name],
            **one,
            "delete": {"summary": "Cancel the run.", "responses": gone | absent},
        },
        "/runs/{id}/result": {
            "parameters": [name],
            **_plain(
                "The answer, as the request would have had it; 202 while there is none.",
                {"202": _problem("Not over yet.", RUN), "410": _problem("Cancelled.", error)}
                | absent,
            ),
        },
        "/runs/{id}/events": {
            "parameters": [name, _header("Last-Event-ID", "Go on after this event.")],
            "get": {
                "summary": "What happens to the run, as server-sent events.",
                "responses": {
                    "200": {"description": "Events.", "content": {"text/event-stream": {}}},
                    "204": {"description": "There are no more events."},
                }
                | absent,
            },
        },
    }


def _header(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}


def _plain(text: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"get": {"summary": text, "responses": {"200": _problem(text, {}), **(more or {})}}}


def _problem(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Put a type's schema among the definitions and return the reference to it."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions.update(schema.pop("$defs", {}))
    definitions[kind.__name__] = schema
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
