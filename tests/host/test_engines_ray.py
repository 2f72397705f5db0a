"""What a Ray task is given to run; tests/chaos runs such tasks on a real cluster."""

from pathlib import Path

import pytest

from slipway.host.engines import Work, node
from slipway.spec import Resources


def test_the_container_has_the_contracts_limits_and_no_value_of_a_variable() -> None:
    docker_command = pytest.importorskip("slipway.host.engines.ray").docker_command
    work = Work(
        "slipway-x", "image", ("score", "/a", "/b"), 4, Resources("2g", 1, 0.5),
        environ={"TOKEN": "secret"}, mounts={Path("/here"): ("/a", "ro")},
    )  # fmt: skip
    command = docker_command(work, 3)
    assert command[-6:] == ["image", "score", "/a", "/b", "--shard", "3/4"]
    assert "secret" not in " ".join(command)
    for option in (("--env", "TOKEN"), ("--gpus", "{gpus}"), ("--volume", "/here:/a:ro")):
        assert " ".join(option) in " ".join(command)
    assert {"--read-only", "--rm"} < set(command)


def test_a_node_without_docker_is_told() -> None:
    code, host, _, output = node.attempt(["no-such-docker", "run"], {})
    assert (code, output.decode()) == (127, f"no-such-docker: no such command on {host}\n")
