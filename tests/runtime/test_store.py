"""Saved models: equal bytes for equal models, no pickle, and nothing untrusted."""

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from slipway import store
from slipway.errors import DataUnavailable, InputInvalid

FIT = """
import sys
from pathlib import Path
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from slipway import store
vectorizer = TfidfVectorizer(stop_words=["the"], ngram_range=(1, 2))
model = make_pipeline(vectorizer, LogisticRegression())
model.fit(["win a prize", "see you", "win the game", "see the sea"], [1, 0, 1, 0])
model.predict(["the prize"])
store.save(model, Path(sys.argv[1]))
"""


class Constant:
    """An estimator of the job's own."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def get_params(self) -> dict[str, int]:
        return {"value": self.value}


@pytest.fixture
def model():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])


@pytest.fixture
def graph():
    from onnx import TensorProto, helper

    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", *([k] for k in kinds)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_a_model_comes_back_as_it_was(model, tmp_path) -> None:
    store.save(model, tmp_path)
    loaded = store.load(tmp_path)

    assert ["SHA256SUMS", "model.skops"] == sorted(path.name for path in tmp_path.iterdir())
    assert model.predict_proba([[0.5]]).tolist() == loaded.predict_proba([[0.5]]).tolist()


def test_two_processes_save_equal_models_to_equal_bytes(tmp_path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(store.__file__).parents[1])}
    saving = [
        subprocess.Popen(
            [sys.executable, "-c", FIT, str(tmp_path / name)],
            env=environment | {"PYTHONHASHSEED": name},
        )
        for name in ("1", "2")
    ]

    assert [0, 0] == [process.wait(60) for process in saving]
    assert 1 == len({(tmp_path / name / "model.skops").read_bytes() for name in ("1", "2")})
    assert store.identity(tmp_path / "1") == store.identity(tmp_path / "2")
    assert [1] == store.load(tmp_path / "1").predict(["win a game"]).tolist()


def test_saving_again_gives_the_same_identity(model, tmp_path) -> None:
    store.save(model, tmp_path / "a")
    store.save(store.load(tmp_path / "a"), tmp_path / "b")

    assert store.identity(tmp_path / "a") == store.identity(tmp_path / "b")


def test_a_model_of_another_kind_takes_the_place_of_the_old_one(model, graph, tmp_path) -> None:
    store.save(model, tmp_path)
    store.save(graph, tmp_path)

    assert ["SHA256SUMS", "model.onnx"] == sorted(path.name for path in tmp_path.iterdir())

    store.save(model, tmp_path)

    assert ["SHA256SUMS", "model.skops"] == sorted(path.name for path in tmp_path.iterdir())


def test_each_flipped_byte_of_a_model_is_found(model, tmp_path) -> None:
    store.save(model, tmp_path)
    path = tmp_path / "model.skops"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputInvalid, match=r"model\.skops: damaged, or put there by hand"):
            store.load(tmp_path)


def test_a_model_without_checksums_is_loaded(model, tmp_path) -> None:
    store.save(model, tmp_path)
    (tmp_path / store.SUMS).unlink()

    assert 0 < store.load(tmp_path).predict_proba([[0.9]])[0, 0] < 1


def test_an_onnx_graph_comes_back_as_a_session(graph, tmp_path) -> None:
    import numpy as np

    store.save(graph, tmp_path)
    session = store.load(tmp_path)

    assert [2.0] == session.run(None, {"x": np.array([2.0], "float32")})[0].tolist()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_session_takes_the_threads_it_is_given(graph, tmp_path, threads) -> None:
    store.save(graph, tmp_path)
    options = store.load(tmp_path, threads=threads).get_session_options()

    assert (threads, 1) == (options.intra_op_num_threads, options.inter_op_num_threads)
    assert "0" == options.get_session_config_entry("session.intra_op.allow_spinning")


def test_a_session_keeps_nothing_of_the_shapes_that_it_saw(graph, tmp_path) -> None:
    store.save(graph, tmp_path)

    assert not store.load(tmp_path).get_session_options().enable_mem_pattern


class Cuda:
    """Stands in for onnxruntime on slipway/cuda: its library prints, its session may not start."""

    def __init__(self, monkeypatch, providers=(), error="") -> None:
        import onnxruntime

        self.real, self.given = onnxruntime.InferenceSession, {}
        self.providers, self.error = list(providers), error
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [store.CUDA, store.CPU])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load a.so"))
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.session)

    def session(self, path, options, providers, **given):
        if providers == [store.CPU]:
            return self.real(path, options, providers=providers)
        if self.error:
            raise RuntimeError(self.error)
        self.given = {"providers": providers, **given}
        return self

    def get_providers(self):
        return self.providers


def test_a_session_computes_on_the_gpu_exactly_and_says_so(
    graph, tmp_path, monkeypatch, capsys
) -> None:
    store.save(graph, tmp_path)
    cuda = Cuda(monkeypatch, [store.CUDA, store.CPU])

    assert cuda is store.load(tmp_path, gpu=True)
    assert {
        "providers": [(store.CUDA, {"use_tf32": "0"}), store.CPU],
        "enable_fallback": False,
    } == cuda.given
    told = capsys.readouterr()
    assert "model.onnx: onnxruntime computes on the GPU (CUDAExecutionProvider)" in told.err
    assert "" == told.out


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "slipway/cuda alone has the ONNX Runtime that can"),
        ({"error": "the driver is too old"}, "the driver is too old"),
        ({"providers": [store.CPU]}, "CUDA does not start; onnxruntime's lines above say why"),
    ],
)
def test_a_session_that_cannot_use_the_gpu_is_on_the_cpu_and_says_why(
    graph, tmp_path, monkeypatch, capsys, found, why
) -> None:
    store.save(graph, tmp_path)
    if found is not None:
        Cuda(monkeypatch, **found)

    assert [store.CPU] == store.load(tmp_path, gpu=True).get_providers()
    told = capsys.readouterr()
    assert f"there is a GPU, but onnxruntime computes on the CPU: {why}" in told.err
    assert "" == told.out


def test_a_type_without_a_known_format_is_refused(tmp_path) -> None:
    with pytest.raises(TypeError, match="dict is neither an estimator nor an ONNX model"):
        store.save({}, tmp_path)


def test_a_type_that_is_not_trusted_is_named_and_not_built(tmp_path) -> None:
    store.save(Constant(7), tmp_path)
    name = f"{Constant.__module__}.Constant"

    with pytest.raises(InputInvalid, match=r"model\.skops: holds types that are not trusted"):
        store.load(tmp_path)
    sys.modules.setdefault(Constant.__module__, sys.modules[__name__])

    assert 7 == store.load(tmp_path, [name]).value


def test_no_model_is_told(tmp_path) -> None:
    with pytest.raises(DataUnavailable, match="no model; run train first"):
        store.load(tmp_path)


@pytest.mark.parametrize("name", ["model.skops", "model.onnx"])
def test_bytes_that_are_no_model_are_invalid_input(name, tmp_path) -> None:
    (tmp_path / name).write_bytes(b"rubbish")

    with pytest.raises(InputInvalid, match=name):
        store.load(tmp_path)


def test_a_pickle_under_the_models_name_is_not_run(tmp_path) -> None:
    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple:
            return (Path.touch, (ran,))

    (tmp_path / "model.skops").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputInvalid):
        store.load(tmp_path)

    assert not ran.exists()


def test_a_saved_model_holds_no_pickle(model, tmp_path) -> None:
    store.save(model, tmp_path)
    with zipfile.ZipFile(tmp_path / "model.skops") as archive:
        names = archive.namelist()
        starts = {archive.read(name)[:6] for name in names if name.endswith(".npy")}

    assert {"json", "npy"} == {name.rpartition(".")[2] for name in names}
    assert {b"\x93NUMPY"} == starts


def test_every_damage_to_a_file_is_invalid_input_or_harmless(model, tmp_path) -> None:
    store.save(model, tmp_path)
    whole = (tmp_path / "model.skops").read_bytes()
    digest = hashlib.sha256(whole).digest()
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole[:place] if place % 2 else whole)
        for step in range(4):
            if place + step < len(damaged):
                damaged[place + step] ^= digest[step] | 1
        (tmp_path / "model.skops").write_bytes(damaged)
        with contextlib.suppress(InputInvalid):  # any other error fails the test
            store.load(tmp_path)
