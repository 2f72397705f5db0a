"""``slipway``: find, build, run, test and version the jobs, from outside their containers.

What a command needs beyond click is imported inside it, so that ``--help`` and ``list`` answer
at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from slipway.errors import SlipwayError
from slipway.host import catalog

JOB = click.argument("job", metavar="JOB")
RUNNER = click.option(
    "--runner",
    type=click.Choice(["docker", "process"]),
    envvar="RUNNER",
    help="Where to run; by default in a container, as a process where no engine answers.",
)
GPU = click.option("--gpu", is_flag=True, envvar="GPU", help="Use the CUDA base and a GPU.")
PORT = click.option(
    "--port", type=click.IntRange(1, 65535), envvar="PORT", default=8080, show_default=True
)
VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def main() -> None:
    """Run the command line; an expected error is one line and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except SlipwayError as error:
        click.echo(f"slipway: {error}", err=True)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def cli(context: click.Context) -> None:
    """Machine-learning jobs, each in a container, behind one command line."""
    context.obj = context.obj or catalog.project_root()


@cli.command("list")
@click.option("--markdown", is_flag=True, help="As the table of the README.")
@click.pass_obj
def list_jobs(root: Path, markdown: bool) -> None:
    """List all jobs."""
    specs = catalog.read_jobs(root)
    if markdown:
        click.echo(catalog.markdown_table(specs))
    else:
        click.echo(catalog.text_table([catalog.HEADER, *catalog.rows(specs)]))


@cli.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@GPU
@click.pass_obj
def build(root: Path, jobs: tuple[str, ...], gpu: bool) -> None:
    """Build the images of some jobs, or of all, with what they stand on."""
    from slipway.host import build as building
    from slipway.host import engine

    specs = catalog.read_jobs(root, jobs)
    client = engine.connect()
    for spec in specs:
        building.build_job(client, root, spec, gpu)
    for name, size in building.our_images(client).items():
        click.echo(building.size_line(name, size))


@cli.command(context_settings=VERBATIM)
@JOB
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@RUNNER
@GPU
@click.pass_obj
def run(root: Path, job: str, arguments: tuple[str, ...], runner: str | None, gpu: bool) -> int:
    """Run a verb of a job, by default `run`: prepare, train, evaluate and report."""
    from slipway.host.run import run_job

    return run_job(root, catalog.find_job(root, job), arguments or ("run",), runner, gpu)


@cli.command()
@JOB
@PORT
@click.option("--host", "address", default="127.0.0.1", show_default=True, help="Who may connect.")
@RUNNER
@GPU
@click.pass_obj
def serve(root: Path, job: str, port: int, address: str, runner: str | None, gpu: bool) -> int:
    """Serve a trained job over HTTP until stopped."""
    from slipway.host.run import serve_job

    return serve_job(root, catalog.find_job(root, job), address, port, runner, gpu)


@cli.command()
@JOB
@PORT
@RUNNER
@click.pass_obj
def demo(root: Path, job: str, port: int, runner: str | None) -> int:
    """Open a job's form page for a browser, with a model trained before if need be."""
    from slipway.host import run as running

    spec = catalog.find_job(root, job)
    running.require_free("127.0.0.1", port)
    if not running.has_model(root, spec):
        raise SlipwayError(f"{job} has no model yet; first: make run JOB={job}")
    click.echo(f"open http://127.0.0.1:{port}/ in a browser")
    return running.serve_job(root, spec, "127.0.0.1", port, runner)


@cli.command(context_settings=VERBATIM)
@JOB
@click.argument("source", metavar="INPUT")
@click.argument("target", metavar="OUTPUT")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@RUNNER
@GPU
@click.pass_obj
def score(
    root: Path,
    job: str,
    source: str,
    target: str,
    more: tuple[str, ...],
    runner: str | None,
    gpu: bool,
) -> int:
    """Score a file or folder of this machine with a trained job."""
    from slipway.host.run import score_files

    return score_files(root, catalog.find_job(root, job), source, target, more, runner, gpu)


@cli.command(context_settings=VERBATIM)
@JOB
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@RUNNER
@GPU
@click.pass_obj
def bench(root: Path, job: str, arguments: tuple[str, ...], runner: str | None, gpu: bool) -> int:
    """Measure a trained job: load time, latency, throughput."""
    from slipway.host.run import run_job

    return run_job(root, catalog.find_job(root, job), ["bench", *arguments], runner, gpu)


if __name__ == "__main__":
    main()
