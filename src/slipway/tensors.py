"""Rows as tensors: the Open Inference Protocol v2 with its binary tensor extension.

Each field of a row is one tensor of shape ``[n]`` or ``[n, 1]``. A datatype follows from the
field's type; what is no scalar (a list, an object) travels as JSON text in a BYTES tensor.
"""

from __future__ import annotations

import base64
import enum
import json
import struct
import types
import typing
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from slipway.bodies import Refused, Row, lax_rows, parsed, wrong_field, wrong_json
from slipway.types import media_fields

# numpy's names, as bytes lie on the wire: little-endian.
DTYPES = {
    "BOOL": "?",
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
WHOLE = tuple(name for name in DTYPES if "INT" in name)
# The datatypes that a field of each own datatype takes.
TAKEN = {
    "BOOL": ("BOOL",),
    "INT64": WHOLE,
    "FP64": (*WHOLE, "FP16", "FP32", "FP64"),
    "BYTES": ("BYTES",),
}
Parameters = dict[str, Any] | None


class Tensor(BaseModel):
    """One tensor of a request; its data is in JSON, or binary after the header."""

    model_config = ConfigDict(strict=True)

    name: str
    shape: list[NonNegativeInt] = Field(min_length=1, max_length=2)
    datatype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
        "FP16", "FP32", "FP64", "BYTES",
    ]  # fmt: skip
    data: list[Any] | None = None
    parameters: Parameters = None

    @property
    def size(self) -> int | None:
        """The bytes of binary data, None where the data is in JSON."""
        return _whole_number(self.name, (self.parameters or {}).get("binary_data_size"))


class Wanted(BaseModel):
    """A tensor that the client wants in the answer."""

    name: str
    parameters: Parameters = None


class InferRequest(BaseModel):
    """The JSON of an inference request."""

    id: str | None = None
    parameters: Parameters = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[Wanted] | None = None

    def binary(self, name: str) -> bool:
        """Tell whether the client wants this output after the header; its own word wins."""
        every = (self.parameters or {}).get("binary_data_output", False)
        for wanted in self.outputs or []:
            if wanted.name == name:
                return bool((wanted.parameters or {}).get("binary_data", every))
        return bool(every)


def _whole_number(name: str, value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise wrong_field(f"/inputs/{name}", repr(value), "binary_data_size as a whole number")


def describe(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """Return name, datatype and shape of each field, as model metadata has them."""
    fields = kind.model_fields.items()
    return [
        {"name": name, "datatype": datatype_of(entry.annotation), "shape": [-1]}
        for name, entry in fields
    ]


def datatype_of(annotation: Any) -> str:
    """Return the datatype of a field's type."""
    return {bool: "BOOL", int: "INT64", float: "FP64"}.get(scalar_of(annotation), "BYTES")


def scalar_of(annotation: Any) -> Any:
    """Return the plain type behind an annotation; dict stands for all that is no scalar."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = {scalar_of(entry) for entry in inner if entry is not type(None)}
        return kinds.pop() if len(kinds) == 1 else dict
    if origin is Literal:
        return type(inner[0])
    if origin is typing.Annotated:
        return scalar_of(inner[0])
    if not isinstance(annotation, type) or origin is not None:
        return dict
    if issubclass(annotation, enum.Enum):
        return type(next(iter(annotation)).value)
    if issubclass(annotation, bool | int | float | bytes):
        return next(kind for kind in (bool, int, float, bytes) if issubclass(annotation, kind))
    return dict if issubclass(annotation, BaseModel | list | dict | tuple | set) else str


def read(body: bytes, header: str | None) -> tuple[InferRequest, bytes]:
    """Split a body at ``Inference-Header-Content-Length`` into request and binary data."""
    if header is not None and not (header.isdecimal() and int(header) <= len(body)):
        told = f"found {header}; the body has {len(body)} bytes"
        raise Refused(400, f"Inference-Header-Content-Length: {told}")
    cut = len(body) if header is None else int(header)
    try:
        return InferRequest.model_validate_json(body[:cut]), body[cut:]
    except ValidationError as error:
        raise wrong_json(error) from None


def rows(request: InferRequest, binary: bytes, row: Row) -> list[Any]:
    """Return the rows that the tensors of a request hold."""
    columns: dict[str, list[Any]] = {}
    counts = set()
    for tensor in request.inputs:
        size = tensor.size
        chunk, binary = binary[: size or 0], binary[size or 0 :]
        if size is not None and len(chunk) < size:
            raise wrong_field(f"/inputs/{tensor.name}", f"{len(chunk)} bytes", f"{size} bytes")
        if tensor.name in columns:
            raise wrong_field(f"/inputs/{tensor.name}", "two tensors of this name", "one")
        columns[tensor.name] = column(tensor, None if size is None else chunk, row)
        counts.add(tensor.shape[0])
    if binary:
        raise Refused(422, f"{len(binary)} bytes after the last tensor")
    if len(counts) > 1:
        raise Refused(422, f"tensors of {', '.join(map(str, sorted(counts)))} rows; wanted as many")
    names = list(columns)
    values = zip(*columns.values(), strict=True)
    return lax_rows([dict(zip(names, cells, strict=True)) for cells in values], row)


def column(tensor: Tensor, binary: bytes | None, row: Row) -> list[Any]:
    """Return the n values of a tensor, each as its field takes it."""
    path, wide = f"/inputs/{tensor.name}", tensor.shape[1:] or [1]
    entry = row.kind.model_fields.get(tensor.name)
    if entry is None:
        raise wrong_field(path, tensor.name, f"one of {', '.join(row.kind.model_fields)}")
    if wide != [1] or tensor.shape[0] > row.kind.max_rows:
        wanted = f"[n] or [n, 1] with n of at most {row.kind.max_rows}"
        raise wrong_field(f"{path}/shape", str(tensor.shape), wanted)
    taken = TAKEN[datatype_of(entry.annotation)]
    if tensor.datatype not in taken:
        raise wrong_field(f"{path}/datatype", tensor.datatype, " or ".join(taken))
    cells = from_json(tensor) if binary is None else from_binary(tensor, binary)
    if len(cells) != tensor.shape[0]:
        raise wrong_field(f"{path}/data", f"{len(cells)} values", f"{tensor.shape[0]}")
    plain = scalar_of(entry.annotation)
    if plain is bytes:
        return cells
    texts = [_text(cell, path) if isinstance(cell, bytes) else cell for cell in cells]
    return [parsed(text.encode()) for text in texts] if plain is dict else texts


def from_json(tensor: Tensor) -> list[Any]:
    """Return the values that stand in the JSON, nested as the shape or flat."""
    path = f"/inputs/{tensor.name}/data"
    if tensor.data is None:
        raise wrong_field(path, "nothing", "data, or binary_data_size")
    flat = tensor.data
    if len(tensor.shape) == 2:
        flat = [cell for part in flat for cell in (part if isinstance(part, list) else [part])]
    kinds: dict[str, tuple[type, ...]]
    kinds = {"BOOL": (bool,), "BYTES": (str,), "FP16": (int, float)}
    number = (int, float) if tensor.datatype.startswith("FP") else (int,)
    wanted = kinds.get(tensor.datatype, number)
    for cell in flat:
        if not isinstance(cell, wanted) or (isinstance(cell, bool) and bool not in wanted):
            raise wrong_field(path, repr(cell)[:80], f"{tensor.datatype} values")
    return flat


def from_binary(tensor: Tensor, content: bytes) -> list[Any]:
    """Return the values of binary data: little-endian numbers, or bytes after their length."""
    if tensor.datatype == "BYTES":
        return _lengths(tensor, content)
    import numpy as np

    dtype = np.dtype(DTYPES[tensor.datatype])
    if len(content) % dtype.itemsize:
        wanted = f"a multiple of {dtype.itemsize}"
        raise wrong_field(f"/inputs/{tensor.name}", f"{len(content)} bytes", wanted)
    return np.frombuffer(content, dtype).tolist()  # type: ignore[no-any-return]


def _lengths(tensor: Tensor, content: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(content):
        end = at + 4
        if end <= len(content):
            end += struct.unpack_from("<I", content, at)[0]
        if end > len(content) or end < at + 4:
            raise wrong_field(f"/inputs/{tensor.name}", f"data that ends at {len(content)}",
                              f"an element to byte {end}")  # fmt: skip
        found.append(content[at + 4 : end])
        at = end
    return found


def _text(content: bytes, path: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise wrong_field(path, repr(content[:16]), "UTF-8 text") from None


def outputs(
    request: InferRequest, answers: list[dict[str, Any]], kind: type[BaseModel]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the output tensors for the JSON, and the binary data that follows it."""
    known = {entry["name"]: entry["datatype"] for entry in describe(kind)}
    wanted = [entry.name for entry in request.outputs or []] or list(known)
    told, binary = [], []
    for name in wanted:
        if name not in known:
            raise wrong_field("/outputs", name, f"one of {', '.join(known)}")
        values = [answer[name] for answer in answers]
        if scalar_of(kind.model_fields[name].annotation) is dict:
            values = [json.dumps(value) for value in values]
        tensor: dict[str, Any]
        tensor = {"name": name, "datatype": known[name], "shape": [len(answers)]}
        if request.binary(name):
            content = to_binary(name, known[name], values, name in media_fields(kind))
            binary.append(content)
            told.append(tensor | {"parameters": {"binary_data_size": len(content)}})
        else:
            told.append(tensor | {"data": values})
    return told, binary


def to_binary(name: str, datatype: str, values: list[Any], media: bool) -> bytes:
    """Return values as they lie on the wire; Refused where one is null."""
    if any(value is None for value in values):
        raise wrong_field(f"/outputs/{name}", "null", "to be asked for as JSON")
    if datatype == "BYTES":
        contents = [base64.b64decode(v) if media else str(v).encode() for v in values]
        return b"".join(struct.pack("<I", len(content)) + content for content in contents)
    import numpy as np

    return np.array(values, DTYPES[datatype]).tobytes()
