"""A job: plain functions, registered on one object that reads the job's ``job.toml``.

The decorators return a function as it was, so a test calls it directly. `Job` knows what the
functions are for; `slipway.verbs` turns them into a command line, `slipway.scorer` into HTTP.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from slipway import store
from slipway.errors import InputInvalid, SlipwayError
from slipway.export import Exported, check_proof, load_exported
from slipway.logs import say
from slipway.machine import on_gpu
from slipway.spec import JobSpec

PLACES = {"file", "line"}
"""Columns that a scored file has beside an answer's fields."""
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass
class Job:
    """What one folder below ``jobs/`` does. Make it with ``Job.here(__file__)``.

    ``trusted`` names the job's own types that may be part of a saved model; an exported model is
    used where no number of its answers differs by more than ``tolerance``.
    """

    spec: JobSpec
    trusted: Sequence[str] = ()
    tolerance: float = 1e-6
    stages: dict[str, Callable[..., Any]] = field(default_factory=dict)
    commands: dict[str, Callable[..., Any]] = field(default_factory=dict)
    scorer: Callable[..., Any] | None = None
    exporter: Callable[..., Any] | None = None
    exported_scorer: Callable[..., Any] | None = None
    held_out_rows: Callable[..., Any] | None = None
    row_maker: Callable[..., Any] | None = None
    router: Callable[..., Any] | None = None
    row_of_model: Any = None

    @classmethod
    def here(cls, file: str, trusted: Sequence[str] = (), tolerance: float = 1e-6) -> Job:
        """Make the job whose folder holds ``file``; InputInvalid where its job.toml is wrong."""
        return cls(JobSpec.read(Path(file).parent), trusted, tolerance)

    def prepare(self, function: Function) -> Function:
        """Register ``(run, ...) -> None``: raw data to split files under ``run.out / "data"``."""
        return self._stage("prepare", function)

    def train(self, function: Function) -> Function:
        """Register ``(run, ...) -> model``; the runtime saves, registers and times the model."""
        return self._stage("train", function)

    def evaluate(self, function: Function) -> Function:
        """Register ``(run, model, ...) -> None``: metrics and figures on the held-out split."""
        return self._stage("evaluate", function)

    def score(self, function: Function) -> Function:
        """Register ``(model, rows: list[Input]) -> list[Output]``: one answer a row, in order."""
        self.scorer = function
        return function

    def rows_of(self, function: Function) -> Function:
        """Register ``(model) -> type[Input]``: the rows of this very model.

        For a job whose columns come from the user's table; until a model is loaded `row` is what
        the score function names.
        """
        self.row_maker = function
        return function

    def export(self, function: Function) -> Function:
        """Register ``(model, folder) -> None``: write the model in another format."""
        self.exporter = function
        return function

    def exported(self, function: Function) -> Function:
        """Register ``(session, rows: list[Input]) -> list[Output]``: score with model.onnx.

        `serve` and `score` then use the exported model where it was seen to answer like the
        trained one on the rows of `held_out`.
        """
        self.exported_scorer = function
        return function

    def held_out(self, function: Function) -> Function:
        """Register ``(run) -> list[Input]``: rows that the model was not trained on."""
        self.held_out_rows = function
        return function

    def routes(self, function: Function) -> Function:
        """Register ``(routes: Blueprint, scorer: Service) -> None``: HTTP routes beside ours.

        Called once in each worker, after the model was loaded or was not; ``scorer.score(rows)``
        scores rows in the batches of all other requests.
        """
        self.router = function
        return function

    def command(self, function: Function) -> Function:
        """Register ``(run, ...)`` as a verb of the job's own, named like the function."""
        self.commands[function.__name__.replace("_", "-")] = function
        return function

    def _stage(self, name: str, function: Function) -> Function:
        self.stages[name] = function
        return function

    @property
    def row(self) -> Any:
        """The `Input` type of one row: the loaded model's own, else the score function's."""
        return self.row_of_model or self._scored()[0]

    @property
    def answer(self) -> Any:
        """The `Output` type of one answer."""
        return self._scored()[1]

    def answers(self, model: Any, rows: Sequence[Any]) -> list[Any]:
        """Score a batch with what `load` returned, in whichever form.

        Raises RuntimeError when the job does not give one answer a row.
        """
        exported = isinstance(model, Exported)
        scorer = self.exported_scorer if exported else self.scorer
        if scorer is None:
            raise InputInvalid(f"job {self.spec.name} has no @job.score function")
        if not rows:  # libraries refuse an empty batch, each in its own way
            return []
        found = list(scorer(model.session if exported else model, list(rows)))
        if len(found) != len(rows):
            raise RuntimeError(f"score() gave {len(found)} answers for {len(rows)} rows")
        return found

    def load(self, folder: Path, form: str = "trained", threads: int = 1) -> Any:
        """Return the model in ``folder``; see `chosen_form` and `slipway.store.load`."""
        if self.chosen_form(folder, form) == "exported":
            return load_exported(folder, threads, on_gpu(self.spec))
        model = store.load(folder, self.trusted, threads, on_gpu(self.spec))
        if self.row_maker:
            self.row_of_model = self.row_maker(model)
        return model

    def meet(self, folder: Path) -> None:
        """Learn what the rows of the model in ``folder`` are, where only the model can tell."""
        if self.row_maker:
            self.load(folder)

    def chosen_form(self, folder: Path, form: str) -> str:
        """Return trained or exported; ``auto`` is exported where that is proven to answer alike.

        Raises DataUnavailable when the exported form was asked for and is not proven.
        """
        if form == "trained" or (form == "auto" and self.exported_scorer is None):
            return "trained"
        try:
            check_proof(self, folder)
        except SlipwayError as error:
            if form == "exported":
                raise
            say(f"the trained model is used, not its exported form: {error}", "WARNING")
            return "trained"
        return "exported"

    @staticmethod
    def form(model: Any) -> str:
        """Return the form of what `load` returned: trained or exported."""
        return "exported" if isinstance(model, Exported) else "trained"

    def _scored(self) -> tuple[Any, Any]:
        if self.scorer is None:
            raise InputInvalid(f"job {self.spec.name} has no @job.score function")
        return _types_of(self.scorer)

    def main(self) -> None:
        """Run the command line of this job; see `slipway.verbs`."""
        from slipway.verbs import main

        main(self)


def load_job(folder: Path) -> Job:
    """Import ``jobs.<name>.job`` of a job's folder and return its ``job``."""
    if not (folder / "job.py").is_file():
        raise InputInvalid(f"{folder}: holds no job.py; SLIPWAY_JOB names a job's folder")
    root = str(folder.resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    module = importlib.import_module(f"jobs.{folder.resolve().name}.job")
    found = getattr(module, "job", None)
    if not isinstance(found, Job):
        raise InputInvalid(f"{folder / 'job.py'}: 'job' is {type(found).__name__}; wanted a Job")
    return found


@cache
def _types_of(scorer: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what a score function takes and gives for one row; evaluating that takes long."""
    names = dict(vars(sys.modules[scorer.__module__]))
    rows, answers = (
        typing.get_args(_evaluated(scorer.__annotations__[key], names))
        for key in (list(inspect.signature(scorer).parameters)[1], "return")
    )
    taken = sorted(PLACES & set(answers[0].model_fields))
    if taken:
        raise InputInvalid(
            f"{inspect.getfile(scorer)}: {answers[0].__name__} has a field {taken[0]!r}; "
            f"wanted another name: an answer in a file carries the {taken[0]} of its row"
        )
    return rows[0], answers[0]


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """Resolve one annotation alone: the model's type is often imported for checkers only."""
    return eval(annotation, names) if isinstance(annotation, str) else annotation
