"""Ask a scorer with KServe's and Triton's clients, and print what each of them received.

Run by the Python of the `clients` lock: ``v2_clients.py HOST:PORT MODEL [FIELD ...] < rows.json``,
where the fields hold files: base64 in JSON, their bytes in a binary tensor.
"""

import asyncio
import base64
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from tritonclient import http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def columns(metadata, rows):
    """Yield name, datatype and values (n,) of each tensor that every row has."""
    for entry in metadata["inputs"]:
        name, datatype = entry["name"], entry["datatype"]
        if all(name in row for row in rows):
            values = [row[name] for row in rows]
            yield name, datatype, np.array(values, triton_to_np_dtype(datatype))


def as_rows(metadata, result):
    """Return the answers of a result, one object a row."""
    found = {}
    for entry in metadata["outputs"]:
        values = result(entry["name"]).tolist()
        found[entry["name"]] = [text(v) if isinstance(v, bytes) else v for v in values]
    return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]


def text(content):
    """Return the content of a tensor of bytes as JSON has it: a file is base64 there."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return base64.b64encode(content).decode()


def by_triton(address, model, rows, version, binary, nulls=()):
    """Return the answers that Triton's client received, after asking for health and metadata.

    A binary tensor has no null: the outputs ``nulls`` are asked for as JSON.
    """
    with http.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model, version)
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        metadata = client.get_model_metadata(model, version)
        inputs = []
        for name, datatype, values in columns(metadata, rows):
            tensor = http.InferInput(name, list(values.shape), datatype)
            inputs.append(tensor.set_data_from_numpy(values, binary_data=binary))
        names = [entry["name"] for entry in metadata["outputs"]]
        wanted = [
            http.InferRequestedOutput(name, binary_data=binary and name not in nulls)
            for name in names
        ]
        result = client.infer(model, inputs, version, wanted, request_id="seven")
        assert result.get_response()["id"] == "seven"
        return as_rows(metadata, result.as_numpy)


def refused_by_triton(address, model):
    """Return what the client says of a tensor that the model does not have."""
    with http.InferenceServerClient(address) as client:
        tensor = http.InferInput("no_such_tensor", [1], "INT64")
        tensor.set_data_from_numpy(np.array([1]))
        try:
            client.infer(model, [tensor])
        except InferenceServerException as error:
            return error.status(), error.message()
    return "200", ""


async def by_kserve(address, model, rows, binary, nulls=()):
    """Return the answers that KServe's client received by version 2 of the protocol."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        url = f"http://{address}"
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, model)
        with http.InferenceServerClient(address) as other:
            metadata = other.get_model_metadata(model)
        inputs = []
        for name, datatype, values in columns(metadata, rows):
            tensor = InferInput(name, list(values.shape), datatype)
            tensor.set_data_from_numpy(values, binary_data=binary)
            inputs.append(tensor)
        wanted = [
            RequestedOutput(
                entry["name"], parameters={"binary_data": binary and entry["name"] not in nulls}
            )
            for entry in metadata["outputs"]
        ]
        asked = InferRequest(model, inputs, request_outputs=wanted)
        result = await client.infer(url, asked, model_name=model)
        return as_rows(metadata, lambda name: result.get_output_by_name(name).as_numpy())


async def by_kserve_v1(address, model, rows):
    """Return the answers that KServe's client received by version 1."""
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        url = f"http://{address}"
        assert await client.is_model_ready(url, model)
        found = await client.infer(url, {"instances": rows}, model_name=model)
        return found["predictions"]


def is_file(value):
    """Tell whether a value of JSON may be the base64 of bytes that are no text."""
    try:
        base64.b64decode(value, validate=True).decode()
    except UnicodeDecodeError:
        return True
    except (TypeError, ValueError):
        pass
    return False


def with_bytes(rows, files):
    """Return the rows as a binary tensor carries them."""
    return [
        {name: base64.b64decode(value) if name in files else value for name, value in row.items()}
        for row in rows
    ]


def main(address, model, *given):
    """Print the answers of every client and what one of them says of a wrong tensor."""
    rows = json.load(sys.stdin)
    whole = with_bytes(rows, given)
    with http.InferenceServerClient(address) as client:
        version = client.get_model_metadata(model)["versions"][0]
    first = by_triton(address, model, rows, "", False)
    nulls = {name for answer in first for name, value in answer.items() if value is None}
    # KServe's client reads binary bytes as text, and cannot hold a file.
    files = {name for answer in first for name, value in answer.items() if is_file(value)}
    found = {
        "triton": first,
        "triton, binary": by_triton(address, model, whole, version, True, nulls),
        "kserve": asyncio.run(by_kserve(address, model, rows, False)),
        "kserve, binary": asyncio.run(by_kserve(address, model, whole, True, nulls | files)),
        "kserve, v1": asyncio.run(by_kserve_v1(address, model, rows)),
    }
    print(json.dumps({"answers": found, "refused": refused_by_triton(address, model)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
