"""What every kind of test shares: where the checkout is, which jobs there are, the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--job", action="append", default=[], help="Test this job only; repeatable.")
    parser.addoption(
        "--shards", type=int, default=8, help="Of a batch of containers in tests/chaos."
    )
    parser.addoption("--runs", type=int, default=2, help="Batches that tests/chaos disturbs.")


def job_folders(config: pytest.Config) -> list[Path]:
    """Return the folders of the jobs that ``--job`` names, of all jobs without it."""
    found = {path.parent.name: path.parent for path in sorted(ROOT.glob("jobs/*/job.toml"))}
    wanted = config.getoption("--job") or list(found)
    unknown = set(wanted) - set(found)
    if unknown:
        raise pytest.UsageError(f"--job {', '.join(sorted(unknown))}: no such folder below jobs/")
    return [found[name] for name in wanted]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``folder`` once for each job."""
    if "folder" in metafunc.fixturenames:
        folders = job_folders(metafunc.config)
        names = [path.name for path in folders]
        metafunc.parametrize("folder", folders, ids=names, scope="session")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def every_job() -> list[Path]:
    """The folders of all jobs, whatever ``--job`` says: rules between jobs need them all."""
    return sorted(path.parent for path in ROOT.glob("jobs/*/job.toml"))


@pytest.fixture(scope="session")
def mirror() -> Path | None:
    """The folder of real data, where this machine has one."""
    named = os.environ.get("SLIPWAY_MIRROR")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    return path.resolve() if path.is_dir() else None
