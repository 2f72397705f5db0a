"""Serve a scorer with granian: workers and threads from the machine, and nothing lost at the end.

Start: the port answers at once, from `slipway.waiting`, while the model loads. Where workers
compute in one thread each, libraries and model, of either form, are loaded once before they are
forked and their memory is shared; else each loads its own. The server is ready when all are warm.

Draining: ``/readyz`` turns 503 so that a balancer looks elsewhere. For `DRAIN_SECONDS` every
request is still answered, and its answer closes the connection; then nobody new is let in, the
listeners go, what is under way is finished, and the processes end, within 25 s in all.
"""

from __future__ import annotations

import gc
import logging
import mmap
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.batching import Limits
from slipway.errors import DataUnavailable
from slipway.machine import on_gpu, usable_cores
from slipway.types import example

if TYPE_CHECKING:
    from slipway.job import Job
    from slipway.ledger import LongWork
    from slipway.scorer import Loaded

log = logging.getLogger("slipway.server")

PORT_VARIABLES = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "PORT")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
OURS = "SLIPWAY_SERVER_SET"
"""Names what the server set in the environment for its workers alone."""
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Must be set before prometheus_client is imported."""
DRAIN_SECONDS, DOOR_SECONDS = 5, 4
"""From SIGTERM on: when the workers leave, and when nobody new is let in."""
FINISH_SECONDS = 18
BACKLOG = 1024
CONNECTIONS = 4096
"""Open connections of one worker; more wait in the kernel."""
HEADER_SECONDS = 20
"""For a request's head; a connection that is idle for as long is closed."""
THREADS = 16


@dataclass(frozen=True)
class Settings:
    """How to serve; what is None comes from the machine."""

    host: str = "0.0.0.0"
    port: int | None = None
    score_log: str | None = None
    form: str = "auto"
    workers: int | None = None
    threads: int = THREADS
    limits: Limits = field(default_factory=Limits)
    access_log: bool = False
    long_work: LongWork | None = None


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


def choose_workers(job: Job, wanted: int | None, devices: Path = Path("/dev")) -> int:
    """Return the number of workers: the option, else one where there is a GPU, else the cores."""
    if wanted is not None:
        return wanted
    return 1 if on_gpu(job.spec, devices) else usable_cores()


class Board:
    """What all processes must know, in shared memory: drain, who has the port, a byte a worker."""

    def __init__(self, workers: int) -> None:
        self.bytes = mmap.mmap(-1, 2 + workers)

    def drain(self) -> None:
        """Tell every process that the server is about to leave."""
        self.bytes[0] = 1

    def draining(self) -> bool:
        """Tell whether the server is about to leave."""
        return self.bytes[0] == 1

    def settle(self, worker: int) -> None:
        """Note that a worker has its model, or knows that it cannot have it."""
        self.bytes[2 + worker] = 1

    def settled(self) -> bool:
        """Tell whether every worker has settled."""
        return all(self.bytes[2:])

    def hand_over(self) -> None:
        """Note that the workers alone have the port."""
        self.bytes[1] = 1

    def handed_over(self) -> bool:
        """Tell whether the workers alone have the port: else a ready server may still say 503."""
        return self.bytes[1] == 1


def serve_forever(job: Job, out: Path, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises DataUnavailable when the port cannot be had."""
    job.row.model_json_schema()  # a job without a scorer is told before the port is bound
    _check_log(settings.score_log)
    port = choose_port(settings.port)
    _check_free(settings.host, port)
    workers = choose_workers(job, settings.workers)
    board = Board(workers)
    with _waiting(settings.host, port, workers, board) as bound, _metrics_folder():
        log.info(
            "serving %s on http://%s:%d, workers: %d", job.spec.name, settings.host, bound, workers
        )
        each = max(1, usable_cores() // workers)
        if workers > 1:
            _limit_threads(each)
        form = job.chosen_form(out / "model", settings.form)
        settings = replace(settings, form=form)
        # what a process has on a GPU is lost in a fork
        shared = workers > 1 and each == 1 and not on_gpu(job.spec)
        loaded = _load_once(job, out / "model", form) if shared else None
        _run_granian(job, out, settings, board, bound, workers, loaded)


def _limit_threads(number: int) -> None:
    """Let the libraries of each worker use so many threads, unless the user said otherwise."""
    ours = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ |= dict.fromkeys(ours, str(number))
    os.environ[OURS] = " ".join([os.environ[OURS], *ours])


def _load_once(job: Job, folder: Path, form: str) -> Loaded:
    """Load the model, warm, into memory that the workers will share: they are forked from here.

    A session of onnxruntime may be shared too, because `Job.load` lets it compute in one thread:
    a pool of threads would be missing after the fork.
    """
    from slipway import gate, scorer  # noqa: F401 - imported once, for all workers

    loaded = scorer.load(job, folder, form)
    with suppress(Exception):  # what is wrong is told by each worker, when it scores its first row
        job.answers(loaded.model, [job.row(**example(job.row))])
    _freeze()
    return loaded


def _freeze() -> None:
    """Keep the garbage collector off what is loaded and stays.

    A collection would stop every request for as long as it takes to walk the libraries' objects,
    tens of milliseconds, and would write to, and so copy, every page shared between workers.
    """
    gc.collect()
    gc.freeze()


@contextmanager
def _waiting(host: str, port: int, workers: int, board: Board) -> Iterator[int]:
    """Answer on the port from a process of its own until the workers have settled."""
    from slipway import waiting

    listener = waiting.bound(host, port)
    listener.listen(BACKLOG)
    bound = int(listener.getsockname()[1])
    process = multiprocessing.get_context("fork").Process(
        target=waiting.wait,
        args=(listener, workers, board.settled, board.hand_over),
        daemon=True,
        name="waiting",
    )
    # until the child has its own answer to SIGTERM, ours would unwind our stack there
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    listener.close()
    try:
        yield bound
    finally:
        process.terminate()
        process.join()


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """Keep the workers' counts in memory, where the root of the container is read-only."""
    shm = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="slipway-", dir=shm if os.access(shm, os.W_OK) else None)
    os.environ[METRICS_FOLDER] = folder
    os.environ[OURS] = METRICS_FOLDER
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name in os.environ.pop(OURS).split():
            os.environ.pop(name, None)


def _run_granian(
    job: Job,
    out: Path,
    settings: Settings,
    board: Board,
    port: int,
    workers: int,
    loaded: Loaded | None,
) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.mp import MPServer

    from slipway.waiting import let_none_in

    class Server(MPServer):
        """Granian that lets clients go before it stops, and tells each worker its number."""

        def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
            if board.draining():
                return
            board.drain()
            log.info("SIGTERM: draining for %d s", DRAIN_SECONDS)
            for seconds, action in (
                (DOOR_SECONDS, partial(let_none_in, settings.host, port, workers)),
                (DRAIN_SECONDS, super().signal_handler_interrupt),
            ):
                timer = threading.Timer(seconds, action)
                timer.daemon = True
                timer.start()

        def _spawn_worker(  # type: ignore[override]
            self, idx: int, target: Any, callback_loader: Callable[..., Any]
        ) -> Any:
            return super()._spawn_worker(idx, target, partial(callback_loader, idx))

        def _respawn_workers(self, workers: list[int], *args: Any, **kwargs: Any) -> None:
            from prometheus_client.multiprocess import mark_process_dead

            for idx in workers:
                log.error("worker %d ended unforeseen; another takes its place", idx)
                mark_process_dead(self.wrks[idx]._id())  # type: ignore[no-untyped-call]
            super()._respawn_workers(workers, *args, **kwargs)

    Server(
        "slipway",
        address=settings.host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        websockets=False,
        workers=workers,
        backpressure=CONNECTIONS,
        backlog=BACKLOG,
        respawn_failed_workers=True,
        workers_kill_timeout=FINISH_SECONDS,
        log_dictconfig={"loggers": {"_granian": {"level": "WARNING"}}},
    ).serve(target_loader=partial(_application, job, out, settings, board, loaded, workers))


def _application(
    job: Job,
    out: Path,
    settings: Settings,
    board: Board,
    loaded: Loaded | None,
    workers: int,
    _: str,
    worker: int,
) -> Any:
    """Make the application of one worker, in its process; the model is warm when it returns."""
    from slipway.gate import Gate
    from slipway.scorer import create_app

    app = create_app(
        job, out, settings.score_log, form=settings.form, background=False, loaded=loaded,
        draining=board.draining, settled=board.handed_over, limits=settings.limits,
        access_log=settings.access_log, long_work=settings.long_work,
    )  # fmt: skip
    app.extensions["slipway-runs"].start()
    gate = Gate(app, settings.threads, _core_of(worker, workers))
    _freeze()
    board.settle(worker)
    return gate


def _core_of(worker: int, workers: int) -> int | None:
    """Return the core of a worker, where there is one for each and the machine has no other.

    Else containers that have a share of many cores would all choose the first ones.
    """
    cores = sorted(os.sched_getaffinity(0))
    return cores[worker] if workers == usable_cores() == len(cores) > 1 else None


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
