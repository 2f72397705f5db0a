"""The job on its own sample, and its maths against numbers worked by hand."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from jobs.spam import generator, graph, measures, messages, models, rules, terms
from jobs.spam.job import (
    Message,
    evaluate,
    export,
    job,
    prepare,
    score,
    score_exported,
    score_messages,
    train,
)
from slipway import store
from slipway.errors import BarMissed, InputInvalid, Stopped
from slipway.export import export_model
from slipway.run import Options, Run

SPAM = np.array([False, False, True, False, True, True])
PROPENSITY = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
# Called spam from each threshold up: 0.9 -> 1 of 1 right, 0.6 -> 2 of 2, 0.4 -> 2 of 3,
# 0.3 -> 3 of 4, 0.2 -> 3 of 5, 0.1 -> 3 of 6.


def a_run(out: Path, verb: str, seed: int = 0) -> Run:
    return Run(job.spec, out, verb, Options(seed=seed, data="sample"))


def prepared(out: Path) -> Path:
    run = a_run(out, "prepare")
    prepare(run, seed=0)
    run.finish()
    return out


@pytest.fixture(scope="module", autouse=True)
def small_grid():
    """Three candidates instead of thirty: what is tested is not the size of the search."""
    smallest = {name: {key: value[:1] for key, value in grid.items()}
                for name, grid in models.GRID.items()}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "GRID", smallest)
        patch.setattr(Run, "track", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An artifacts folder after prepare and train."""
    out = prepared(tmp_path_factory.mktemp("artifacts"))
    run = a_run(out, "train")
    store.save(train(run, precision=0.9), out / "model")
    run.finish()
    return out


@pytest.fixture(scope="module")
def model(trained):
    return store.load(trained / "model")


# score(): the eight tests


def test_score_answers(model):
    assert score("are we still on for lunch?", model, 0.5) is not None


def test_score_has_the_agreed_types(model):
    prediction, propensity = score("hello", model, 0.5)
    assert (type(prediction), type(propensity)) == (bool, float)


def test_prediction_is_0_or_1(model):
    assert {int(score(text, model, 0.5)[0]) for text in ("hello", "WIN cash", "")} <= {0, 1}


@pytest.mark.parametrize("text", ["", "hello", "WIN FREE cash " * 600])
def test_propensity_is_strictly_inside_0_and_1(model, text):
    assert 0 < score(text, model, 0.5)[1] < 1


@pytest.mark.parametrize("text", ["", "hello", "WIN FREE cash " * 600])
def test_threshold_0_always_predicts_spam(model, text):
    assert score(text, model, 0)[0] is True


@pytest.mark.parametrize("text", ["", "hello", "WIN FREE cash " * 600])
def test_threshold_1_never_predicts_spam(model, text):
    assert score(text, model, 1)[0] is False


def test_obvious_spam_is_spam(model):
    text = "WINNER!! You have won £1000 cash. Call 07700900123 now to claim your free prize"
    assert score(text, model, model.threshold)[0] is True


def test_obvious_ham_is_ham(model):
    text = "hi mum, running late, see you at the station around 6"
    assert score(text, model, model.threshold)[0] is False


# The batch scorer


def test_order_is_kept_and_a_batch_scores_like_its_rows(model):
    rows = [Message(text=entry.text) for entry in generator.generate(seed=7, number=50)]
    together = score_messages(model, rows)
    assert together == [score_messages(model, [row])[0] for row in rows]
    assert together[::-1] == score_messages(model, rows[::-1])
    assert score_messages(model, []) == []


def test_a_model_scores_the_same_after_save_and_load(model, tmp_path):
    rows = [Message(text="free entry, txt WIN"), Message(text="see you soon")]
    store.save(model, tmp_path)
    assert score_messages(store.load(tmp_path), rows) == score_messages(model, rows)


# Training and evaluation


def test_the_model_beats_a_constant_guess_and_nears_the_oracle(trained, model):
    run = a_run(trained, "evaluate")
    evaluate(run, model)
    constant = 0.16  # a constant guess has the share of spam as its average precision
    assert run.metrics["average_precision"] > 4 * constant
    assert run.metrics["ap_of_oracle"] >= 0.97
    assert {piece["kind"] for piece in run.pieces} == {"figure", "table", "note"}


def test_training_that_was_stopped_resumes_to_the_same_model(trained, tmp_path):
    out = prepared(tmp_path)
    first = a_run(out, "train")
    first.stopping = True  # as SIGTERM sets it
    with pytest.raises(Stopped):
        train(first, precision=0.9)
    second = a_run(out, "train")
    assert len(second.resume()["tried"]) == 1
    store.save(train(second, precision=0.9), out / "model")
    assert store.identity(out / "model") == store.identity(trained / "model")
    uninterrupted = a_run(trained, "train").out / "metrics.json"
    second.finish()
    assert (out / "metrics.json").read_text().count("threshold") == 1
    assert uninterrupted.is_file()


# The model as an ONNX graph


ODD = ["", "?", "zzzz", "WIN FREE cash " * 600, "Straße 😀 £5", "x" * 5000, "a\x1cb\u2028 c İΣ"]


@pytest.fixture(scope="module", params=models.MODELS)
def forms(trained, tmp_path_factory, request):
    """One of the models, and its graph in onnxruntime."""
    benchmark = store.load(trained / "benchmarks" / request.param)
    folder = tmp_path_factory.mktemp("graph")
    export(benchmark, folder)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return benchmark, store.load(folder)


@pytest.mark.parametrize("texts", [ODD, [""], ["hello"], ["WIN", "see you"] * 300])
def test_onnxruntime_agrees_with_each_model(forms, texts):
    benchmark, session = forms
    rows = [Message(text=text) for text in texts]
    pairs = zip(score_messages(benchmark, rows), score_exported(session, rows), strict=True)
    assert all(one.prediction == other.prediction for one, other in pairs)
    found = [answer.propensity for answer in score_exported(session, rows)]
    assert abs(measures.propensity_of(benchmark, texts) - found).max() < 1e-6


def test_the_chosen_model_is_served_in_its_exported_form(trained):
    told = export_model(job, trained)
    found = job.load(trained / "model", "auto")
    assert re.search(r"answers like the trained model on 18\d held-out rows, to \d\.\de-", told)
    assert job.form(found) == "exported"
    rows = [Message(text=entry.text) for entry in generator.generate(seed=7, number=50)]
    assert job.answers(found, rows) == [job.answers(found, [row])[0] for row in rows]


def test_a_graph_that_disagrees_is_refused(trained, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(measures, "CLIP", 0.1)
        clipped = graph.build(store.load(trained / "model"))
    monkeypatch.setattr(graph, "build", lambda _: clipped)
    with pytest.raises(BarMissed, match=r"differ by \S+e-02 on 18\d held-out rows"):
        export_model(job, trained)
    assert job.form(job.load(trained / "model", "auto")) == "trained"


def by_scikit_learn(texts):
    """Return each key of `terms.hashed` with its count, from the model's own vectorizers."""
    union = models.character_regression(c=1.0, class_weight=None)[0]
    found = Counter()
    for part, (_, steps) in enumerate(union.transformer_list):
        counts = steps[0].transform(texts).tocoo()
        slots = part * len(texts) + counts.row.astype(int)
        keys = (slots << terms.BITS) + counts.col
        found.update(dict(zip(keys.tolist(), counts.data.astype(int).tolist(), strict=True)))
    return found


LIKELY = st.text("aB é😀日Σ\u0130\u0301!._1\n\u00a0\x1c") | st.text("ab !", max_size=60)


@settings(max_examples=300, deadline=None, database=None)  # a container has no place for one
@given(st.lists(LIKELY | st.text(), min_size=1, max_size=4))
def test_terms_are_scikit_learns_on_any_text(texts):
    assert Counter(terms.hashed(texts).tolist()) == by_scikit_learn(texts)


def test_terms_are_scikit_learns_on_odd_texts_together():
    assert Counter(terms.hashed(ODD).tolist()) == by_scikit_learn(ODD)


def test_hashing_is_told_right():
    hashes = [abs(murmurhash3_32(piece)) % 2**18 for piece in (" ", " ", "a", " a", "a ", " a ")]
    found = terms.hashed(["a"]).tolist()
    assert sorted(found) == sorted([*hashes, 2**18 + abs(murmurhash3_32("a")) % 2**18])


# The maths, worked by hand


def test_threshold_has_the_highest_recall_at_the_precision():
    assert measures.threshold_at_precision(SPAM, PROPENSITY, 0.90) == 0.6  # 2 of 3 caught
    assert measures.threshold_at_precision(SPAM, PROPENSITY, 0.75) == 0.3  # 3 of 3, 3/4 right


def test_a_precision_out_of_reach_is_said():
    with pytest.raises(InputInvalid, match=r"reaches 0\.500 at most"):
        measures.threshold_at_precision(np.array([True, False]), np.array([0.1, 0.9]), 0.9)


def test_recall_at_precision():
    assert measures.recall_at_precision(SPAM, PROPENSITY, 0.98) == pytest.approx(2 / 3)
    assert measures.recall_at_precision(SPAM[::-1], PROPENSITY, 0.98) == 0


def test_a_lost_message_costs_ten_spams():
    called = np.array([True, False, False, False, True, True])  # one of each error in six
    assert measures.cost(SPAM, called) == pytest.approx(1000 * 11 / 6)
    assert measures.cheapest_threshold(SPAM, PROPENSITY) == 0.6  # one spam let through


def test_figures_at_a_threshold():
    found = measures.figures(SPAM, PROPENSITY, 0.4)  # called: 0.4 wrong, 0.6 and 0.9 right
    assert found["precision"] == found["recall"] == found["f1"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_rules_count_signs():
    found = rules.propensity(["see you", "URGENT! claim your free £100", "txt WIN to 80082"])
    assert found.tolist() == [0.0, 0.4, 0.3]


# The data


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"ham no tab", "line 2: found"),
        (b"eggs\thello", "wanted 'ham' or 'spam'"),
        (b"ham\t ", "found 1 characters"),
        (b"spam\t" + b"x" * 10_001, "wanted 1 to 10000"),
        (b"ham\t\xff\xfe", "wanted UTF-8"),
        (b"", "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, told):
    path = tmp_path / "messages.tsv"
    path.write_bytes(b"ham\tok\n" + line + b"\nspam\tWIN\n")
    with pytest.raises(InputInvalid, match=f"messages.tsv, line 2.*{told}|{told}.*"):
        messages.read_raw(path)


def test_too_few_messages_are_refused():
    rows = [messages.Row("ham", f"hello {n}") for n in range(20)] + [messages.Row("spam", "WIN")]
    with pytest.raises(InputInvalid, match="found 1 distinct messages labelled spam; wanted"):
        messages.split(rows, seed=0)


def test_quotes_commas_and_line_ends_survive_the_split_files(tmp_path):
    rows = [messages.Row("ham", 'say "hi", then\r go\x85on'), messages.Row("spam", "'£5'")]
    messages.write_split(tmp_path / "train.csv", rows)
    assert messages.read_split(tmp_path / "train.csv") == rows


def test_copies_stay_in_one_split_and_no_message_is_lost():
    made = [messages.Row(e.label, e.text) for e in generator.generate(number=300)]
    rows = made + [messages.Row(label, f" {text.upper()}") for label, text in made[:100]]
    parts = messages.split(rows, seed=3)
    assert sorted(rows) == sorted(row for part in parts.values() for row in part)
    verdicts = {entry["test"]: entry for entry in messages.tests(rows, parts)}
    assert verdicts["copies of an earlier message"]["found"] == 100
    assert verdicts["messages in two splits"]["found"] == 0
    assert parts != messages.split(rows, seed=4)


def test_the_sample_is_what_the_generator_writes():
    rows = messages.read_raw(job.spec.folder / "sample" / "messages.tsv")
    assert rows == [messages.Row(entry.label, entry.text) for entry in generator.generate()]
