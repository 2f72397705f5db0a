"""Exported models: how this job writes its own, and how it takes one that another job exported.

What a model wants and gives is part of its ONNX file, as JSON in its metadata: ``labels``, in the
order of its output. Of a file without it the labels stand beside it in ``labels.json``. Pictures
go in as (n, channels, side, side) float32 in [0, 1]; logits or chances come out, as
the first output or the one named ``chances``.

Data:    model.onnx, in the folder or below it in ``model/export`` or ``export``.
Source:  onnx/onnx, docs/IR.md (metadata_props).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import DataUnavailable, InputInvalid

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from onnxruntime import InferenceSession

CHANCES = "chances"
"""The output that is taken where a model has several."""
PLACES = ("", "export", "model/export", "model")
NAMES = ("labels", "classes")


def write(model: Any, folder: Path) -> None:
    """Write a network, or the session of a model that was taken, as ``folder/model.onnx``."""
    import torch

    from slipway import networks, store

    if hasattr(model, "get_modelmeta"):  # it is the exported form already, in the model's folder
        store.save(_graph(folder.parent / "model.onnx"), folder)
        return
    known = model.settings
    chances = torch.nn.Sequential(model, torch.nn.Softmax(dim=1)).eval()
    example = torch.rand(2, known["channels"], known["side"], known["side"])
    graph = networks.to_onnx(chances, example, "pictures", CHANCES)
    store.save(told(graph, {"labels": known["labels"]}), folder)


def told(graph: ModelProto, facts: dict[str, Any]) -> ModelProto:
    """Return a graph with facts in its metadata."""
    kept = [entry for entry in graph.metadata_props if entry.key not in facts]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    for key, value in sorted(facts.items()):
        graph.metadata_props.add(key=key, value=json.dumps(value))
    return graph


def read(place: Path) -> ModelProto:
    """Return an exported model with its labels. Raises DataUnavailable where there is none."""
    tried = [place] if place.is_file() else [place / part / "model.onnx" for part in PLACES]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise DataUnavailable(
            f"{place}: found no model.onnx; wanted the folder of an exported model"
        )
    graph = _graph(path)
    labels = _labels(graph, path)
    _check(graph, path, labels)
    return told(graph, {"labels": labels})


def _graph(path: Path) -> ModelProto:
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # damaged bytes surface in protobuf or in onnx
        raise InputInvalid(f"{path}: no ONNX model ({error})") from None


def _labels(graph: ModelProto, path: Path) -> list[str]:
    """Return the labels that the file or what stands beside it tells."""
    props = {entry.key: entry.value for entry in graph.metadata_props}
    texts = [(f"{path}, {name}", props[name]) for name in NAMES if name in props]
    folders = [path.parent, path.parent.parent, path.parent.parent.parent]
    beside = [folder / f"{name}.json" for folder in folders for name in NAMES]
    texts += [(str(file), file.read_text("utf-8")) for file in beside if file.is_file()]
    if not texts:
        raise InputInvalid(
            f"{path}: found no labels in it, nor labels.json beside it; wanted a list"
        )
    where, text = texts[0]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputInvalid(f"{where}: no JSON ({error})") from None
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise InputInvalid(f"{where}: found {text[:80]!r}; wanted a list of labels")
    return found


def _check(graph: ModelProto, path: Path, labels: list[str]) -> None:
    """Raise InputInvalid for a model that takes no pictures or does not answer for each label."""
    import numpy as np
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        known = shape(session)
        found = chances(
            session, np.zeros((2, known["channels"], known["side"], known["side"]), "uint8")
        )
    except InputInvalid as error:
        raise InputInvalid(f"{path}: {error}") from None
    except Exception as error:  # onnxruntime's errors have no other type in common
        raise InputInvalid(f"{path}: does not take pictures ({error})") from None
    if found.shape != (2, len(labels)):
        raise InputInvalid(
            f"{path}: found {found.shape} of two pictures; wanted (2, {len(labels)})"
        )


def shape(session: InferenceSession) -> dict[str, int]:
    """Return channels and side of the pictures that a model takes.

    A model that takes any size tells in its metadata at which ``side`` it was trained.
    """
    given = session.get_inputs()[0].shape
    told = session.get_modelmeta().custom_metadata_map.get("side", "")
    side = given[2] if len(given) == 4 and isinstance(given[2], int) else told
    if len(given) != 4 or given[1] not in (1, 3) or not str(side).isdecimal():
        raise InputInvalid(f"found an input of {given}; wanted (n, 1 or 3, side, side)")
    return {"channels": given[1], "side": int(side)}


def facts(session: InferenceSession) -> dict[str, Any]:
    """Return labels, channels and side of a loaded model."""
    props = session.get_modelmeta().custom_metadata_map
    return {"labels": json.loads(props["labels"]), **shape(session)}


def chances(session: InferenceSession, given: np.ndarray) -> np.ndarray:
    """Return the chance of each label for pictures uint8; logits become chances."""
    import numpy as np

    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    wanted = CHANCES if CHANCES in outputs else outputs[0]
    (found,) = session.run([wanted], {name: np.divide(given, 255, dtype=np.float32)})
    if (found >= 0).all() and np.allclose(found.sum(axis=1), 1, atol=1e-3):
        return np.asarray(found)
    shifted = np.exp(found - found.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
