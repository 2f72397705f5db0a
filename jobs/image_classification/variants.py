"""Every form of the network side by side: size, accuracy, latency and throughput.

All are timed in turns, round after round, so that what else the machine does meets each alike.
Times are of this machine and this moment: they go into a table, never into the metrics.

Data:    the held-out split; ``variants/<name>/model.onnx`` of the artifacts.
Source:  none for the times; onnxruntime and TensorRT by their documentation.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import store
from slipway.errors import DataUnavailable, DeviceAbsent
from slipway.logs import say

from . import explain

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

    from .data import Split

FOLDER = "variants"
BATCHES = (1, 32)
ROUNDS = 9
ROUND_SECONDS = 0.12
EAGER = "PyTorch, eager"
BACKENDS = ("cpu", "cuda", "tensorrt")
WIDEST = 256
"""Pictures in a batch of a TensorRT engine, at most."""

Model = Callable[["np.ndarray"], "np.ndarray"]
"""From pixels (n, 3, side, side) float32 to chances (n, k)."""


def found_in(out: Path) -> dict[str, Path]:
    """Return the folders of the forms that `compress` has made, by name."""
    folders = sorted(path.parent for path in (out / FOLDER).glob(f"*/{store.ONNX}"))
    if not folders:
        raise DataUnavailable(f"{out / FOLDER}: no variant; run compress first")
    return {folder.name: folder for folder in folders}


def eager(network: Module) -> Model:
    """Return the trained network as PyTorch runs it."""
    import torch

    def chances(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = torch.softmax(network(torch.from_numpy(pixels)) / network.temperature, dim=1)
        return found.numpy()

    return chances


def loaded(folder: Path, backend: str, threads: int) -> Model:
    """Return a variant in onnxruntime or TensorRT; DeviceAbsent where that is not here."""
    if backend == "tensorrt":
        return engine(folder)
    session = store.load(folder, threads=threads) if backend == "cpu" else cuda_session(folder)
    return lambda pixels: session.run(["chances"], {"pixels": pixels})[0]


def cuda_session(folder: Path) -> Any:
    """Return a session of onnxruntime on the GPU; DeviceAbsent where that cannot be."""
    import onnxruntime

    have = onnxruntime.get_available_providers()
    if store.CUDA not in have:
        raise DeviceAbsent(
            f"onnxruntime here has no CUDA; found {', '.join(have)}. It needs the image on "
            "slipway/cuda (GPU=1) and a container started with --gpus all"
        )
    require_gpu("onnxruntime's CUDA provider")
    session = store.load(folder, gpu=True)
    if store.CUDA not in session.get_providers():
        raise DeviceAbsent("onnxruntime cannot use the GPU here; the lines above say why")
    return session


def require_gpu(what: str) -> None:
    """Raise DeviceAbsent where PyTorch finds no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise DeviceAbsent(
            f"{what} needs an NVIDIA GPU, and none is here; start the container with --gpus all"
        )


def engine(folder: Path) -> Model:
    """Return a variant as a TensorRT engine, built once for each GPU and TensorRT's version."""
    trt, torch = tensorrt()
    gpu = torch.cuda.get_device_name().replace(" ", "-")
    logger = trt.Logger(trt.Logger.WARNING)
    name = f"{store.identity(folder)}-{gpu}-trt{trt.__version__}.plan"
    path = folder / name
    if not path.is_file():
        say(f"tensorrt: building {path}; this takes a minute or more, once")
        path.write_bytes(plan(trt, logger, (folder / store.ONNX).read_bytes()))
    built = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    if built is None:
        raise DataUnavailable(f"{path}: TensorRT cannot read it; delete it to build it anew")
    context = built.create_execution_context()

    def chances(pixels: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(pixels).cuda()
        context.set_input_shape("pixels", tuple(given.shape))
        tensors = {"pixels": given}
        for place in range(built.num_io_tensors):
            told = built.get_tensor_name(place)
            if told != "pixels":
                shape = tuple(context.get_tensor_shape(told))
                tensors[told] = torch.empty(shape, dtype=torch.float32, device="cuda")
        for told, tensor in tensors.items():
            context.set_tensor_address(told, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return tensors["chances"].cpu().numpy()

    return chances


def tensorrt() -> tuple[Any, Any]:
    """Return the modules of TensorRT and PyTorch; DeviceAbsent, in words, where one lacks."""
    import torch

    require_gpu("TensorRT")
    try:
        import tensorrt as trt
    except ImportError:
        raise DeviceAbsent(
            "TensorRT is not in this image: its libraries are published at NVIDIA's own index "
            "alone; docs/04-images.md says how to add them"
        ) from None
    return trt, torch


def plan(trt: Any, logger: Any, content: bytes) -> bytes:
    """Return the engine of an ONNX graph for batches of 1 to `WIDEST`, as bytes."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        told = "; ".join(str(parser.get_error(place)) for place in range(parser.num_errors))
        raise DataUnavailable(f"TensorRT does not take this variant: {told}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("pixels", (1, *shape), (32, *shape), (WIDEST, *shape))
    config.add_optimization_profile(profile)
    found = builder.build_serialized_network(network, config)
    if found is None:
        raise DataUnavailable("TensorRT built no engine of this variant; its log says why")
    return bytes(found)


def chances_of(run: Model, images: np.ndarray, batch: int = 100) -> np.ndarray:
    """Return the chances (n, k) of images (n, side, side, 3) uint8."""
    import numpy as np

    parts = [images[place : place + batch] for place in range(0, len(images), batch)]
    return np.concatenate([run(explain.pixels_of(part).numpy()) for part in parts])


def times(models: Mapping[str, Model], images: np.ndarray, batch: int) -> dict[str, list[float]]:
    """Return the seconds of each call, of all models in turns."""
    import numpy as np

    chosen = images[np.arange(batch) % len(images)]
    pixels = explain.pixels_of(chosen).numpy()
    took: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 1):
        for name, run in models.items():
            end = time.perf_counter() + ROUND_SECONDS
            while (started := time.perf_counter()) < end:
                run(pixels)
                if turn:  # the first round warms up
                    took[name].append(time.perf_counter() - started)
    return took


def row(name: str, folder: Path | None, found: np.ndarray, test: Split) -> dict[str, Any]:
    """Return what does not depend on the machine: size and accuracy of one form."""
    content = (folder / store.ONNX).read_bytes() if folder else b""
    return {
        "variant": name,
        "file (kB)": round(len(content) / 1e3, 1) if folder else None,
        "file, gzip (kB)": round(len(gzip.compress(content, 6)) / 1e3, 1) if folder else None,
        "accuracy": float((found.argmax(axis=1) == test.labels).mean()),
    }


def timed(models: Mapping[str, Model], images: np.ndarray) -> dict[str, dict[str, float]]:
    """Return latency and throughput of each model at each batch size."""
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for batch in BATCHES:
        for name, took in times(models, images, batch).items():
            ordered = sorted(took)
            middle = ordered[len(ordered) // 2]
            found[name] |= {
                f"p50 (ms), batch {batch}": middle * 1e3,
                f"p99 (ms), batch {batch}": ordered[int(len(ordered) * 0.99)] * 1e3,
                f"pictures/s, batch {batch}": batch / middle,
            }
    return found


def bars(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how the eight bits and onnxruntime compare, beside what is wanted of them."""
    by_name = {entry["variant"]: entry for entry in rows}
    latency = "p50 (ms), batch 1"
    whole, small, slow = by_name["float32"], by_name["int8"], by_name[EAGER]
    told = [
        ("onnxruntime's float over eager PyTorch, batch 1", slow[latency] / whole[latency], 2.0),
        ("eight bits over onnxruntime's float, batch 1", whole[latency] / small[latency], 1.8),
        ("file of float over eight bits", whole["file (kB)"] / small["file (kB)"], 3.5),
    ]
    found = [
        {"what": what, "found": value, "wanted": f">= {least:g}",
         "verdict": "reached" if value >= least else "missed"}
        for what, value, least in told
    ]  # fmt: skip
    lost = 100 * (whole["accuracy"] - small["accuracy"])
    verdict = "reached" if abs(lost) <= 0.5 else "missed"
    return [*found, {"what": "accuracy lost by eight bits (points)", "found": lost,
                     "wanted": "within 0.5", "verdict": verdict}]  # fmt: skip
