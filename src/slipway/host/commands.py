"""The commands of many containers: ``batch``, ``submit``, ``batches``, ``batch-cancel``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from slipway.host import catalog

ENGINES = ("local", "ray", "kubernetes", "aws-batch", "skypilot")
VERBATIM = {"ignore_unknown_options": True}
JOB = click.argument("job", metavar="JOB")
RUNNER = click.option(
    "--runner", type=click.Choice(["docker", "process"]), envvar="RUNNER",
    help="local, ray: containers, or processes where no Docker engine answers.",
)  # fmt: skip
# What an engine takes beyond the rest, by the name of its option.
PLACES = {
    "address": "ray: the cluster's address; without it one is started on this machine.",
    "context": "kubernetes: context of the kubeconfig.",
    "namespace": "kubernetes: by default `default`.",
    "queue": "aws-batch: the job queue.",
    "role": "aws-batch: ARN of the job role, which gives access to s3://.",
    "execution-role": "aws-batch: ARN of the execution role.",
    "accelerator": "skypilot: kind of GPU, by default T4.",
    "volume": "What is mounted at /artifacts: a claim (kubernetes), an EFS file system "
    "(aws-batch), a bucket or folder (skypilot), a folder of every node (ray).",
}
OPTIONS = (
    click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True),
    RUNNER,
    click.option("--image", default="", help="Image to run, where it is not the one built here."),
    click.option("--retries", type=click.IntRange(0), default=3, show_default=True,
        help="Tries again of a container that was lost or ended with 33, 137 or 143."),
    click.option("--max-minutes", "minutes", type=click.FloatRange(min=0, min_open=True),
        default=None, help="Stop past so many minutes (exit code 7)."),
    click.option("--price-per-hour", "price", type=click.FloatRange(0), default=0.0,
        help="Price of one running container."),
    click.option("--max-cost", "cost", type=click.FloatRange(min=0, min_open=True), default=None,
        help="Stop past this cost, all commands on a batch together (exit code 7)."),
    click.option("--cpus", type=click.FloatRange(min=0, min_open=True), default=None,
        help="Instead of job.toml's."),
    click.option("--memory", metavar="512m|2g", default=None, help="Instead of job.toml's."),
    click.option("--gpus", type=click.FloatRange(0), default=None,
        help="Instead of job.toml's; local and ray take fractions."),
    click.option("--env", "names", multiple=True, metavar="NAME",
        help="Pass a variable of this machine on; its value is written nowhere."),
    click.option("--dry-run", is_flag=True, help="Print what the platform would get, and stop."),
    *(click.option(f"--{name}", default="", help=text) for name, text in PLACES.items()),
)  # fmt: skip


def on_an_engine(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose and limit an engine."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def perform(root: Path, job: str, given: dict[str, Any]) -> int:
    """Sort the options and run them."""
    from slipway.host import batch
    from slipway.host.plan import Request
    from slipway.spec import MEMORY

    if given["memory"] and not MEMORY.fullmatch(given["memory"]):
        raise click.UsageError(f"--memory {given['memory']}: wanted a number and m or g, as 512m")
    if given["dry_run"] and given["engine"] in ("local", "ray"):
        raise click.UsageError(f"--dry-run: the engine {given['engine']} hands over no file")
    places = {name.replace("-", "_"): given.pop(name.replace("-", "_")) for name in PLACES}
    needs = {name: given.pop(name) for name in ("cpus", "memory", "gpus")}
    request = Request(
        needs={name: value for name, value in needs.items() if value is not None},
        places={name: value for name, value in places.items() if value},
        **given,
    )
    return batch.perform(root, catalog.find_job(root, job), request)


@click.command("batch", context_settings=VERBATIM)
@JOB
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.option("--shards", type=click.IntRange(1, 100_000), default=4, show_default=True,
    help="Containers the rows are split over.")  # fmt: skip
@click.option("--parallel", type=click.IntRange(1), default=None, help="Most at once.")
@click.option(
    "--max-failed", type=click.IntRange(0), default=0, show_default=True,
    help="Go on with the others while no more shards than this have failed for good.",
)  # fmt: skip
@on_an_engine
@click.pass_obj
def batch(
    root: Path, /, job: str, source: str, target: str, more: tuple[str, ...], **given: Any
) -> int:
    """Score INPUT in many containers, each row exactly once.

    OUTPUT that ends in .jsonl, .csv or .parquet is one file, merged from OUTPUT.parts; any other
    is the folder of the parts. Options that are none of these go to `score`. The same command goes
    on where one was stopped.
    """
    verb = ("score", *more)
    return perform(root, job, {"verb": verb, "source": source, "target": target, **given})


@click.command("submit", context_settings={**VERBATIM, "allow_interspersed_args": True})
@JOB
@click.argument("verb", nargs=-1, required=True, type=click.UNPROCESSED, metavar="VERB [OPTION]...")
@on_an_engine
@click.pass_obj
def submit(root: Path, /, job: str, verb: tuple[str, ...], **given: Any) -> int:
    """Run one verb of a job in a container on an engine, tried again where that may help."""
    return perform(root, job, {"verb": verb, **given})


@click.command("batches")
@JOB
@click.pass_obj
def batches(root: Path, job: str) -> None:
    """List the batches of a job, oldest first."""
    from slipway.host.batch import listed

    click.echo(catalog.text_table(listed(root, catalog.find_job(root, job).name)))


@click.command("batch-cancel")
@JOB
@click.argument("name", metavar="ID")
@click.pass_obj
def batch_cancel(root: Path, job: str, name: str) -> None:
    """Stop a batch; its finished parts stay, and the same command goes on."""
    from slipway.host.batch import cancel

    click.echo(cancel(root, catalog.find_job(root, job), name))


ALL = (batch, submit, batches, batch_cancel)
