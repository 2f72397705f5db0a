"""The job on its sample, its reading of pictures, its training, and its maths worked by hand."""

import base64
import contextlib
import copy
import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import cross_entropy

from jobs.image_classification import (
    augment,
    data,
    imbalance,
    job,
    measures,
    model,
    recipes,
    shapes,
    studies,
    training,
    weights,
)
from slipway import store
from slipway.errors import DataUnavailable, InputInvalid, Stopped
from slipway.export import export_model
from slipway.run import Options, Run
from slipway.types import example

SHAPES = job.job.spec.folder / "sample" / "shapes.toml"
PLAIN = studies.usual_options()


def a_run(out, verb, **options):
    return Run(job.job.spec, out, verb, Options(**{"data": "sample"} | options))


@pytest.fixture(scope="module")
def source():
    return shapes.source(SHAPES)[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The splits of a part of the sample."""
    out = tmp_path_factory.mktemp("artifacts")
    run = a_run(out, "prepare", limit=1000)
    job.prepare(run, seed=0, dataset="pictures", side=None)
    run.finish()
    return out


@pytest.fixture(scope="module")
def trained(prepared):
    """An artifacts folder after train, without a server of MLflow."""
    run = a_run(prepared, "train", epochs=6)
    network = job.train(run, ("small_cnn",), None, None, "he", **PLAIN)
    store.save(network, prepared / "model")
    run.finish()
    return prepared


@pytest.fixture(scope="module")
def network(trained):
    return job.job.load(trained / "model")


def small(**changes):
    made = {"labels": ["a", "b", "c"], "side": 16, "widths": [4, 8], "hidden": 8} | changes
    torch.manual_seed(0)
    return model.make("small_cnn", **made)


@pytest.fixture
def on_paper():
    """Tensors have shapes and no values: a large network costs nothing."""
    with torch.device("meta"):
        yield


def squares(number, seed=0):
    """Pictures of 16 x 16 whose class is the colour that is strong."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, number)
    images = draw.integers(0, 90, (number, 16, 16, 3)).astype(np.uint8)
    images[np.arange(number), :, :, labels] += 90
    return data.Split(images, labels, [f"{place}.png" for place in range(number)])


QUICK = training.Settings(epochs=3, batch=16, augment=("flip", "crop"))


def fitted(out, settings=QUICK, **kept):
    run = a_run(out, "train")
    network = small(**kept)
    curve = training.fit(network, squares(96), squares(60, 1), settings, run)
    return network, curve


# Training and evaluation


def test_the_network_beats_a_guess_and_every_chart_is_there(trained, network):
    run = a_run(trained, "evaluate")
    job.evaluate(run, network)
    assert run.metrics["accuracy"] > 3 * 0.1
    assert run.metrics["accuracy_low"] < run.metrics["accuracy"] < run.metrics["accuracy_high"]
    figures = {piece["name"] for piece in run.pieces if piece["kind"] == "figure"}
    shown = "confusion classes operating worst"
    assert {f"evaluate-{name}" for name in shown.split()} <= figures
    rows = next(piece["rows"] for piece in run.pieces if piece.get("name") == "classes")
    assert [row["class"] for row in rows] == network.labels


def test_equal_seeds_give_equal_networks_and_others_do_not(tmp_path):
    first, second = (fitted(tmp_path)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _ = fitted(tmp_path, replace(QUICK, epochs=2))
    assert not torch.equal(other.state_dict()["classifier.4.weight"], first["classifier.4.weight"])


@pytest.mark.parametrize("settings", [
    QUICK,
    replace(QUICK, optimizer="adam", rate=0.002, average=0.9, patience=5, balance="oversample"),
    replace(QUICK, augment=augment.NAMES, mixed=True, loss="focal", balance="weights"),
], ids=["sgd", "adam, averaged, patient", "all changes, half precision"])  # fmt: skip
@pytest.mark.parametrize("step", [4, 9])
def test_training_stopped_at_any_step_ends_in_the_same_weights(tmp_path, settings, step):
    wanted, curve = fitted(tmp_path, settings)
    run = a_run(tmp_path, "train")
    stopped, steps = small(), iter(range(1000))

    def progress(items, *_):
        for item in items:
            yield item
            run.stopping = next(steps) >= step  # as SIGTERM sets it

    run.progress = progress
    parts = squares(96), squares(60, 1)
    with pytest.raises(Stopped):
        training.fit(stopped, *parts, settings, run)
    again = small()
    resumed = a_run(tmp_path, "train")
    found = training.fit(again, *parts, settings, resumed, resumed.resume())
    resumed.finish()
    assert found == curve
    one, other = again.state_dict(), wanted.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from jobs.image_classification import test_job, training

run = test_job.a_run(Path({out!r}), "train")
kept = run.checkpoint
run.checkpoint = lambda *state: (kept(*state), os.kill(os.getpid(), signal.SIGKILL))
training.fit(test_job.small(), test_job.squares(96), test_job.squares(60, 1), test_job.QUICK, run)
"""


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    script = KILLED.format(paths=[path for path in sys.path if path], out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    run, network = a_run(tmp_path, "train"), small()
    state = run.resume()
    assert len(state["curve"]) == 1
    training.fit(network, squares(96), squares(60, 1), QUICK, run, state)
    wanted, _ = fitted(tmp_path / "whole")
    found = network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.state_dict().items())


TEAM = """
import json, sys
sys.path[:0] = {paths!r}
from dataclasses import replace
from pathlib import Path
import torch
from jobs.image_classification import team, test_job, training

run = test_job.a_run(Path({out!r}), "train")
network = test_job.small(norm=False, dropout=0.0)
settings = replace(test_job.QUICK, augment=(), epochs=2)
training.fit(network, test_job.squares(96), test_job.squares(60, 1), settings, run)
place = Path({out!r}) / f"{{team.Team().rank}}.pt"
torch.save(network.state_dict(), place)
"""


def test_two_processes_train_what_one_does(tmp_path):
    script = tmp_path / "team.py"
    script.write_text(TEAM.format(paths=[path for path in sys.path if path], out=str(tmp_path)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # This container has no network, so its own name is nobody's: all meet on loopback.
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--local-addr",
               "127.0.0.1", "--master-addr", "127.0.0.1", "--master-port", port,
               "--nproc-per-node", "2", str(script)]  # fmt: skip
    environ = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, check=False, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone, _ = fitted(tmp_path, replace(QUICK, augment=(), epochs=2), norm=False, dropout=0.0)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], tensor, atol=1e-4, rtol=1e-3)


def test_training_ends_early_with_the_best_weights(tmp_path):
    hopeless = replace(QUICK, epochs=12, rate=3.0, patience=2)
    network, curve = fitted(tmp_path, hopeless)
    losses = [entry["validation loss"] for entry in curve]
    assert len(curve) < 12
    assert losses.index(min(losses)) == len(losses) - 3
    found = torch.from_numpy(training.logits(network, squares(60, 1).images))
    told = cross_entropy(found, torch.from_numpy(squares(60, 1).labels)).item()
    assert told == pytest.approx(min(losses), rel=1e-4)


def test_frozen_layers_stay_and_first_layers_learn_slower(tmp_path):
    before = small().state_dict()
    after = fitted(tmp_path, replace(QUICK, tuned="head"))[0].state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("classifier") for name in moved)
    optimizer = training.optimizer_of(small(), replace(QUICK, spread=0.1))
    shares = {group["share"] for group in optimizer.param_groups}
    assert max(shares) == 1
    assert min(shares) == pytest.approx(0.1)


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [training.one_cycle(done) for done in (0, 0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_studies_resume_and_report(trained):
    run = a_run(trained, "kfold", epochs=1)
    studies.kfold(run, 2, "small_cnn", **PLAIN)
    assert 0 < run.metrics["kfold_accuracy"] < 1
    assert "2 folds: " in str(run.pieces)
    run = a_run(trained, "compare", epochs=1)
    studies.compare(run, "norm")
    assert "'name': 'without" in str(run.pieces)
    run = a_run(trained, "ensemble", epochs=1)
    studies.ensemble(run, 1, "small_cnn", **PLAIN)
    assert (trained / "members" / "1" / "model.safetensors").is_file()


@pytest.mark.parametrize("method", ["grid", "random", "tpe"])
def test_a_search_tells_its_trials_and_ends_in_time(trained, method):
    pytest.importorskip("optuna")
    run = a_run(trained, "search", epochs=1)
    studies.search(run, method, 2, 1e-9 if method == "tpe" else 1.0, "small_cnn")
    told = str(run.pieces)
    assert f"{1 if method == 'tpe' else 2} trials ({method})" in told
    assert "train --family small_cnn --rate" in told


def test_more_pictures_are_worth_a_larger_network_and_fewer_epochs():
    assert recipes.chosen_families((), 1000) == ["small_cnn"]
    assert recipes.chosen_families((), 9000) == ["small_cnn", "resnet"]
    few, many = (recipes.settings("resnet", number, None, PLAIN).epochs for number in (9000, 54000))
    assert few > many >= recipes.FEWEST
    wide, narrow = (recipes.recipe("small_cnn", number).network for number in (9000, 1000))
    assert "widths" in wide
    assert "widths" not in narrow
    with pytest.raises(click.UsageError, match="--augment: found blur; wanted some of flip"):
        recipes.changes("flip,blur")


# Networks


@pytest.mark.parametrize("family", model.FAMILIES)
@pytest.mark.parametrize("side", [32, 96])
def test_a_network_makes_logits_and_comes_back_as_it_was(family, side, tmp_path):
    network = model.make(family, labels=["a", "b"], side=side).eval()
    pixels = torch.rand(2, 3, side, side)
    maps = network.features(pixels)
    assert maps.ndim == 4
    assert network(pixels).shape == (2, 2)
    torch.testing.assert_close(network.head(maps), network(pixels))
    store.save(network, tmp_path)
    loaded = store.load(tmp_path, model.TRUSTED)
    assert loaded.settings == network.settings
    assert torch.equal(loaded(pixels), network(pixels))
    assert job.TRUSTED == model.TRUSTED


@pytest.mark.usefixtures("on_paper")
def test_torchvisions_names_and_shapes_are_ours():
    resnet = model.make("resnet", labels=list("ab"), side=224, **weights.HUB["resnet18"][1])
    shapes_of = {name: tuple(tensor.shape) for name, tensor in resnet.state_dict().items()}
    assert shapes_of["conv1.weight"] == (64, 3, 7, 7)
    assert shapes_of["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes_of["layer4.1.bn2.running_var"] == (512,)
    assert sum(entry.numel() for entry in resnet.parameters()) == 11_176_512 + 2 * 513
    mobile = model.make("mobilenet_v2", labels=list("ab"), side=224, multiplier=1.0)
    names = mobile.state_dict()
    assert names["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert names["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert sum(entry.numel() for entry in mobile.parameters()) == 2_223_872 + 2 * 1281
    vgg = model.make("vgg", labels=[str(n) for n in range(1000)], side=224, grid=7, norm=False,
                     blocks=[[64], [128], [256, 256], [512, 512], [512, 512]],
                     hidden=[4096, 4096])  # fmt: skip
    assert sum(entry.numel() for entry in vgg.parameters()) == 132_863_336  # torchvision's VGG11


def test_he_keeps_the_variance_through_relu_and_normal_does_not():
    spread = {}
    for init in ("he", "xavier", "normal"):
        torch.manual_seed(0)
        deep = model.make("vgg", labels=["a", "b"], side=32, norm=False, init=init)
        with torch.no_grad():
            spread[init] = float(deep.features(torch.rand(8, 3, 32, 32)).std())
    assert spread["he"] > spread["xavier"] > spread["normal"]
    assert spread["normal"] < 1e-6


def test_colours_are_those_of_the_training_pictures():
    network = small()
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    pixels[0] = 255
    network.learn_colours(pixels)
    assert network.mean.flatten().tolist() == pytest.approx([0.5] * 3)
    normal = network.normalised(pixels.float() / 255)
    assert normal.mean().abs() < 1e-6


def test_weights_fill_what_fits_and_leave_the_classes(tmp_path):
    source, target = small(), small(labels=["x", "y"])
    fresh = target.state_dict()["classifier.4.weight"].clone()
    weights.put_in(target, source.state_dict())
    assert torch.equal(target.state_dict()["features.0.weight"],
                       source.state_dict()["features.0.weight"])  # fmt: skip
    assert torch.equal(target.state_dict()["classifier.4.weight"], fresh)
    with pytest.raises(InputInvalid, match="the weights fit 0 of"):
        weights.put_in(target, {"other": torch.zeros(1)})


def test_weights_that_cannot_be_had_are_told_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIPWAY_MIRROR", raising=False)
    monkeypatch.setenv("SLIPWAY_DATA", str(tmp_path))
    monkeypatch.setattr("slipway.data._download", refuse)
    run = a_run(tmp_path, "train")
    with pytest.raises(DataUnavailable, match=r"pretrain. makes a backbone") as caught:
        weights.tensors_of(run, "resnet18")
    assert caught.value.exit_code == 5
    with pytest.raises(DataUnavailable, match="run pretrain first"):
        weights.saved(run, "backbone")


def refuse(*_):
    raise DataUnavailable("no address answers")


def test_a_backbone_is_trained_and_taken_over(trained, tmp_path):
    run = a_run(trained, "pretrain", epochs=1, limit=300)
    job.pretrain(run, "pictures", "small_cnn", **PLAIN)
    run = a_run(trained, "train", epochs=1)
    plan = studies.Plan("", {}, "backbone", 1, PLAIN | {"tuned": "head"})
    fit, validation = studies.known(run)
    found, _ = studies.trained(run, plan, fit, validation, None, {})
    run.finish()
    kept = store.load(trained / "backbone", model.TRUSTED).state_dict()
    assert torch.equal(found.state_dict()["features.0.weight"], kept["features.0.weight"])


# Changes of pictures


@pytest.mark.parametrize("name", augment.NAMES)
def test_a_change_comes_again_with_its_seed_and_keeps_the_range(name):
    batch = torch.from_numpy(squares(8).images).permute(0, 3, 1, 2)
    labels = torch.arange(8) % 3

    def changed(seed):
        change = augment.Augment([name], torch.Generator().manual_seed(seed))
        return change.with_labels(batch, labels, 3)

    pixels, wanted = changed(0)
    again, _ = changed(0)
    assert torch.equal(pixels, again)
    assert not torch.equal(pixels, changed(1)[0])
    assert pixels.shape == batch.shape
    assert 0 <= pixels.min() <= pixels.max() <= 1
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(8))
    if name in augment.ALONE:
        assert torch.equal(wanted.argmax(dim=1), labels)


def test_no_change_is_the_picture_itself():
    batch = torch.from_numpy(squares(4).images).permute(0, 3, 1, 2)
    found = augment.Augment([], torch.Generator())(batch)
    assert torch.equal(found, batch.float() / 255)


def test_cutmix_mixes_labels_by_area():
    batch = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    wanted = torch.eye(2)
    draw = augment.Draw(torch.Generator().manual_seed(1))
    mixed, soft = augment.cutmix(batch, wanted, torch.tensor([1, 0]), draw)
    torch.testing.assert_close(mixed[0].mean(), soft[0, 1])
    torch.testing.assert_close(mixed[1].mean(), soft[1, 1])


def test_mixup_mixes_pictures_and_labels_alike():
    batch, wanted = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)]), torch.eye(2)
    draw = augment.Draw(torch.Generator().manual_seed(3))
    mixed, soft = augment.mixup(batch, wanted, torch.tensor([1, 0]), draw)
    torch.testing.assert_close(mixed[0].mean(), soft[0, 1])


def test_a_share_is_drawn_as_beta_says():
    draw = augment.Draw(torch.Generator().manual_seed(0))
    drawn = np.array([draw.beta(0.2) for _ in range(2000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.var() == pytest.approx(1 / (4 * 1.4), abs=0.02)  # of Beta(0.2, 0.2)


# Classes of unequal size


def test_weights_make_classes_count_alike():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    found = imbalance.class_weights(labels, 3)
    assert found.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert found[labels].sum() == pytest.approx(10)


def test_draws_even_out_the_classes():
    labels, draw = torch.tensor([0] * 6 + [1] * 3 + [2]), torch.Generator().manual_seed(0)
    over = imbalance.order(labels, "oversample", draw)
    under = imbalance.order(labels, "undersample", draw)
    assert torch.bincount(labels[over]).tolist() == [6, 6, 6]
    assert torch.bincount(labels[under]).tolist() == [1, 1, 1]
    assert set(over.tolist()) == set(range(10))
    assert sorted(imbalance.order(labels, "none", draw).tolist()) == list(range(10))


def test_focal_loss_by_hand_and_as_cross_entropy():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    chances = torch.softmax(logits, dim=1)[:, 0]
    by_hand = (-((1 - chances) ** 2) * chances.log()).mean()
    torch.testing.assert_close(imbalance.focal(logits, wanted, None), by_hand)
    torch.testing.assert_close(
        imbalance.focal(logits, wanted, None, focus=0), cross_entropy(logits, wanted)
    )


# Measures


def test_wilsons_interval():
    assert measures.share_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_area_below_the_roc_curve_by_hand():
    positive, values = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert measures.roc_area(positive, values) == 0.75
    assert measures.roc_area(positive, np.ones(4)) == 0.5


@pytest.mark.parametrize("digits", [1, 8])
def test_the_area_below_the_precision_recall_curve_is_scikit_learns(digits):
    from sklearn.metrics import average_precision_score

    draw = np.random.default_rng(0)
    positive = draw.integers(0, 2, 80)
    values = (positive + draw.normal(0, 1, 80)).round(digits)  # with one digit there are ties
    wanted = average_precision_score(positive, values)
    assert measures.average_precision(positive, values) == pytest.approx(wanted)


def test_figures_of_a_class_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    called = np.array([0, 0, 1, 1, 1, 0])
    rows = measures.by_class(labels, np.eye(3)[called] * 0.9 + 0.05, ["a", "b", "c"], 0)
    assert (rows[0]["precision"], rows[0]["recall"]) == pytest.approx((2 / 3, 2 / 3))
    assert (rows[1]["precision"], rows[1]["recall"]) == pytest.approx((2 / 3, 1))
    assert rows[2]["F1"] == 0
    found = measures.overall(labels, np.eye(3)[called] * 0.9 + 0.05)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["macro_recall"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_bootstrap_interval_holds_the_measure():
    draw = np.random.default_rng(0)
    positive = draw.integers(0, 2, 300)
    values = positive + draw.normal(0, 1, 300)
    low, high = measures.bootstrap(positive, values, measures.roc_area, 0)
    assert low < measures.roc_area(positive, values) < high
    assert high - low < 0.12


def test_mcnemar_by_hand():
    labels = np.array([1] * 8)
    one, other = np.array([0] * 6 + [1, 1]), np.array([1] * 6 + [1, 0])
    assert measures.better(labels, one, other) == pytest.approx(2 * (1 + 7) / 2**7)


# The pictures' files


def decode(content):
    try:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except Exception as error:
        raise ValueError(f"a picture: {error}") from None


def png(value=0, size=(20, 24)):
    content = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(content, "PNG")
    return content.getvalue()


FILES = {
    "train/ants/1.png": png(10), "train/ants/2.png": png(20), "train/bees/deep/3.png": png(30),
    "train/bees/4.PNG": png(40), "val/ants/5.png": png(50), "val/bees/6.png": png(60),
    "train/bees/broken.png": b"rubbish", "train/bees/notes.txt": b"hello", ".DS_Store": b"",
    "train/__MACOSX/7.png": png(),
}  # fmt: skip


def a_folder(path, files=FILES):
    for name, content in files.items():
        place = path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return path


def a_zip(path, files=FILES, root="photos/"):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(root + name, content)
    return path


@pytest.mark.parametrize("kind", [a_folder, a_zip])
def test_a_folder_and_its_zip_are_read_alike_and_odd_files_are_listed(kind, tmp_path):
    found = data.read_source(kind(tmp_path / "pictures.zip"), None, decode)
    assert found.classes == ["ants", "bees"]
    assert found.parts["train"].labels.tolist() == [0, 0, 1, 1]
    assert found.parts["validation"].images.shape == (2, 20, 20, 3)
    assert found.parts["train"].images[:, 0, 0, 0].tolist() == [10, 20, 40, 30]
    skipped = {Path(row["file"]).name: row["why"] for row in found.skipped}
    assert set(skipped) == {"broken.png", "notes.txt"}
    assert "wanted a picture" in skipped["broken.png"]


def test_prepare_reports_what_it_left_out(tmp_path):
    more = {f"{name}/{at}.png": png(at) for name in ("ants", "bees") for at in range(20)}
    folder = a_folder(tmp_path / "own", more | {"bees/broken.jpg": b"\xff\xd8\xffcut"})
    run = a_run(tmp_path / "out", "prepare", data=str(folder))
    job.prepare(run, seed=0, dataset="pictures", side=None)
    assert run.metrics["skipped_files"] == 1
    assert run.tier == "own"
    rows = next(piece["rows"] for piece in run.pieces if piece.get("name") == "skipped")
    assert rows[0]["file"] == "bees/broken.jpg"


@pytest.mark.parametrize(("name", "told"), [
    ("../out/1.png", "found the path '../out/1.png'; wanted one inside it"),
    ("/etc/1.png", "wanted one inside it"),
])  # fmt: skip
def test_a_path_that_leaves_its_archive_is_refused(tmp_path, name, told):
    path = a_zip(tmp_path / "a.zip", {name: png(), "b/1.png": png()}, "")
    with pytest.raises(InputInvalid, match=told.replace("(", r"\(")):
        data.read_source(path, None, decode)


def test_a_zip_that_unfolds_to_too_much_is_refused(tmp_path, monkeypatch):
    path = a_zip(tmp_path / "a.zip")
    monkeypatch.setattr(data, "LARGEST_UNPACKED", 100)
    with pytest.raises(InputInvalid, match=r"found 10 files of \d+ bytes; wanted"):
        data.read_source(path, None, decode)
    monkeypatch.setattr(data, "LARGEST_UNPACKED", 2**30)
    monkeypatch.setattr(data, "LARGEST_FILE", 60)
    with pytest.raises(InputInvalid, match="found no train"):
        data.split_up(data.read_source(path, None, decode), 0, None)


@pytest.mark.parametrize(("files", "told"), [
    ({"1.png": png(), "2.png": png()}, "found pictures of 0 classes"),
    ({"ants/1.png": png()}, "found pictures of 1 classes"),
    ({"ants/1.txt": b""}, "found pictures of 0 classes"),
])  # fmt: skip
def test_a_folder_without_classes_is_told(tmp_path, files, told):
    with pytest.raises(InputInvalid, match=told):
        data.read_source(a_folder(tmp_path / "own", files), None, decode)


def batch_of(labels):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (len(labels), 3072), np.uint8)
    return pixels, b"".join(bytes([label]) + row.tobytes()
                            for label, row in zip(labels, pixels, strict=True))  # fmt: skip


def cifar(path, batches):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_cifars_binary_batches_are_read(tmp_path):
    pixels, content = batch_of([3, 0])
    names = b"\n".join(b"abcdefghij"[at : at + 1] for at in range(10))
    path = cifar(tmp_path / "c.tar.gz", {
        "data_batch_1.bin": content, "test_batch.bin": content, "batches.meta.txt": names,
    })  # fmt: skip
    found = data.read_source(path, None, decode)
    assert found.classes == list("abcdefghij")
    assert found.parts["train"].labels.tolist() == [3, 0]
    # A row holds 1024 red, then green, then blue values.
    assert found.parts["test"].images[1, 2, 5].tolist() == pixels[1].reshape(3, 32, 32)[
        :, 2, 5].tolist()  # fmt: skip
    with pytest.raises(
        InputInvalid, match=r"data_batch_1\.bin: found 6145 bytes; wanted a multipl"
    ):
        data.read_source(cifar(path, {"data_batch_1.bin": content[:-1]}), None, decode)
    cifar(path, {"data_batch_1.bin": batch_of([200])[1]})
    with pytest.raises(InputInvalid, match="found the label 200; wanted less than 10"):
        data.read_source(path, None, decode)
    path.write_bytes(b"rubbish")
    with pytest.raises(InputInvalid, match="found no tar archive"):
        data.read_source(path, None, decode)


def idx(values):
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.ndim]) + sizes + values.tobytes()


def an_idx_folder(path, labels=2):
    path.mkdir()
    for name in ("train", "t10k"):
        grey = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
        told = np.arange(labels, dtype=np.uint8)
        (path / f"{name}-images-idx3-ubyte").write_bytes(idx(grey))
        (path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(told)))
    return path


def test_mnists_files_are_read_packed_or_not(tmp_path):
    found = data.read_source(an_idx_folder(tmp_path / "mnist"), None, decode)
    assert found.parts["test"].images.shape == (2, 8, 8, 3)
    assert found.parts["train"].images[1, 0, 3].tolist() == [67, 67, 67]
    with pytest.raises(InputInvalid, match="wanted a label for each picture"):
        data.read_source(an_idx_folder(tmp_path / "odd", labels=3), None, decode)


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=60), st.integers(0, 900))
def test_any_damage_to_a_zip_is_told(tmp_path_factory, noise, place):
    path = a_zip(tmp_path_factory.mktemp("zip") / "a.zip")
    content = bytearray(path.read_bytes())
    content[place : place + len(noise)] = noise
    path.write_bytes(content)
    with contextlib.suppress(InputInvalid):
        found = data.read_source(path, None, decode)
        assert len(found.classes) >= 2


def test_fitted_keeps_the_aspect_and_takes_the_middle():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    assert (data.fitted(wide, 20) == 200).all()
    assert data.fitted(wide, 10).mean() == pytest.approx(200, abs=8)
    assert data.fitted(wide[:, :1], 16).shape == (16, 16, 3)
    same = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert data.fitted(same, 16) is same


def test_splits_hold_each_picture_once_and_all_classes(source):
    parts = data.split_up(source._replace(parts={"train": source.parts["train"]}), 0, None)
    sizes = {name: len(part.labels) for name, part in parts.items()}
    assert sizes == {"train": 1150, "test": 320, "validation": 130}
    files = [file for part in parts.values() for file in part.files]
    assert len(set(files)) == len(files) == 1600
    assert set(np.bincount(parts["validation"].labels)) == {13}
    other = data.split_up(source._replace(parts={"train": source.parts["train"]}), 1, None)
    assert other["test"].files != parts["test"].files
    with pytest.raises(InputInvalid, match="take a larger --limit"):
        data.split_up(source, 0, 3)


def test_equal_splits_have_equal_bytes(source, tmp_path):
    for name in "ab":
        data.write(tmp_path / f"{name}.npz", source.parts["test"])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = data.read(tmp_path / "a.npz")
    assert found.files == source.parts["test"].files
    assert (found.labels == source.parts["test"].labels).all()


def test_the_best_possible_accuracy_is_that_of_seeing_what_can_be_seen():
    found, best = shapes.source(SHAPES)
    again, _ = shapes.source(SHAPES)
    assert (found.parts["test"].images == again.parts["test"].images).all()
    assert 0.93 < best < 1
    assert best != 1 - 0.02 * 0.9  # of the pictures that were drawn, not of the share


# The scorer


def rows_of(images):
    return [job.Picture(image=data.as_png(image)) for image in images]


def test_order_is_kept_and_a_batch_scores_like_its_rows(trained, network):
    test = data.read(trained / "data" / "test.npz")
    rows = rows_of(test.images[:12])
    together = job.score(network, rows)
    assert [verdict.label for verdict in together] == [
        job.score(network, [row])[0].label for row in rows
    ]
    for verdict in together:
        assert sum(verdict.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert verdict.probabilities[verdict.label] == verdict.probability
        assert verdict.heatmap is None


def test_the_exported_network_answers_alike_and_explains(trained, network):
    told = export_model(job.job, trained)
    assert "answers like the trained model on" in told
    loaded = job.job.load(trained / "model", "auto")
    assert job.job.form(loaded) == "exported"
    row = job.Picture(**example(job.Picture)).model_copy(update={"explain": True})
    one, other = job.job.answers(loaded, [row])[0], job.score(network, [row])[0]
    assert one.label == other.label
    assert one.unfamiliar == pytest.approx(other.unfamiliar, abs=1e-4)
    for found in (one, other):
        picture = Image.open(io.BytesIO(base64.b64decode(found.heatmap)))
        assert min(picture.size) >= 32


def test_the_network_keeps_its_classes_and_side(trained, network):
    assert network.labels == json.loads((trained / "data" / "classes.json").read_text("utf-8"))
    copied = copy.deepcopy(network)
    assert copied.side == 32
