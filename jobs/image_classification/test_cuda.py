"""What the job needs of its image on slipway/cuda, whose wheels use the CPU without a GPU."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import distributions, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.capi import build_and_package_info as package

from jobs.image_classification import data, explain, trust, variants
from jobs.image_classification.job import job
from jobs.image_classification.test_job import QUICK, fitted
from slipway import store
from slipway.run import read_json
from slipway.verbs import invoke

GPU = torch.cuda.is_available()

pytestmark = pytest.mark.skipif(not torch.version.cuda, reason="this image is not on slipway/cuda")
with_gpu = pytest.mark.skipif(not GPU, reason="there is no GPU")
without_gpu = pytest.mark.skipif(GPU, reason="there is a GPU")
with_tensorrt = pytest.mark.skipif(not find_spec("tensorrt"), reason="TensorRT is not here")


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The artifacts of a short training and its exported graph, as a form to measure."""
    folder = tmp_path_factory.mktemp("artifacts")
    given = ["--out", str(folder)]
    invoke(job, ["prepare", "--data", "sample", "--limit", "300", *given])
    invoke(job, ["train", "--family", "small_cnn", "--augment", "none", "--epochs", "1", *given])
    invoke(job, ["export", *given])
    graph = folder / "model" / "export" / store.ONNX
    form = folder / variants.FOLDER / "float32" / store.ONNX
    form.parent.mkdir(parents=True)
    form.write_bytes(graph.read_bytes())
    return folder


@pytest.fixture(scope="module")
def test(out):
    return data.read(out / "data" / "test.npz")


def test_there_is_one_onnxruntime_for_the_cuda_that_pytorch_is_for():
    names = {entry.name for entry in distributions() if entry.name.startswith("onnxruntime")}
    assert names == {"onnxruntime-gpu"}
    assert onnxruntime.__version__ == version("onnxruntime-gpu")
    assert store.CUDA in onnxruntime.get_available_providers()
    ours, theirs = (told.split(".")[0] for told in (package.cuda_version, torch.version.cuda))
    assert ours == theirs


PRELOAD = """
import onnxruntime
onnxruntime.preload_dlls()
print(open("/proc/self/maps").read())
"""


def test_the_cuda_provider_finds_every_library_but_the_driver():
    """The wheels' libraries lie where no loader looks, so they are loaded before the provider."""
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    told = subprocess.check_output(["ldd", str(provider)], text=True)
    absent = set(re.findall(r"(\S+) => not found", told))
    assert absent, "nothing is to be loaded first"
    loaded = set(re.findall(r"[^/\s]+\.so[.\d]*$", python("-c", PRELOAD).stdout, re.M))
    assert absent - loaded <= {"libcuda.so.1"}


@pytest.mark.parametrize("mixed", [False, True], ids=["whole", "half precision"])
def test_a_few_steps_of_training_learn(tmp_path, mixed):
    network, curve = fitted(tmp_path, replace(QUICK, mixed=mixed))
    losses = [entry["validation loss"] for entry in curve]
    assert losses[-1] < 0.9 * losses[0]
    assert next(network.parameters()).dtype == torch.float32


def test_a_run_is_recorded_with_the_device_it_was_on(out):
    assert read_json(out / "run.json")["train"]["device"] == ("cuda" if GPU else "cpu")


@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=with_gpu)], ids=["CPU", "GPU"])
def test_the_graph_answers_like_the_network(out, test, gpu):
    session = store.load(out / "model" / "export", gpu=gpu)
    assert session.get_providers()[0] == (store.CUDA if gpu else store.CPU)
    network, images = job.load(out / "model"), test.images[:50]
    found = session.run(["chances"], {"pixels": explain.pixels_of(images).numpy()})[0]
    logits = trust.logits_of(network, images)
    wanted = trust.softmax(logits, float(network.temperature))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@without_gpu
def test_a_session_for_a_gpu_that_is_not_there_is_on_the_cpu_and_says_so(out, capfd):
    session = store.load(out / "model" / "export", gpu=True)
    assert session.get_providers() == [store.CPU]
    told = capfd.readouterr()
    assert "there is a GPU, but onnxruntime computes on the CPU" in told.err
    assert told.out == ""


@without_gpu
@pytest.mark.parametrize(
    ("backend", "what"), [("cuda", "onnxruntime's CUDA provider"), ("tensorrt", "TensorRT")]
)
def test_a_backend_without_a_gpu_is_refused(out, backend, what):
    done = python("-m", "slipway", "variants", "--backend", backend, "--out", str(out))
    assert (done.returncode, done.stdout) == (4, "")
    assert f"error: {what} needs an NVIDIA GPU, and none is here" in done.stderr
    assert "--gpus all" in done.stderr


@with_gpu
@pytest.mark.parametrize("backend", ["cuda", pytest.param("tensorrt", marks=with_tensorrt)])
def test_a_backend_measures_the_forms_on_the_gpu(out, backend):
    done = python("-m", "slipway", "variants", "--backend", backend, "--out", str(out))
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / variants.FOLDER / "table.json").read_text("utf-8"))
    (row,) = (entry for entry in rows if entry["variant"] == "float32")
    assert 0 < row["p50 (ms), batch 1"] < 1000
