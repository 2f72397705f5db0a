"""One job without a container: the same code in a virtual environment of the same lock."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from slipway.host import environment
from slipway.host.build import ensure_torch_wheel
from slipway.host.container import artifacts, data_cache, shown
from slipway.spec import JobSpec

LOCKS = {"base": ["base"], "torch": ["base", "torch"], "cuda": ["base", "cuda"]}
# ONNX Runtime for CUDA is the same folder as the one without.
REPLACED = {"cuda": ["onnxruntime"]}


def python_of(root: Path, base: str) -> Path:
    """Return the Python of ``.venv-<base>``, made from that base's lock where stale."""
    if base == "torch":
        ensure_torch_wheel(root)
    return environment.make(root, base, LOCKS[base], REPLACED.get(base, ()))


def environ_of(root: Path, spec: JobSpec) -> dict[str, str]:
    """Return the environment that stands in for an image's."""
    path = os.pathsep.join([str(root / "src"), str(root)])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "SLIPWAY_JOB": str(spec.folder),
        "SLIPWAY_OUT": str(artifacts(root, spec)),
        "SLIPWAY_HOST_OUT": shown(artifacts(root, spec)),
        "SLIPWAY_DATA": str(data_cache()),
    }


def become(root: Path, spec: JobSpec, arguments: Sequence[str], gpu: bool = False) -> NoReturn:
    """Replace this process by the job's, so that signals and the exit code are its own."""
    python = python_of(root, "cuda" if gpu else spec.base)
    command = [str(python), "-m", "slipway", *arguments]
    os.execve(python, command, environ_of(root, spec))
