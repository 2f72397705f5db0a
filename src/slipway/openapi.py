"""The OpenAPI description of a scorer, made from the job's own types."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slipway import bodies, platforms, tensors
from slipway.types import example, media_fields

if TYPE_CHECKING:
    from werkzeug.routing import Rule

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
    "400": "The body cannot be read.",
    "406": "None of the media types in Accept can be answered.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The content type cannot fill a row; `error` names those that can.",
    "422": "A field is wrong; `fields` tells which.",
    "429": "Too many rows wait already; Retry-After tells when to come again.",
    "503": "The model is not ready, or the rows waited too long for it.",
}


def openapi(job: Job, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of the routes that a person or a client calls.

    ``own`` are the paths of the job's own routes, from `own_paths`.
    """
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
            **_platforms(job, row, answer),
            **_runs(error),
            **(own or {}),
        },
        "components": {"schemas": definitions},
    }


def own_paths(
    rules: Iterable[Rule], views: Mapping[str, Callable[..., Any]]
) -> dict[str, dict[str, Any]]:
    """Describe a job's own routes by the first line of each view's docstring.

    A view with an attribute ``asks``, a pydantic model, takes its fields from the query.
    """
    found: dict[str, dict[str, Any]] = {}
    for rule in rules:
        view = views[rule.endpoint]
        told = (inspect.getdoc(view) or rule.endpoint).partition("\n")[0]
        path = re.sub(r"<(?:[^<>:]*:)?([^<>]+)>", r"{\1}", rule.rule)
        named: list[dict[str, Any]] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in sorted(rule.arguments)
        ]
        asks = getattr(view, "asks", None)
        fields = asks.model_json_schema()["properties"] if asks else {}
        named += [{"name": name, "in": "query", "schema": entry} for name, entry in fields.items()]
        operation = {
            "summary": told,
            "parameters": named,
            "responses": {"default": {"description": told}},
        }
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            found.setdefault(path, {})[method.lower()] = operation
    return found


def _score(job: Job, row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    def one_or_many(schema: dict[str, Any], **limits: int) -> dict[str, Any]:
        return {"oneOf": [schema, {"type": "array", "items": schema, **limits}]}

    rows = one_or_many(row, maxItems=job.row.max_rows)
    content: dict[str, Any] = {bodies.JSON: {"schema": rows, "example": example(job.row)}}
    content |= {kind: {"schema": {"type": "string"}} for kind in media_types(job)}
    return _post(job.spec.question, content, one_or_many(answer))


def media_types(job: Job) -> list[str]:
    """Return the media types of a file that can be a whole body."""
    fields = media_fields(job.row).values()
    known = bodies.accepted(job.row)
    return [kind for entry in fields for kind in entry.types if kind in known]


def _platforms(job: Job, row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Describe the routes of platforms, each with one form of what it takes."""
    found: dict[str, Any] = {}
    instances = _instances(job, row)
    bodies_of = {
        "instances": instances,
        "any": {"anyOf": [instances, row, {"type": "array", "items": row}]},
    }
    tensor_body = _tensors(job)
    if tensor_body:
        bodies_of["tensors"] = tensor_body
    for adapter in platforms.ADAPTERS:
        path = adapter.rule.replace("MODEL", job.spec.name)
        if "<" in path:
            continue
        if adapter.method == "GET":
            found[path] = _status(adapter.told)
        elif adapter.takes in bodies_of:
            content = {bodies.JSON: {"schema": bodies_of[adapter.takes]}}
            found[path] = {"post": _post(adapter.told, content, {})}
    return found


def _status(told: str) -> dict[str, Any]:
    answers = {"200": {"description": told}, "503": {"description": "Not ready yet."}}
    return {"get": {"summary": told, "responses": answers}}


def _instances(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of rows below ``instances``; a sole field's value stands for a row."""
    sole = bodies.row_of(job.row).sole
    one = {"anyOf": [row, job.row.model_json_schema()["properties"][sole]]} if sole else row
    rows = {"type": "array", "items": one, "maxItems": job.row.max_rows}
    return _object(instances=rows) | {"additionalProperties": False}


def _tensors(job: Job) -> dict[str, Any] | None:
    """Return the schema of an inference of one row in JSON, None where a field is no scalar.

    The binary form and more rows are in the protocol, which JSON Schema cannot express: there the
    length of the data follows from the shape.
    """
    described = job.row.model_json_schema()
    required = described.get("required", ())
    needed = [entry for entry in tensors.describe(job.row) if entry["name"] in required]
    if "$defs" in described or len(needed) != 1:
        return None
    field = described["properties"][needed[0]["name"]]
    fixed = {"name": needed[0]["name"], "datatype": needed[0]["datatype"], "shape": [1]}
    tensor = _object(
        **{name: {"const": value} for name, value in fixed.items()},
        data={"type": "array", "items": field, "minItems": 1, "maxItems": 1},
    )
    return _object(inputs={"type": "array", "items": tensor, "minItems": 1, "maxItems": 1})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _post(told: str, content: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/Error"}
    responses = {code: _problem(text, error) for code, text in REFUSALS.items()}
    return {
        "summary": told,
        "parameters": [_header(name, text) for name, text in ASYNC.items()],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _problem(told, answer),
            "202": _problem("Kept, with Prefer: respond-async; Location names the run.", RUN),
            **responses,
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
