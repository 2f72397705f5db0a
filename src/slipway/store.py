"""Save and load a model without pickle: nothing that is loaded can run code.

scikit-learn estimators go through skops, which rebuilds only types on its list; a PyTorch network
is its tensors in a safetensors file with the name of its class and its settings; ONNX graphs are
kept as they are. Two equal models give equal bytes: a skops archive holds memory addresses and the
time, and both are taken out here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from slipway.data import sha256_of, written
from slipway.errors import DataUnavailable, InputInvalid
from slipway.logs import say

EPOCH = (1980, 1, 1, 0, 0, 0)
IDENTITY = re.compile(r'("__id__": |"file": ")(\d+)')
STOP_WORDS = re.compile(r'("_stop_words_id": \{[^{}]*"content": ")\d+')
SKOPS, ONNX, NETWORK = "model.skops", "model.onnx", "model.safetensors"
SUMS = "SHA256SUMS"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# TensorFloat-32 has ten bits where a float has 23: answers would differ from the trained model's.
EXACT = {"use_tf32": "0"}


def save(model: Any, folder: Path) -> None:
    """Write ``model`` to ``folder``, replacing what is there.

    It is an estimator, an ONNX ModelProto, or a `torch.nn.Module` whose ``settings`` are the
    keyword arguments that made it, as JSON can hold them. Raises TypeError for any other type: no
    format without pickle is known for it.
    """
    name, write = _form(model)
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / name) as part:
        write(model, part)
    for other in {SKOPS, ONNX, NETWORK} - {name}:
        (folder / other).unlink(missing_ok=True)
    with written(folder / SUMS) as part:
        part.write_text(f"{sha256_of(folder / name)}  {name}\n", "utf-8")


def _form(model: Any) -> tuple[str, Callable[[Any, Path], None]]:
    if hasattr(model, "get_params"):
        return SKOPS, _save_skops
    if hasattr(model, "SerializeToString"):
        return ONNX, _save_onnx
    if hasattr(model, "load_state_dict") and hasattr(model, "settings"):
        return NETWORK, _save_network
    raise TypeError(
        f"{type(model).__name__} is neither an estimator nor an ONNX model nor a network that "
        "keeps its settings"
    )


def load(folder: Path, trusted: Sequence[str] = (), threads: int = 1, gpu: bool = False) -> Any:
    """Return the model that `save` wrote; an ONNX graph as an onnxruntime session.

    ``trusted`` lists the job's own types by full name; ``threads`` share the work of one call of
    a session, 0 for all cores: several workers have one each. With ``gpu`` a session computes
    there, or says why it cannot. Raises DataUnavailable when there is no model and InputInvalid
    when the file holds a type that is not trusted or is damaged.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        SKOPS: partial(_load_skops, trusted=trusted),
        NETWORK: partial(_load_network, trusted=trusted),
        ONNX: partial(_load_onnx, threads=threads, gpu=gpu),
    }
    for path, read in ((folder / name, read) for name, read in readers.items()):
        if path.is_file():
            _check(path)
            return read(path)
    raise DataUnavailable(f"{folder}: no model; run train first, or mount one there")


def _check(path: Path) -> None:
    """Compare a model with the checksum that `save` wrote: no format finds every flipped bit."""
    sums = path.with_name(SUMS)
    lines = sums.read_text("utf-8", "replace").splitlines() if sums.is_file() else []
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = sha256_of(path)
    if wanted.get(path.name, found) != found:
        raise InputInvalid(
            f"{path}: damaged, or put there by hand: its sha256 is {found}, wanted "
            f"{wanted[path.name]} as {sums.name} beside it says"
        )


def identity(folder: Path) -> str:
    """Return 12 hex digits that name a saved model: sha256 over its files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("model.*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _save_skops(model: Any, path: Path) -> None:
    import skops.io

    skops.io.dump(model, path)
    _normalise(path)


def _save_onnx(model: Any, path: Path) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))


def _save_network(model: Any, path: Path) -> None:
    """Write tensors and, as one entry, what makes the network: more come in any order."""
    from safetensors.torch import save

    made = {"class": full_name(type(model)), "settings": model.settings}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(tensors, {"network": json.dumps(made, sort_keys=True)}))


def full_name(kind: type) -> str:
    """Return the name of a type as ``trusted`` lists it: module and class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _load_network(path: Path, trusted: Sequence[str]) -> Any:
    """Make the network anew and fill it; nothing is imported before its name was found trusted."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            made = json.loads((file.metadata() or {})["network"])
            name, settings = made["class"], dict(made["settings"])
            if name not in trusted:
                raise InputInvalid(f"{path}: holds types that are not trusted: ['{name}']")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        module, _, kind = name.rpartition(".")
        network = getattr(importlib.import_module(module), kind)(**settings)
        network.load_state_dict(tensors, strict=True)
    except (InputInvalid, MemoryError):
        raise
    except Exception as error:  # damaged bytes surface in the header, JSON, the class or torch
        raise InputInvalid(f"{path}: no network ({error!r})") from None
    return network.eval()


def _load_onnx(path: Path, threads: int, gpu: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A thread that spins while it waits takes the core from another worker.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # It keeps a plan of memory for each shape of inputs that it ever saw: a scorer of texts, whose
    # batches have a new shape nearly every time, grew by 170 bytes a batch for ever.
    options.enable_mem_pattern = False
    session = _on_gpu(path, options) if gpu else None
    try:
        return session or onnxruntime.InferenceSession(path, options, providers=[CPU])
    except Exception as error:  # onnxruntime's errors have no other type in common
        raise InputInvalid(f"{path}: no ONNX model ({error})") from None


def _on_gpu(path: Path, options: Any) -> Any:
    """Return a session that computes on the GPU, or None where it cannot; both are said.

    Left to itself onnxruntime would go on on the CPU, and print that among the results.
    """
    import onnxruntime

    why = "slipway/cuda alone has the ONNX Runtime that can"
    if CUDA in onnxruntime.get_available_providers():
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=[(CUDA, EXACT), CPU], enable_fallback=False
            )
            if CUDA in session.get_providers():
                say(f"{path.name}: onnxruntime computes on the GPU ({CUDA})")
                return session
            why = "CUDA does not start; onnxruntime's lines above say why"
        except Exception as error:  # onnxruntime's errors have no other type in common
            why = str(error)
    say(f"{path.name}: there is a GPU, but onnxruntime computes on the CPU: {why}", "WARNING")
    return None


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
