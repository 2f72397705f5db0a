"""Serve a scorer with granian: it binds at once, and on SIGTERM drains before it leaves.

Draining: ``/readyz`` turns 503 so that a balancer looks elsewhere. For `DRAIN_SECONDS` every
request is still answered, and its answer closes the connection; then the listener goes, what
is under way is finished, and the process ends, within 25 s in all.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.errors import DataUnavailable

if TYPE_CHECKING:
    from slipway.job import Job
    from slipway.ledger import LongWork

PORT_VARIABLES = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "PORT")
DRAIN_SECONDS = 5
FINISH_SECONDS = 18
BACKLOG = 1024


def choose_port(port: int | None) -> int:
    """Return the port: the option, else the first platform's variable that is set, else 8080."""
    if port is not None:
        return port
    for name in PORT_VARIABLES:
        text = os.environ.get(name)
        if text:
            if not text.isdecimal() or int(text) > 65535:
                raise click.UsageError(f"{name}={text!r}; wanted a port from 0 to 65535")
            return int(text)
    return 8080


def serve_forever(
    job: Job,
    out: Path,
    host: str,
    port: int | None,
    score_log: str | None,
    form: str,
    long_work: LongWork | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises DataUnavailable when the port cannot be had."""
    from granian.constants import HTTPModes, Interfaces
    from granian.server.mp import MPServer

    job.row.model_json_schema()  # a job without a scorer is told before the port is bound
    chosen = choose_port(port)
    _check_free(host, chosen)
    _check_log(score_log)
    logging.getLogger("slipway").info("serving %s on http://%s:%d", job.spec.name, host, chosen)
    flag = mmap.mmap(-1, 1)  # shared with the worker, which is forked

    class Draining(MPServer):
        """Granian that lets clients go before it stops."""

        def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
            if flag[0]:
                return
            flag[0] = 1
            logging.getLogger("slipway").info("SIGTERM: draining for %d s", DRAIN_SECONDS)
            leave = threading.Timer(DRAIN_SECONDS, super().signal_handler_interrupt)
            leave.daemon = True
            leave.start()

    Draining(
        "slipway",
        address=host,
        port=chosen,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=1,
        blocking_threads=2 * (os.cpu_count() or 1),
        backpressure=BACKLOG,
        backlog=BACKLOG,
        workers_kill_timeout=FINISH_SECONDS,
        log_dictconfig={"loggers": {"_granian": {"level": "WARNING"}}},
    ).serve(target_loader=partial(_app, job, out, score_log, form, flag, long_work))


def _app(
    job: Job,
    out: Path,
    score_log: str | None,
    form: str,
    flag: mmap.mmap,
    long_work: LongWork | None,
    _: str,
) -> Any:
    from slipway.scorer import create_app

    app = create_app(
        job, out, score_log, form=form, draining=lambda: bool(flag[0]), long_work=long_work
    )
    app.extensions["slipway-runs"].start()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        # granian ends the stream where the body ends, so a body need not declare its length
        environ["wsgi.input_terminated"] = True
        return app(environ, start_response)

    return application


def _check_log(score_log: str | None) -> None:
    try:
        if score_log:
            Path(score_log).open("a").close()
    except OSError as error:
        told = f"--score-log {score_log}: cannot be written ({error.strerror})"
        raise DataUnavailable(told) from None


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataUnavailable(f"{host}:{port} cannot be bound: {error.strerror}") from None
