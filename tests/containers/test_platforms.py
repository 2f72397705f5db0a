"""One image on every platform: SageMaker, Vertex AI, KServe, MLflow, and `docker run` alone."""

import csv
import hashlib
import io
import json
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from slipway.errors import DataUnavailable
from slipway.host import environment

JSON, CSV, LINES = "application/json", "text/csv", "application/jsonlines"
ROOT, USER = "0", "1000:0"
SHORT = {"limit": "400", "epochs": "1"}  # a whole run is for `finished`
FEW = 6  # rows: each form that a platform sends and gets is tried, and a job may be slow
csv.field_size_limit(2**27)  # an answer may hold a sound or a picture


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def rows(rows):
    return rows[:FEW]


@pytest.fixture
def channels(subject, folder):
    """The sample of each dataset, as (dataset, file); a TOML file only tells how one is made."""
    return [
        (name, folder / entry.sample)
        for name, entry in subject.spec.data.items()
        if entry.sample and not entry.sample.endswith(".toml")
    ]


@pytest.fixture
def opt_ml(make_folder, channels, tmp_path):
    """Return a function that makes SageMaker's tree before a training."""

    def make(**hyperparameters):
        place = tmp_path / "ml"
        config = place / "input" / "config"
        write_json(config / "hyperparameters.json", hyperparameters)
        write_json(config / "resourceconfig.json", {"current_host": "algo-1", "hosts": ["algo-1"]})
        for name, file in channels:
            channel = place / "input" / "data" / name
            channel.mkdir(parents=True)
            (channel / file.name).write_bytes(file.read_bytes())
        for name in ("model", "output", "checkpoints"):
            (place / name).mkdir(parents=True)
        return make_folder(place)

    return make


@contextmanager
def served(subject, wait_for, **more):
    """Give a ready server of an image that was told nothing but `serve`."""
    with subject.serving(None, **more) as server:
        health = more.get("environ", {}).get("AIP_HEALTH_ROUTE", "/ping")
        wait_for(lambda: server.status(health) == 200)
        yield server


def asked(server, path, body, **headers):
    """Post a body and return the text of the answer, which must be a 200."""
    sent = body if isinstance(body, bytes) else body.encode()
    code, _, text = server.ask(path, sent, **headers)
    assert code == 200, text
    return text


def table(rows, header=True):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_sagemaker_trains_and_serves_without_a_flag(subject, opt_ml, rows, wait_for, channels):
    sagemaker(subject, opt_ml, ROOT, rows, wait_for, channels)


@pytest.mark.once
def test_sagemaker_needs_no_root(subject, opt_ml, rows, wait_for, channels):
    sagemaker(subject, opt_ml, USER, rows, wait_for, channels)


def sagemaker(subject, opt_ml, user, rows, wait_for, channels):
    """Train in SageMaker's tree and serve what came of it."""
    place = opt_ml(seed="3", sagemaker_region="nowhere", **SHORT)
    ended = subject.run("train", user=user, mounts={place: ("/opt/ml", "rw")})
    assert ended.code == 0, ended.err
    assert "SageMaker" in ended.err
    record = json.loads((place / "output" / "data" / "run.json").read_text("utf-8"))
    assert record["train"]["options"]["seed"] == 3
    assert record["prepare"]["tier"] == tier_of(subject, channels)
    for name in ("metrics.json", "report.html"):
        assert (place / "output" / "data" / name).is_file()
    assert not (place / "output" / "failure").exists()
    mounts = {place / "model": ("/opt/ml/model", "ro")}
    with served(subject, wait_for, user=user, mounts=mounts) as server:
        check_invocations(server, rows)
        assert json.loads(server.ask("/version")[2])["seed"] == 3


def tier_of(subject, channels):
    """Return the tier of what the channels hold: a file with the real one's checksum is that."""
    if not channels:
        return "sample" if subject.spec.data else "none"
    real = [
        hashlib.sha256(file.read_bytes()).hexdigest() == subject.spec.data[name].sha256
        for name, file in channels
    ]
    return "mirror" if all(real) else "own"


def check_invocations(server, rows):
    """Hold /invocations to SageMaker's content types, both ways."""
    wanted = server.score(rows)[1]
    code, _, text = server.ask("/ping")
    assert (code, text) == (200, "")
    told = json.loads(server.ask("/execution-parameters")[2])
    assert told["BatchStrategy"] == "MULTI_RECORD"
    assert told["MaxConcurrentTransforms"] * told["MaxPayloadInMB"] <= 100

    def invoke(body, kind, accept=JSON):
        return asked(server, "/invocations", body, Content_Type=kind, Accept=accept)

    body = "\n".join(map(json.dumps, rows))
    assert json.loads(invoke(json.dumps(rows), JSON)) == wanted
    assert json.loads(invoke(json.dumps(rows[0]), JSON)) == wanted[0]
    assert lines(invoke(body, LINES, "*/*")) == wanted
    assert json.loads(invoke(body, LINES)) == wanted
    assert json.loads(invoke(table(rows), CSV))["predictions"] == wanted
    if len(rows[0]) == 1:
        assert json.loads(invoke(table(rows, header=False), CSV))["predictions"] == wanted
    assert lines(invoke(json.dumps(rows), JSON, LINES)) == wanted
    found = list(csv.DictReader(io.StringIO(invoke(body, LINES, CSV))))
    assert [list(answer) for answer in found] == [list(answer) for answer in wanted]
    code, _, text = server.ask("/invocations", b"<row/>", Content_Type="application/xml")
    assert (code, JSON in text) == (415, True)


def test_sagemaker_reads_why_a_training_failed(subject, opt_ml):
    place = opt_ml(seed="three")
    ended = subject.run("train", mounts={place: ("/opt/ml", "rw")})
    assert ended.code == 2
    assert "'three' is not a valid integer" in (place / "output" / "failure").read_text("utf-8")


def test_vertex_trains_into_a_bucket_and_serves_from_it(
    subject, make_folder, channels, rows, wait_for
):
    bucket = make_folder()
    environ = {"AIP_MODEL_DIR": "gs://bucket/run 1/model"}
    if len(channels) == 1:
        (bucket / "rows").write_bytes(channels[0][1].read_bytes())
        environ["AIP_TRAINING_DATA_URI"] = "gs://bucket/rows"
    mounts = {bucket: ("/gcs/bucket", "rw")}
    command = ("train", *(f"--{name}={text}" for name, text in SHORT.items()))
    ended = subject.run(*command, mounts=mounts, environ=environ, read_only=False)
    assert ended.code == 0, ended.err
    assert (bucket / "run 1" / "report.html").is_file()
    environ = {
        "AIP_STORAGE_URI": "gs://bucket/run 1/model",
        "AIP_HTTP_PORT": "8085",
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
    }
    mounts = {bucket: ("/gcs/bucket", "ro")}
    with served(subject, wait_for, mounts=mounts, environ=environ, port=8085) as server:
        body = json.dumps({"instances": rows, "parameters": {}})
        text = asked(server, environ["AIP_PREDICT_ROUTE"], body, Content_Type=JSON)
        assert json.loads(text)["predictions"] == server.score(rows)[1]
        code, _, text = server.ask(environ["AIP_PREDICT_ROUTE"], b"{}", Content_Type=JSON)
        assert (code, json.loads(text)["fields"][0]["path"]) == (422, "/instances")


@pytest.mark.once
def test_a_bucket_that_is_not_mounted_is_told(subject):
    ended = subject.run("serve", environ={"AIP_STORAGE_URI": "gs://bucket/model"})
    assert ended.code == 5
    assert "AIP_STORAGE_URI=gs://bucket/model: wanted a path, or gs:// with its" in ended.err


@pytest.fixture(scope="session")
def clients(root) -> Path:
    """The Python that has KServe's and Triton's clients."""
    try:
        return environment.make(root, "clients", ["clients"])
    except DataUnavailable as error:
        pytest.skip(f"the clients of KServe and Triton cannot be installed: {error}")


def as_told(found, wanted):
    """Return an answer in tensors with its JSON undone: what is no tensor comes as that text."""
    return {
        name: json.loads(text)
        if isinstance(text, str) and not isinstance(wanted[name], str)
        else text
        for name, text in found.items()
    }


def test_kserve_by_the_official_clients(subject, trained, described, rows, wait_for, clients):
    fields = described["input"]["properties"].items()
    files = [name for name, field in fields if "contentEncoding" in field]
    mounts = {trained / "model": ("/mnt/models", "ro")}
    with served(subject, wait_for, mounts=mounts) as server:
        script = str(Path(__file__).with_name("v2_clients.py"))
        address = f"{server.host}:{server.port}"
        command = [str(clients), script, address, subject.spec.name, *files]
        done = subprocess.run(
            command, input=json.dumps(rows), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout)
        wanted = server.score(rows)[1]
        for answers in found["answers"].values():
            assert [as_told(*pair) for pair in zip(answers, wanted, strict=True)] == wanted
        code, told = found["refused"]
        assert code == "400"
        assert "/inputs/no_such_tensor" in told


@pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")
def test_mlflow_by_its_client(subject, server, rows):
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    client = ScoringServerClient(server.host, server.port)
    client.wait_server_ready(timeout=5)
    assert json.loads(client.get_version())["model"]
    wanted = server.score(rows)[1]
    frame = pd.DataFrame(rows)
    assert client.invoke(frame)["predictions"] == wanted
    assert client.invoke(frame.assign(label="a column more"))["predictions"] == wanted
    fields = json.loads(server.ask(f"/v2/models/{subject.spec.name}")[2])["inputs"]
    if len(frame.columns) in (1, len(fields)):  # cells without names stand for all fields, or one
        assert client.invoke(frame.to_numpy())["predictions"] == wanted
    assert client.invoke(rows, params={})["predictions"] == wanted
    bodies = {"instances": rows, "dataframe_records": rows, "inputs": frame.to_dict("list")}
    for key, value in bodies.items():
        assert client.invoke(json.dumps({key: value}))["predictions"] == wanted
    assert json.loads(asked(server, "/invocations", table(rows), Content_Type=CSV)) == {
        "predictions": wanted
    }
    assert server.ask("/health")[0] == 200


def test_docker_run_with_nothing_runs_the_job_and_gives_equal_bytes(
    subject, finished, leave, digests, tmp_path
):
    with subject.started(read_only=False) as container:
        ended = leave(container)
        archive = io.BytesIO(b"".join(container.get_archive("/artifacts")[0]))
    place, wanted = finished
    assert ended.code == wanted.code, ended.err
    assert "/artifacts/report.html" in ended.out
    with tarfile.open(fileobj=archive) as files:
        files.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12 has none yet
        files.extractall(tmp_path)
    again = tmp_path / "artifacts"
    assert (place / "metrics.json").read_bytes() == (again / "metrics.json").read_bytes()
    assert digests(place / "model") == digests(again / "model")
    assert digests(place / "data") == digests(again / "data")
