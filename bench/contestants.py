"""The servers that are measured: how each is started, and the shape of its requests.

Every rival has as many workers as there are cores, and its access log off.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

BASE, APART = "/opt/venv/bin", "/opt/apart/bin"
MODEL = f"{os.environ.get('SLIPWAY_OUT', '/artifacts')}/bench/mlflow-model"
OURS = [BASE + "/python", "-m", "slipway", "serve", "--host", "127.0.0.1"]
# The rows of our server: what each adds to `serve`. An option that this version of `serve` does
# not have is left out, and a row that is then equal to one before it is not measured.
FORMS: dict[str, tuple[str, list[str]]] = {
    "trained": ("Slipway, trained model", ["--form=trained"]),
    "unbatched": (
        "Slipway, trained model, batching off",
        ["--form=trained", "--batch-rows=1"],
    ),
    "exported": ("Slipway, exported model", ["--form=exported"]),
}


@dataclass(frozen=True)
class Contestant:
    """One server: ``PORT`` in its command and ``WORKERS`` are filled in when it starts."""

    name: str
    title: str
    command: list[str]
    path: str = "/score"
    wrap: Callable[[Any], Any] = lambda row: row
    ready: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    ours: bool = False
    answers: bool = True

    def started(self, port: int, workers: int) -> list[str]:
        """Return the command for a port and a number of workers."""
        return [
            word.replace("PORT", str(port)).replace("WORKERS", str(workers))
            for word in self.command
        ]

    def body(self, row: Any) -> str:
        """Return the body of a request for one row."""
        return json.dumps(self.wrap(row), ensure_ascii=False)


def answer_of(found: Any) -> dict[str, Any]:
    """Return the one answer in a response, whatever the server wraps it in."""
    while not (isinstance(found, dict) and "predictions" not in found):
        found = found["predictions"] if isinstance(found, dict) else found[0]
    return found


RIVALS = [
    Contestant(
        "flask",
        "Flask + gunicorn gthread",
        [BASE + "/gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "WORKERS",
         "--worker-class", "gthread", "--threads", "4", "--log-level", "warning",
         "--worker-tmp-dir", "/dev/shm", "bench.servers.flask_app:app"],
    ),
    Contestant(
        "fastapi",
        "FastAPI + uvicorn",
        [BASE + "/uvicorn", "--host", "127.0.0.1", "--port", "PORT", "--workers", "WORKERS",
         "--no-access-log", "--log-level", "warning", "bench.servers.fastapi_app:app"],
    ),
    Contestant(
        "bentoml",
        "BentoML",
        [APART + "/bentoml", "serve", "bench.servers.bento_app:Plain", "--host", "127.0.0.1",
         "--port", "PORT"],
        wrap=lambda row: {"row": row},
    ),
    Contestant(
        "bentoml-batched",
        "BentoML, adaptive batching",
        [APART + "/bentoml", "serve", "bench.servers.bento_app:Batched", "--host", "127.0.0.1",
         "--port", "PORT"],
        wrap=lambda row: {"rows": [row]},
    ),
    Contestant(
        "litserve",
        "LitServe",
        [BASE + "/python", "-m", "bench.servers.litserve_app", "PORT", "one"],
        path="/predict",
    ),
    Contestant(
        "litserve-batched",
        "LitServe, batches of 16",
        [BASE + "/python", "-m", "bench.servers.litserve_app", "PORT", "batched"],
        path="/predict",
    ),
    Contestant(
        "mlflow",
        "mlflow models serve",
        [APART + "/mlflow", "models", "serve", "--model-uri", MODEL, "--env-manager", "local",
         "--host", "127.0.0.1", "--port", "PORT", "--workers", "WORKERS"],
        path="/invocations",
        wrap=lambda row: {"dataframe_records": [row]},
        environ={"UVICORN_ACCESS_LOG": "false", "UVICORN_LOG_LEVEL": "warning",
                 "MLFLOW_DISABLE_ENV_CREATION": "true",
                 "PATH": f"{APART}:/usr/local/bin:/usr/bin:/bin"},
        before=[APART + "/python", "-m", "bench.servers.mlflow_app", MODEL],
    ),
    Contestant(
        "floor",
        "granian + Flask, a constant",
        [BASE + "/python", "-m", "bench.servers.floor", "PORT"],
        answers=False,
    ),
]  # fmt: skip


def known_options() -> set[str]:
    """Return the options of this version's ``serve``."""
    done = subprocess.run([*OURS[:4], "--help"], capture_output=True, text=True, check=True)
    return {word.rstrip(",") for word in done.stdout.split() if word.startswith("--")}


def ours(known: Iterable[str]) -> list[Contestant]:
    """Return the rows of our server that ``serve`` can tell apart, by the options it has."""
    able, taken, found = set(known), set(), []
    for name, (title, options) in FORMS.items():
        given = tuple(option for option in options if option.partition("=")[0] in able)
        if given not in taken:
            taken.add(given)
            command = [*OURS, "--port", "PORT", *given]
            found.append(Contestant(name, title, command, ready="/readyz", ours=True))
    return found


def everyone(only: Iterable[str] = ()) -> list[Contestant]:
    """Return all contestants, ours first, or those that ``only`` names."""
    wanted = set(only)
    found = [*ours(known_options()), *RIVALS]
    return [entry for entry in found if not wanted or entry.name in wanted]
