"""Platforms' paths and options: who wins, what is taken, and what is delivered."""

import json
import shutil

import pytest

from slipway import places
from slipway.errors import DataUnavailable, InputInvalid
from slipway.spec import JobSpec


@pytest.fixture(autouse=True)
def no_platform(monkeypatch, tmp_path):
    for name in ("SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_CHANNELS", "SM_HPS", "AIP_MODEL_DIR",
                 "AIP_CHECKPOINT_DIR", "AIP_STORAGE_URI", "AIP_TRAINING_DATA_URI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(places, "BUCKETS", tmp_path / "gcs")
    monkeypatch.setattr(places, "KSERVE", tmp_path / "mnt" / "models")
    monkeypatch.setattr(places, "ARTIFACTS", tmp_path / "artifacts")


@pytest.fixture
def opt_ml(tmp_path, messages, finished_run):
    """SageMaker's tree as it is before a training."""
    base = tmp_path / "opt-ml"
    for name in ("input/config", "input/data/training", "model", "output/data"):
        (base / name).mkdir(parents=True)
    (base / "input/config/hyperparameters.json").write_text('{"seed": "7"}')
    (base / "input/data/training/mine.tsv").write_bytes(messages)
    shutil.copy(finished_run / "out/mlflow.db", base / "output/data")  # takes a second to make
    return base


def record(out):
    return json.loads((out / "run.json").read_text("utf-8"))


def test_a_bare_train_does_every_stage_and_delivers(toy, opt_ml) -> None:
    code, out, err = toy("train")
    results = opt_ml / "output" / "data"

    assert 0 == code, err
    assert "average_precision" in out
    assert {"prepare", "train", "evaluate"} == set(record(results))
    assert 7 == record(results)["train"]["options"]["seed"]
    assert "mirror" == record(results)["prepare"]["tier"]  # the channel has the declared bytes
    assert (results / "model/model.skops").read_bytes() == (
        opt_ml / "model/model.skops"
    ).read_bytes()
    assert record(results) == record(opt_ml / "model")
    assert (results / "report.html").is_file()
    assert f"places: artifacts in {results}" in err


def test_a_missed_bar_keeps_the_model_of_a_bare_train(toy, opt_ml, monkeypatch) -> None:
    monkeypatch.setenv("TOY_WORSE", "0.5")
    code, _, err = toy("train")

    assert 0 == code
    assert "a bar was missed: average_precision is 0.5000" in err
    assert 3 == toy("run")[0]
    assert (opt_ml / "model/model.skops").is_file()


def test_an_option_and_our_variable_win_over_the_platform(toy, opt_ml, tmp_path, monkeypatch):
    toy("prepare", "--out", str(toy.out))

    assert (toy.out / "data").is_dir()
    monkeypatch.setenv("SLIPWAY_OUT", str(tmp_path / "ours"))
    toy("prepare")

    assert (tmp_path / "ours/data").is_dir()
    assert not (opt_ml / "output/data/data").exists()


def test_sagemakers_variables_win_over_its_files(toy, opt_ml, tmp_path, monkeypatch) -> None:
    (opt_ml / "output/data").rename(tmp_path / "results")
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "named"))
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "results"))
    monkeypatch.setenv("SM_CHANNELS", '["train"]')
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(opt_ml / "input/data/training"))
    monkeypatch.setenv("SM_HPS", '{"seed": 9, "decay": "\\"0.5\\""}')
    code, _, err = toy("train")

    assert 0 == code, err
    assert (tmp_path / "named/model.skops").is_file()
    assert (9, 0.5) == tuple(
        record(tmp_path / "results")["train"]["options"][name] for name in ("seed", "decay")
    )


def test_checkpoints_are_where_sagemaker_keeps_them(toy, opt_ml, monkeypatch) -> None:
    (opt_ml / "checkpoints").mkdir()
    monkeypatch.setenv("TOY_SIGTERM", "1")
    code, _, _ = toy("train")

    assert 143 == code
    assert (opt_ml / "checkpoints/train.json").is_file()
    monkeypatch.delenv("TOY_SIGTERM")

    assert 0 == toy("train")[0]
    assert "began at 2" in (opt_ml / "output/data/report.json").read_text("utf-8")


def test_several_hosts_are_refused(toy, opt_ml) -> None:
    (opt_ml / "input/config/resourceconfig.json").write_text('{"hosts": ["algo-1", "algo-2"]}')
    code, _, err = toy("train")

    assert 2 == code
    assert "names 2 hosts" in err
    assert "names 2 hosts" in (opt_ml / "output/failure").read_text("utf-8")


def test_channels_without_the_dataset_are_told(toy, opt_ml) -> None:
    (opt_ml / "input/data/training").rename(opt_ml / "input/data/validation")
    code, _, err = toy("train")

    assert 5 == code
    assert "the channels validation; wanted messages or training or train" in err


def test_a_dataset_is_the_file_of_its_name_or_the_folder(toy, opt_ml) -> None:
    spec = JobSpec.read(toy.folder)
    channel = opt_ml / "input/data/training"

    assert channel / "mine.tsv" == places.dataset(spec, "messages")[0]
    (channel / "other.tsv").touch()

    assert channel == places.dataset(spec, "messages")[0]
    (channel / "messages.tsv").touch()

    assert channel / "messages.tsv" == places.dataset(spec, "messages")[0]


@pytest.mark.parametrize(
    ("name", "text"), [("SM_HPS", "[1]"), ("SM_HPS", "{"), ("SM_CHANNELS", "{")]
)
def test_a_damaged_variable_is_invalid_input(toy, monkeypatch, name, text) -> None:
    monkeypatch.setenv(name, text)
    spec = JobSpec.read(toy.folder)
    read = places.hyperparameters if name == "SM_HPS" else lambda: places.dataset(spec, "messages")

    with pytest.raises(InputInvalid, match=name):
        read()


@pytest.fixture
def bucket(tmp_path, messages, monkeypatch):
    """A bucket that Vertex AI mounted."""
    place = tmp_path / "gcs" / "bucket"
    place.mkdir(parents=True)
    (place / "rows-1.tsv").write_bytes(messages)
    monkeypatch.setenv("AIP_MODEL_DIR", "gs://bucket/one/model")
    monkeypatch.setenv("AIP_TRAINING_DATA_URI", "gs://bucket/rows-*.tsv")
    return place


def test_vertex_trains_from_a_bucket_into_it(toy, bucket, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AIP_CHECKPOINT_DIR", "gs://bucket/one/checkpoints")
    code, _, err = toy("train", "--out", str(toy.out))

    assert 0 == code, err
    assert "Vertex AI, AIP_TRAINING_DATA_URI" in err
    assert (bucket / "one/model/model.skops").is_file()
    assert (bucket / "one/metrics.json").is_file()
    assert bucket / "one/checkpoints" == places.checkpoints(tmp_path / "artifacts")
    assert toy.out / "checkpoints" == places.checkpoints(toy.out)


def test_several_files_of_vertex_are_told(toy, bucket) -> None:
    (bucket / "rows-2.tsv").touch()

    with pytest.raises(DataUnavailable, match="is 2 files; wanted one"):
        places.dataset(JobSpec.read(toy.folder), "messages")


@pytest.mark.parametrize("uri", ["gs://elsewhere/model", "s3://bucket/model"])
def test_a_bucket_that_is_not_there_is_told(toy, bucket, monkeypatch, uri) -> None:
    monkeypatch.setenv("AIP_STORAGE_URI", uri)
    code, _, err = toy("serve")

    assert 5 == code
    assert f"AIP_STORAGE_URI={uri}: wanted a path, or gs:// with its bucket mounted" in err


@pytest.fixture
def asked_to_serve(monkeypatch):
    """The folder of artifacts that the server was started with."""
    found = []
    monkeypatch.setattr(
        "slipway.server.serve_forever", lambda _, out, *rest, **more: found.append(out)
    )
    return found


def put_model(folder, finished_run):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model/model.skops", "run.json"):
        source = finished_run / "out" / name
        (folder / source.name).write_bytes(source.read_bytes())


@pytest.mark.parametrize("place", ["opt-ml/model", "mnt/models", "opt-ml/model/model", "gcs/b/m"])
def test_serve_finds_the_model_of_the_platform(
    toy, finished_run, tmp_path, monkeypatch, asked_to_serve, place
) -> None:
    put_model(tmp_path / place, finished_run)
    if place == "gcs/b/m":
        monkeypatch.setenv("AIP_STORAGE_URI", "gs://b/m")
    code, _, err = toy("serve")

    assert 0 == code, err
    out = asked_to_serve[0]

    assert (out / "model").resolve() == (tmp_path / place).resolve()
    assert record(out) == record(finished_run / "out")
    assert f"places: the model is in {tmp_path / place}" in err


def test_serve_prefers_variables_then_sagemaker_then_kserve(
    toy, finished_run, tmp_path, monkeypatch, asked_to_serve
) -> None:
    for place in ("mnt/models", "opt-ml/model", "named"):
        put_model(tmp_path / place, finished_run)
        if place == "named":
            monkeypatch.setenv("AIP_STORAGE_URI", str(tmp_path / place))
        toy("serve")
        assert (asked_to_serve[-1] / "model").resolve() == (tmp_path / place).resolve()
    toy("serve", "--out", str(toy.out))

    assert toy.out == asked_to_serve[-1]


def test_serve_without_a_platform_reads_the_artifacts(toy, asked_to_serve) -> None:
    toy("serve")

    assert ["/artifacts"] == [str(out) for out in asked_to_serve]


def test_a_variable_that_names_no_model_is_told(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path))
    code, _, err = toy("serve")

    assert 5 == code
    assert "SM_MODEL_DIR: " in err
    assert "holds no model" in err
