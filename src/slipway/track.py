"""MLflow: every training run with what it needs to be found and repeated, and the registry.

A local store under the artifacts unless ``MLFLOW_TRACKING_URI`` names a server. One registered
model a job, ``slipway-<job>``; its versions carry the stages candidate, shadow and production
as MLflow aliases, which took the place of MLflow's own stages.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import store
from slipway.errors import DataUnavailable, Retryable

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from slipway.run import Run

STAGES = ("candidate", "shadow", "production")
MOST_METRICS = 1000
"""That a server takes at once."""


# mlflow's own are 7 retries and 120 s: a server that refuses would hold a job for minutes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}


@contextmanager
def told() -> Iterator[None]:
    """Turn MLflow's errors into ours: what a server may yet do is retryable, the rest is not."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)  # read when mlflow is imported
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        kind = Retryable if status >= 500 else DataUnavailable
        raise kind(f"MLflow: {error}") from None


class Tracker:
    """The runs and the registered model of one job, seen from one `Run`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.model_name = f"slipway-{run.spec.name}"
        with told():
            self.client = _client(run.out)

    @told()
    def log(
        self,
        name: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        model: Any = None,
        stage: str = "",
        curves: Mapping[str, Mapping[int, float]] | None = None,
    ) -> str:
        """Log one finished run and return its id; register ``model`` when there is one."""
        from mlflow.entities import Metric, Param, RunTag

        made = self.client.create_run(self._experiment(), run_name=name)
        key, now = made.info.run_id, made.info.start_time
        self.client.log_batch(
            key,
            metrics=[Metric(label, float(value), now, 0) for label, value in metrics.items()],
            params=[Param(label, str(value)[:500]) for label, value in params.items()],
            tags=[RunTag(label, str(value)) for label, value in self._tags().items()],
        )
        points = [Metric(label, float(value), now, step) for label, values in (curves or {}).items()
                  for step, value in values.items()]  # fmt: skip
        for start in range(0, len(points), MOST_METRICS):
            self.client.log_batch(key, metrics=points[start : start + MOST_METRICS])
        if model is not None:
            self._register(name, key, made.info.artifact_uri, model, stage)
        self.client.set_terminated(key)
        return str(key)

    @told()
    def versions(self) -> list[dict[str, Any]]:
        """Return the registered versions, newest first: name, stages, metrics, source."""
        return list(self._versions())

    def _versions(self) -> Iterator[dict[str, Any]]:
        found = self.client.search_model_versions(f"name='{self.model_name}'")
        aliases = self._aliases()
        for version in sorted(found, key=lambda entry: -int(entry.version)):
            logged = self.client.get_run(str(version.run_id))
            yield {
                "version": int(version.version),
                "name": logged.info.run_name,
                "stages": aliases.get(str(version.version), []),
                "metrics": logged.data.metrics,
                "source": version.source,
            }

    @told()
    def promote(self, version: int, stage: str) -> None:
        """Give a stage to a version; whichever had it loses it."""
        self.client.set_registered_model_alias(self.model_name, stage, str(version))

    def _aliases(self) -> dict[str, list[str]]:
        model = self.client.get_registered_model(self.model_name)
        stages: dict[str, list[str]] = {}
        for alias, version in model.aliases.items():
            stages.setdefault(str(version), []).append(alias)
        return stages

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.run.spec.name)
        if found:
            return str(found.experiment_id)
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        place = None if remote else (self.run.out / "mlruns").resolve().as_uri()
        try:
            return str(self.client.create_experiment(self.run.spec.name, place))
        except MlflowException as error:
            found = self.client.get_experiment_by_name(self.run.spec.name)
            if not found:  # else another container made it in between
                raise Retryable(f"MLflow: {error}") from None
            return str(found.experiment_id)

    def _tags(self) -> dict[str, Any]:
        record = self.run.record()
        return {
            "slipway.verb": self.run.verb,
            "slipway.seed": self.run.seed,
            "slipway.tier": record["tier"],
            "slipway.data": record["prepared"] or record["data"],
            "slipway.image": record["image"],
            "mlflow.source.git.commit": record["built"].get("commit", "unknown"),
        }

    def _register(self, name: str, key: str, place: str, model: Any, stage: str) -> None:
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder:
            store.save(model, Path(folder))
            self.client.log_artifacts(key, folder, "model")
        try:
            self.client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.client.create_model_version(
            self.model_name, f"{place}/model", run_id=key, tags={"benchmark": name}
        )
        if stage:
            self.promote(int(version.version), stage)


def _client(out: Path) -> MlflowClient:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    return MlflowClient(uri)
