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
REFUSALS = {
    "400": "The body is no JSON.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The content type is not application/json.",
    "422": "A field is wrong; `fields` tells which.",
    "429": "Too many rows wait already; Retry-After tells when to come again.",
    "503": "The model is not ready, or the rows waited too long for it.",
}


def openapi(job: Job) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of the routes that a person or a client calls."""
    definitions: dict[str, Any] = {"Error": ERROR}
    row = _reference(job.row, definitions)
    answer = _reference(job.answer, definitions)
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
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": rows, "example": example(job.row)}},
        },
        "responses": {
            "200": _problem("One answer a row, in the order of the rows.", one_or_many(answer)),
            **{code: _problem(text, error) for code, text in REFUSALS.items()},
        },
    }


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
