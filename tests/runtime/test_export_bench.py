"""The smaller verbs: another format, and the speed of this machine."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from slipway import bench, export, store
from slipway.errors import BarMissed, DataUnavailable, InputInvalid
from slipway.export import apart, export_model
from slipway.types import Field, Input, Output, example


def test_bench_measures_each_batch_size_that_a_request_may_have(trained, monkeypatch) -> None:
    monkeypatch.setattr(bench, "BATCHES", (1, 5, 6))  # the toy takes five rows
    code, out, _ = trained("bench", "--seconds", "0.1", "--out", str(trained.out))
    told = json.loads((trained.out / "bench.json").read_text("utf-8"))

    assert 0 == code
    assert [1, 5] == [entry["rows"] for entry in told["score"]]
    assert all(0 < entry["p50_ms"] <= entry["p99_ms"] for entry in told["score"])
    assert all(entry["calls"] >= 3 for entry in told["score"])
    assert 4 == len(out.splitlines())


class Words(Input):
    text: str = Field(examples=["win a prize"])


class Verdict(Output):
    propensity: float


def test_a_text_model_becomes_onnx_that_gives_the_same_answers(trained) -> None:
    import numpy as np
    import onnxruntime

    job = trained.job
    model = job.load(trained.out / "model")

    def score(model: object, rows: list[Words]) -> list[Verdict]:
        return []

    job.score(score)
    told = export_model(job, trained.out)
    session = onnxruntime.InferenceSession(trained.out / "model" / "export" / "model.onnx")
    texts = ["win a prize", "see you"]
    labels, chances = session.run(None, {"text": np.array(texts).reshape(-1, 1)})

    assert "export/model.onnx" in told
    assert model.predict(texts).tolist() == [bool(label) for label in labels]
    np.testing.assert_allclose(
        model.predict_proba(texts)[:, 1], [chance[1] for chance in chances], atol=1e-5
    )


def test_a_jobs_own_export_is_used(trained) -> None:
    job = trained.job
    job.export(lambda model, folder: (folder / "words.txt").write_text("win") and "checked")

    assert export_model(job, trained.out).endswith("MB\nchecked")
    assert (trained.out / "model" / "export" / "words.txt").is_file()


def test_a_field_without_an_onnx_type_is_told(trained) -> None:
    class Odd(Input):
        flag: bool

    def score(model: object, rows: list[Odd]) -> list[Verdict]:
        return []

    score.__annotations__ = {"rows": list[Odd], "return": list[Verdict]}
    job = trained.job
    job.score(score)

    with pytest.raises(InputInvalid, match="field flag has no ONNX type"):
        export_model(job, trained.out)


def test_an_example_names_the_field_that_has_none() -> None:
    class Partial(Input):
        text: str
        weight: float = 1

    with pytest.raises(KeyError, match=r"Partial\.text has no examples"):
        example(Partial)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_is_a_finite_number(value) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Verdict(propensity=value)


EXPORTED = """

@job.held_out
def held_out(run: Run) -> list[Message]:
    return [Message(text=text) for text in read(run.prepared("held.tsv"))[0]]


@job.exported
def score_exported(session, rows: list[Message]) -> list[Verdict]:
    import numpy as np

    texts = np.array([row.text for row in rows]).reshape(-1, 1)
    chances = session.run(["output_probability"], {"text": texts})[0]
    found = [chance[1] for chance in chances]
    return [Verdict(prediction=value > 0.5, propensity=value) for value in found]


@job.export
def export(model, folder) -> None:
    import skl2onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer

    inputs = [("text", StringTensorType([None, 1]))]
    options = {TfidfVectorizer: {"locale": "C.UTF-8"}}
    graph = skl2onnx.to_onnx(model, initial_types=inputs, options=options)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
"""


@pytest.fixture
def exportable(trained):
    """A trained job that can score with its exported model."""
    path = trained.folder / "job.py"
    path.write_text(path.read_text("utf-8") + EXPORTED, "utf-8")
    return trained


def test_a_proven_export_is_what_auto_loads(exportable) -> None:
    job = exportable.job
    told = export_model(job, exportable.out)
    record = json.loads((exportable.out / "model" / "export.json").read_text("utf-8"))
    forms = {form: job.load(exportable.out / "model", form) for form in ("trained", "auto")}
    rows = [job.row(text=text) for text in ("win a prize", "see you")]
    answers = [job.answers(model, rows) for model in forms.values()]

    assert "answers like the trained model on 30 held-out rows" in told
    assert store.identity(exportable.out / "model") == record["model"]
    assert 30 == record["rows"]
    assert record["largest_difference"] <= record["tolerance"]
    assert ["trained", "exported"] == [job.form(model) for model in forms.values()]
    assert answers[0] != answers[1]  # float32, so it was not the trained model that answered
    assert all(apart(a.model_dump(), b.model_dump()) < 1e-6 for a, b in zip(*answers, strict=True))


def test_an_export_is_proven_on_the_cpu_and_on_the_gpu_that_is_here(
    exportable, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(export, "on_gpu", lambda spec: True)
    used = []
    load = store.load
    monkeypatch.setattr(
        store, "load", lambda *given, **more: used.append(more.get("gpu")) or load(*given, **more)
    )

    told = export_model(exportable.job, exportable.out)

    assert [False, True] == [gpu for gpu in used if gpu is not None][-2:]
    assert "on 30 held-out rows" in told
    assert "there is a GPU, but onnxruntime computes on the CPU" in capsys.readouterr().err


def test_a_proof_names_the_version_of_the_onnxruntime_for_cuda(trained, monkeypatch) -> None:
    def version(package: str) -> str:
        if package == "onnxruntime":
            raise PackageNotFoundError(package)
        return f"{package} 1.2"

    monkeypatch.setattr(export, "version", version)
    found = export.subject(trained.job, trained.out / "model")

    assert "onnxruntime-gpu 1.2" == found["onnxruntime"]


@pytest.mark.parametrize("changed", ["model", "export", "code", "onnxruntime"])
def test_a_proof_about_anything_else_proves_nothing(exportable, changed, capsys) -> None:
    job = exportable.job
    export_model(job, exportable.out)
    folder = exportable.out / "model"
    if changed == "model":
        from sklearn.linear_model import LogisticRegression

        store.save(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), folder)
    elif changed == "export":
        (folder / "export" / "more.txt").write_text("new", "utf-8")
    elif changed == "code":
        (exportable.folder / "more.py").write_text("NEW = 1", "utf-8")
    else:
        record = (folder / "export.json").read_text("utf-8")
        (folder / "export.json").write_text(record.replace('"onnxruntime": "', '"onnxruntime": "0'))

    with pytest.raises(DataUnavailable, match=f"is about {changed} .* run export again"):
        job.load(folder, "exported")
    assert "trained" == job.form(job.load(folder, "auto"))
    assert f"the trained model is used, not its exported form: {folder}" in capsys.readouterr().err


def test_an_export_that_differs_is_not_used(exportable) -> None:
    job = exportable.job
    export_model(job, exportable.out)
    job.tolerance = 0.0

    with pytest.raises(
        BarMissed, match=r"differ by \d\.\de-\d+ on 30 held-out rows; wanted 0e\+00"
    ):
        export_model(job, exportable.out)
    assert not (exportable.out / "model" / "export.json").exists()


LOSSY = """

from slipway.export import Lossy

exactly = export


@job.export
@click.option("--share", default=1.0, help="Rows that must be answered alike.")
@click.option("--wrong", default=0, help="Answers to turn round.")
def export_some(model, folder, share: float = 1.0, wrong: int = 0) -> Lossy:
    exactly(model, folder)
    (folder / "wrong.txt").write_text(str(wrong))
    return Lossy(share)


@job.exported
def score_badly(session, rows: list[Message]) -> list[Verdict]:
    from pathlib import Path

    wrong = int(Path(job.wrong_at, "wrong.txt").read_text())
    found = score_exported(session, rows)
    return [
        Verdict(prediction=answer.prediction ^ (place < wrong), propensity=answer.propensity / 2)
        for place, answer in enumerate(found)
    ]
"""


@pytest.mark.parametrize(("wrong", "wanted"), [(0, "100.0%"), (3, "90.0%")])
def test_a_lossy_form_is_proven_by_the_answers_that_it_shares(exportable, wrong, wanted) -> None:
    folder = exportable.out / "model"
    path = exportable.folder / "job.py"
    at = f"job.wrong_at = {str(folder / 'export')!r}\n"
    path.write_text(path.read_text("utf-8") + LOSSY + at, "utf-8")
    code, out, _ = exportable(
        "export", "--share", "0.9", "--wrong", str(wrong), "--out", str(exportable.out)
    )
    record = json.loads((folder / "export.json").read_text("utf-8"))

    assert 0 == code
    assert f"gives the trained model's answer to {wanted} of 30 held-out rows" in out
    assert (1 - wrong / 30, 0.9) == (record["alike"], record["wanted"])
    assert "exported" == exportable.job.form(exportable.job.load(folder, "auto"))
    code, _, err = exportable("export", "--wrong", "3", "--out", str(exportable.out))
    assert 3 == code
    assert "answer to 90.0% of 30 held-out rows; wanted 100%" in err
    assert not (folder / "export.json").exists()


def test_without_held_out_rows_nothing_is_proven(exportable) -> None:
    job = exportable.job
    job.held_out(lambda run: [])

    with pytest.raises(BarMissed, match="differ by inf on 0 held-out rows"):
        export_model(job, exportable.out)
    job.held_out_rows = None
    with pytest.raises(InputInvalid, match=r"@job\.exported needs the rows of @job\.held_out"):
        export_model(job, exportable.out)


@pytest.mark.parametrize("verb", [("serve",), ("score", "-", "-"), ("bench",)])
def test_an_exported_form_that_is_not_there_is_told(trained, verb) -> None:
    code, _, err = trained(*verb, "--form", "exported", "--out", str(trained.out))

    assert 5 == code
    assert "job toy has no @job.exported function" in err


def test_run_exports_at_its_end_and_train_alone_leaves_that_unused(exportable) -> None:
    out = ("--data", "sample", "--out", str(exportable.out))
    code, _, err = exportable("run", *out)

    assert 0 == code
    assert "answers like the trained model on 30 held-out rows" in err
    assert "exported" == exportable.job.form(exportable.job.load(exportable.out / "model", "auto"))

    exportable("train", "--decay", "0.5", *out)
    code, _, err = exportable("bench", "--seconds", "0.1", "--out", str(exportable.out))

    assert 0 == code
    assert "is about model" in err
    assert "trained" == json.loads((exportable.out / "bench.json").read_text("utf-8"))["form"]


def test_run_goes_on_with_the_trained_model_where_the_export_differs(exportable) -> None:
    path = exportable.folder / "job.py"
    path.write_text(path.read_text("utf-8") + "\njob.tolerance = 0.0\n", "utf-8")
    code, _, err = exportable("run", "--data", "sample", "--out", str(exportable.out))

    assert 0 == code
    assert "the trained model has no exported form to use: the exported model and" in err


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"a": 1.0, "b": [0.5, 2.0]}, {"a": 1.5, "b": [0.5, 2.25]}, 0.5),
        ({"label": True}, {"label": False}, float("inf")),
        ({"label": "spam"}, {"label": "spam"}, 0.0),
        ({"a": 1.0}, {"b": 1.0}, float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
        (1, 2, float("inf")),
    ],
)
def test_answers_are_apart_by_their_floats_alone(one, other, wanted) -> None:
    assert wanted == apart(one, other)
