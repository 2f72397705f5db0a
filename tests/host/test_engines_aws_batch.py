"""The engine against moto's AWS Batch, which ends its jobs without running them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from slipway.host import batch, engines
from slipway.host.engines import Work, aws_batch
from slipway.spec import Resources

moto = pytest.importorskip("moto")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # botocore's, moto's


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of a service with a queue named `gpu`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    import boto3

    settings = {"batch": {"use_docker": False}, "iam": {"load_aws_managed_policies": False}}
    with moto.mock_aws(config=settings):
        role = boto3.client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")
        client = boto3.client("batch")
        made = client.create_compute_environment(
            computeEnvironmentName="machines",
            type="UNMANAGED",
            state="ENABLED",
            serviceRole=role["Role"]["Arn"],
        )
        order = [{"order": 1, "computeEnvironment": made["computeEnvironmentArn"]}]
        client.create_job_queue(
            jobQueueName="gpu", state="ENABLED", priority=1, computeEnvironmentOrder=order
        )
        yield client


@pytest.fixture
def work(make_work: Callable[..., Work]) -> Work:
    return make_work(
        shards=4,
        needs=Resources("2g", 1, 0.5, 10),
        environ={"AWS_SECRET_ACCESS_KEY": "open-sesame", "LOG_FORMAT": "json"},
        retries=2,
        minutes=90,
        places={"queue": "gpu", "role": "arn:aws:iam::1:role/reader", "volume": "fs-1"},
    )


def test_an_array_has_one_child_a_shard(aws: Any, work: Work, tmp_path: Path) -> None:
    engine = aws_batch.open_engine(work)
    state = batch.open_batch(tmp_path, 4, {"fingerprint": ""})
    batch.Drive(state, engine, work, batch.Caps(), "").run([])
    engine.close()
    assert state.count("done") == 4
    assert state.record["handle"] == engine.handle
    [job] = aws.describe_jobs(jobs=[engine.handle])["jobs"]
    assert job["arrayProperties"]["size"] == 4


def test_the_definition_says_what_is_tried_again(aws: Any, work: Work) -> None:
    engine = aws_batch.open_engine(work)
    engine.start(range(4))
    found = aws.describe_job_definitions(jobDefinitionName=work.name)["jobDefinitions"][0]
    needs = {
        one["type"]: one["value"] for one in found["containerProperties"]["resourceRequirements"]
    }
    assert needs == {"VCPU": "1", "MEMORY": "2048", "GPU": "1"}
    assert found["containerProperties"]["command"][-2:] == ["--shard", "/4"]
    rules = found["retryStrategy"]["evaluateOnExit"]
    again = [
        rule.get("onExitCode", rule.get("onexitcode"))
        for rule in rules
        if rule["action"].upper() == "RETRY"
    ]
    assert found["retryStrategy"]["attempts"] == 3
    assert {"33", "137", "143"} <= set(again)
    assert "open-sesame" not in str(found)


def test_one_container_is_no_array_and_knows_its_index(work: Work) -> None:
    from dataclasses import replace

    request = aws_batch.submission(replace(work, shards=1), {})
    assert "arrayProperties" not in request
    assert request["containerOverrides"]["command"][-1] == "0/1"


def test_cancelling_terminates_the_job(aws: Any, work: Work) -> None:
    engine = aws_batch.open_engine(work)
    engine.start(range(4))
    again = aws_batch.open_engine(work, engine.handle)
    again.stop()
    [job] = aws.describe_jobs(jobs=[engine.handle])["jobs"]
    assert job["status"] in ("FAILED", "SUCCEEDED")  # moto ends it at once, one way or the other


def test_no_credential_is_handed_over(work: Work, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    text = engines.dry_run(tmp_path, "aws-batch", work)
    assert "AWS_SECRET" not in text
    assert "LOG_FORMAT" in text
    assert "fs-1" in text


def test_a_queue_must_be_named(work: Work, aws: Any) -> None:
    from dataclasses import replace

    with pytest.raises(click.UsageError, match="--queue"):
        aws_batch.open_engine(replace(work, places={}))
    assert os.environ["AWS_DEFAULT_REGION"]
