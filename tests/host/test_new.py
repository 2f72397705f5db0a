import subprocess
import sys
from pathlib import Path

import pytest

from slipway.errors import SlipwayError
from slipway.host.new import create
from slipway.spec import JobSpec
from tests.host.conftest import REPOSITORY


@pytest.mark.parametrize("base", ["base", "torch", "cuda"])
def test_a_new_job_is_declared_whole(base: str, root: Path) -> None:
    create(root, "house_price", base)
    spec = JobSpec.read(root / "jobs" / "house_price")
    assert (spec.title, spec.base) == ("House price", base)
    dockerfile = (spec.folder / "Dockerfile").read_text()
    assert dockerfile.startswith(f"ARG BASE=slipway/{base}\nFROM ${{BASE}}\n")


def test_no_placeholder_is_left(root: Path) -> None:
    left = [path for path in create(root, "house_price", "base") if "$name" in path.read_text()]
    assert left == []


def test_a_name_that_is_taken_is_refused(root: Path) -> None:
    with pytest.raises(SlipwayError, match="exists already"):
        create(root, "example", "base")


@pytest.mark.parametrize("name", ["House", "9lives", "a-b", "../x", ""])
def test_a_name_that_is_no_snake_case_is_refused(name: str, root: Path) -> None:
    with pytest.raises(SlipwayError, match="wanted snake_case"):
        create(root, name, "base")


def test_a_new_job_passes_the_linter(root: Path) -> None:
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff"]
    config = ["--config", str(REPOSITORY / "pyproject.toml"), "--no-cache", "jobs"]
    subprocess.run([*command, "check", *config], cwd=root, check=True)
    subprocess.run([*command, "format", "--check", *config], cwd=root, check=True)


def test_a_new_job_passes_its_own_tests(root: Path) -> None:
    pytest.importorskip("skops")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "jobs/example"]
    path = {"PYTHONPATH": f"{REPOSITORY / 'src'}:{root}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=root, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
