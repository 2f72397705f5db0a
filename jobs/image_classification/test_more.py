"""What comes after training: smaller forms, explanations, doubt, attacks, strangers' pictures."""

import base64
import io
import json
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from click import UsageError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from jobs.image_classification import (
    attack,
    commands,
    compress,
    data,
    explain,
    model,
    pictures,
    pruning,
    quantising,
    trust,
    variants,
)
from jobs.image_classification.job import job
from slipway import images, store
from slipway.errors import DataUnavailable, DeviceAbsent, Stopped
from slipway.export import export_model
from slipway.run import Options, Run

LABELS = ["circle", "square", "cross"]
SIDE = 32
FAMILIES = {
    "small_cnn": {"widths": [8, 16, 16], "hidden": 16},
    "vgg": {"blocks": [[8], [16], [16]], "hidden": [16], "grid": 2},
    "resnet": {"depths": [1, 1], "widths": [16, 32]},
    "mobilenet_v2": {"multiplier": 0.25},
}


def network(family, seed=0):
    """A network of a family with lively normalisations, as after some training."""
    torch.manual_seed(seed)
    found = model.make(family, labels=LABELS, side=SIDE, **FAMILIES[family])
    for layer in found.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.2, 0.2)
    return found.eval()


def squares(number, seed=0):
    """Pictures of one class each by the third where a bright square lies, on noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, number)
    images = draw.integers(0, 90, (number, SIDE, SIDE, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top = draw.integers(2, 20)
        left = 11 * label + draw.integers(0, 3)
        image[top : top + 9, left : left + 7] = (240, 230, 60)
    return data.Split(images, labels.astype(np.int64), [f"{place}.png" for place in range(number)])


@pytest.fixture(scope="module")
def fit():
    return squares(600)


@pytest.fixture(scope="module")
def test():
    return squares(200, seed=1)


@pytest.fixture(scope="module")
def learnt(fit):
    """A small network that has learnt where the square lies."""
    found = network("small_cnn")
    found.learn_colours(torch.from_numpy(fit.images).permute(0, 3, 1, 2))
    optimizer = torch.optim.Adam(found.train().parameters(), lr=3e-3)
    pixels, labels = explain.pixels_of(fit.images), torch.from_numpy(fit.labels)
    for _ in range(4):
        for chosen in torch.randperm(len(labels)).split(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(found(pixels[chosen]), labels[chosen]).backward()
            optimizer.step()
    return found.eval()


# A stranger's pictures


def written(picture, kind, **kept):
    content = io.BytesIO()
    picture.save(content, kind, **kept)
    return content.getvalue()


def ramp(mode="RGB"):
    """A picture that is dark on its left and red on its right."""
    values = np.zeros((8, 16, 3), np.uint8)
    values[..., 0] = np.linspace(0, 255, 16)
    return Image.fromarray(values).convert(mode)


def test_opacity_is_over_white():
    picture = Image.new("RGBA", (4, 2), (200, 0, 0, 128))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    found = pictures.array(written(picture, "PNG"))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.abs(found[1, 1].astype(int) - [227, 127, 127]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"),
     ("RGB", "WEBP"), ("RGB", "BMP"), ("P", "PNG"), ("LAB", "TIFF")],
)  # fmt: skip
def test_every_mode_has_the_colours_that_were_meant(mode, kind):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = (
        ImageCms.profileToProfile(ramp(), *profiles, outputMode="LAB")
        if mode == "LAB"
        else ramp(mode)
    )
    found = pictures.array(written(picture, kind)).astype(int)
    assert found.shape == (8, 16, 3)
    assert abs(found - np.asarray(ramp()).astype(int)).max() <= 60  # a palette is coarse
    assert abs(found.mean(axis=(0, 1)) - [127, 0, 0]).max() <= 25


@pytest.mark.parametrize(
    ("values", "kind"),
    [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")],
)
def test_sixteen_bits_and_more_are_scaled_and_not_cut_off(values, kind):
    grey = np.tile(np.linspace(0, 65535, 16), (8, 1)).astype(values)
    found = pictures.array(written(Image.fromarray(grey), kind)).astype(int)
    assert (found[0, :, 0] == found[0, :, 2]).all()
    assert abs(found[0, :, 0] - np.linspace(0, 255, 16)).max() <= 1


def test_a_photo_is_turned_and_an_animation_shows_its_first_frame():
    turn = Image.Exif()
    turn[0x0112] = 6  # turn a quarter to the right
    upright = pictures.array(written(ramp(), "JPEG", exif=turn, quality=95))
    assert upright.shape == (16, 8, 3)
    assert upright[0].mean() < 20 < upright[-1].mean()
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP"):
        animated = written(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert pictures.array(animated)[2, 2].tolist() == [255, 0, 0] or kind == "WEBP"
        assert pictures.array(animated)[2, 2, 2] < 30


def by_pillow(content):
    return pictures.colours(images.opened(content, pictures.MAX_PIXELS, pictures.TYPES))


def noise(width, height):
    coarse = np.random.default_rng(0).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height))


PLAIN_JPEGS = [
    written(noise(*size), "JPEG", quality=quality, subsampling=rate, progressive=progressive)
    for size in [(1, 1), (7, 9), (33, 17), (120, 90)]
    for quality in (10, 75, 100)
    for rate in (0, 1, 2)
    for progressive in (False, True)
]


@pytest.mark.parametrize("content", PLAIN_JPEGS)
def test_plain_jpegs_are_read_quickly_and_as_pillow_does(content):
    assert np.array_equal(pictures.jpeg(content, pictures.MAX_PIXELS), by_pillow(content))


def test_pillow_reads_what_is_not_plain_upright_and_whole():
    turn = Image.Exif()
    turn[0x0112] = 6
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    plain = PLAIN_JPEGS[-1]
    for content in (
        plain[: len(plain) // 2], written(ramp(), "JPEG", exif=turn),
        written(ramp(), "JPEG", xmp=xmp), written(ramp("L"), "JPEG"), written(ramp("CMYK"), "JPEG"),
        written(ramp(), "PNG"),
    ):  # fmt: skip
        assert pictures.jpeg(content, pictures.MAX_PIXELS) is None
    assert pictures.jpeg(plain, max_pixels=120 * 90 - 1) is None
    assert (16, 8, 3) == pictures.array(written(ramp(), "JPEG", xmp=xmp)).shape


@settings(max_examples=500, deadline=None, database=None)
@given(st.sampled_from(PLAIN_JPEGS), st.data())
def test_a_damaged_jpeg_is_never_read_otherwise_than_by_pillow(content, draw):
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    damaged = bytearray(content + draw.draw(st.binary(max_size=8)))
    for place, value in draw.draw(st.lists(places, max_size=3)):
        damaged[place] = value
    found = pictures.jpeg(bytes(damaged), pictures.MAX_PIXELS)
    assert found is None or np.array_equal(found, by_pillow(bytes(damaged)))


def test_a_bomb_is_refused_at_the_price_of_its_header():
    header = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", (50_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    )
    with pytest.raises(ValueError, match="50,000,000 pixels at most"):
        pictures.array(header + _chunk(b"IDAT", zlib.compress(b"")))


def _chunk(name, content):
    checked = name + content
    return len(content).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")


WHOLE = [written(ramp(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]


@settings(max_examples=150, deadline=None, database=None)
@given(st.sampled_from(WHOLE), st.data())
def test_damaged_files_are_a_picture_or_a_told_error(content, draw):
    cut = draw.draw(st.integers(0, len(content)))
    changes = draw.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))))
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place] = value
    found, told = None, ""
    try:
        found = pictures.array(bytes(damaged[:cut]), max_pixels=100_000)
    except ValueError as error:
        told = str(error)
    assert told.startswith("a ") or (found.dtype == np.uint8 and found.shape[2:] == (3,))


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=400))
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ValueError, match="a whole picture"):
        pictures.array(content)


# Smaller forms


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_say_nothing_are_taken_out_and_nothing_changes(family):
    whole = network(family)
    layers = dict(whole.named_modules())
    silent = 0
    for group in pruning.groups(whole):
        source = layers[group.source]
        quiet = range(len(source.weight) // 2)
        silent += len(quiet)
        with torch.no_grad():
            source.weight[quiet] = 0
            if source.bias is not None:
                source.bias[quiet] = 0
            for name in group.along:
                layers[name].weight[quiet] = 0
                if layers[name].bias is not None:
                    layers[name].bias[quiet] = 0
    pixels = torch.rand(4, 3, SIDE, SIDE)
    wanted = whole(pixels)
    small = pruning.narrowed(whole, 0.5)
    assert silent > 0
    assert count(small) < count(whole)
    assert torch.equal(whole(pixels), wanted)
    torch.testing.assert_close(small(pixels), wanted, atol=1e-4, rtol=1e-4)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_what_an_addition_joins_keeps_its_width():
    small = pruning.narrowed(network("resnet"), 0.5)
    assert small.layer1[0].conv1.weight.shape[0] == 8
    assert small.layer1[0].conv2.weight.shape == (16, 8, 3, 3)


def test_zeros_stay_zero_while_the_others_are_trained(learnt, fit):
    shop = a_shop(learnt, fit, epochs=1)
    thin = pruning.thin(learnt, 0.7)
    kept = pruning.zeros(thin)
    before = [layer.weight.detach().clone() for layer in pruning.weighted(thin)]
    shop.tuned(thin, 1e-3, "sparse", after=lambda: pruning.hold(kept))
    after = [layer.weight.detach() for layer in pruning.weighted(thin)]
    assert 0.65 < pruning.sparsity(thin) < 0.75
    for old, new in zip(before, after, strict=True):
        assert (new[old == 0] == 0).all()
        assert not torch.equal(old, new)


def a_shop(network, fit, epochs=1):
    return compress.Workshop(network, fit, epochs, 0, "cpu", lambda items, _: iter(items))


@pytest.fixture(scope="module")
def made(learnt, fit, tmp_path_factory):
    """The artifacts folder with every form of the small network."""
    out = tmp_path_factory.mktemp("out")
    shop = a_shop(learnt, fit)
    for name, recipe in compress.RECIPES.items():
        store.save(recipe(shop), out / variants.FOLDER / name)
    return out


def test_every_form_is_right_about_as_often_as_the_network(made, learnt, test):
    whole = attack.accuracy(learnt, test.images, test.labels)
    assert whole > 0.9
    folders = variants.found_in(made)
    assert set(compress.NAMES) == set(folders)
    for name, folder in folders.items():
        chances = variants.chances_of(variants.loaded(folder, "cpu", 1), test.images)
        row = variants.row(name, folder, chances, test)
        least = 0.6 if name == "distilled" else whole - 0.1  # a network that began with nothing
        assert row["accuracy"] > least, name
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-3)


def test_the_exported_graph_gives_chances_energy_and_heat_of_the_network(made, learnt, test):
    session = store.load(variants.found_in(made)["float32"])
    pixels = explain.pixels_of(test.images[:9])
    names = [entry.name for entry in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"pixels": pixels.numpy()}), strict=True))
    logits = trust.logits_of(learnt, test.images[:9])
    called = logits.argmax(axis=1)
    np.testing.assert_allclose(found["chances"], trust.softmax(logits), atol=1e-5)
    np.testing.assert_allclose(found["energy"], trust.energy(logits), atol=1e-4)
    heat = explain.heat(learnt, learnt.features(pixels), torch.from_numpy(called))
    np.testing.assert_allclose(found["heat"], heat.detach().numpy(), atol=1e-4)


def test_eight_bits_are_a_small_file_that_two_runs_make_alike(made, learnt, fit):
    folders = variants.found_in(made)
    sizes = {name: (folder / store.ONNX).stat().st_size for name, folder in folders.items()}
    assert sizes["int8"] < 0.5 * sizes["float32"]  # a toy: the names weigh as much as the weights
    again = compress.of_eight_bits(a_shop(learnt, fit), learnt)
    assert (
        again.SerializeToString(deterministic=True) == (folders["int8"] / store.ONNX).read_bytes()
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_normalisations_fold_into_the_convolutions(family):
    whole = network(family)
    pixels = torch.rand(3, 3, SIDE, SIDE)
    found = quantising.folded(whole)
    kinds = {type(layer) for layer in found.modules()}
    assert torch.nn.BatchNorm2d not in kinds
    torch.testing.assert_close(found(pixels), whole(pixels), atol=1e-4, rtol=1e-4)


def test_rounded_weights_have_one_scale_for_each_channel():
    weight = torch.tensor([[0.63, -0.315, 0.004], [6.3, 0.14, 0.0]])
    wanted = torch.tensor([[0.63, -0.32, 0.0], [6.3, 0.1, 0.0]])
    found = quantising.Rounded()(weight)
    torch.testing.assert_close(found, wanted)


def test_the_teachers_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0]])
    teacher = torch.tensor([[0.0, 4.0]])
    soft = [1 / (1 + np.e), np.e / (1 + np.e)]  # the teacher's logits at temperature 4: 0 and 1
    own = [np.exp(0.5) / (1 + np.exp(0.5)), 1 / (1 + np.exp(0.5))]
    apart = sum(p * np.log(p / q) for p, q in zip(soft, own, strict=True))
    hard = -np.log(1 / (1 + np.exp(-2.0)))
    found = compress.taught(logits, teacher, torch.tensor([0]))
    assert float(found) == pytest.approx(0.7 * 16 * apart + 0.3 * hard, rel=1e-5)


def test_all_forms_are_timed_in_turns(made, learnt, test, monkeypatch):
    monkeypatch.setattr(variants, "ROUND_SECONDS", 0.002)
    models = {name: variants.loaded(folder, "cpu", 1)
              for name, folder in variants.found_in(made).items()}  # fmt: skip
    speed = variants.timed({variants.EAGER: variants.eager(learnt)} | models, test.images)
    for told in speed.values():
        assert 0 < told["p50 (ms), batch 1"] <= told["p99 (ms), batch 1"]
        assert told["pictures/s, batch 32"] == pytest.approx(32e3 / told["p50 (ms), batch 32"])


def test_bars_are_judged_by_the_figures_of_one_table():
    rows = [
        {"variant": variants.EAGER, "p50 (ms), batch 1": 4.0, "accuracy": 0.8, "file (kB)": None},
        {"variant": "float32", "p50 (ms), batch 1": 2.0, "accuracy": 0.8, "file (kB)": 400.0},
        {"variant": "int8", "p50 (ms), batch 1": 1.25, "accuracy": 0.796, "file (kB)": 100.0},
    ]
    told = [(entry["found"], entry["verdict"]) for entry in variants.bars(rows)]
    assert told[:3] == [(2.0, "reached"), (1.6, "missed"), (4.0, "reached")]
    assert told[3] == (pytest.approx(0.4), "reached")


def test_forms_that_were_not_made_are_told(tmp_path):
    with pytest.raises(DataUnavailable, match="no variant; run compress first"):
        variants.found_in(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("backend", "told"), [("tensorrt", "TensorRT needs an NVIDIA GPU"), ("cuda", "has no CUDA")]
)
def test_an_absent_device_is_told(made, backend, told):
    with pytest.raises(DeviceAbsent, match=told):
        variants.loaded(variants.found_in(made)["float32"], backend, 1)


def test_a_missing_tensorrt_is_told_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DeviceAbsent, match="TensorRT is not in this image"):
        variants.tensorrt()


def test_a_plan_that_tensorrt_refuses_is_told():
    """A stand-in for its Python API: it shows that errors are told, nothing of engines."""
    parser = types.SimpleNamespace(
        parse=lambda content: False, num_errors=1, get_error=lambda place: "no such operator"
    )
    trt = types.SimpleNamespace(
        Builder=lambda logger: types.SimpleNamespace(create_network=lambda flags: None),
        OnnxParser=lambda network, logger: parser,
    )
    with pytest.raises(DataUnavailable, match="does not take this variant: no such operator"):
        variants.plan(trt, None, b"graph")


# Explanations


@pytest.mark.parametrize("family", FAMILIES)
def test_the_written_out_gradient_is_the_one_of_autograd(family):
    found = network(family)
    images = squares(3).images
    maps = found.features(explain.pixels_of(images)).detach().requires_grad_()
    chosen = torch.tensor([0, 2, 1])
    total = found.head(maps).gather(1, chosen[:, None]).sum()
    weight = torch.autograd.grad(total, maps)[0].mean(dim=(2, 3))
    wanted = (weight[:, :, None, None] * maps).sum(dim=1).relu()
    wanted = wanted / wanted.amax(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    torch.testing.assert_close(explain.heat(found, maps, chosen), wanted, atol=1e-5, rtol=1e-4)


def test_grad_cam_points_at_the_square_that_makes_the_class(learnt, test):
    maps = explain.grad_cam(learnt, test.images[:60], test.labels[:60])
    bright = (test.images[:60, ..., 0] > 200).astype(float)
    inside = (maps * bright).sum() / bright.sum()
    outside = (maps * (1 - bright)).sum() / (1 - bright).sum()
    assert inside > 2 * outside


def test_grey_where_a_map_points_lowers_the_chance_more_than_where_another_points(learnt, test):
    kept, marked, others = commands.pointing(learnt, test)
    assert marked < others - 0.1
    assert kept > marked + 0.3


def test_a_heat_map_is_a_picture_large_enough_to_look_at(learnt, test):
    content = explain.heatmap(learnt, test.images[0], int(test.labels[0]))
    assert Image.open(io.BytesIO(content)).size == (224, 224)


def test_shap_and_lime_find_the_square(learnt, test):
    pytest.importorskip("captum")
    images, labels = test.images[:4], test.labels[:4]
    bright = images[..., 0] > 200
    values = explain.shap_values(learnt, images, labels, test.images[100:120], 0)
    assert np.abs(values)[bright].mean() > 2 * np.abs(values)[~bright].mean()
    weights = explain.lime_weights(learnt, images[0], int(labels[0]), 0)
    assert weights[bright[0]].mean() > weights[~bright[0]].mean() + 0.01


def test_feature_maps_are_of_early_and_late_layers(learnt, test):
    found = explain.feature_maps(learnt, test.images[0], number=4)
    assert [maps.shape for maps in found.values()] == [(4, 32, 32), (4, 16, 16), (4, 8, 8)]


# Doubt


def test_the_temperature_that_made_logits_is_found_again():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (20_000, 4))
    labels = np.array([draw.choice(4, p=row) for row in trust.softmax(logits)])
    degree = trust.temperature(3 * logits, labels)
    assert degree == pytest.approx(3, rel=0.03)
    assert trust.calibration_error(trust.softmax(3 * logits, degree), labels) < 0.01
    assert trust.calibration_error(trust.softmax(3 * logits), labels) > 0.1


def test_the_calibration_error_by_hand():
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 1])
    # Bins of a fifteenth: 0.9 twice, half right; 0.6; 0.7.
    wanted = (2 * 0.4 + 0.4 + 0.3) / 4
    assert trust.calibration_error(chances, labels) == pytest.approx(wanted)


def test_members_that_are_sure_of_different_things_disagree():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    unsure = np.array([[0.5, 0.5]])
    assert trust.disagreement(np.stack([one, other])) == pytest.approx(np.log(2))
    assert trust.disagreement(np.stack([unsure, unsure])) == pytest.approx(0)


def test_dropout_left_on_doubts_and_leaves_the_rest_as_in_use(learnt, test):
    several = trust.with_dropout(learnt, test.images[:20], seed=0, passes=4)
    again = trust.with_dropout(learnt, test.images[:20], seed=0, passes=4)
    assert np.array_equal(several, again)
    assert trust.disagreement(several).max() > 0
    assert not any(layer.training for layer in learnt.modules())


def test_energy_by_hand():
    assert trust.energy(np.log([[1.0, 2.0, 5.0]])) == pytest.approx([-np.log(8)])


def test_a_distance_knows_the_shape_of_the_classes():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 4000)
    values = draw.normal(0, [1, 10], (4000, 2)) + np.array([[0, 0], [8, 0]])[labels]
    distance = trust.Distance(values, labels)
    found = distance(np.array([[0.0, 20.0], [4.0, 0.0]]))
    # 20 of a deviation of 10 is nearer than 4 of a deviation of 1.
    assert found[0] == pytest.approx(4, rel=0.2)
    assert found[1] == pytest.approx(16, rel=0.2)


def test_noise_is_told_from_what_was_learnt(learnt, fit, test):
    distance = trust.Distance(trust.pooled(learnt, fit.images), fit.labels)
    known = trust.strangeness(learnt, distance, test.images)
    garments = np.random.default_rng(0).integers(0, 255, (50, 8, 8), dtype=np.uint8)
    strange = {kind: trust.strangeness(learnt, distance, images) for kind, images in
               trust.strangers(SIDE, 50, 0, garments).items()}  # fmt: skip
    rows = trust.table_of_strangers(known, strange)
    assert {row["pictures"] for row in rows} == {"other pictures", "noise", "coarse noise"}
    assert min(row["Mahalanobis"] for row in rows) > 0.95


def test_the_least_doubtful_come_first():
    doubt, right = np.array([0.9, 0.1, 0.5, 0.2]), np.array([False, True, False, True])
    assert trust.kept_share(doubt, right, (0.5, 0.75, 1.0)) == [1.0, pytest.approx(2 / 3), 0.5]


# Harm


@pytest.mark.parametrize("kind", attack.CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_comes_again_with_its_seed(kind):
    images = np.stack([np.asarray(Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 40))] * 4)
    images = np.repeat(images[..., None], 3, axis=3)
    found = [attack.corrupted(images, kind, level, 0) for level in attack.SEVERITIES]
    harm = [np.abs(worse.astype(float) - images).mean() for worse in found]
    assert harm[0] > 0
    assert harm == sorted(harm)
    assert all(worse.dtype == np.uint8 and worse.shape == images.shape for worse in found)
    assert np.array_equal(found[2], attack.corrupted(images, kind, 3, 0))


@pytest.mark.parametrize("budget", [1 / 255, 8 / 255])
def test_attacks_stay_within_their_budget_and_raise_the_loss(learnt, test, budget):
    pixels, labels = explain.pixels_of(test.images[:50]), torch.from_numpy(test.labels[:50])
    draw = torch.Generator().manual_seed(0)

    def loss(given):
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(learnt(given), labels))

    one = attack.fgsm(learnt, pixels, labels, budget)
    many = attack.pgd(learnt, pixels, labels, budget, draw)
    for found in (one, many):
        assert float((found - pixels).abs().max()) <= budget + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert loss(pixels) < loss(one) <= loss(many) * 1.001


def test_training_against_attacks_helps_against_them(learnt, fit, test):
    part = data.Split(*(column[:150] for column in test))
    hard = attack.hardened(learnt, fit, 3, 0, lambda items, _: iter(items))
    before, shown = attack.under_attack(learnt, part.images, part.labels, "pgd", 8, 0)
    after, _ = attack.under_attack(hard, part.images, part.labels, "pgd", 8, 0)
    assert after > before + 0.1
    assert attack.accuracy(hard, part.images, part.labels) > 0.85
    assert np.abs(shown.astype(int) - part.images).max() <= 9


# The verbs


@pytest.fixture(scope="module")
def ready(learnt, fit, test, tmp_path_factory):
    """An artifacts folder as after train, and how to run one of the verbs in it."""
    out = tmp_path_factory.mktemp("artifacts")
    (out / "data").mkdir()
    for name, part in (("train", fit), ("validation", test), ("test", test)):
        data.write(out / "data" / f"{name}.npz", part)
    store.save(learnt, out / "model")
    store.save(network("small_cnn", seed=1), out / "members" / "1")

    def run(verb, limit=60, **given):
        found = Run(job.spec, out, verb, Options(epochs=1, limit=limit))
        job.commands[verb](found, **given)
        found.finish()
        return found

    return run


def seen(heatmap):
    """A heat map of an answer as numbers."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(heatmap)))).astype(int)


def figures(run):
    drawn = (piece["name"] for piece in run.pieces if piece["kind"] == "figure")
    return {name.removeprefix(f"{run.verb}-") for name in drawn}


def test_all_verbs_are_the_jobs():
    wanted = {"explain", "compress", "variants", "uncertainty", "robustness", "adv-train"}
    assert wanted <= job.commands.keys()


def test_explain_draws_what_the_network_sees(ready):
    pytest.importorskip("captum")
    run = ready("explain", limit=30)
    assert {"maps", "feature-maps"} == figures(run)
    assert run.metrics["chance_without_marked"] < run.metrics["chance_plain"]


def test_uncertainty_measures_calibration_doubt_and_strangers(ready):
    run = ready("uncertainty", limit=None)
    assert {"calibration", "doubt", "strangers"} == figures(run)
    assert run.metrics["calibration_error"] < 0.05
    assert {"dropout_accuracy", "ensemble_accuracy", "auroc_digits_energy"} <= run.metrics.keys()


def test_robustness_harms_by_chance_and_on_purpose(ready):
    run = ready("robustness", limit=40)
    assert {"corruptions", "harms", "attacks", "attacked"} == figures(run)
    assert run.metrics["pgd_8_accuracy"] < run.metrics["accuracy_untouched"]
    assert run.metrics["accuracy_corrupted"] <= run.metrics["accuracy_untouched"]


def test_a_form_is_made_compared_and_served(ready, monkeypatch):
    monkeypatch.setattr(variants, "ROUND_SECONDS", 0.002)
    ready("compress", limit=120)
    run = ready("variants", limit=None, backend="cpu", threads=1)
    rows = json.loads((run.out / "variants" / "table.json").read_text("utf-8"))
    assert {variants.EAGER, *compress.NAMES} == {row["variant"] for row in rows}
    assert run.metrics["int8_accuracy"] > run.metrics["float32_accuracy"] - 0.05
    told = str(run.pieces)
    assert "file of float over eight bits" in told
    assert "p50 (ms), batch 1" in told
    assert "rows" in export_model(job, run.out, {"variant": "int8"})
    assert "exported" == job.chosen_form(run.out / "model", "auto")
    row = job.row(image=written(Image.fromarray(squares(1).images[0]), "PNG"), explain=True)
    (answer,) = job.answers(job.load(run.out / "model", "exported"), [row])
    assert answer.label in LABELS
    assert answer.heatmap is None  # eight bits draw no map
    assert "rows" in export_model(job, run.out)
    (answer,) = job.answers(job.load(run.out / "model", "exported"), [row])
    (trained,) = job.answers(job.load(run.out / "model"), [row])
    assert answer.label == trained.label
    one, other = (seen(found.heatmap) for found in (answer, trained))
    assert one.shape == (224, 224, 3)
    assert np.abs(one - other).max() <= 8
    with pytest.raises(UsageError, match="--variant int4: run compress first"):
        export_model(job, run.out, {"variant": "int4"})


def test_forms_that_were_made_before_a_stop_are_not_made_again(ready, monkeypatch):
    made = []
    recipes = {name: lambda shop, name=name: made.append(name) or compress.graph_of(shop.network)
               for name in compress.NAMES}  # fmt: skip
    monkeypatch.setattr(compress, "RECIPES", recipes)
    kept = Run.checkpoint

    def stop_after_two(run, state, tensors=None):
        run.stopping = len(state["made"]) == 2 and len(made) == 2  # as SIGTERM sets it
        kept(run, state, tensors)

    monkeypatch.setattr(Run, "checkpoint", stop_after_two)
    with pytest.raises(Stopped):
        ready("compress")
    ready("compress")
    assert sorted(made) == sorted(compress.NAMES)


def test_adv_train_keeps_a_hardened_copy_beside_the_model(ready):
    run = ready("adv-train", limit=40)
    assert {"attacks", "attacked"} == figures(run)
    hard = job.load(run.out / "hardened")
    assert hard.labels == LABELS
