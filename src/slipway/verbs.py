"""The command line of a job: the same verbs for every one, and the job's own.

This is one of the two edges. Errors of `slipway.errors` become a line on stderr and an exit
code; anything else is our fault, exit code 1, with the traceback in a file.
"""

from __future__ import annotations

import errno
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from slipway import places
from slipway.errors import (
    BarMissed,
    DataUnavailable,
    Retryable,
    SlipwayError,
    Stopped,
)
from slipway.logs import configure_logging, say
from slipway.run import STAGES, STOP_SECONDS, Options, Run
from slipway.spec import TIERS

if TYPE_CHECKING:
    from slipway.job import Job

# What the machine refuses us: no fault of ours, and nothing that a traceback explains.
FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}
COMMON = {
    "seed": click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
        help="Seed of everything random."),
    "device": click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True,
        help="Where to compute; cuda fails where there is none."),
    "data": click.option(
        "--data", type=click.Path(), default="auto", show_default=True,
        metavar="|".join((*TIERS, "PATH")), help="Tier of the data, or a file of your own."),
    "epochs": click.option(
        "--epochs", type=click.IntRange(1), default=None, help="Passes over the training set."),
    "limit": click.option(
        "--limit", type=click.IntRange(1), default=None, help="Use at most so many rows."),
}  # fmt: skip
FOLDER = click.Path(path_type=Path, file_okay=False)
FORM = click.option(
    "--form", type=click.Choice(["auto", "trained", "exported"]), default="auto",
    show_default=True, help="Which form of the model; auto: exported where proven to answer alike.",
)  # fmt: skip
OUT = click.option(
    "--out", type=FOLDER, envvar="SLIPWAY_OUT", callback=places.training_out,
    default=str(places.ARTIFACTS), show_default=True, help="Folder of the artifacts.",
)  # fmt: skip
# The same for a verb that only reads a model.
MODEL_OUT = click.option(
    "--out", type=FOLDER, envvar="SLIPWAY_OUT", callback=places.serving_out,
    default=str(places.ARTIFACTS), show_default=True, help="Folder of the artifacts.",
)  # fmt: skip


def main(job: Job, args: list[str] | None = None) -> None:
    """Run the command line and exit with a code of the contract."""
    at_the_edge(lambda: invoke(job, args))


def invoke(job: Job, args: list[str] | None) -> Any:
    """Run the command line; every error comes through, and ``--help`` gives 0."""
    return command_line(job).main(args, prog_name=job.spec.name, standalone_mode=False)


class Unwinding:
    """What SIGTERM does until a run heeds it: it unwinds the stack, and sees that this ends.

    Where it falls into a library that is being imported, that makes another error of the exit, or
    swallows it. So what comes after it is no failure, and nothing goes on for long.
    """

    came = False

    def __call__(self, *_: object) -> None:
        """Leave; when asked once more, at once."""
        if self.came:
            os._exit(Stopped.exit_code)
        self.came = True
        watch = threading.Timer(STOP_SECONDS, lambda: os._exit(Stopped.exit_code))
        watch.daemon = True
        watch.start()
        sys.exit(Stopped.exit_code)


def at_the_edge(action: Callable[[], Any]) -> NoReturn:
    """Do ``action``, tell of what went wrong, and exit with a code of the contract."""
    stop = Unwinding()
    signal.signal(signal.SIGTERM, stop)
    configure_logging()
    try:
        code = action()
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx:
            say(error.ctx.get_usage())
        code = failed(error.format_message(), error.exit_code)
    except click.Abort:
        say("interrupted")
        code = 130
    except SlipwayError as error:
        code = failed(str(error), error.exit_code)
    except Exception as error:
        code = Stopped.exit_code if stop.came else failed(*explained(error))
    sys.exit(code if isinstance(code, int) else 0)


def explained(error: Exception) -> tuple[str, int, str]:
    """Return message, exit code and trace of an error that no one foresaw where it arose."""
    if isinstance(error, OSError) and error.errno in FULL | REFUSED:
        kind = Retryable if error.errno in FULL else DataUnavailable
        told = f"{error.filename}: cannot be read or written ({error.strerror})"
        return told, kind.exit_code, ""
    return f"our fault: {type(error).__name__}: {error}", 1, traceback.format_exc()


def failed(message: str, code: int, trace: str = "") -> int:
    """Tell of an error, to SageMaker too where it runs us, and return the exit code."""
    say(f"error: {message}" + (f"\n{trace}" if trace else ""), "ERROR")
    places.tell_failure(f"{message}\n{trace}")
    return code


def command_line(job: Job) -> click.Group:
    """Build the command of a job: the contract's verbs, then its own."""
    from slipway.scoring.verbs import merge_verb, score_verb
    from slipway.serve import serve_verb

    group = click.Group(job.spec.name, help=f"{job.spec.title}: {job.spec.question}")
    if len(job.stages) == len(STAGES):
        group.add_command(_run_command(job))
    for name, function in (job.stages | job.commands).items():
        group.add_command(_verb(job, name, function))
    if len(job.stages) == len(STAGES) and places.training():
        group.add_command(_run_command(job, "train"))
    for build in (score_verb, merge_verb, serve_verb, _export, _bench):
        if job.scorer:
            group.add_command(build(job))
    for build in (_card, _show, _models):
        group.add_command(build(job))
    _check_hyperparameters(group)
    return group


def _check_hyperparameters(group: click.Group) -> None:
    """Raise UsageError for a hyperparameter that is no option: a misspelt one must not pass."""
    known = {option.name for command in group.commands.values() for option in command.params}
    for name in places.hyperparameters():
        if name not in known and not name.startswith(("sagemaker_", "_")):
            raise click.UsageError(f"{places.HYPERPARAMETERS}: {name} is no option of {group.name}")


def _options(functions: list[Callable[..., Any]]) -> list[click.Parameter]:
    """Collect the options that the functions carry; click notes them in ``__click_params__``."""
    found: dict[str, click.Parameter] = {}
    for function in functions:
        for option in reversed(getattr(function, "__click_params__", [])):
            found.setdefault(str(option.name), option)
    return list(found.values())


def _command(
    name: str, text: str, callback: Callable[..., Any], own: list[click.Parameter]
) -> click.Command:
    for decorate in reversed((*COMMON.values(), OUT)):
        callback = decorate(callback)
    common = _options([callback])
    return click.Command(
        name, callback=callback, params=own + common, help=text,
        context_settings={"default_map": places.hyperparameters()},
    )  # fmt: skip


def _verb(job: Job, name: str, function: Callable[..., Any]) -> click.Command:
    own = _options([function])

    def callback(out: Path, **given: Any) -> None:
        run = perform(job, name, out, given)
        if name == "evaluate":
            conclude(job, run)
        elif name not in STAGES:
            print_pieces(run)

    text = inspect.getdoc(function) or ""
    return _command(name, text.split("\n\n")[0], callback, own)


def _run_command(job: Job, name: str = "run") -> click.Command:
    """Make the verb that does every stage; a platform that trains calls it ``train``.

    It starts with nothing prepared, and wants the model even where a bar was missed.
    """
    own = _options([job.stages[stage] for stage in STAGES])

    def callback(out: Path, **given: Any) -> None:
        places.check_hosts()
        for stage in STAGES:
            run = perform(job, stage, out, given)
            if run.stopping and stage != STAGES[-1]:
                raise Stopped(
                    f"stopped by SIGTERM after {stage}; the same command goes on from here"
                )
        if job.exported_scorer:
            _export_if_alike(job, out)
        places.deliver(out)
        try:
            conclude(job, run)
        except BarMissed as error:
            if name == "run":
                raise
            say(f"a bar was missed: {error}", "WARNING")

    return _command(name, "Prepare, train and evaluate, then report.", callback, own)


def _export_if_alike(job: Job, out: Path) -> None:
    """Export the new model; where that fails the trained model is served, and the user is told."""
    from slipway.export import export_model

    try:
        say(export_model(job, out))
    except SlipwayError as error:
        say(f"the trained model has no exported form to use: {error}", "WARNING")


def perform(job: Job, name: str, out: Path, given: dict[str, Any]) -> Run:
    """Run one verb with its options, record it, and render the report anew."""
    function = job.stages.get(name) or job.commands[name]
    options = Options(**{key: given[key] for key in vars(Options())})
    known = {str(option.name) for option in _options([function])}
    own = {key: value for key, value in given.items() if key in known}
    run = Run(job.spec, out, name, options, extra=own)
    run.start()
    arguments = own | _asked(function, vars(options))
    if name == "evaluate":
        run.check_split()
        arguments["model"] = job.load(out / "model")
    say(f"{name}: seed {options.seed}, device {run.device}")
    result = function(run, **arguments)
    if name == "train":
        _keep(job, run, result)
    run.finish()
    if name in STAGES or run.pieces:
        from slipway.report import render

        render(job.spec, out)
    return run


def _asked(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the common options that a function names among its parameters."""
    return {
        name: options[name] for name in inspect.signature(function).parameters if name in options
    }


def _keep(job: Job, run: Run, model: Any) -> None:
    from slipway import store
    from slipway.track import Tracker

    params = {
        key: value for key, value in (vars(run.options) | run.extra).items() if value is not None
    }
    # A server that does not answer must not leave a new model beside the record of the old one.
    Tracker(run).log("train", params, run.metrics, model, "candidate", run.curves)
    store.save(model, run.out / "model")


def conclude(job: Job, run: Run) -> None:
    """Print the metrics with their bars, the tier and the report; raise BarMissed on a miss."""
    from slipway.report import judged

    rows = judged(job.spec, run.out)
    width = max((len(row["metric"]) for row in rows), default=6)
    click.echo(f"{'metric':{width}}  {'value':>10}  bar")
    for row in rows:
        click.echo(f"{row['metric']:{width}}  {row['value']:>10.4f}  {row['bar']} {row['verdict']}")
    click.echo(f"data    tier {run.tier}, seed {run.seed}, device {run.device}")
    click.echo(f"report  {shown_path(run.out / 'report.html', run.out)}")
    missed = [row for row in rows if row["verdict"] == "missed"]
    if missed:
        told = "; ".join(
            f"{row['metric']} is {row['value']:.4f}, wanted {row['bar']}" for row in missed
        )
        raise BarMissed(f"{told} (tier {run.tier})")


def print_pieces(run: Run) -> None:
    """Print what a verb of the job's own put into its report: tables, notes, paths of figures."""
    for piece in run.pieces:
        if piece["kind"] in ("figure", "series"):
            name = piece["name"] if piece["kind"] == "figure" else piece["names"][0]
            path = run.out / "report" / f"{name}.png"
            click.echo(f"{piece['caption']}  {shown_path(path, run.out)}")
        elif piece["kind"] == "note":
            click.echo(piece["text"])
        elif piece["rows"]:
            click.echo(f"\n{piece['caption']}")
            print_rows(piece["rows"])


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys as columns."""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def shown_path(path: Path, out: Path) -> str:
    """Return a path below ``out`` as the user knows it: the host says where it mounted that."""
    host = os.environ.get("SLIPWAY_HOST_OUT")
    return f"{host}/{path.relative_to(out)}" if host else str(path)


def _export(job: Job) -> click.Command:
    @click.command("export")
    @OUT
    def export(out: Path, **given: Any) -> None:
        """Write the model as ONNX beside a check that it gives the same answers."""
        from slipway.export import export_model

        click.echo(export_model(job, out, given))

    export.params = _options([job.exporter] if job.exporter else []) + export.params
    return export


def _bench(job: Job) -> click.Command:
    @click.command("bench")
    @click.option("--seconds", type=click.FloatRange(0.1), default=2.0, show_default=True)
    @FORM
    @OUT
    def bench(seconds: float, form: str, out: Path) -> None:
        """Measure load time, latency and throughput of score() for several batch sizes."""
        from slipway.bench import measure

        click.echo(measure(job, out, seconds, form))

    return bench


def _card(job: Job) -> click.Command:
    @click.command("card")
    @OUT
    def card(out: Path) -> None:
        """Print the model card: task, data, figures with their tier, limits."""
        from slipway.report import card_text

        click.echo(card_text(job.spec, out))

    return card


def _show(job: Job) -> click.Command:
    @click.command("show")
    @click.option("--model", type=FOLDER, help="Tell of the rows of this model, not of any.")
    def show(model: Path | None) -> None:
        """Print what the job is and takes as JSON: job.toml, verbs, options, schema."""
        if model:
            job.meet(model)
        click.echo(json.dumps(describe(job), indent=1))

    return show


def _models(job: Job) -> click.Command:
    from slipway.track import STAGES as REGISTRY

    @click.command("models")
    @click.option(
        "--promote", type=(int, click.Choice(REGISTRY)), default=None, metavar="VERSION STAGE"
    )
    @OUT
    def models(promote: tuple[int, str] | None, out: Path) -> None:
        """List the registered models, or give one a stage."""
        from slipway.track import Tracker

        tracker = Tracker(Run(job.spec, out, "models"))
        if promote:
            tracker.promote(*promote)
        for entry in tracker.versions():
            stages = ",".join(entry["stages"])
            figures = " ".join(
                f"{name}={value:.4f}" for name, value in sorted(entry["metrics"].items())
            )
            click.echo(f"{entry['version']:>4} {entry['name']:<20} {stages:<12} {figures}")

    return models


def describe(job: Job) -> dict[str, Any]:
    """Return all that can be said of a job without its data."""
    spec = job.spec
    found: dict[str, Any] = {
        "name": spec.name,
        "title": spec.title,
        "question": spec.question,
        "base": spec.base,
        "resources": vars(spec.resources),
        "data": {name: vars(entry) for name, entry in spec.data.items()},
        "accept": {
            tier: {metric: str(bar) for metric, bar in bars.items()}
            for tier, bars in spec.accept.items()
        },
        "verbs": {
            name: {"help": verb.help, "options": [option.to_info_dict() for option in verb.params]}
            for name, verb in command_line(job).commands.items()
        },
    }
    if job.scorer:
        found["input"] = job.row.model_json_schema()
        found["output"] = job.answer.model_json_schema()
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def seal(job: Job) -> Path:
    """Write ``sealed.json``, all help texts and the schema, so that reading them is instant."""
    group = command_line(job)
    context = click.Context(group, info_name=job.spec.name)
    texts = {"": group.get_help(context)}
    for name, command in group.commands.items():
        texts[name] = command.get_help(click.Context(command, context, info_name=name))
    path = job.spec.folder / "sealed.json"
    path.write_text(json.dumps({"help": texts, "show": describe(job)}), "utf-8")
    return path
