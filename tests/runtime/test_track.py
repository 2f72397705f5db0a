"""MLflow: a local store, versions with stages, and servers that do not answer."""

import socket
import time

import pytest

from slipway.errors import DataUnavailable, Retryable
from slipway.run import Options, Run
from slipway.spec import JobSpec
from slipway.track import Tracker


@pytest.fixture
def run(toy) -> Run:
    run = Run(JobSpec.read(toy.folder), toy.out, "train", Options(seed=3, data="sample"))
    run.start()
    run.data("messages")
    return run


@pytest.fixture
def model():
    from sklearn.dummy import DummyClassifier

    return DummyClassifier().fit([[0.0], [1.0]], [0, 1])


def test_a_run_is_kept_with_its_parameters_figures_and_origin(run) -> None:
    tracker = Tracker(run)
    key = tracker.log("forest", {"depth": 3}, {"aucpr": 0.5})
    logged = tracker.client.get_run(key)

    assert "FINISHED" == logged.info.status
    assert ("forest", {"depth": "3"}, {"aucpr": 0.5}) == (
        logged.info.run_name,
        logged.data.params,
        logged.data.metrics,
    )
    assert ("3", "sample", "train") == tuple(
        logged.data.tags[f"slipway.{name}"] for name in ("seed", "tier", "verb")
    )


def test_a_curve_is_kept_step_by_step(run) -> None:
    tracker = Tracker(run)
    losses = {step: 1 / step for step in range(1, 1203)}
    key = tracker.log("net", {}, {"best": 0.2}, curves={"loss": losses})
    kept = tracker.client.get_metric_history(key, "loss")

    assert losses == {point.step: point.value for point in kept}


def test_versions_come_newest_first_and_a_stage_moves(run, model) -> None:
    run.track("one", {}, {"aucpr": 0.1}, model)
    run.track("two", {}, {"aucpr": 0.2}, model)
    tracker = Tracker(run)
    newest = tracker.versions()[0]["version"]
    tracker.promote(newest - 1, "production")
    tracker.promote(newest, "production")
    found = tracker.versions()[:2]

    assert [("two", ["production"], {"aucpr": 0.2}), ("one", [], {"aucpr": 0.1})] == [
        (entry["name"], entry["stages"], entry["metrics"]) for entry in found
    ]
    assert found[0]["source"].endswith("/model")


def test_a_version_that_is_not_there_cannot_be_promoted(run) -> None:
    with pytest.raises(DataUnavailable, match="not found"):
        Tracker(run).promote(99, "production")


def test_a_server_that_refuses_is_retryable_and_told_quickly(run, monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        started = time.monotonic()
        with pytest.raises(Retryable, match="MLflow: API request"):
            Tracker(run).log("forest", {}, {})

    assert time.monotonic() - started < 10


def test_the_waits_for_a_server_add_up_to_seconds(run, monkeypatch) -> None:
    for name in ("MAX_RETRIES", "BACKOFF_FACTOR", "TIMEOUT"):
        monkeypatch.delenv(f"MLFLOW_HTTP_REQUEST_{name}", raising=False)
    Tracker(run)
    from mlflow import environment_variables as settings

    assert (2, 1, 20) == (
        settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(),
        settings.MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get(),
        settings.MLFLOW_HTTP_REQUEST_TIMEOUT.get(),
    )


def test_a_refusing_server_leaves_the_old_model_and_its_record(trained, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = (trained.out / "model" / "model.skops").read_bytes()
    record = (trained.out / "run.json").read_bytes()
    code, _, err = trained("train", "--decay", "5", "--data", "sample", "--out", str(trained.out))

    assert 33 == code, err
    assert "Traceback" not in err
    assert before == (trained.out / "model" / "model.skops").read_bytes()
    assert record == (trained.out / "run.json").read_bytes()
    assert (trained.out / "checkpoints" / "train.json").is_file()
