"""Serve a scorer with granian: it binds at once, and on SIGTERM drains before it leaves.

Draining: ``/readyz`` turns 503 so that a balancer looks elsewhere, requests that are under way
or come over an open connection are still answered, then the process ends, within 25 s.
"""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.errors import DataUnavailable

if TYPE_CHECKING:
    from slipway.job import Job

PORT_VARIABLES = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "PORT")
DRAIN_SECONDS = 25


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


def serve_forever(job: Job, out: Path, host: str, port: int | None, score_log: str | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises DataUnavailable when the port cannot be had."""
    from granian.constants import HTTPModes, Interfaces
    from granian.server import Server

    job.row.model_json_schema()  # a job without a scorer is told before the port is bound
    chosen = choose_port(port)
    _check_free(host, chosen)
    logging.getLogger("slipway").info("serving %s on http://%s:%d", job.spec.name, host, chosen)
    Server(
        "slipway",
        address=host,
        port=chosen,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=1,
        blocking_threads=max(8, 4 * (os.cpu_count() or 1)),
        workers_kill_timeout=DRAIN_SECONDS,
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
    ).serve(target_loader=partial(_app, job, out, score_log))


def _app(job: Job, out: Path, score_log: str | None, _: str) -> Any:
    from slipway.scorer import create_app

    return create_app(job, out, score_log)


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DataUnavailable(f"{host}:{port} cannot be bound: {error.strerror}") from None
