"""Write a model in another format, and prove that it answers like the trained one.

A job says how with ``@job.export``; without it scikit-learn's own converter to ONNX is tried on
the fields of the job's `Input`. Both forms then score the rows of ``@job.held_out``, and
``model/export.json`` records how far they were apart at most, and of what: the exported form of
another model, by other code or under another onnxruntime is not used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import store
from slipway.data import written
from slipway.errors import BarMissed, DataUnavailable, InputInvalid
from slipway.machine import on_gpu
from slipway.run import Run, read_json

if TYPE_CHECKING:
    from slipway.job import Job

FOLDER, RECORD = "export", "export.json"
BATCH = 256


@dataclass(frozen=True)
class Lossy:
    """What ``@job.export`` returns of a form that is knowingly not the same, of eight bits say.

    At least ``share`` of the held-out rows must be answered alike, floats aside.
    """

    share: float


@dataclass(frozen=True)
class Exported:
    """An exported model in memory: an onnxruntime session, proven to answer like the trained."""

    session: Any


def load_exported(folder: Path, threads: int, gpu: bool) -> Exported:
    """Return the exported form of the model in ``folder``, which `check_proof` let pass."""
    return Exported(store.load(folder / FOLDER, threads=threads, gpu=gpu))


def check_proof(job: Job, folder: Path) -> None:
    """Raise DataUnavailable where `export_model` did not compare this very form and model."""
    if job.exported_scorer is None:
        raise DataUnavailable(f"job {job.spec.name} has no @job.exported function")
    record = read_json(folder / RECORD)
    if not record:
        raise DataUnavailable(f"{folder / RECORD}: no such file; run export first")
    for name, here in subject(job, folder).items():
        if record.get(name) != here:
            raise DataUnavailable(
                f"{folder / RECORD}: is about {name} {record.get(name)}, found {here}; "
                "run export again"
            )


def export_model(job: Job, out: Path, given: Mapping[str, Any] | None = None) -> str:
    """Write ``out/model/export`` and return what was written and how it was checked, as lines.

    ``given`` are options of the job's own export function. Raises InputInvalid when the model has
    no ONNX form, and BarMissed when its answers differ.
    """
    folder = out / "model" / FOLDER
    (out / "model" / RECORD).unlink(missing_ok=True)
    model = job.load(out / "model")
    folder.mkdir(exist_ok=True)
    exporter = job.exporter or partial(_to_onnx, job)
    told = exporter(model, folder, **(given or {}))
    if job.exported_scorer:
        told = _prove(job, out, model, told if isinstance(told, Lossy) else None)
    sizes = [
        f"{path.relative_to(out)} {path.stat().st_size / 1e6:.2f} MB"
        for path in sorted(folder.iterdir())
        if path.name != store.SUMS
    ]
    return "\n".join([*sizes, *([str(told)] if told else [])])


def subject(job: Job, folder: Path) -> dict[str, str]:
    """Return what a proof is about, as short hashes: with any of it changed it proves nothing."""
    return {
        "model": store.identity(folder),
        "export": _hash(path for path in (folder / FOLDER).rglob("*") if path.is_file()),
        "code": _hash(job.spec.code),
        "onnxruntime": _onnxruntime(),
    }


def _onnxruntime() -> str:
    """Return ONNX Runtime's version; the package for CUDA has a name of its own."""
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return version("onnxruntime-gpu")


def apart(one: Any, other: Any) -> float:
    """Return the largest difference of two answers' floats; infinity where all else differs."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(apart, one, other), default=0.0)
    return 0.0 if one == other else math.inf


def _prove(job: Job, out: Path, model: Any, lossy: Lossy | None) -> str:
    """Compare both forms on the held-out rows and record the result."""
    if job.held_out_rows is None:
        raise InputInvalid(f"job {job.spec.name}: @job.exported needs the rows of @job.held_out")
    rows = list(job.held_out_rows(Run(job.spec, out, "export")))
    found = [
        difference
        for gpu in sorted({False, on_gpu(job.spec)})  # what is proven on a GPU serves on CPUs, too
        for difference in _differences(
            job, model, load_exported(out / "model", threads=1, gpu=gpu), rows
        )
    ]
    judged = _agreement(found, lossy) if lossy else _nearness(found, job.tolerance)
    record = subject(job, out / "model") | {"rows": len(rows)} | judged
    with written(out / "model" / RECORD) as part:
        part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    if lossy:
        share = judged["alike"]
        return f"gives the trained model's answer to {share:.1%} of {len(rows)} held-out rows"
    farthest = judged["largest_difference"]
    return f"answers like the trained model on {len(rows)} held-out rows, to {farthest:.1e}"


def _nearness(found: list[float], tolerance: float) -> dict[str, float]:
    """Return the largest difference; BarMissed where it is more than a rounding's."""
    farthest = max(found, default=math.inf)
    if not farthest <= tolerance:
        raise BarMissed(
            f"the exported model and the trained one differ by {farthest:.1e} on {len(found)} "
            f"held-out rows; wanted {tolerance:.0e} at most"
        )
    return {"largest_difference": farthest, "tolerance": tolerance}


def _agreement(found: list[float], lossy: Lossy) -> dict[str, float]:
    """Return the share of rows answered alike, floats aside; BarMissed where it is too small."""
    alike = sum(map(math.isfinite, found)) / max(len(found), 1)
    if alike < lossy.share:
        raise BarMissed(
            f"the exported model gives the trained one's answer to {alike:.1%} of {len(found)} "
            f"held-out rows; wanted {lossy.share:.0%}"
        )
    return {"alike": alike, "wanted": lossy.share}


def _differences(job: Job, model: Any, exported: Exported, rows: list[Any]) -> Iterator[float]:
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        pairs = zip(job.answers(model, batch), job.answers(exported, batch), strict=True)
        yield from (apart(one.model_dump(), other.model_dump()) for one, other in pairs)


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _to_onnx(job: Job, model: Any, folder: Path) -> str:
    import onnxruntime
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    kinds = {"string": StringTensorType, "number": FloatTensorType, "integer": FloatTensorType}
    fields = job.row.model_json_schema()["properties"]
    for name, entry in fields.items():
        if entry.get("type") not in kinds:
            raise InputInvalid(f"field {name} has no ONNX type; write the export with @job.export")
    inputs = [(name, kinds[entry["type"]]([None, 1])) for name, entry in fields.items()]
    # Without it onnxruntime lowers letters by en_US.UTF-8, which a slim image does not have.
    locale = {kind: {"locale": "C.UTF-8"} for kind in (CountVectorizer, TfidfVectorizer)}
    try:
        graph = skl2onnx.to_onnx(model, initial_types=inputs, options=locale)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise InputInvalid(
            f"the model of {job.spec.name} has no ONNX form: {error}; write one with @job.export"
        ) from None
    content = graph.SerializeToString(deterministic=True)
    with written(folder / "model.onnx") as part:
        part.write_bytes(content)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = ", ".join(output.name for output in session.get_outputs())
    return (
        f"onnxruntime {onnxruntime.__version__} loads it; its outputs are {outputs}; "
        "its answers were not compared with scikit-learn's"
    )
