"""Where a platform keeps data, model, checkpoints and options: one resolver for all of them.

An option of the command line wins, then a ``SLIPWAY_*`` variable, then the platform's own
variables (``SM_*``, ``AIP_*``), then its files (``/opt/ml``, ``/mnt/models``), then the image's
default. What is taken from a platform is said on stderr with its origin.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from slipway.errors import DataUnavailable, InputInvalid
from slipway.logs import say
from slipway.spec import JobSpec

ARTIFACTS = Path("/artifacts")
BUCKETS = Path("/gcs")  # where Vertex AI mounts buckets
KSERVE = Path("/mnt/models")
HYPERPARAMETERS = "hyperparameters.json"
FAILURE_LENGTH = 1024  # what SageMaker shows
REPORTS = ("metrics.json", "report.html", "run.json")
TRAINING_CHANNELS = ("training", "train")
JSON_NAMES: dict[type, str] = {dict: "object", list: "list"}

Given = TypeVar("Given", bound=dict[str, Any] | list[str])


@dataclass(frozen=True)
class Training:
    """What a platform that trains gives, and where it looks for results."""

    origin: str
    out: Path
    model: Path
    reports: Path
    checkpoints: Path | None


def sagemaker() -> Path:
    """Return SageMaker's tree: ``/opt/ml``, unless ``SAGEMAKER_BASE_DIR`` moves it."""
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def training() -> Training | None:
    """Return the platform that trains here, None where there is none."""
    if os.environ.get("AIP_MODEL_DIR"):
        return _vertex()
    if os.environ.get("SM_MODEL_DIR") or (sagemaker() / "input" / "config").is_dir():
        return _sagemaker()
    return None


def _vertex() -> Training:
    model = _named("AIP_MODEL_DIR")
    kept = _named("AIP_CHECKPOINT_DIR") if os.environ.get("AIP_CHECKPOINT_DIR") else None
    return Training("Vertex AI, AIP_MODEL_DIR", ARTIFACTS, model, model.parent, kept)


def _sagemaker() -> Training:
    base = sagemaker()
    model = Path(os.environ.get("SM_MODEL_DIR") or base / "model")
    out = Path(os.environ.get("SM_OUTPUT_DATA_DIR") or base / "output" / "data")
    kept = base / "checkpoints"
    return Training(f"SageMaker, {base}", out, model, out, kept if kept.is_dir() else None)


def _named(variable: str) -> Path:
    """Return the path that a variable names; ``gs://`` is looked for where buckets are mounted."""
    uri = os.environ[variable]
    scheme, _, rest = uri.rpartition("://")
    if not scheme:
        return Path(uri)
    path = BUCKETS / rest
    bucket = BUCKETS / rest.partition("/")[0]
    if scheme != "gs" or not bucket.is_dir():
        raise DataUnavailable(
            f"{variable}={uri}: wanted a path, or gs:// with its bucket mounted at {BUCKETS}/BUCKET"
        )
    return path


def training_out(context: click.Context, option: click.Parameter, value: Path) -> Path:
    """Return the folder of the artifacts, by default the one of the platform that trains."""
    found = training() if _is_default(context, option) else None
    if found is None:
        return value
    say(f"places: artifacts in {found.out}, the model in {found.model} ({found.origin})")
    return found.out


def serving_out(context: click.Context, option: click.Parameter, value: Path) -> Path:
    """Return a folder with ``model`` in it, by default the model of the platform that serves."""
    found = next(_served(), None) if _is_default(context, option) else None
    if found is None:
        return value
    folder, origin = found
    say(f"places: the model is in {folder} ({origin})")
    return _view(folder)


def _is_default(context: click.Context, option: click.Parameter) -> bool:
    return context.get_parameter_source(str(option.name)) is ParameterSource.DEFAULT


def _served() -> Iterator[tuple[Path, str]]:
    """Yield each folder with a model and its origin; a variable must not name one without."""
    for variable in ("SM_MODEL_DIR", "AIP_STORAGE_URI"):
        if os.environ.get(variable):
            named = _named(variable)
            folder = _holding(named)
            if folder is None:
                raise DataUnavailable(f"{variable}: {named} holds no model.*")
            yield folder, variable
    for place, origin in ((sagemaker() / "model", "SageMaker"), (KSERVE, "KServe")):
        folder = _holding(place)
        if folder:
            yield folder, origin


def _holding(folder: Path) -> Path | None:
    """Return the folder that holds the model: this one, or ``model`` in it."""
    places = (folder, folder / "model")
    return next((place for place in places if any(place.glob("model.*"))), None)


def _view(model: Path) -> Path:
    """Return a new folder of artifacts whose model and record are those of another folder.

    The platform's folder may be read-only and have any name.
    """
    place = Path(tempfile.mkdtemp(prefix="slipway-"))
    (place / "model").symlink_to(model)
    if (model / "run.json").is_file():
        (place / "run.json").symlink_to(model / "run.json")
    return place


def checkpoints(out: Path) -> Path:
    """Return the folder of the checkpoints: the platform's, which it keeps over a restart."""
    found = training()
    kept = found.checkpoints if found and found.out == out else None
    return kept or out / "checkpoints"


def deliver(out: Path) -> None:
    """Copy model and reports to where the platform that trains looks for them."""
    found = training()
    if found is None:
        return
    files = [path for path in (out / "model").rglob("*") if path.is_file()]
    copies = [(path, found.model / path.relative_to(out / "model")) for path in files]
    copies += [(out / "run.json", found.model / "run.json")]
    copies += [(out / name, found.reports / name) for name in REPORTS]
    for source, target in copies:
        if source.is_file() and source != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)  # no modes, no times: the folder may be another's
    say(f"places: the model is in {found.model}, the report in {found.reports} ({found.origin})")


def check_hosts() -> None:
    """Raise UsageError where SageMaker gives several machines: training uses one."""
    path = sagemaker() / "input" / "config" / "resourceconfig.json"
    hosts = _read(path).get("hosts", [])
    if len(hosts) > 1:
        told = f"{path}: names {len(hosts)} hosts; training uses one (InstanceCount=1)"
        raise click.UsageError(told)


def hyperparameters() -> dict[str, Any]:
    """Return SageMaker's hyperparameters, which are strings; click gives them their types.

    Its SDK writes some of them as JSON in the string.
    """
    found = _variable("SM_HPS", dict)
    if found is None:
        found = _read(sagemaker() / "input" / "config" / HYPERPARAMETERS)
    return {name.replace("-", "_"): _unquoted(value) for name, value in found.items()}


def _variable(name: str, kind: type[Given]) -> Given | None:
    """Return the JSON of a variable, None where it is not set or empty; raise InputInvalid."""
    text = os.environ.get(name)
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputInvalid(f"{name}: wanted a JSON {JSON_NAMES[kind]} ({error})") from None
    if not isinstance(found, kind):
        told = f"found a {type(found).__name__}; wanted a JSON {JSON_NAMES[kind]}"
        raise InputInvalid(f"{name}: {told}")
    return found


def _unquoted(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        with suppress(ValueError):
            return json.loads(value)
    return value


def _read(path: Path) -> dict[str, Any]:
    from slipway.run import read_json

    return read_json(path)


def tell_failure(text: str) -> None:
    """Write why a verb failed to where SageMaker reads it."""
    with suppress(OSError):  # the error is told already, and its exit code matters more
        (sagemaker() / "output" / "failure").write_text(text[:FAILURE_LENGTH], "utf-8")


def dataset(spec: JobSpec, name: str) -> tuple[Path, str] | None:
    """Return the file or folder that the platform gives as a dataset, and its origin.

    Raises DataUnavailable where the platform gives data and none of it is this dataset.
    """
    if os.environ.get("AIP_TRAINING_DATA_URI"):
        return _vertex_data(spec), "Vertex AI, AIP_TRAINING_DATA_URI"
    channels = _channels()
    if not channels:
        return None
    names = (name, *TRAINING_CHANNELS) if len(spec.data) == 1 else (name,)
    for channel in names:
        if channel in channels:
            return _content(channels[channel], spec, name), f"SageMaker, channel {channel}"
    raise DataUnavailable(
        f"dataset {name}: SageMaker gives the channels {', '.join(sorted(channels))}; "
        f"wanted {' or '.join(names)}"
    )


def _vertex_data(spec: JobSpec) -> Path:
    if len(spec.data) != 1:
        told = f"names one dataset; this job has {', '.join(spec.data)}"
        raise DataUnavailable(f"AIP_TRAINING_DATA_URI {told}")
    path = _named("AIP_TRAINING_DATA_URI")
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    if len(found) != 1:
        raise DataUnavailable(f"AIP_TRAINING_DATA_URI: {path} is {len(found)} files; wanted one")
    return _content(found[0], spec, next(iter(spec.data)))


def _channels() -> dict[str, Path]:
    """Return the folders of SageMaker's channels by name."""
    folder = sagemaker() / "input" / "data"
    names = _variable("SM_CHANNELS", list)
    if names is None:
        names = [path.name for path in folder.glob("[!.]*") if path.is_dir()]
    return {
        name: Path(os.environ.get(f"SM_CHANNEL_{name.upper()}") or folder / name) for name in names
    }


def _content(place: Path, spec: JobSpec, name: str) -> Path:
    """Return the file of a dataset in a folder: the one of its name, or the only one there."""
    if not place.is_dir():
        return place
    wanted = place / Path(spec.data[name].file).name
    files = [path for path in place.rglob("[!.]*") if path.is_file()]
    if wanted.is_file() or len(files) != 1:
        return wanted if wanted.is_file() else place
    return files[0]
