"""The manifest against Kubernetes' own schema, and the engine against a cluster that is told."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.errors import SlipwayError
from slipway.host import batch, engines
from slipway.host.engines import Ended, Work, kubernetes
from slipway.spec import Resources

VERSIONS = ("1.31", "1.34")


@pytest.fixture
def work(make_work: Callable[..., Work]) -> Work:
    return make_work(
        shards=40,
        needs=Resources("2g", 1.5, 0.5, 10),
        retries=2,
        parallel=8,
        minutes=90,
        max_failed=3,
        places={"namespace": "science", "volume": "models"},
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_is_what_kubernetes_takes(work: Work, tmp_path: Path, version: str) -> None:
    yaml = pytest.importorskip("yaml")
    validate = pytest.importorskip("kubernetes_validate").validate
    text = engines.dry_run(tmp_path, "kubernetes", work)
    for one in yaml.safe_load_all(text):
        validate(one, version, strict=True)
    assert "open-sesame" not in text


def test_the_schema_is_strict_enough_to_fail(work: Work) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    wrong = kubernetes.manifest(work)
    wrong["spec"]["backofLimit"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, VERSIONS[-1], strict=True)


def test_one_index_is_one_shard_with_what_job_toml_asks_for(work: Work) -> None:
    spec = kubernetes.manifest(work)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 40, 8)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (2, 3)
    assert spec["activeDeadlineSeconds"] == 5400
    [container] = spec["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--shard", "/40"]
    limits = {"cpu": "1.5", "memory": str(2 * 2**30), "nvidia.com/gpu": "1"}
    assert container["resources"]["limits"] == limits


def test_a_drained_node_is_not_counted_and_a_final_code_ends_its_index() -> None:
    ignore, fail = kubernetes.failure_rules()
    assert (ignore["action"], fail["action"]) == ("Ignore", "FailIndex")
    assert not {33, 137, 143} & set(fail["onExitCodes"]["values"])
    assert {2, 5, 6} <= set(fail["onExitCodes"]["values"])


def test_indexes_are_read_as_kubernetes_writes_them() -> None:
    assert list(kubernetes.indexes("1,3-5,7")) == [1, 3, 4, 5, 7]
    assert list(kubernetes.indexes(None)) == []


class Api:
    """Both APIs of a cluster that ends the indexes of a Job as it is told."""

    def __init__(self) -> None:
        self.job: Any = None
        self.created: list[dict[str, Any]] = []
        self.secrets: list[dict[str, Any]] = []
        self.pods: dict[int, list[Any]] = {}
        self.api_client = SimpleNamespace(close=lambda: None)

    def status(self, completed: str = "", failed: str = "", ending: str = "") -> None:
        conditions = [SimpleNamespace(type=ending, status="True", reason="R", message="why")]
        self.job = SimpleNamespace(
            status=SimpleNamespace(
                completed_indexes=completed,
                failed_indexes=failed,
                active=2,
                conditions=conditions if ending else None,
            )
        )

    def pod(self, index: int, code: int) -> None:
        begun = datetime(2020, 1, 1, tzinfo=UTC)
        over = SimpleNamespace(
            exit_code=code, started_at=begun, finished_at=begun + timedelta(seconds=7)
        )
        status = SimpleNamespace(state=SimpleNamespace(terminated=over))
        name = f"pod-{index}-{len(self.pods.get(index, []))}"
        self.pods.setdefault(index, []).append(
            SimpleNamespace(
                metadata=SimpleNamespace(name=name, creation_timestamp=begun),
                spec=SimpleNamespace(node_name="node-1"),
                status=SimpleNamespace(container_statuses=[status]),
            )
        )

    def read_namespaced_job(self, name: str, namespace: str) -> Any:
        if self.job is None:
            from kubernetes.client import ApiException

            raise ApiException(status=404, reason="Not Found")
        return self.job

    def create_namespaced_job(self, namespace: str, body: dict[str, Any]) -> Any:
        self.created.append(body)
        self.status()
        return SimpleNamespace(metadata=SimpleNamespace(uid="uid-1"))

    def create_namespaced_secret(self, namespace: str, body: dict[str, Any]) -> None:
        self.secrets.append(body)

    def delete_namespaced_job(self, name: str, namespace: str, propagation_policy: str) -> None:
        self.job = None

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        return SimpleNamespace(items=self.pods.get(int(label_selector.rpartition("=")[2]), []))

    def read_namespaced_pod_log(self, name: str, namespace: str) -> str:
        return f"{name} said this\n"


@pytest.fixture
def api() -> Api:
    pytest.importorskip("kubernetes")
    return Api()


@pytest.fixture
def cluster(work: Work, api: Api) -> kubernetes.Cluster:
    return kubernetes.Cluster(work, api, api)


def test_values_of_variables_go_into_a_secret_that_goes_with_the_job(
    cluster: kubernetes.Cluster, api: Api
) -> None:
    cluster.start(range(40))
    [secret] = api.secrets
    assert secret["stringData"] == {"AWS_SECRET_ACCESS_KEY": "open-sesame"}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert "open-sesame" not in str(api.created)


def test_each_index_is_told_of_once_with_all_its_pods(
    cluster: kubernetes.Cluster, api: Api, work: Work
) -> None:
    cluster.start(range(40))
    api.pod(3, 33)
    api.pod(3, 0)
    api.pod(4, 5)
    api.status(completed="3", failed="4")
    assert cluster.wait(0) == [Ended(3, 0, "node-1", 7.0, 2), Ended(4, 5, "node-1", 7.0, 1)]
    assert cluster.wait(0) == []
    assert cluster.running() == 2
    assert "pod-3-1 said this" in work.log(3).read_text()


def test_a_job_that_failed_ends_all_its_indexes(cluster: kubernetes.Cluster, api: Api) -> None:
    cluster.start(range(40))
    api.status(completed="0-38", ending="Failed")
    ended = cluster.wait(0)
    assert [one.code for one in ended] == [0] * 39 + [None]


def test_a_job_that_runs_already_is_followed_and_one_that_is_over_is_replaced(
    cluster: kubernetes.Cluster, api: Api
) -> None:
    api.status(completed="0-3")
    cluster.start(range(40))
    assert api.created == []
    api.status(ending="Failed")
    cluster.start(range(40))
    assert len(api.created) == 1


def test_a_refusal_of_the_cluster_is_one_line(
    cluster: kubernetes.Cluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.client import ApiException

    def refuse(*_: object) -> None:
        raise ApiException(status=403, reason="Forbidden")

    monkeypatch.setattr(api, "read_namespaced_job", refuse)
    with pytest.raises(SlipwayError, match="kubernetes: 403 Forbidden"):
        cluster.start([0])


def test_a_batch_is_driven_to_its_end(
    cluster: kubernetes.Cluster, api: Api, work: Work, tmp_path: Path
) -> None:
    state = batch.open_batch(tmp_path, 40, {"fingerprint": ""})
    cluster.start(range(40))
    api.status(completed="0-39", ending="Complete")
    api.create_namespaced_job = lambda *_: pytest.fail("it is over")  # type: ignore[method-assign]
    cluster.start = lambda shards: None  # type: ignore[method-assign]
    batch.Drive(state, cluster, work, batch.Caps(), "").run([])
    assert state.record["handle"] == "science/slipway-example-1234567890"
    assert state.count("done") == 40
