"""Write a model in another format.

A job says how with ``@job.export``; without it scikit-learn's own converter to ONNX is tried on
the fields of the job's `Input`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.data import written
from slipway.errors import InputInvalid

if TYPE_CHECKING:
    from slipway.job import Job


def export_model(job: Job, out: Path) -> str:
    """Write ``out/export`` and return what was written and how it was checked, as lines.

    Raises InputInvalid when the model has no ONNX form.
    """
    folder = out / "export"
    folder.mkdir(parents=True, exist_ok=True)
    model = job.load(out / "model")
    told = job.exporter(model, folder) if job.exporter else _to_onnx(job, model, folder)
    sizes = [f"{path} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(folder.iterdir())]
    return "\n".join([*sizes, *([str(told)] if told else [])])


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
