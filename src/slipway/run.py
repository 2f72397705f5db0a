"""One run of one verb: what it reads, what it reports, how it stops and resumes.

A `Run` is passed to each of a job's functions and is never global. It keeps three files of the
artifacts up to date: ``metrics.json`` (figures only, byte-equal for equal runs), ``run.json``
(everything about how they came about) and the pieces that ``report.html`` is made of.
"""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import distributions
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

import click

from slipway import data, places
from slipway.errors import DataUnavailable, DeviceAbsent, InputInvalid, Stopped
from slipway.logs import say
from slipway.machine import has_gpu
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Item = TypeVar("Item")

STAGES = ("prepare", "train", "evaluate")
STOP_SECONDS = 25
PLAIN_SECONDS = 5.0


@dataclass
class Options:
    """The options that every run has; a job's own are arguments of its functions."""

    seed: int = 0
    device: str = "auto"
    data: str = "auto"
    epochs: int | None = None
    limit: int | None = None


@dataclass
class Run:
    """What a job's function is given. ``out`` is the folder of the artifacts."""

    spec: JobSpec
    out: Path
    verb: str
    options: Options = field(default_factory=Options)
    extra: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, data.Source] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Mapping[int, float]] = field(default_factory=dict)
    pieces: list[dict[str, Any]] = field(default_factory=list)
    stopping: bool = False
    part: str = ""

    def __post_init__(self) -> None:
        self.device = pick_device(self.options.device)
        self.started = datetime.now(UTC)
        self.clock = time.perf_counter()

    @property
    def seed(self) -> int:
        """The seed of everything random in this run."""
        return self.options.seed

    @property
    def limit(self) -> int | None:
        """At most so many rows, for a quick look; None for all of them."""
        return self.options.limit

    @property
    def epochs(self) -> int | None:
        """Passes over the training set, when the user asked for a number."""
        return self.options.epochs

    @property
    def tier(self) -> str:
        """The tier of the data behind this run's figures: real, mirror, sample or own."""
        tiers = {source.tier for source in self.sources.values()}
        if self.verb != "prepare":
            tiers |= self._prepared_tiers()
        if len(tiers) > 1:
            raise DataUnavailable(f"tiers {', '.join(sorted(tiers))} may not mix in one run")
        return next(iter(tiers), "none")

    def data(self, name: str) -> Path:
        """Return the verified file of dataset ``name``; see `slipway.data.find` for errors."""
        if name not in self.sources:
            source = data.find(self.spec, name, self.options.data)
            say(f"data: {name} is {source.path} (tier {source.tier})")
            self.sources[name] = source
            _ = self.tier  # told now, not after hours of work
        return self.sources[name].path

    def note_source(self, name: str, path: Path, tier: str) -> Path:
        """Record a file that is no declared dataset: the user's own, or one a library brings."""
        if not path.is_file():
            raise DataUnavailable(f"{path}: no such file; wanted the path of a file")
        self.sources[name] = data.Source(path, tier, data.sha256_of(path))
        say(f"data: {name} is {path} (tier {tier})")
        return path

    def prepared(self, name: str) -> Path:
        """Return ``data/name`` of the artifacts, which `prepare` wrote."""
        path = self.out / "data" / name
        if not path.is_file():
            raise DataUnavailable(f"{path}: no such file; run prepare first")
        return path

    def log(self, **metrics: float) -> None:
        """Record figures under their names in ``metrics.json``."""
        self.metrics.update({name: float(value) for name, value in metrics.items()})

    def curve(self, name: str, values: Mapping[int, float]) -> None:
        """Record a figure of train by its step, for MLflow beside those of `log`."""
        self.curves[name] = values

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """Put a matplotlib figure with a caption into the report, and close it."""
        from slipway.report import save_figure

        save_figure(figure, self.out / "report" / f"{self.verb}-{name}.png")
        self.pieces.append({"kind": "figure", "name": f"{self.verb}-{name}", "caption": caption})

    def series(self, name: str, figures: Iterable[Figure], caption: str) -> None:
        """Put figures of one size into the report as a stack to scroll through, and close them."""
        from slipway.report import save_figure

        names = []
        for number, figure in enumerate(figures):
            names.append(f"{self.verb}-{name}-{number:03d}")
            save_figure(figure, self.out / "report" / f"{names[-1]}.png", cropped=False)
        self.pieces.append({"kind": "series", "names": names, "caption": caption})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        """Put rows of equal keys into the report."""
        plain_rows = [plain(row) for row in rows]
        self.pieces.append({"kind": "table", "name": name, "rows": plain_rows, "caption": caption})

    def note(self, text: str) -> None:
        """Put a paragraph into the report."""
        self.pieces.append({"kind": "note", "text": text})

    def track(
        self,
        name: str,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        model: Any = None,
        curves: Mapping[str, Mapping[int, float]] | None = None,
    ) -> None:
        """Log a named MLflow run; a ``model`` becomes a version of the job's registered model.

        ``curves`` are figures by their step.
        """
        from slipway.track import Tracker

        Tracker(self).log(name, params, metrics, model, curves=curves)

    def progress(
        self, items: Iterable[Item], label: str, total: int | None = None
    ) -> Iterator[Item]:
        """Yield ``items`` and show how far it is: a bar on a terminal, plain lines elsewhere."""
        count = len(items) if total is None and isinstance(items, Sized) else total
        if sys.stderr.isatty():
            with click.progressbar(items, length=count, label=label, file=sys.stderr) as bar:
                yield from bar
            return
        last = 0.0
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last > PLAIN_SECONDS or done == count:
                last = time.monotonic()
                say(f"{label}: {done}{f' of {count}' if count else ''}")

    def resume(self) -> dict[str, Any] | None:
        """Return the state of the last checkpoint of this very run, or None to start afresh.

        Its tensors, where it has some, are its entry ``tensors``. A checkpoint made with other
        options, data or code is set aside, and the user is told.
        """
        path = self._checkpoint
        if not path.is_file():
            return None
        try:
            kept = json.loads(path.read_text("utf-8"))
            state, mark = dict(kept["state"]), kept["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputInvalid(f"{path}: damaged checkpoint ({error!r}); delete it") from None
        if mark != self._fingerprint:
            say(f"checkpoint {path} is of other options, data or code: starting afresh")
            return None
        if name := kept.get("tensors"):
            state["tensors"] = _tensors_of(path.with_name(name))
        say(f"resuming {self.verb} from {path}")
        return state

    def checkpoint(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a JSON-able state and PyTorch tensors; after SIGTERM leave with `Stopped`.

        Whole or not at all: the tensors get a file of a new name, which counts only once the
        state names it, and the one of the checkpoint before is removed last.
        """
        name = f"{self.verb}-{secrets.token_hex(4)}.safetensors" if tensors else ""
        content: dict[str, Any] = {"fingerprint": self._fingerprint, "state": dict(state)}
        if tensors:
            content["tensors"] = name
            from safetensors.torch import save_file

            with data.written(self._checkpoint.with_name(name)) as part:
                save_file({name: entry.contiguous() for name, entry in tensors.items()}, part)
        with data.written(self._checkpoint) as part:
            part.write_text(json.dumps(content), "utf-8")
        self._remove_tensors(keep=name)
        if self.stopping:
            raise Stopped(f"{self.verb} stopped by SIGTERM; kept in {self._checkpoint}")

    def _remove_tensors(self, keep: str = "") -> None:
        for path in self._checkpoint.parent.glob(f"{self.verb}-*.safetensors"):
            if path.name != keep:
                path.unlink(missing_ok=True)

    @property
    def _checkpoint(self) -> Path:
        return places.checkpoints(self.out) / f"{self.verb}.json"

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """What a run depends on, taken once: hashing the split anew at each checkpoint is slow."""
        return {
            "options": plain(vars(self.options) | self.extra),
            "data": {} if self.verb == "prepare" else self._prepared_hashes(),
            "code": {
                path.relative_to(self.spec.folder).as_posix(): data.sha256_of(path)
                for path in self.spec.code
            },
        }

    def _prepared_hashes(self) -> dict[str, str]:
        folder = self.out / "data"
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): data.sha256_of(path) for path in files}

    def _prepared_tiers(self) -> set[str]:
        record = read_json(self.out / "run.json")
        datasets = record.get("prepare", {}).get("data", {})
        return {entry["tier"] for entry in datasets.values()}

    def start(self) -> None:
        """Make the folder of the artifacts and heed SIGTERM."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataUnavailable(f"{self.out}: cannot be written ({error.strerror})") from None
        if not os.access(self.out, os.W_OK | os.X_OK):
            raise DataUnavailable(f"{self.out}: cannot be written")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._stop)

    def finish(self) -> None:
        """Write metrics, record and report pieces of this verb; its checkpoint has served.

        What later stages recorded goes: it was about data or a model that are no more. A verb of
        the job's own that logs no figure leaves ``metrics.json`` as it is.
        """
        if self.metrics or self.verb in STAGES:
            self._put(self.out / "metrics.json", plain(dict(sorted(self.metrics.items()))))
        self._put(self.out / "run.json", self.record())
        self._put(self.out / "report.json", self.pieces)
        self._checkpoint.unlink(missing_ok=True)
        self._remove_tensors()

    def check_split(self) -> None:
        """Raise InputInvalid when the split files are not those that the model was trained on.

        The held-out rows of another split may be rows that the model has seen.
        """
        trained = read_json(self.out / "run.json").get("train", {}).get("prepared")
        if trained is not None and trained != self._prepared_hashes():
            raise InputInvalid(
                f"{self.out / 'data'}: the split has changed since train; run train again"
            )

    def record(self) -> dict[str, Any]:
        """Return how this run came about: code, data, options, machine, time and memory."""
        return {
            "started": self.started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - self.clock, 3),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "device": self.device,
            "options": plain(vars(self.options) | self.extra),
            "tier": self.tier,
            **({"part": self.part} if self.part else {}),
            "data": {
                name: {"tier": source.tier, "sha256": source.sha256, "file": source.path.name}
                for name, source in self.sources.items()
            },
            "prepared": self._prepared_hashes(),
            "built": built(self.spec),
            "image": os.environ.get("SLIPWAY_IMAGE", "unknown"),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cpus",
            "versions": installed(),
        }

    def _put(self, path: Path, part: Any) -> None:
        """Set this verb's part of a JSON file; verbs are sorted, a table keeps its columns."""
        later = STAGES[STAGES.index(self.verb) :] if self.verb in STAGES else ()
        kept = {verb: old for verb, old in read_json(path).items() if verb not in later}
        with data.written(path) as file:
            content = dict(sorted((kept | {self.verb: part}).items()))
            file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")

    def _stop(self, *_: object) -> None:
        if self.stopping:
            os._exit(Stopped.exit_code)
        self.stopping = True
        say(f"SIGTERM: {self.verb} leaves at its next checkpoint, in {STOP_SECONDS} s at most")
        watch = Timer(STOP_SECONDS, self._leave)
        watch.daemon = True
        watch.start()

    def _leave(self) -> None:
        kept = self._checkpoint if self._checkpoint.exists() else "nothing"
        say(f"no checkpoint was reached within {STOP_SECONDS} s; kept from before: {kept}")
        os._exit(Stopped.exit_code)


def pick_device(wish: str) -> str:
    """Return ``cpu`` or ``cuda``; ``auto`` takes what is there, a wish is never changed."""
    if wish == "cpu":
        return "cpu"
    cuda = has_gpu()
    if wish == "cuda" and not cuda:
        raise DeviceAbsent(
            "--device cuda: no NVIDIA device in this container; start it with --gpus all"
        )
    return "cuda" if cuda else "cpu"


def built(spec: JobSpec) -> dict[str, Any]:
    """Return what the image was built from: commit, state of the tree, hash of the sources."""
    return read_json(spec.folder / "build.json") or {"commit": "unknown"}


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numpy's as Python's, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is no file; InputInvalid where it is damaged."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputInvalid(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise InputInvalid(f"{path}: holds {type(found).__name__}; wanted an object")
    return found


@cache
def installed() -> dict[str, str]:
    """Return the version of each distribution here; reading all their metadata takes long."""
    found = {str(dist.name): str(dist.version) for dist in distributions()}
    return dict(sorted(found.items(), key=lambda entry: entry[0].lower()))


def _tensors_of(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputInvalid(f"{path}: damaged checkpoint ({error!r}); delete it") from None
