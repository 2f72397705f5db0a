"""``slipway``: find, build, run, test and version the jobs, from outside their containers.

What a command needs beyond click is imported inside it, so that ``--help`` and ``list`` answer
at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from slipway.errors import SlipwayError
from slipway.host import catalog, commands

JOB = click.argument("job", metavar="JOB")
RUNNER = click.option(
    "--runner",
    type=click.Choice(["docker", "process"]),
    envvar="RUNNER",
    help="Where to run; by default in a container, as a process where no engine answers.",
)
GPU = click.option("--gpu", is_flag=True, envvar="GPU", help="Use the CUDA base and a GPU.")
DATABASE = click.option(
    "--database",
    envvar="DB",
    default=None,
    help="Start this database of the job's services beside it; its rows stay.",
)
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
@click.option("--readme", is_flag=True, help="Put that table into the README.")
@click.option("--json", "as_json", is_flag=True, help="The names alone, for a CI matrix.")
@click.pass_obj
def list_jobs(root: Path, markdown: bool, readme: bool, as_json: bool) -> None:
    """List all jobs."""
    specs = catalog.read_jobs(root)
    if readme:
        click.echo(catalog.write_readme(root))
    elif as_json:
        click.echo(json.dumps([spec.name for spec in specs]))
    elif markdown:
        click.echo(catalog.markdown_table(specs))
    else:
        click.echo(catalog.text_table([catalog.HEADER, *catalog.rows(specs)]))


@cli.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option("--services", is_flag=True, help="Those of compose.yaml, too.")
@GPU
@click.pass_obj
def build(root: Path, jobs: tuple[str, ...], services: bool, gpu: bool) -> None:
    """Build the images of some jobs, or of all, with what they stand on."""
    from slipway.host import build as building
    from slipway.host import engine
    from slipway.host.services import build_services

    specs = catalog.read_jobs(root, jobs)
    client = engine.connect()
    for spec in specs:
        building.build_job(client, root, spec, gpu)
    if services:
        build_services(root)
    for name, size in building.our_images(client).items():
        click.echo(building.size_line(name, size))


@cli.command(context_settings=VERBATIM)
@JOB
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@RUNNER
@GPU
@DATABASE
@click.pass_obj
def run(
    root: Path,
    job: str,
    arguments: tuple[str, ...],
    runner: str | None,
    gpu: bool,
    database: str | None,
) -> int:
    """Run a verb of a job, by default `run`: prepare, train, evaluate and report."""
    from slipway.host.run import run_job

    spec = catalog.find_job(root, job)
    return run_job(root, spec, arguments or ("run",), runner, gpu, database or None)


@cli.command()
@JOB
@PORT
@click.option("--host", "address", default="127.0.0.1", show_default=True, help="Who may connect.")
@RUNNER
@GPU
@DATABASE
@click.pass_obj
def serve(
    root: Path,
    job: str,
    port: int,
    address: str,
    runner: str | None,
    gpu: bool,
    database: str | None,
) -> int:
    """Serve a trained job over HTTP until stopped."""
    from slipway.host.run import serve_job

    spec = catalog.find_job(root, job)
    return serve_job(root, spec, address, port, runner, gpu, database or None)


@cli.command()
@JOB
@PORT
@RUNNER
@click.pass_obj
def demo(root: Path, job: str, port: int, runner: str | None) -> int:
    """Open a job's demo page for a browser: a form made from its scorer, or the job's own."""
    from slipway.host.demo import open_page

    return open_page(root, catalog.find_job(root, job), port, runner)


@cli.command(context_settings=VERBATIM)
@JOB
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def up(root: Path, job: str, more: tuple[str, ...]) -> None:
    """Start compose.yaml around a trained job: scorer, demo page, MLflow, PostgreSQL."""
    from slipway.host import services

    services.up(root, catalog.find_job(root, job), more)


@cli.command(context_settings=VERBATIM)
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def down(root: Path, more: tuple[str, ...]) -> None:
    """Stop what `up` started; `--volumes` drops what MLflow and PostgreSQL hold."""
    from slipway.host import services

    services.down(root, more)


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


@cli.command()
@JOB
@click.option(
    "--suite",
    type=click.Choice(["serving", "batch", "soak", "score"]),
    envvar="SUITE",
    default="serving",
    show_default=True,
    help="Beside other servers, beside other batch programs, under load, or score() alone.",
)
@click.option("--repeats", type=click.IntRange(1), help="Interleaved runs; 5, of batch 3.")
@click.option("--seconds", type=click.FloatRange(0.1), help="Of each measurement; 3.")
@click.option("--minutes", type=click.FloatRange(0.05), help="Of the soak; 10.")
@click.option("--rows", type=click.IntRange(1), help="Of the batch; 1,000,000.")
@click.option("--growth", metavar="N,N,..", help="Rows of ours alone; 10^4 to 10^7.")
@click.option("--only", multiple=True, metavar="NAME", help="These contestants; repeatable.")
@click.option("--write-docs", is_flag=True, help="Put tables and picture into the docs.")
@click.pass_obj
def bench(root: Path, /, job: str, suite: str, write_docs: bool, **given: Any) -> int:
    """Measure a trained job, by default its server beside others of the same model."""
    from slipway.host import bench as benching

    return benching.bench_job(root, catalog.find_job(root, job), suite, given, write_docs)


@cli.command()
@click.argument("name")
@click.option(
    "--base", type=click.Choice(["base", "torch", "cuda"]), default="base", show_default=True
)
@click.pass_obj
def new(root: Path, name: str, base: str) -> None:
    """Write the folder of a new job that passes every check, to be changed."""
    from slipway.host.new import create

    for path in [*create(root, name, base), catalog.write_readme(root)]:
        click.echo(path.relative_to(root))
    click.echo(f"\nnext: make test JOB={name}; make run JOB={name}", err=True)


@cli.command()
@click.argument("job", required=False)
@RUNNER
@click.pass_obj
def test(root: Path, job: str | None, runner: str | None) -> int:
    """Run one job's tests, or all that this machine can run."""
    from slipway.host import check as checking

    if job:
        return checking.one_job(root, catalog.find_job(root, job), runner)
    return checking.everything(root, catalog.read_jobs(root), runner)


@cli.command("before-commit")
@RUNNER
@click.pass_obj
def before_commit(root: Path, runner: str | None) -> int:
    """Run what hooks/pre-commit runs: fast tests, changed jobs, coverage.txt."""
    from slipway.host import check as checking

    return checking.before_commit(root, catalog.read_jobs(root), runner)


@cli.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@RUNNER
@click.pass_obj
def check(root: Path, jobs: tuple[str, ...], runner: str | None) -> int:
    """Hold jobs to the container contract: conformance, then the images themselves."""
    from slipway.host import check as checking

    return checking.contract(root, catalog.read_jobs(root, jobs), runner)


@cli.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option("--artifacts", is_flag=True, help="Remove what the jobs wrote, too.")
@click.pass_obj
def clean(root: Path, jobs: tuple[str, ...], artifacts: bool) -> None:
    """Remove the images of some jobs, or of all with their bases."""
    from slipway.host import cleaning, engine

    specs = catalog.read_jobs(root, jobs)
    if artifacts:
        cleaning.remove_artifacts(root, specs)
    cleaning.remove_images(engine.connect(), specs, bases=not jobs)


@cli.command("images-sizes")
@click.option("--record", is_flag=True, help="Write them to images/sizes.json.")
@click.pass_obj
def images_sizes(root: Path, record: bool) -> None:
    """Print how large each image is; fail when one is over its budget."""
    from slipway.host import build as building
    from slipway.host import engine

    client = engine.connect()
    sizes = building.our_images(client)
    for name, size in sizes.items():
        click.echo(building.size_line(name, size))
    if record:
        building.record_sizes(sizes, root / "images" / "sizes.json")
    over = [name for name, size in sizes.items() if size > building.budget_of(name)]
    if over:
        raise SlipwayError(f"over budget: {', '.join(over)}")


@cli.group()
def data() -> None:
    """Keep versions of a job's split files, and go back to them."""


REMOTE = click.option(
    "--remote", metavar="DIR|s3://BUCKET/PREFIX", help="Store to push to and pull from."
)


@data.command()
@JOB
@click.option("--name", default="", help="By default the next of v1, v2, ...")
@REMOTE
@click.pass_obj
def snapshot(root: Path, job: str, name: str, remote: str | None) -> None:
    """Keep artifacts/JOB/data as a new version."""
    from slipway.host.versions import Versions, seed_of

    versions = Versions.of(root, catalog.find_job(root, job))
    if remote:
        versions.set_remote(remote)
    made, message = versions.snapshot(name, seed_of(versions.data.parent))
    click.echo(f"{made}: {message}")


@data.command("versions")
@JOB
@click.pass_obj
def list_versions(root: Path, job: str) -> None:
    """List the versions, oldest first."""
    from slipway.host.versions import Versions

    for name, message in Versions.of(root, catalog.find_job(root, job)).described():
        click.echo(f"{name}: {message}")


@data.command()
@JOB
@click.argument("version")
@REMOTE
@click.pass_obj
def checkout(root: Path, job: str, version: str, remote: str | None) -> None:
    """Put a version's files back into artifacts/JOB/data and count their classes."""
    from slipway.host.versions import Versions

    versions = Versions.of(root, catalog.find_job(root, job))
    if remote:
        versions.set_remote(remote)
    for file, part in versions.checkout(version).items():
        click.echo(f"{file}: {part}")


@data.command()
@JOB
@click.argument("one")
@click.argument("other")
@click.pass_obj
def diff(root: Path, job: str, one: str, other: str) -> None:
    """Compare two versions: rows and classes of each file, and the rows that moved."""
    from slipway.host.versions import Versions

    for line in Versions.of(root, catalog.find_job(root, job)).diff(one, other):
        click.echo(line)


for command in commands.ALL:
    cli.add_command(command)

if __name__ == "__main__":
    main()
