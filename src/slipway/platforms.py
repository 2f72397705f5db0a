"""The routes of serving platforms: a table of thin adapters onto one function, `Service.score`.

SageMaker, Vertex AI, KServe (v1 and the Open Inference Protocol v2), MLflow and Hugging Face each
wrap rows and answers in their own envelope. An adapter unwraps, scores and wraps; limits and
errors are those of ``/score``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from flask import Flask, Response, jsonify, request

from slipway import bodies, tensors
from slipway.bodies import CSV, JSON, LINES, Asked, Refused, Row, wrong_field
from slipway.types import media_fields

if TYPE_CHECKING:
    from slipway.scorer import Service

Answer = Response | tuple[Response, int]
PARAMETERS = ("params", "parameters")
HEADER = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
SPLIT = {"columns", "data", "index"}


@dataclass(frozen=True)
class Adapter:
    """One route; ``MODEL`` in it is the job's name.

    ``takes`` names the body, for the description in `slipway.openapi`.
    """

    method: str
    rule: str
    view: Callable[..., Answer]
    told: str
    takes: str = ""


def add_routes(app: Flask, service: Service) -> None:
    """Add every platform's routes to the app of a scorer."""
    taken = {rule.rule for rule in app.url_map.iter_rules()}
    for adapter in (*ADAPTERS, *vertex_adapters(taken)):
        rule = adapter.rule.replace("MODEL", service.job.spec.name)
        app.add_url_rule(
            rule,
            f"{adapter.method} {rule}".replace(".", "_"),
            partial(adapter.view, service),
            methods=[adapter.method],
        )
    app.register_error_handler(Refused, lambda error: error.answer())


def vertex_adapters(taken: set[str]) -> list[Adapter]:
    """Return the routes that Vertex AI names in its variables, where we have none of that path."""
    health = os.environ.get("AIP_HEALTH_ROUTE", "")
    predict = os.environ.get("AIP_PREDICT_ROUTE", "")
    for name, route in (("AIP_HEALTH_ROUTE", health), ("AIP_PREDICT_ROUTE", predict)):
        if route and (not route.startswith("/") or set(route) & set("<>")):
            raise click.UsageError(f"{name}={route!r}; wanted a path like /predict")
    if predict in taken:
        raise click.UsageError(f"AIP_PREDICT_ROUTE={predict}: that is a route of another meaning")
    ours = taken | {adapter.rule for adapter in ADAPTERS}
    found = []
    if health and health not in ours:
        found.append(Adapter("GET", health, ping, "Vertex AI: ready."))
    if predict and predict not in {"/invocations", "/predict"}:
        found.append(Adapter("POST", predict, predict_instances, "Vertex AI.", "instances"))
    return found


def ping(service: Service) -> Answer:
    """Answer 200 or 503 without a body."""
    return Response(status=200 if service.ready else 503)


def execution_parameters(service: Service) -> Answer:
    """Tell SageMaker's batch transform what to send; requests times size is held to 100 MB."""
    size = max(1, min(100, service.job.row.max_bytes // 2**20))
    transforms = max(1, min(2 * (os.cpu_count() or 1), 100 // size))
    return jsonify(
        MaxConcurrentTransforms=transforms, BatchStrategy="MULTI_RECORD", MaxPayloadInMB=size
    )


def invocations(service: Service) -> Answer:
    """Answer SageMaker, in the format that it accepts, and MLflow, under ``predictions``."""
    found = envelope(service.job.row)
    if found:
        return predictions(service, rows_in(*found, bodies.row_of(service.job.row)))
    asked = bodies.read(request, service.job.row)
    if request.mimetype == CSV:
        return predictions(service, asked.rows)
    default = request.mimetype if request.mimetype in LINES else default_accept()
    return bodies.respond(request, asked, service.score, default=default)


def predict(service: Service) -> Answer:
    """Answer Hugging Face's ``inputs`` in their own shape, and ``instances`` like Vertex AI."""
    found = envelope(service.job.row)
    if found is None:
        return bodies.respond(request, bodies.read(request, service.job.row), service.score)
    key, value = found
    rows = rows_in(key, value, bodies.row_of(service.job.row))
    if key != "inputs":
        return predictions(service, rows)
    many = len(rows) != 1 or isinstance(value, list)
    return bodies.respond(request, Asked(rows, many), service.score)


def predict_instances(service: Service) -> Answer:
    """Answer ``instances`` with ``predictions``."""
    if request.mimetype != JSON:
        bodies.whole(request)
        raise bodies.unknown_type(request, [JSON])
    found = envelope(service.job.row)
    if found is None or found[0] != "instances":
        raise wrong_field("/instances", "nothing", "a list of instances")
    return predictions(service, rows_in(*found, bodies.row_of(service.job.row)))


def default_accept() -> str:
    """Return the format of an answer that no Accept header asks for."""
    wish = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
    if wish not in (JSON, CSV, *LINES):
        told = ", ".join((JSON, CSV, *LINES))
        raise Refused(406, f"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT={wish}; wanted one of {told}")
    return wish


def predictions(service: Service, rows: list[Any]) -> Answer:
    """Score rows; JSON answers stand under ``predictions``, other formats as they are."""
    wish = bodies.negotiated(request, default_accept())
    if wish == JSON:
        return jsonify(predictions=service.score(rows))
    return bodies.respond(request, Asked(rows, True), service.score, default=wish)


def envelope(kind: Any) -> tuple[str, Any] | None:
    """Return key and content of a JSON envelope, None where the body is rows without one."""
    body = bodies.whole(request)
    if request.mimetype != JSON or body.lstrip()[:1] != b"{":
        return None
    found = bodies.parsed(body)
    keys = [key for key in found if key in ENVELOPES and key not in kind.model_fields]
    if not keys:
        return None
    if len(keys) > 1:
        raise wrong_field("/", " and ".join(keys), f"one of {', '.join(ENVELOPES)}")
    for name, value in found.items():
        if name not in (keys[0], *PARAMETERS) or (name in PARAMETERS and value):
            shown = "a value" if name in PARAMETERS else "an unknown field"
            raise wrong_field(f"/{name}", shown, "no such field; this model takes none")
    return keys[0], found[keys[0]]


def rows_in(key: str, value: Any, row: Row) -> list[Any]:
    """Return the rows that an envelope holds."""
    return ENVELOPES[key](value, row)


def _instances(value: Any, row: Row) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_field("/instances", type(value).__name__, "a list of instances")
    _check_number(len(value), "/instances", row)
    return bodies.strict_rows([instance(entry, row) for entry in value], row, "/instances")


def _inputs(value: Any, row: Row) -> list[Any]:
    if isinstance(value, dict) and any(isinstance(entry, list) for entry in value.values()):
        return _columns(value, row)
    many = value if isinstance(value, list) else [value]
    _check_number(len(many), "/inputs", row)
    return bodies.lax_rows([instance(entry, row) for entry in many], row, "/inputs")


def _columns(value: dict[str, Any], row: Row) -> list[Any]:
    sizes = {len(entry) if isinstance(entry, list) else -1 for entry in value.values()}
    if len(sizes) > 1:
        raise wrong_field("/inputs", "columns of several lengths", "columns of one length")
    _check_number(sizes.pop(), "/inputs", row)
    cells = zip(*value.values(), strict=True)
    found = [dict(zip(value, entry, strict=True)) for entry in cells]
    return bodies.table_rows(found, row, "/inputs")


def _records(value: Any, row: Row) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_field("/dataframe_records", type(value).__name__, "a list of records")
    _check_number(len(value), "/dataframe_records", row)
    return bodies.table_rows(value, row, "/dataframe_records")


def _split(value: Any, row: Row) -> list[Any]:
    path = "/dataframe_split"
    names, data = (value.get(k) if isinstance(value, dict) else None for k in ("columns", "data"))
    if not isinstance(names, list) or not isinstance(data, list) or set(value) - SPLIT:
        raise wrong_field(path, type(value).__name__, "columns and data, perhaps an index")
    _check_number(len(data), path, row)
    for number, cells in enumerate(data):
        if not isinstance(cells, list) or len(cells) != len(names):
            raise wrong_field(f"{path}/data/{number}", repr(cells)[:80], f"{len(names)} cells")
    columns = [str(name) for name in names]
    return bodies.table_rows([dict(zip(columns, cells, strict=True)) for cells in data], row, path)


def _check_number(number: int, path: str, row: Row) -> None:
    """Refuse too many rows before any of them is looked at."""
    if number > row.kind.max_rows:
        raise wrong_field(path, f"{number} rows", f"at most {row.kind.max_rows}")


ENVELOPES: Mapping[str, Callable[[Any, Row], list[Any]]] = {
    "instances": _instances,
    "inputs": _inputs,
    "dataframe_records": _records,
    "dataframe_split": _split,
}


def instance(value: Any, row: Row) -> Any:
    """Return one instance as a row: an object, cells in the order of the fields, or a bare value.

    ``{"b64": TEXT}`` stands for bytes, as TensorFlow Serving writes them.
    """
    names = list(row.kind.model_fields)
    media = media_fields(row.kind)
    if isinstance(value, list) and len(value) == len(names):
        value = dict(zip(names, value, strict=True))
    elif row.sole and (not isinstance(value, dict) or set(value) == {"b64"}):
        lone = isinstance(value, list) and len(value) == 1
        value = {row.sole: value[0] if lone else value}
    if not isinstance(value, dict):
        return value
    return {k: _unwrapped(v) if k in media else v for k, v in value.items()}


def _unwrapped(value: Any) -> Any:
    return value["b64"] if isinstance(value, dict) and set(value) == {"b64"} else value


def _known(service: Service, version: str | None) -> str:
    """Return the model's name; raise Refused (404) for a version that is not served here."""
    if version not in (None, service.model_id):
        raise Refused(404, f"version {version} is not served here; there is {service.model_id}")
    return service.job.spec.name


def list_v1(service: Service) -> Answer:
    """List the one model."""
    return jsonify(models=[service.job.spec.name])


def server_v2(service: Service) -> Answer:
    """Tell what the server is and which extensions it has."""
    version = service.model_id or "loading"
    return jsonify(name="slipway", version=version, extensions=["binary_tensor_data"])


def live_v2(_: Service) -> Answer:
    """Tell that the process lives."""
    return jsonify(live=True)


def ready_v2(service: Service) -> Answer:
    """Tell whether the server is ready."""
    return jsonify(ready=service.ready), 200 if service.ready else 503


def model_v2(service: Service, version: str | None = None) -> Answer:
    """Return the model's metadata: a tensor for each field."""
    model = _known(service, version)
    return jsonify(
        name=model,
        versions=[service.model_id] if service.model_id else [],
        platform="slipway",
        inputs=tensors.describe(service.job.row),
        outputs=tensors.describe(service.job.answer),
    )


def model_ready(service: Service, version: str | None = None) -> Answer:
    """Tell whether the model is ready."""
    model = _known(service, version)
    return jsonify(name=model, ready=service.ready), 200 if service.ready else 503


def infer_v2(service: Service, version: str | None = None) -> Answer:
    """Score tensors; the protocol's only code for what is wrong with them is 400."""
    body = bodies.whole(request)
    model = _known(service, version)
    try:
        asked, binary = tensors.read(body, request.headers.get(HEADER))
        rows = tensors.rows(asked, binary, bodies.row_of(service.job.row))
        told, parts = tensors.outputs(asked, service.score(rows), service.job.answer)
    except Refused as error:
        raise Refused(400, _in_one_line(error), error.fields) from None
    head = {"model_name": model, "model_version": service.model_id, "outputs": told}
    content = json.dumps(head if asked.id is None else {"id": asked.id} | head).encode()
    if not parts:
        return Response(content, mimetype=JSON)
    answer = Response(content + b"".join(parts), mimetype=BINARY)
    answer.headers[HEADER] = str(len(content))
    return answer


def _in_one_line(error: Refused) -> str:
    """Return the reason with its first field: clients of the protocol show ``error`` alone."""
    if not error.fields:
        return str(error)
    first = error.fields[0]
    return f"{error}: {first['path']}: found {first['found']}; {first['wanted']}"


V2 = "/v2/models/MODEL"
ADAPTERS = (
    Adapter("GET", "/ping", ping, "SageMaker, MLflow: ready."),
    Adapter("GET", "/health", ping, "MLflow, Hugging Face: ready."),
    Adapter("GET", "/execution-parameters", execution_parameters, "SageMaker's batch transform."),
    Adapter("POST", "/invocations", invocations, "SageMaker, MLflow.", "any"),
    Adapter("POST", "/predict", predict, "Hugging Face, Vertex AI.", "any"),
    Adapter("GET", "/v1/models", list_v1, "KServe v1: the model."),
    Adapter("GET", "/v1/models/MODEL", model_ready, "KServe v1: ready."),
    Adapter("POST", "/v1/models/MODEL:predict", predict_instances, "KServe v1.", "instances"),
    Adapter("GET", "/v2", server_v2, "Open Inference Protocol: the server."),
    Adapter("GET", "/v2/health/live", live_v2, "Open Inference Protocol: live."),
    Adapter("GET", "/v2/health/ready", ready_v2, "Open Inference Protocol: ready."),
    Adapter("GET", V2, model_v2, "Open Inference Protocol: the model's tensors."),
    Adapter("GET", f"{V2}/ready", model_ready, "Open Inference Protocol: the model is ready."),
    Adapter("POST", f"{V2}/infer", infer_v2, "Open Inference Protocol.", "tensors"),
    Adapter("GET", f"{V2}/versions/<version>", model_v2, "The same of a version."),
    Adapter("GET", f"{V2}/versions/<version>/ready", model_ready, "The same of a version."),
    Adapter("POST", f"{V2}/versions/<version>/infer", infer_v2, "The same.", "tensors"),
)
