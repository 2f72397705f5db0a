"""What every kind of test shares: where the checkout is, which jobs there are, the real data.

A test that takes ``folder`` runs once for each job. One that is marked ``once`` proves the runtime
and not a job: it runs on one job only, the one whose job.toml gives it the fewest minutes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.host import engine
from slipway.spec import JobSpec

ROOT = Path(__file__).resolve().parent.parent
FIGURES = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--job", action="append", default=[], help="Test this job only; repeatable.")
    parser.addoption(
        "--shards", type=int, default=8, help="Of a batch of containers in tests/chaos."
    )
    parser.addoption("--runs", type=int, default=2, help="Batches that tests/chaos disturbs.")
    parser.addoption(
        "--minutes", type=float, default=math.inf, help="Of tests/accept: what fits in is run."
    )


def quickest_job() -> Path:
    """Return the folder of the job on which the runtime itself is tried."""
    folders = sorted(path.parent for path in ROOT.glob("jobs/*/job.toml"))
    return min(folders, key=lambda folder: JobSpec.read(folder).resources.minutes)


def job_folders(config: pytest.Config) -> list[Path]:
    """Return the folders of the jobs that ``--job`` names, of all without it, the quickest first.

    Pytest then keeps what that job's fixtures made for tests that are marked ``once``, too.
    """
    found = {path.parent.name: path.parent for path in sorted(ROOT.glob("jobs/*/job.toml"))}
    wanted = config.getoption("--job") or list(found)
    unknown = set(wanted) - set(found)
    if unknown:
        raise pytest.UsageError(f"--job {', '.join(sorted(unknown))}: no such folder below jobs/")
    first = quickest_job()
    return sorted((found[name] for name in wanted), key=lambda folder: folder != first)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes ``folder`` once for each job, or for one where it is marked so."""
    if "folder" not in metafunc.fixturenames:
        return
    folders, marks = job_folders(metafunc.config), []
    if metafunc.definition.get_closest_marker("once"):
        first = quickest_job()
        if first not in folders:
            told = f"proves the runtime, once, on {first.name}, which --job leaves out"
            marks = [pytest.mark.skip(reason=told)]
        folders = [first]
    each = [pytest.param(folder, id=folder.name, marks=marks) for folder in folders]
    metafunc.parametrize("folder", each, scope="session")


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say which tests run for each job, and which once and on what."""
    about_jobs = [item for item in items if "folder" in getattr(item, "fixturenames", ())]
    once = [item for item in about_jobs if item.get_closest_marker("once")]
    if not once:
        return []
    names = ", ".join(folder.name for folder in job_folders(config))
    return [
        f"{len(about_jobs) - len(once)} tests of the jobs {names}; {len(once)} of the runtime, "
        f"once, on {quickest_job().name}, which has the fewest resources.minutes"
    ]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was measured: that a test passes does not tell by how much."""
    for name, text in config.stash.get(FIGURES, {}).items():
        terminalreporter.write_line(f"{name}: {text}")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """Figures to print at the end, by name."""
    return pytestconfig.stash.setdefault(FIGURES, {})


@pytest.fixture(scope="session")
def client() -> Iterator[Any]:
    """A client of the Docker engine; skips where none answers."""
    try:
        found = engine.connect()
    except engine.EngineAbsent as error:
        pytest.skip(str(error))
    yield found
    found.close()


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
