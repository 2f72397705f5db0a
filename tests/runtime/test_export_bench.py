"""The smaller verbs: another format, and the speed of this machine."""

import json

import pytest

from slipway.errors import InputInvalid
from slipway.export import export_model
from slipway.types import Field, Input, Output, example


def test_bench_measures_each_batch_size(trained) -> None:
    code, out, _ = trained("bench", "--seconds", "0.1", "--out", str(trained.out))
    told = json.loads((trained.out / "bench.json").read_text("utf-8"))

    assert 0 == code
    assert [1, 8, 64, 512] == [entry["rows"] for entry in told["score"]]
    assert all(0 < entry["p50_ms"] <= entry["p99_ms"] for entry in told["score"])
    assert all(entry["calls"] >= 3 for entry in told["score"])
    assert 6 == len(out.splitlines())


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
    session = onnxruntime.InferenceSession(trained.out / "export" / "model.onnx")
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
    assert (trained.out / "export" / "words.txt").is_file()


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
