"""The job on its sample, its reading of files and pictures, and its maths worked by hand."""

import base64
import contextlib
import gzip
import io
import json

import numpy as np
import onnx
import pytest
import torch
from click import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from jobs.mnist import bench, digits, learning, nets, patterns, pictures, sections, sheets
from jobs.mnist.job import (
    EXAMPLE,
    TRUSTED,
    Picture,
    benched,
    evaluate,
    export,
    held_out,
    job,
    prepare,
    score,
    score_exported,
    train,
)
from slipway import idx as reader
from slipway import networks, store
from slipway.errors import InputInvalid, Stopped
from slipway.export import export_model
from slipway.run import Options, Run
from slipway.types import example

FAST = ("sgd", "sgd_pairs", "forest", "knn", "knn_shifts", "svm", "multilabel", "denoise_linear",
        "denoise_knn", "cnn")  # fmt: skip
EPOCHS = 4


def a_run(out, verb, **options):
    return Run(job.spec, out, verb, Options(data="sample", epochs=EPOCHS, **options))


def prepared(out, **options):
    run = a_run(out, "prepare", **options)
    prepare(run, seed=0)
    run.finish()
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An artifacts folder after prepare and train, without a server of MLflow."""
    out = prepared(tmp_path_factory.mktemp("artifacts"))
    run = a_run(out, "train")
    store.save(train(run, FAST), out / "model")
    run.finish()
    return out


@pytest.fixture(scope="module")
def model(trained):
    return job.load(trained / "model")


@pytest.fixture(scope="module")
def test(trained):
    return digits.read_split(trained / "data" / "test.npz")


def rows_of(images):
    return [Picture(image=sheets.as_png(image)) for image in images]


# Training and evaluation


def test_each_model_beats_a_constant_guess_and_every_chart_is_there(trained, model):
    run = a_run(trained, "evaluate")
    evaluate(run, model)
    constant = 0.125  # the commonest of ten digits
    accuracies = {name: run.metrics[f"{name}_accuracy"] for name in bench.TITLES if name in FAST}
    assert min(accuracies.values()) > 7 * constant, accuracies
    assert run.metrics["multilabel_macro_f1"] > 0.9
    assert run.metrics["scorer_accuracy_lowest"] >= 0.8
    assert run.metrics["denoise_knn_rmse"] < run.metrics["denoise_noisy_rmse"] / 2
    figures = {piece["name"] for piece in run.pieces if piece["kind"] == "figure"}
    shown = "comparison confusion worst improvement fives roc denoising filters sheets single"
    assert {f"evaluate-{name}" for name in shown.split()} == figures
    tables = {piece["name"]: piece["rows"] for piece in run.pieces if piece["kind"] == "table"}
    assert all(row["remedy"] in patterns.REMEDIES.values() for row in tables["patterns"])


def test_a_verb_shows_a_part_of_the_report(trained):
    shown = {
        "compare_ovr_ovo": "one against one",
        "improve": "remedy",
        "multilabel": "7 or more",
        "features": "features-filters",
    }
    for verb, told in shown.items():
        run = a_run(trained, verb)
        job.commands[verb.replace("_", "-")](run)
        assert told in str(run.pieces)


def test_training_that_was_stopped_in_an_epoch_resumes_to_the_same_model(trained, tmp_path):
    prepared(tmp_path)
    stopped = a_run(tmp_path, "train")
    kept = stopped.checkpoint

    def stop_after_two(state, tensors=None):
        stopped.stopping = len(state.get("curve", [])) == 2  # as SIGTERM sets it
        kept(state, tensors)

    stopped.checkpoint = stop_after_two
    with pytest.raises(Stopped):
        train(stopped, FAST[-1:])
    assert list((tmp_path / "checkpoints").glob("train-*.safetensors"))
    again = a_run(tmp_path, "train")
    found = store.save(train(again, FAST[-1:]), tmp_path / "model")
    assert found is None
    again.finish()
    assert store.identity(tmp_path / "model") == store.identity(trained / "model")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_without_a_network_is_refused(tmp_path):
    with pytest.raises(UsageError, match="found no network; wanted one of mlp, cnn"):
        train(a_run(tmp_path, "train"), ("sgd",))


def test_a_model_that_was_not_fitted_is_named(trained):
    with pytest.raises(Exception, match="model mlp was not fitted; run train with --models mlp"):
        sections.pair(benched(a_run(trained, "pair")), "sgd", "mlp")


# The scorer


def test_order_is_kept_and_a_batch_scores_like_its_rows(model, test):
    rows = rows_of(test.images[:20])
    together = score(model, rows)
    assert [verdict.digit for verdict in together] == [score(model, [r])[0].digit for r in rows]
    assert together[::-1] == score(model, rows[::-1])
    assert score(model, []) == []


def test_probabilities_add_up_and_name_the_digit(model, test):
    for verdict in score(model, rows_of(test.images[:20])):
        assert sum(verdict.probabilities) == pytest.approx(1, abs=1e-5)
        assert verdict.probabilities[verdict.digit] == verdict.probability
        assert verdict.probability == max(verdict.probabilities)


def test_the_exported_model_answers_alike_and_is_served(trained, model, test):
    assert "answers like the trained model on 360 held-out rows" in export_model(job, trained)
    loaded = job.load(trained / "model", "auto")
    assert job.form(loaded) == "exported"
    rows = rows_of(test.images[:7])
    for one, other in zip(job.answers(loaded, rows), score(model, rows), strict=True):
        assert one.digit == other.digit
        assert np.allclose(one.probabilities, other.probabilities, atol=1e-5)
    assert len(held_out(a_run(trained, "export"))) == 360


def test_equal_networks_are_exported_to_equal_graphs(model, tmp_path):
    for name in "ab":
        export(model, tmp_path / name)
        onnx.checker.check_model(tmp_path / name / "model.onnx", full_check=True)
    assert store.identity(tmp_path / "a") == store.identity(tmp_path / "b")
    session = store.load(tmp_path / "a")
    assert len(score_exported(session, [Picture(**example(Picture))])) == 1


@pytest.mark.parametrize("kind", sheets.SHEETS)
def test_the_answer_stays_however_the_digit_is_sent(model, test, kind):
    draw = np.random.default_rng(0)
    images, labels = test.images[:60], test.labels[:60]
    plain = score(model, rows_of(images))
    sent = score(model, [Picture(image=sheets.SHEETS[kind](image, draw)) for image in images])
    same = np.mean([a.digit == b.digit for a, b in zip(plain, sent, strict=True)])
    assert same >= 0.9
    assert np.mean([b.digit == label for b, label in zip(sent, labels, strict=True)]) >= 0.85


# Pictures


def refused(content):
    with pytest.raises(ValidationError) as caught:
        Picture(image=content)
    (error,) = caught.value.errors()
    assert error["loc"] == ("image",)
    return error["msg"]


@pytest.mark.parametrize("shape", [(28, 28), (300, 200), (1, 1)])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_empty_picture_is_refused_by_the_fields_name(shape, grey):
    assert "this one is empty" in refused(sheets.as_png(np.full(shape, grey, np.uint8)))


def test_a_sheet_that_nothing_was_drawn_on_is_refused():
    assert "this one is empty" in refused(sheets.as_png(np.zeros((280, 280, 4), np.uint8)))


def test_grain_alone_is_no_ink():
    grain = np.random.default_rng(0).normal(180, 12, (200, 200)).clip(0, 255).astype(np.uint8)
    assert "this one is empty" in refused(sheets.as_png(grain))


def test_a_bomb_is_refused_before_it_is_unfolded():
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    assert len(file.getvalue()) < 10_000
    assert "16,000,000 pixels at most, found 5000 x 5000" in refused(file.getvalue())


def test_a_broken_picture_is_refused():
    whole = sheets.as_png(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    assert "a whole picture" in refused(whole[: len(whole) // 2])


def test_the_centre_of_mass_is_in_the_middle_and_the_box_is_20():
    ink = np.zeros((40, 60))
    ink[10:30, 20:30] = 1  # 20 high, 10 wide
    field = pictures.framed(ink[10:30, 20:30])
    rows, columns = field.nonzero()
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 10)
    assert pictures.centre_of_mass(field) == pytest.approx((14, 14))


def test_paper_is_what_lies_along_the_border():
    pixels = np.full((10, 10, 4), 255, np.uint8)
    pixels[4:6, 4:6, :3] = 0
    assert pictures.from_paper(pixels)[4, 4] == pytest.approx(1)
    assert pictures.from_paper(pixels)[0, 0] == 0
    pixels[..., :3] = 255 - pixels[..., :3]
    assert pictures.from_paper(pixels)[4, 4] == pytest.approx(1)


def test_a_speck_is_left_out_and_a_second_stroke_kept():
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:6], mask[2:5, 10:14], mask[19, 19] = True, True, True
    kept = pictures.without_specks(mask)
    assert kept[3, 11]
    assert not kept[19, 19]


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_damage_to_a_picture_is_a_wrong_field_or_harmless(noise, place):
    content = bytearray(sheets.as_png(np.eye(30, dtype=np.uint8) * 255))
    content[place : place + len(noise)] = noise
    wrong = []
    try:
        Picture(image=bytes(content))
    except ValidationError as error:
        wrong = [entry["loc"] for entry in error.errors()]
    assert wrong in ([], [("image",)])


# The files


def idx(*sizes, magic=b"\0\0\x08", pixels=None):
    header = magic + bytes([len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    return header + (bytes(int(np.prod(sizes))) if pixels is None else pixels)


def written(folder, images, labels):
    for name, content in (("images", images), ("labels", labels)):
        (folder / name).write_bytes(gzip.compress(content))
    return folder / "images", folder / "labels"


def test_idx_files_are_read_as_they_were_written(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    files = written(tmp_path, idx(3, 28, 28, pixels=pixels.tobytes()), idx(3, pixels=b"\7\0\x09"))
    found = digits.read(*files)
    assert (found.images == pixels).all()
    assert found.labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (idx(2, 28, 28, magic=b"\0\0\x0d"), idx(2), r"images, byte 0: found .*wanted"),
        (idx(2, 28, 27), idx(2), r"images, byte 8: found images of \(28, 27\); wanted 28 x 28"),
        (idx(2, 28, 28)[:-1], idx(2), r"images, byte 16: found 1567 bytes .*; wanted 1568"),
        (idx(2, 28, 28), idx(3), r"labels, byte 4: found labels of shape \(3,\)"),
        (idx(2, 28, 28), idx(2, pixels=b"\1\x0a"), r"labels, byte 9: found label 10; wanted 0 to"),
        (idx(0, 28, 28), idx(0), "images, byte 4"),
        (b"", idx(2), "images, byte 0"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path, images, labels, told):
    with pytest.raises(InputInvalid, match=told):
        digits.read(*written(tmp_path, images, labels))


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_digits_or_invalid_input(tmp_path_factory, content, zipped):
    path = tmp_path_factory.mktemp("idx") / "images"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with contextlib.suppress(InputInvalid):  # any other error fails the test
        assert reader.read(path).size > 0


def test_the_splits_hold_each_digit_once_and_depend_on_the_seed():
    known, held = digits.sample(job.spec.folder / "sample" / "digits.toml")
    assert (len(known.labels), len(held.labels)) == (1437, 360)
    fit, validation = digits.split(known, 0)
    both = np.concatenate([fit.images, validation.images])
    assert sorted(image.tobytes() for image in both) == sorted(
        image.tobytes() for image in known.images
    )
    assert (digits.split(known, 1)[1].labels != validation.labels).any()


def test_too_few_digits_are_refused(tmp_path):
    with pytest.raises(InputInvalid, match="take a larger --limit"):
        prepare(a_run(tmp_path, "prepare", limit=5), seed=0)


def test_equal_splits_have_equal_bytes(tmp_path):
    parts = [prepared(tmp_path / name) / "data" / "test.npz" for name in "ab"]
    assert parts[0].read_bytes() == parts[1].read_bytes()


# The maths, worked by hand


def test_shifted_copies_move_by_one_pixel():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 5, 7] = 9
    found = [np.argwhere(copy).tolist() for copy in digits.shifted(image)]
    assert found == [[[5, 7]], [[6, 7]], [[4, 7]], [[5, 8]], [[5, 6]]]


def test_confusions_are_counted_commonest_first():
    labels, called = np.array([9, 9, 9, 4, 4, 1]), np.array([4, 4, 9, 9, 4, 1])
    assert patterns.confusions(labels, called) == [(9, 4, 2), (4, 9, 1)]


def test_traits_of_an_upright_bar_a_slanted_one_and_a_ring():
    bar, slanted, ring = np.zeros((3, 28, 28))
    bar[4:24, 12:16] = 1  # 20 x 4, its middle where the field's is
    width = 2 * 80 / (80 - 18 * 2)
    assert patterns.traits_of(bar) == pytest.approx((0, width, 0, 0.2, 0))
    for row in range(4, 24):
        slanted[row, 24 - row] = 1  # one column to the left a row down
    assert patterns.traits_of(slanted)[0] == pytest.approx(1)
    ring[5:15, 5:15], ring[8:12, 8:12] = 1, 0
    assert patterns.traits_of(ring)[4] == 1


def test_the_trait_that_sets_errors_apart_names_the_remedy():
    straight = np.zeros((10, 28, 28), np.uint8)
    for place, image in enumerate(straight):
        image[4 : 20 + place % 3, 12:16] = 255
    leaning = np.stack([np.stack([np.roll(row, 10 - at) for at, row in enumerate(image)])
                        for image in straight[:3]])  # fmt: skip
    images, labels = np.concatenate([straight, leaning]), np.full(13, 1)
    called = np.array([1] * 10 + [7] * 3)
    (row,) = patterns.found(images, labels, called)
    assert (row["pattern"], row["count"]) == ("1 taken for 7", 3)
    assert row["differs most in"].startswith(("slant", "breadth"))
    assert row["remedy"] in patterns.REMEDIES.values()


def test_better_counts_what_was_mended_and_broken():
    labels = np.array([1] * 8)
    told = patterns.better(labels, np.array([0] * 6 + [1, 1]), np.array([1] * 6 + [1, 0]))
    assert (told["errors before"], told["errors after"]) == (6, 1)
    assert (told["mended"], told["newly wrong"]) == (6, 1)
    assert told["p (McNemar)"] == "0.1"  # 2 (1 + 7) / 2**7


def test_wilsons_interval():
    assert bench.interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)  # Wilson 1927


def test_the_threshold_reaches_the_precision_with_the_highest_recall():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    assert sections.threshold_at(labels, scores, 0.9) == 0.6
    assert sections.threshold_at(labels, scores, 0.75) == 0.3


def test_the_surest_errors_come_first():
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    assert sections.worst_errors(np.array([0, 0, 0, 1]), chances).tolist() == [2, 1]


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [learning.one_cycle(done) for done in (0, 0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([0.05, 0.525, 1, 0.5, 0])


def test_a_copy_is_distorted_a_little_and_by_its_own_draw():
    images = torch.zeros(4, 1, 28, 28)
    images[:, :, 10:18, 10:18] = 1
    copies = nets.distorted(images, torch.Generator().manual_seed(0))
    again = nets.distorted(images, torch.Generator().manual_seed(0))
    assert torch.equal(copies, again)
    assert not torch.equal(copies[0], copies[1])
    assert copies.sum(dim=(1, 2, 3)) == pytest.approx([64] * 4, rel=0.35)


# What the runtime does for networks; here, because only this image holds PyTorch


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_network_comes_back_as_it_was(tmp_path, name):
    network = nets.make(name).eval()
    store.save(network, tmp_path)
    loaded = store.load(tmp_path, TRUSTED)
    images = torch.rand(3, 1, 28, 28)
    assert {path.name for path in tmp_path.iterdir()} == {"SHA256SUMS", "model.safetensors"}
    assert loaded.settings == network.settings
    assert not loaded.training
    assert torch.equal(loaded(images), network(images))
    before = (tmp_path / "model.safetensors").read_bytes()
    store.save(loaded, tmp_path)
    assert before == (tmp_path / "model.safetensors").read_bytes()


def test_a_network_that_is_not_trusted_is_not_imported(tmp_path):
    store.save(nets.make("mlp"), tmp_path)
    with pytest.raises(InputInvalid, match=r"not trusted: \['jobs.mnist.nets.Perceptron'\]"):
        store.load(tmp_path, ["jobs.mnist.nets.Convolutional"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": {"widths": [512, 128], "dropout": 0.2}}, "size mismatch"),
        ({"settings": {"depth": 3}}, "unexpected keyword"),
        ({"settings": None}, "no network"),
        ({"class": "jobs.mnist.nets.Absent"}, "no network"),
    ],
)
def test_a_network_that_does_not_fit_its_settings_is_invalid(tmp_path, change, told):
    from safetensors.torch import load_file, save_file

    store.save(nets.make("mlp"), tmp_path)
    path = tmp_path / "model.safetensors"
    made = {"class": TRUSTED[0], "settings": nets.make("mlp").settings} | change
    save_file(load_file(path), path, {"network": json.dumps(made)})
    (tmp_path / store.SUMS).unlink()  # this one is put there by hand
    with pytest.raises(InputInvalid, match=told):
        store.load(tmp_path, [*TRUSTED, "jobs.mnist.nets.Absent"])


def test_an_optimizer_goes_on_where_it_was(tmp_path):
    def after(steps, kept=None):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
        if kept:
            networks.put_back(kept, network, optimizer)
        for _ in range(steps):
            optimizer.zero_grad()
            network(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        return networks.state_of(network, optimizer)

    run = a_run(tmp_path, "train")
    run.checkpoint({}, after(2))
    run.checkpoint({"second": True}, after(3))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2  # the first's tensors are gone
    resumed = a_run(tmp_path, "train").resume()
    assert resumed["second"] is True
    found, wanted = after(2, resumed["tensors"]), after(5)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    (tensors,) = (tmp_path / "checkpoints").glob("*.safetensors")
    tensors.write_bytes(b"rubbish")
    with pytest.raises(InputInvalid, match="damaged checkpoint"):
        a_run(tmp_path, "train").resume()


def test_settling_makes_threads_and_draws_the_jobs(tmp_path):
    networks.settle(a_run(tmp_path, "train", seed=5))
    first = torch.rand(3)
    networks.settle(a_run(tmp_path, "train", seed=5))
    assert torch.equal(first, torch.rand(3))
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()


def test_the_example_of_the_form_is_a_picture_of_a_seven():
    field = pictures.normalised(Image.open(io.BytesIO(base64.b64decode(EXAMPLE))))
    assert field[:10].sum() > field[18:].sum()  # the bar of a seven is at its top
