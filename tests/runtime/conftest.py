"""A tiny job, made in a temporary folder, that each test of the runtime drives."""

import hashlib
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from flask import Flask
from flask.testing import FlaskClient

from slipway import verbs
from slipway.executor import Executor
from slipway.job import Job, load_job

MESSAGES = "".join(
    f"{'spam' if number % 3 == 0 else 'ham'}\t"
    f"{'win a prize' if number % 3 == 0 else 'see you'} {number}\n"
    for number in range(60)
)

TOML = """\
title = "Toy <b>mail</b>"
question = "Is it spam?"
[data.messages]
url = "http://127.0.0.1:9/messages.tsv"
file = "toy/messages.tsv"
sha256 = "{sha256}"
bytes = {size}
licence = "CC0"
citation = "Nobody, 2026"
sample = "sample/messages.tsv"
[accept.real]
average_precision = ">= 0.9"
[accept.sample]
average_precision = ">= 0.9"
"""

CODE = '''\
"""Toy: is it spam?"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slipway import Field, Input, Job, Output, Run, errors

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

job = Job.here(__file__)


def read(path):
    pairs = [line.split("\\t") for line in path.read_text("utf-8").splitlines()]
    return [text for _, text in pairs], [label == "spam" for label, _ in pairs]


@job.prepare
@click.option("--interrupt", is_flag=True, help="Get a SIGTERM.")
def prepare(run: Run, interrupt: bool) -> None:
    """Split."""
    lines = run.data("messages").read_text("utf-8").splitlines()[: run.limit]
    folder = run.out / "data"
    folder.mkdir(exist_ok=True)
    (folder / "fit.tsv").write_text("\\n".join(lines[::2]), "utf-8")
    (folder / "held.tsv").write_text("\\n".join(lines[1::2]), "utf-8")
    if interrupt:
        os.kill(os.getpid(), signal.SIGTERM)


@job.train
@click.option("--decay", default=0.1, show_default=True, help="Weight of the L2 penalty.")
@click.option("--tag", multiple=True, default=("a", "b"), help="Names.")
@click.option("--words", type=click.Path(path_type=Path), default="words.txt", help="A file.")
def train(run: Run, decay: float, tag: tuple[str, ...], words: Path) -> Pipeline:
    """Fit."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    assert isinstance(decay, float)
    done = (run.resume() or {"done": 0})["done"]
    run.note(f"began at {done}")
    for step in run.progress(range(3), "fits"):
        if step == 1 and os.environ.get("TOY_SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        if step >= done:
            run.checkpoint({"done": step + 1})
    texts, spam = read(run.prepared("fit.tsv"))
    run.log(loss=0.5)
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=1 / decay)).fit(texts, spam)


@job.evaluate
def evaluate(run: Run, model: Pipeline) -> None:
    """Measure."""
    from sklearn.metrics import average_precision_score

    texts, spam = read(run.prepared("held.tsv"))
    chance = model.predict_proba(texts)[:, 1]
    worse = float(os.environ.get("TOY_WORSE", 0))
    run.log(average_precision=average_precision_score(spam, chance) - worse)
    run.table("texts", [{"text": texts[0], "chance": chance[0]}], "A <script>caption</script>")


class Message(Input):
    """A message."""

    max_rows = 5
    max_bytes = 2000
    text: str = Field(max_length=50, examples=["WIN a prize"], description="The <i>message</i>.")
    weight: float = Field(default=1.0, examples=[1.0], ge=0)


class Verdict(Output):
    """Verdict."""

    prediction: bool
    propensity: float


@job.score
def score(model: Pipeline, rows: list[Message]) -> list[Verdict]:
    """Score."""
    texts = [row.text for row in rows]
    if "explode" in texts:
        raise RuntimeError("a secret in the message")
    chance = model.predict_proba(texts)[:, 1].tolist()
    if "short" in texts:
        chance.pop()
    if "nan" in texts:
        chance[0] = float("nan")
    return [Verdict(prediction=value > 0.5, propensity=value) for value in chance]


@job.command
@click.argument("kind")
def fail(run: Run, kind: str) -> None:
    """Fail in a way of one's choice."""
    if kind == "denied":
        raise PermissionError(13, "Permission denied", "/some/file")
    if kind == "full":
        raise OSError(28, "No space left on device", "/some/file")
    if kind == "fault":
        raise ZeroDivisionError("division by zero")
    raise getattr(errors, kind)(f"message of {kind}")


@job.command
def study(run: Run) -> None:
    """Report a table, a note and a figure."""
    from matplotlib.figure import Figure

    rows = [{"model": "a", "RMSE": 0.12345}, {"model": "longer b", "RMSE": 38834.2}]
    run.table("found", rows, "What was found")
    run.table("none", [], "Nothing")
    run.note("The second errs more.")
    run.figure("curve", Figure(), "A curve.")
'''


class Toy(SimpleNamespace):
    """The folder of a job, its artifacts, and a way to call its command line."""

    folder: Path
    out: Path
    capsys: Any

    @property
    def job(self) -> Job:
        """The job, imported anew."""
        forget_jobs(self.folder.parent.parent)
        return load_job(self.folder)

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Run the command line in this process; return exit code, stdout and stderr."""
        job = self.job
        with pytest.raises(SystemExit) as left:
            verbs.main(job, list(args))
        streams = self.capsys.readouterr() if self.capsys else SimpleNamespace(out="", err="")
        return int(left.value.code or 0), streams.out, streams.err


class NoTimer:
    """A timer that never fires; ``made`` keeps the seconds it was asked for."""

    made: ClassVar[list[float]] = []

    def __init__(self, seconds: float, _: object) -> None:
        self.made.append(seconds)

    def start(self) -> None:
        """Do nothing."""


def forget_jobs(root: Path | None = None) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "jobs"]:
        del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if "pytest-" not in entry or entry == str(root)]


def write_job(root: Path, name: str = "toy") -> Path:
    folder = root / "jobs" / name
    (folder / "sample").mkdir(parents=True)
    (folder / "sample" / "messages.tsv").write_text(MESSAGES, "utf-8")
    sha256 = hashlib.sha256(MESSAGES.encode()).hexdigest()
    (folder / "job.toml").write_text(TOML.format(sha256=sha256, size=len(MESSAGES)), "utf-8")
    (folder / "job.py").write_text(CODE, "utf-8")
    return folder


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keep signals, logging, imports and the machine's variables as they were."""
    for name in ("SLIPWAY_MIRROR", "MLFLOW_TRACKING_URI", "LOG_FORMAT", "PORT", "SLIPWAY_OUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIPWAY_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "opt-ml"))
    monkeypatch.setattr("slipway.run.Timer", NoTimer)  # it would end the tests
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    kept = list(root.handlers), root.level
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.captureWarnings(False)
    root.handlers[:], root.level = kept
    forget_jobs()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole job once; its folder holds ``jobs`` and ``out``."""
    root = tmp_path_factory.mktemp("finished")
    toy = Toy(folder=write_job(root), out=root / "out", capsys=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWAY_DATA", str(root / "cache"))
        patch.setenv("SAGEMAKER_BASE_DIR", str(root / "opt-ml"))
        patch.delenv("SLIPWAY_MIRROR", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        handlers = list(logging.getLogger().handlers)
        code, _, _ = toy("run", "--data", "sample", "--out", str(toy.out))
        logging.getLogger().handlers[:] = handlers

    assert 0 == code

    return root


@pytest.fixture
def toy(tmp_path: Path, capsys: pytest.CaptureFixture[str], finished_run: Path) -> Toy:
    """A job without artifacts but for an MLflow store, which takes a second to make."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(finished_run / "out" / "mlflow.db", out)
    return Toy(folder=write_job(tmp_path), out=out, capsys=capsys)


@pytest.fixture
def trained(toy: Toy, finished_run: Path) -> Toy:
    """A job with the artifacts of a whole run on its sample."""
    shutil.copytree(finished_run / "out", toy.out, dirs_exist_ok=True)
    return toy


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of the app that a module makes."""
    return app.test_client()


@pytest.fixture
def executor(app: Flask) -> Executor:
    """What executes the app's runs."""
    return app.extensions["slipway-runs"]


@pytest.fixture
def messages() -> bytes:
    """The bytes of the toy's dataset, the same for each tier."""
    return MESSAGES.encode()


@pytest.fixture
def make_job() -> Callable[..., Path]:
    """Write a toy job below a folder and return its own folder."""
    return write_job
