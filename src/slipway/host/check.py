"""Run the tests this machine can run, and say which it could not and why."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.host import build, container, coverage, databases, engine, environment
from slipway.host.process import environ_of
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from docker import DockerClient

NO_TESTS = 5
CUDA_TESTS = "test_cuda.py"
AT_ONCE = 2
LIMIT = "SLIPWAY_TEST_MINUTES"
"""Names the minutes that all tests may take; what does not fit any more is named as not run."""
CONTRACT_NEEDED = 10
NEEDED = {"demo": 4, "chaos": 12, "accept": 5}
"""Minutes that container tests of a job and those of a folder take on a slow machine."""


@dataclass
class Tally:
    """What ran, what failed and what could not run with its reason."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    minutes: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Minutes until the run shall be over; infinite where nothing limits it."""
        passed = (time.monotonic() - self.started) / 60
        return math.inf if self.minutes is None else self.minutes - passed

    def lacks(self, name: str, needed: float) -> bool:
        """Tell whether fewer minutes are left than a step needs; name it as not run if so."""
        if self.left >= needed:
            return False
        self.skipped[name] = (
            f"{max(self.left, 0):.0f} of {LIMIT}={self.minutes:g} are left, {needed:g} needed"
        )
        return True

    def add(self, name: str, step: Callable[[], int], seconds: float | None = None) -> None:
        """Run one step under a heading; pytest's "no tests" counts as could not run.

        ``seconds`` are those of a step that ran before, in the background.
        """
        click.secho(f"\n== {name}", bold=True, err=True)
        started = time.monotonic()
        code = step()
        self.seconds[name] = time.monotonic() - started if seconds is None else seconds
        if code == NO_TESTS:
            self.skipped[name] = "there are no such tests"
        else:
            (self.failed if code else self.passed).append(name)

    def conclude(self) -> int:
        """Print the outcome, and what each step took, and return the exit code."""
        passed = ", ".join(f"{name} ({self.seconds[name]:.0f} s)" for name in self.passed)
        click.echo(f"\npassed: {passed or 'nothing'}")
        for name, reason in self.skipped.items():
            click.echo(f"not run: {name}: {reason}")
        if self.failed:
            click.echo(f"FAILED: {', '.join(self.failed)}")
        return 1 if self.failed else 0


@dataclass
class Machine:
    """The machine the tests run on: the checkout, its test environment, the engine if any."""

    root: Path
    python: Path
    client: DockerClient | None
    absent: str

    def tests(self, tally: Tally, name: str, *arguments: str) -> None:
        """Run pytest over one folder of ``tests/`` from the checkout, where time is left for it."""
        if not (self.root / "tests" / name).is_dir():
            tally.skipped[name] = f"there is no tests/{name}"
            return
        if tally.lacks(name, NEEDED.get(name, 0)):
            return
        measured = ["--cov", "--cov-report=", f"tests/{name}", *arguments]
        self.tool(tally, name, "pytest", *measured, environ=self.environ(name))

    def environ(self, name: str) -> dict[str, str]:
        """Return what pytest needs from its environment; ``name`` tells runs of it apart."""
        mirror = mirror_folder(self.root)
        return {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "COVERAGE_FILE": str(coverage.data_file(self.root, name)),
            **({"SLIPWAY_MIRROR": str(mirror)} if mirror else {}),
        }

    def tool(
        self,
        tally: Tally,
        name: str,
        module: str,
        *arguments: str,
        environ: dict[str, str] | None = None,
    ) -> None:
        """Run a Python tool of the test environment in the checkout."""
        command = [str(self.python), "-m", module, *arguments]
        tally.add(name, lambda: subprocess.call(command, cwd=self.root, env=environ))

    def fast(self, tally: Tally) -> None:
        """Run what needs neither engine nor data: lint, format, types, and the quick tests."""
        self.tool(tally, "lint", "ruff", "check", ".")
        self.tool(tally, "format", "ruff", "format", "--check", ".")
        self.tool(tally, "types", "mypy")
        for folder in ("conformance", "runtime", "host"):
            self.tests(tally, folder)

    def coverage(self, specs: Sequence[JobSpec]) -> Path:
        """Write coverage.txt from what was measured, in containers too."""
        data = [*self.root.glob(f"{coverage.DATA}.*")]
        data += [self.root / "artifacts" / spec.name / coverage.DATA for spec in specs]
        return coverage.write_report(self.root, self.python, data)


def mirror_folder(root: Path) -> Path | None:
    """Return the folder of real data: SLIPWAY_MIRROR, else ``../shared/data`` where it exists."""
    named = os.environ.get("SLIPWAY_MIRROR")
    path = Path(named) if named else root.parent / "shared" / "data"
    return path if path.is_dir() else None


def find_machine(root: Path, runner: str | None) -> Machine:
    """Make the test environment and look for an engine."""
    python = environment.make(root, "test", ["test"])
    if runner == "process":
        return Machine(root, python, None, "RUNNER=process")
    try:
        return Machine(root, python, engine.connect(), "")
    except engine.EngineAbsent as error:
        if runner == "docker":
            raise
        return Machine(root, python, None, str(error))


def everything(root: Path, specs: Sequence[JobSpec], runner: str | None) -> int:
    """Run every test this machine can; return 1 when one failed."""
    limit = os.environ.get(LIMIT)
    tally = Tally(minutes=float(limit) if limit else None)
    machine = find_machine(root, runner)
    machine.fast(tally)
    for spec in specs:
        job_tests(machine, tally, spec)
    containers(machine, tally, specs)
    machine.tests(tally, "chaos")
    accept(machine, tally)
    return tally.conclude()


def before_commit(root: Path, specs: Sequence[JobSpec], runner: str | None) -> int:
    """Run the fast tests and those of the jobs with staged changes; add coverage.txt."""
    machine, tally = find_machine(root, runner), Tally()
    machine.fast(tally)
    changed = [spec for spec in specs if _staged(root, spec)]
    for spec in changed:
        job_tests(machine, tally, spec)
    code = tally.conclude()
    if not code:
        report = machine.coverage(changed)
        subprocess.check_call(["git", "add", str(report)], cwd=root)
    return code


def _staged(root: Path, spec: JobSpec) -> bool:
    command = ["git", "diff", "--cached", "--quiet", "--", f"jobs/{spec.name}"]
    return subprocess.call(command, cwd=root) != 0


def one_job(root: Path, spec: JobSpec, runner: str | None) -> int:
    """Run one job's tests: conformance, its own in its image, and the container contract."""
    machine, tally = find_machine(root, runner), Tally()
    machine.tests(tally, "conformance")
    job_tests(machine, tally, spec)
    containers(machine, tally, [spec])
    return tally.conclude()


def contract(root: Path, specs: Sequence[JobSpec], runner: str | None) -> int:
    """Hold jobs to the contract: conformance and the container tests, not their own tests."""
    machine, tally = find_machine(root, runner), Tally()
    machine.tests(tally, "conformance")
    containers(machine, tally, specs)
    return tally.conclude()


def job_tests(machine: Machine, tally: Tally, spec: JobSpec) -> None:
    """Run a job's test_job.py inside its image, or as a process where there is no engine.

    A job with a test_cuda.py has it run in its image on slipway/cuda too, on a GPU of this machine
    or else on the CPU.
    """
    name = f"job {spec.name}"
    client = machine.client
    if client:
        tally.add(name, lambda: in_image(client, machine.root, spec))
        if (spec.folder / CUDA_TESTS).is_file():
            tally.add(f"{name} on cuda", lambda: in_image(client, machine.root, spec, gpu=True))
    elif spec.base != "base":
        tally.skipped[name] = f"needs the image on {spec.base}: {machine.absent}"
    else:
        tally.skipped[f"{name} in its image"] = f"ran as a process instead: {machine.absent}"
        tally.add(name, lambda: in_process(machine, spec))


def in_image(client: DockerClient, root: Path, spec: JobSpec, gpu: bool = False) -> int:
    """Run pytest in the job's test image, offline; coverage data stays in artifacts/<job>.

    Beside it are empty databases of the job's services, named by POSTGRES_URL and the like.
    """
    image = build.build_test(client, root, spec, gpu)
    folder = container.artifacts(root, spec)
    arguments = [f"jobs/{spec.name}/{CUDA_TESTS}"] if gpu else []
    with databases.beside(client, root, spec, spec.services, keep=False) as found:
        urls = {f"{name.upper()}_URL": url for name, url in found.urls.items()}
        place = container.Place({folder: ("/artifacts", "rw")}, urls)
        network: dict[str, Any] = found.options or {"network_mode": "none"}
        made = container.create(
            client, image, spec, place, arguments, gpu=gpu and _has_gpu(), tmpfs={"/tmp": ""},
            **network,
        )  # fmt: skip
        return container.attend(made)


def in_process(machine: Machine, spec: JobSpec) -> int:
    """Run pytest over the job's folder in the test environment."""
    environ = environ_of(machine.root, spec)
    command = [str(machine.python), "-m", "pytest", f"jobs/{spec.name}"]
    return subprocess.call(command, cwd=machine.root, env=environ)


def containers(machine: Machine, tally: Tally, specs: Sequence[JobSpec]) -> None:
    """Put images through the container contract, two jobs at a time: half of it is waiting."""
    client = machine.client
    if client is None:
        tally.skipped |= {"containers": machine.absent, "demo": machine.absent}
        return
    if len(specs) == 1:
        machine.tests(tally, "containers", "--job", specs[0].name)
    else:
        contracts(machine, client, tally, specs)
    machine.tests(tally, "demo")


def contracts(
    machine: Machine, client: DockerClient, tally: Tally, specs: Sequence[JobSpec]
) -> None:
    """Run the container tests of several jobs and print those of each when it is through."""
    for spec in specs:
        build.build_job(client, machine.root, spec)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(one_contract, machine, tally, spec): spec.name for spec in specs}
        click.echo(f"containers of {len(specs)} jobs, {AT_ONCE} at a time", err=True)
        for run in as_completed(running):
            if done := run.result():
                tally.add(f"containers {running[run]}", partial(shown, done), done.seconds)


@dataclass(frozen=True)
class Ended:
    """How a step in the background ended, what it printed and what it took."""

    code: int
    told: str
    seconds: float


def shown(ended: Ended) -> int:
    """Print what a step has told; return its code."""
    click.echo(ended.told)
    return ended.code


def one_contract(machine: Machine, tally: Tally, spec: JobSpec) -> Ended | None:
    """Run the container tests of one job, where time is left for them."""
    if tally.lacks(f"containers {spec.name}", CONTRACT_NEEDED):
        return None
    started = time.monotonic()
    command = [str(machine.python), "-m", "pytest", "--cov", "--cov-report=", "tests/containers",
               "--job", spec.name]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=machine.root,
        env=machine.environ(f"containers-{spec.name}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, time.monotonic() - started)


def accept(machine: Machine, tally: Tally) -> None:
    """Hold the bars of [accept] on real data, where it is at hand."""
    if machine.client is None:
        tally.skipped["accept"] = machine.absent
    elif mirror_folder(machine.root) is None:
        tally.skipped["accept"] = "no real data: SLIPWAY_MIRROR names no folder"
    else:
        left = [] if math.isinf(tally.left) else ["--minutes", f"{tally.left:.1f}"]
        machine.tests(tally, "accept", *left)
    if not _has_gpu():
        tally.skipped["GPU"] = "no NVIDIA device on this machine"


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None
