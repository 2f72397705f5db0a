"""What SkyPilot gets: the script is run here, with a docker command that notes its calls."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slipway.errors import DataUnavailable
from slipway.host import engines
from slipway.host.engines import Work, skypilot
from slipway.spec import Resources

DOCKER = """#!/bin/sh
echo "$*" >> "$CALLS"
[ -s "$CODES" ] || exit 0
code=$(head -n 1 "$CODES")
sed -i 1d "$CODES"
exit "$code"
"""


@pytest.fixture
def work(make_work: Callable[..., Work]) -> Work:
    return make_work(
        "s3://bucket/rows of today.jsonl",
        shards=5,
        needs=Resources("2g", 2, 1, 10),
        retries=1,
        parallel=2,
        places={"volume": "s3://bucket/spam"},
    )


def run(work: Work, folder: Path, rank: int, codes: str = "") -> tuple[int, list[str]]:
    """Run a node's script and return its exit code and the calls of docker."""
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "sleep").symlink_to("/bin/true")
    (folder / "codes").write_text(codes)
    environ = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SKYPILOT_NODE_RANK": str(rank),
        "CALLS": str(folder / "calls"),
        "CODES": str(folder / "codes"),
    }
    done = subprocess.run(["bash", "-c", skypilot.script(work)], env=environ, check=False)
    return done.returncode, (folder / "calls").read_text().splitlines()


def shards(calls: list[str]) -> list[int]:
    return [int(call.partition("JOB_COMPLETION_INDEX=")[2].split()[0]) for call in calls]


def test_each_node_does_its_shards(work: Work, tmp_path: Path) -> None:
    for rank, wanted in ((0, [0, 2, 4]), (1, [1, 3])):
        folder = tmp_path / str(rank)
        folder.mkdir()
        code, calls = run(work, folder, rank)
        assert (code, shards(calls)) == (0, wanted)
        assert calls[0].endswith(
            "score s3://bucket/rows of today.jsonl s3://bucket/parts --shard /5"
        )
        assert "open-sesame" not in calls[0]


@pytest.mark.parametrize(
    ("codes", "wanted", "calls"),
    [
        ("33\n", 0, [0, 0, 2, 4]),  # tried again here
        ("137\n137\n", 33, [0, 0]),  # then by SkyPilot
        ("6\n", 6, [0]),  # by no one
    ],
)
def test_what_is_tried_again_and_where(
    work: Work, tmp_path: Path, codes: str, wanted: int, calls: list[int]
) -> None:
    code, made = run(work, tmp_path, 0, codes)
    assert (code, shards(made)) == (wanted, calls)


def test_the_task_recovers_from_33_and_holds_no_value(work: Work, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = engines.dry_run(tmp_path, "skypilot", work)
    [task] = yaml.safe_load_all(text)
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [33]
    assert task["resources"]["accelerators"] == "T4:1"
    assert (task["num_nodes"], task["secrets"]) == (2, {"AWS_SECRET_ACCESS_KEY": None})
    assert "open-sesame" not in text


def test_skypilots_own_schema_takes_the_task(work: Work) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    task = sky.Task.from_yaml_config(
        skypilot.task(replace(work, places={})), secrets_overrides={"AWS_SECRET_ACCESS_KEY": "x"}
    )
    assert task.num_nodes == 2


def test_without_the_command_the_user_is_told_what_to_install(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataUnavailable, match="uv tool install skypilot"):
        skypilot.open_engine(work)
