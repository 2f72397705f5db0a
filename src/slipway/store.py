"""Save and load a model without pickle: nothing that is loaded can run code.

scikit-learn estimators go through skops, which rebuilds only types on its list; ONNX graphs
are kept as they are. Two equal models give equal bytes: a skops archive holds memory addresses
and the time, and both are taken out here.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.data import written
from slipway.errors import DataUnavailable, InputInvalid

EPOCH = (1980, 1, 1, 0, 0, 0)
IDENTITY = re.compile(r'("__id__": |"file": ")(\d+)')
STOP_WORDS = re.compile(r'("_stop_words_id": \{[^{}]*"content": ")\d+')
SKOPS, ONNX = "model.skops", "model.onnx"


def save(model: Any, folder: Path) -> None:
    """Write ``model`` (an estimator or an ONNX ModelProto) to ``folder``, replacing what is there.

    Raises TypeError for any other type: no format without pickle is known for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "get_params"):
        import skops.io

        with written(folder / SKOPS) as part:
            skops.io.dump(model, part)
            _normalise(part)
        (folder / ONNX).unlink(missing_ok=True)
    elif hasattr(model, "SerializeToString"):
        with written(folder / ONNX) as part:
            part.write_bytes(model.SerializeToString(deterministic=True))
        (folder / SKOPS).unlink(missing_ok=True)
    else:
        raise TypeError(f"{type(model).__name__} is neither an estimator nor an ONNX model")


def load(folder: Path, trusted: Sequence[str] = (), threads: int = 1) -> Any:
    """Return the model that `save` wrote; an ONNX graph as an onnxruntime session.

    ``trusted`` lists the job's own types by full name; ``threads`` share the work of one call of
    a session, 0 for all cores: several workers have one each. Raises DataUnavailable when there
    is no model and InputInvalid when the file holds a type that is not trusted or is damaged.
    """
    if (folder / SKOPS).is_file():
        return _load_skops(folder / SKOPS, trusted)
    if (folder / ONNX).is_file():
        return _load_onnx(folder / ONNX, threads)
    raise DataUnavailable(f"{folder}: no model; run train first, or mount one there")


def identity(folder: Path) -> str:
    """Return 12 hex digits that name a saved model: sha256 over its files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("model.*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _load_onnx(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A thread that spins while it waits takes the core from another worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other type in common
        raise InputInvalid(f"{path}: no ONNX model ({error})") from None


def _load_skops(path: Path, trusted: Sequence[str]) -> Any:
    import skops.io

    try:
        unknown = set(skops.io.get_untrusted_types(file=path)) - set(trusted)
        if unknown:
            raise InputInvalid(f"{path}: holds types that are not trusted: {sorted(unknown)}")
        return skops.io.load(path, trusted=list(trusted))
    except (InputInvalid, MemoryError):
        raise
    except Exception as error:  # damaged bytes surface in zip, JSON, numpy or the estimator
        raise InputInvalid(f"{path}: no skops file ({error!r})") from None


def _normalise(path: Path) -> None:
    """Rewrite a skops archive so that its bytes depend on the model alone.

    skops names an object by its address in memory; here each gets the number of its first
    appearance instead, and every entry the same date. A text vectorizer also keeps the address
    of its stop words, only to warn once about them.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = entries.pop("schema.json").decode()
    order = list(dict.fromkeys(found[2] for found in IDENTITY.finditer(schema)))
    number = {address: str(place) for place, address in enumerate(order)}
    schema = IDENTITY.sub(lambda found: found[1] + number[found[2]], schema)
    schema = STOP_WORDS.sub(r"\g<1>0", schema)
    renamed = {_renumber(name, number): content for name, content in entries.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in ["schema.json", *sorted(renamed)]:
            content = schema.encode() if name == "schema.json" else renamed[name]
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)


def _renumber(name: str, number: dict[str, str]) -> str:
    stem, dot, kind = name.partition(".")
    return number.get(stem, stem) + dot + kind
