"""One attempt on the machine where it runs: a command to its end, with its output.

Ray sends this module to its nodes, which have no slipway: it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

GRACE = 30  # seconds from SIGTERM to SIGKILL; the contract gives a container 25
# What of an attempt's output travels back from a node: a small result outlives its node.
LOG_BYTES = 1 << 16
PR_SET_PDEATHSIG = 1


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    output: IO[bytes],
    started: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
) -> int:
    """Run a command to its end and return its exit code; 137 and 143 where a signal ended it.

    The command is told to stop when we are, and even when we are killed: a worker that is no
    more must not leave a container behind.
    """
    with subprocess.Popen(
        list(command),
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to handle
        preexec_fn=_die_with_parent(),
    ) as process:
        started(process)
        try:
            code = ended(process)
        except BaseException:
            stop(process)
            raise
    return code if code >= 0 else 128 - code


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process in turns: Ray's cancel does not break into a system call."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)


def _die_with_parent() -> Any:
    """Return what asks Linux, in the new process, for SIGTERM at the end of its parent."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process: SIGTERM, and SIGKILL to one that takes too long."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def attempt(
    command: Sequence[str], environ: Mapping[str, str], before: Sequence[str] = ()
) -> tuple[int, str, float, bytes]:
    """Return exit code, host, seconds and the end of the output; ``before`` clears the way.

    In a command, ``{user}`` is the user here, so that what a container writes belongs to
    the node's, and ``{gpus}`` the devices that Ray gave.
    """
    started, host = time.monotonic(), os.uname().nodename
    here = {
        "{user}": f"{os.getuid()}:{os.getgid()}",
        "{gpus}": f'"device={os.environ.get("CUDA_VISIBLE_DEVICES", "")}"',
    }
    with tempfile.TemporaryFile() as output:
        try:
            if before:
                subprocess.run(list(before), capture_output=True, check=False)
            code = run([here.get(word, word) for word in command], environ, output)
        except FileNotFoundError as error:
            output.write(f"{error.filename}: no such command on {host}\n".encode())
            code = 127
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - LOG_BYTES))
        return code, host, time.monotonic() - started, output.read()


def task(*given: Any) -> tuple[int, str, float, bytes]:
    """Make one attempt as a Ray task; several nodes may be on one host."""
    import ray

    code, host, seconds, output = attempt(*given)
    return code, f"{host}/{ray.get_runtime_context().get_node_id()[:8]}", seconds, output
