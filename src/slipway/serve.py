"""The verb `serve`: its options, and the settings of a server made of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.errors import InputInvalid
from slipway.verbs import FORM, MODEL_OUT

if TYPE_CHECKING:
    from slipway.job import Job

OPTIONS = (
    click.option("--port", type=click.IntRange(0, 65535), default=None, help="Default 8080."),
    click.option("--host", default="0.0.0.0", show_default=True),
    click.option("--score-log", default=None, metavar="FILE", help="Append each answer here."),
    click.option(
        "--access-log/--no-access-log", default=None,
        help="A JSON line for each request on stderr; on with LOG_FORMAT=json."),
    click.option(
        "--workers", type=click.IntRange(1), default=None, envvar="SAGEMAKER_MODEL_SERVER_WORKERS",
        help="Processes; default one a core, and one on a GPU."),
    click.option(
        "--threads", type=click.IntRange(1), default=16, show_default=True,
        help="Requests that a worker has in hand at one time, beside plain POST /score."),
    FORM,
    MODEL_OUT,
)  # fmt: skip
LIMITS = (
    click.option(
        "--batch-rows", type=click.IntRange(1), default=256, show_default=True,
        help="Rows of one call of score() at most."),
    click.option(
        "--queue-rows", type=click.IntRange(1), default=4096, show_default=True,
        help="Rows that may wait in a worker; past it 429."),
    click.option(
        "--max-wait-ms", type=click.FloatRange(0), default=0, show_default=True,
        help="Wait so long for a fuller batch."),
    click.option(
        "--timeout", type=click.FloatRange(0.1), default=60, show_default=True,
        envvar="SAGEMAKER_MODEL_SERVER_TIMEOUT",
        help="Seconds for a body to arrive (408), and for rows to wait for the model (503)."),
)  # fmt: skip
LONG_WORK = (
    click.option(
        "--keep-runs", type=click.IntRange(0), default=1000, show_default=True,
        help="Asynchronous runs that are kept once they are over, 7 days at most."),
    click.option(
        "--webhook-hosts", default="", metavar="HOST,…",
        help="The only hosts that webhooks may go to; * stands for anything."),
    click.option(
        "--control", is_flag=True,
        help="POST /prepare /train /evaluate /reload, with the token SLIPWAY_CONTROL_TOKEN."),
    click.option(
        "--control-token-file", type=click.Path(path_type=Path), default=None,
        help="A file that holds the token."),
)  # fmt: skip


def serve_verb(job: Job) -> click.Command:
    """Make the verb `serve` of a job."""

    def serve(out: Path, **given: Any) -> None:
        """Answer HTTP requests: POST /score, and a form to try at GET /."""
        from slipway.batching import Limits
        from slipway.server import Settings, serve_forever

        wait = given.pop("max_wait_ms") / 1000
        limits = Limits(max_wait=wait, **_taken(given, "batch_rows", "queue_rows", "timeout"))
        kept = ("keep_runs", "webhook_hosts", "control", "control_token_file")
        long_work = _long_work(**_taken(given, *kept))
        if given["access_log"] is None:
            given["access_log"] = os.environ.get("LOG_FORMAT") == "json"
        serve_forever(job, out, Settings(limits=limits, long_work=long_work, **given))

    for option in reversed((*OPTIONS, *LIMITS, *LONG_WORK)):
        serve = option(serve)
    return click.command("serve")(serve)


def _taken(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: given.pop(name) for name in names}


def _long_work(
    keep_runs: int, webhook_hosts: str, control: bool, control_token_file: Path | None
) -> Any:
    from slipway.control import SECRET, read_token
    from slipway.ledger import LongWork
    from slipway.webhooks import keys

    secret = os.environ.get(SECRET, "")
    try:
        keys(secret)
    except InputInvalid as error:
        raise click.UsageError(str(error)) from None
    return LongWork(
        keep_runs=keep_runs,
        webhook_hosts=tuple(host for host in webhook_hosts.replace(",", " ").split()),
        webhook_secret=secret.strip(),
        control_token=read_token(control_token_file) if control else "",
    )
