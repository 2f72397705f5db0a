"""The memory banks against numbers worked by hand, the package's predictor, checkpoints."""

import contextlib
import copy
import functools
import hashlib
import http.server
import math
import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sam2.sam2_video_predictor import SAM2VideoPredictor

from jobs.medsam import (
    brats,
    cores,
    crops,
    memory,
    nets,
    network,
    phantom,
    predictor,
    prompts,
    training,
)
from slipway import store
from slipway.errors import ContentWrong, DataUnavailable, InputInvalid

HALF = math.sqrt(0.5)
THREE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [HALF, HALF]])


@pytest.fixture(scope="module")
def tiny():
    """Random weights at 64 pixels that see an object everywhere: absent ones are all -1024."""
    torch.manual_seed(0)
    made = network.small(size=64, width=16, dim=64, memory=16, layers=1)
    torch.nn.init.constant_(made.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 10)
    return made


@pytest.fixture(scope="module")
def volume():
    """A bright ball that drifts through noise: channels (3, 30, 50, 60) and its mask."""
    draw = np.random.default_rng(0)
    z, y, x = np.ogrid[:30, :50, :60]
    ball = (z - 15) ** 2 + (y - 24) ** 2 + (x - 20 - z / 3) ** 2 < 9**2
    channels = draw.normal(0, 0.3, (3, *ball.shape)) + 2 * ball
    channels[..., :4] = channels[..., -4:] = channels[:, :, :4] = channels[:, :, -4:] = -2
    return channels.astype(np.float32), ball


def asked(ball, kind="mask", slice=15):
    return prompts.from_mask(ball[slice], kind, slice)


# The bank, equations 2 to 5


def test_dissimilarity_is_the_sum_of_one_minus_cosine():
    expected = [1 + (1 - HALF), 1 + (1 - HALF), 2 * (1 - HALF)]
    assert memory.total_dissimilarity(THREE).tolist() == pytest.approx(expected, abs=1e-6)


def test_dissimilarity_does_not_depend_on_length():
    found = memory.total_dissimilarity(THREE * torch.tensor([[1.0], [7.0], [0.1]]))
    assert torch.allclose(found, memory.total_dissimilarity(THREE), atol=1e-6)


def test_a_trusted_slice_enters_and_one_below_the_threshold_does_not():
    assert memory.admitted(0.6, 0.6)
    assert not memory.admitted(0.599, 0.6)


def test_the_redundant_one_goes():
    assert memory.most_dissimilar(THREE, 2) == [0, 1]  # the diagonal one is like both
    duplicate = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert memory.most_dissimilar(duplicate, 2) == [0, 1]  # of equals the older stays


def test_chances_are_cosines_to_the_slice_at_hand():
    found = memory.chances(torch.tensor([2.0, 0.0]), THREE).tolist()
    assert found == pytest.approx([1 / (1 + HALF), 0, HALF / (1 + HALF)], abs=1e-6)


def test_all_have_a_chance_where_none_is_alike():
    found = memory.chances(torch.tensor([-1.0, -1.0]), THREE)
    assert found.tolist() == pytest.approx([1 / 3] * 3)


def test_memories_are_drawn_as_often_as_their_chances_say():
    draw, chance = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.3, 0.2, 0.0])
    drawn = [number for _ in range(2500) for number in memory.resampled(chance, draw)]
    counts = np.bincount(drawn, minlength=4)
    assert counts[3] == 0
    expected = 10_000 * chance[:3].numpy()
    assert ((counts[:3] - expected) ** 2 / expected).sum() < 13.8  # chi-squared, 2, p = 0.001


def offered(bank, confidences):
    draw = torch.Generator().manual_seed(1)
    for place, confidence in enumerate(confidences):
        bank.offer(memory.Memory(place, {}, torch.randn(8, generator=draw), confidence))
    return [one.place for one in bank.held]


def test_a_doubtful_slice_leaves_the_bank_as_it_was():
    bank = memory.Bank(threshold=0.6)
    assert offered(bank, [0.9, 0.2, 0.7]) == [0, 2]
    assert [row["entered"] for row in bank.log] == [True, False, True]


def test_a_bank_never_holds_more_than_k():
    bank = memory.Bank(k=3)
    assert len(offered(bank, [0.9] * 20)) == 3
    assert all(len(row["held"]) <= 3 for row in bank.log)


def test_without_resampling_all_are_recalled_nearest_first():
    bank = memory.Bank("selfsort-noresample", k=3)
    offered(bank, [0.9] * 3)
    assert [one.place for one in bank.recalled(torch.ones(8), 5)] == [2, 1, 0]
    assert [one.place for one in bank.recalled(torch.ones(8), -5)] == [0, 1, 2]


def test_resampling_repeats_what_is_alike_and_follows_the_seed():
    def recalled(seed):
        bank = memory.Bank(k=6, seed=seed)
        offered(bank, [0.9] * 6)
        return [[one.place for one in bank.recalled(torch.ones(8), 9)] for _ in range(5)]

    assert recalled(1) == recalled(1) != recalled(2)
    assert any(len(set(row)) < len(row) for row in recalled(1))


# The package's predictor


def stock_masks(model, slices, mask, place, reverse):
    """Propagate with the package's class itself, the same weights."""
    stock = copy.deepcopy(model)
    stock.__class__ = SAM2VideoPredictor
    state = predictor.Segmenter.start(stock, slices, slices.square.side)
    stock.add_new_mask(state, frame_idx=place, obj_id="WT", mask=mask)
    stock.add_new_mask(state, frame_idx=place, obj_id="TC", mask=~mask)
    return [masks for way in reverse for *_, masks in stock.propagate_in_video(state, reverse=way)]


def own_masks(model, slices, mask, place, reverse):
    state = model.start(slices, slices.square.side)
    model.add_new_mask(state, frame_idx=place, obj_id="WT", mask=mask)
    model.add_new_mask(state, frame_idx=place, obj_id="TC", mask=~mask)
    return [masks for way in reverse for *_, masks in model.propagate_in_video(state, reverse=way)]


def test_fifo_is_the_package_bit_for_bit_both_ways(tiny, volume):
    channels, _ = volume
    slices = predictor.Slices(tiny, channels, [*range(30), *range(30)], crops.around(channels))
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:40, 25:45] = True
    ways = [False, True]
    expected = stock_masks(tiny, slices, mask, 25, ways)
    found = own_masks(tiny, slices, mask, 25, ways)
    assert len(expected) == 61  # the prompted slice comes in both
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert len({one.sum().item() for one in expected}) > 40  # masks, not one constant


@pytest.mark.parametrize("bank", memory.BANKS)
def test_what_is_kept_does_not_grow_with_the_slices(tiny, volume, bank, monkeypatch):
    channels, ball = volume
    prepare, held = predictor.Segmenter._prepare_memory_conditioned_features, []

    def counted(model, **named):
        found = prepare(model, **named)
        kept = named["output_dict"]
        in_bank = len(kept["bank"].held) if "bank" in kept else 0
        held[-1] = max(held[-1], in_bank + len(kept["non_cond_frame_outputs"]))
        return found

    monkeypatch.setattr(predictor.Segmenter, "_prepare_memory_conditioned_features", counted)
    prompt = {"WT": asked(ball, slice=7)}
    for times in (2, 3):
        held.append(0)
        longer = np.concatenate([channels] * times, axis=1)
        predictor.segment(tiny, longer, prompt, bank, threshold=0, directions="forward")
    assert held[0] == held[1] == {"fifo": 32, "prompt-only": 0}.get(bank, 6)


def test_an_empty_bank_leaves_the_prompt_alone(tiny, volume):
    channels, ball = volume
    wanted = predictor.segment(tiny, channels, {"WT": asked(ball)}, "prompt-only")
    found = predictor.segment(tiny, channels, {"WT": asked(ball)}, "selfsort", threshold=1.1)
    assert np.array_equal(found.logits["WT"], wanted.logits["WT"])
    assert not any(row["entered"] for row in found.bank_log)


def test_banks_change_masks_and_each_object_has_its_own(tiny, volume):
    channels, ball = volume
    both = {"WT": asked(ball), "TC": asked(ball, slice=15)}
    both["TC"].value = ~both["TC"].value
    alone = predictor.segment(tiny, channels, {"WT": both["WT"]}, "selfsort", threshold=0)
    found = predictor.segment(tiny, channels, both, "selfsort", threshold=0)
    assert np.array_equal(found.logits["WT"], alone.logits["WT"])
    other = predictor.segment(tiny, channels, {"WT": both["WT"]}, "prompt-only")
    assert not np.array_equal(found.logits["WT"], other.logits["WT"])


def test_equal_seeds_give_equal_masks(tiny, volume):
    channels, ball = volume
    found = [
        predictor.segment(tiny, channels, {"WT": asked(ball)}, "selfsort", threshold=0, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert np.array_equal(found[0].logits["WT"], found[1].logits["WT"])
    assert not np.array_equal(found[0].logits["WT"], found[2].logits["WT"])


def test_a_mask_is_its_slice_and_a_box_is_not(tiny, volume):
    channels, ball = volume
    found = predictor.segment(
        tiny, channels, {"WT": asked(ball), "TC": asked(ball, "box", 14)}, directions="both"
    )
    exact = found.logits["WT"][15] > 0
    assert (exact ^ ball[15]).sum() < 0.1 * ball[15].sum()
    drawn = prompts.rasterised(asked(ball, "box", 14), ball.shape[1:])
    assert not np.array_equal(found.logits["TC"][14] > 0, drawn)
    assert np.isfinite(found.confidence["TC"]).all()


@pytest.mark.parametrize(("directions", "seen"), [("forward", range(15, 30)),
                                                  ("backward", range(16))])  # fmt: skip
def test_one_direction_leaves_the_other_half_alone(tiny, volume, directions, seen):
    channels, ball = volume
    found = predictor.segment(tiny, channels, {"WT": asked(ball)}, directions=directions)
    assert np.flatnonzero(np.isfinite(found.confidence["WT"])).tolist() == [*seen]
    unseen = [number for number in range(30) if number not in seen]
    assert (found.logits["WT"][unseen] == crops.OUTSIDE).all()


def test_orders_start_at_the_prompt_and_take_every_slice_once():
    assert predictor.orders(5, 2, "both", 0) == [[2, 3, 4], [2, 1, 0]]
    shuffled = predictor.orders(50, 7, "shuffled", 0)[0]
    assert shuffled[0] == 7
    assert sorted(shuffled) == [*range(50)]
    assert shuffled != predictor.orders(50, 7, "shuffled", 1)[0]


def test_six_orders_are_the_mean_of_three_planes(tiny, volume):
    channels, ball = volume
    found = predictor.six_orders(tiny, channels, {"WT": asked(ball)})
    assert found.logits["WT"].shape == ball.shape
    one = predictor.segment(tiny, channels, {"WT": asked(ball)}).logits["WT"]
    assert not np.array_equal(found.logits["WT"], one)
    turned = predictor.along(channels, "sagittal")
    assert turned.shape == (3, 60, 30, 50)
    assert np.array_equal(predictor.back(turned, "sagittal"), channels)


def test_votes_by_hand():
    stack = [np.array([2.0, -1.0]), np.array([-6.0, -1.0]), np.array([1.0, 5.0])]
    assert predictor.voted_on(stack, "mean").tolist() == [-1.0, 1.0]
    assert predictor.voted_on(stack, "majority").tolist() == pytest.approx([10 / 3, -10 / 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank": "lru"}, "bank: found 'lru'"),
        ({"k": 7}, "k: found 7; wanted 1 to 6"),
        ({"directions": "up"}, "directions: found 'up'"),
        ({"prompts": {}}, "prompts: found none"),
        ({"prompts": {"WT": prompts.Prompt("point", 30, np.zeros(2))}}, "found slice 30"),
        ({"channels": np.zeros((1, 4, 8, 8))}, r"wanted \(3, z, y, x\)"),
        ({"prompts": {"WT": prompts.Prompt("mask", 3, np.zeros((50, 60), bool))}}, "outside"),
    ],
)
def test_what_makes_no_sense_is_told(tiny, volume, change, message):
    channels, ball = volume
    told = {"channels": channels, "prompts": {"WT": asked(ball)}} | change
    with pytest.raises(InputInvalid, match=message):
        predictor.segment(tiny, **told)


# Prompts and squares


def test_a_box_is_columns_then_rows_and_its_form_names_the_region():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    box = prompts.from_mask(mask, "box", 3)
    assert box.value.tolist() == [30, 10, 49, 19]
    drawn = {name: prompts.rasterised(box, mask.shape, name) for name in ("WT", "TC", "ET")}
    for one in drawn.values():
        assert prompts.bounds(one).tolist() == [30, 10, 49, 19]
    assert drawn["WT"].sum() > 0.9 * 200  # nearly all of the box
    assert drawn["TC"].sum() == pytest.approx(math.pi * 10 * 5, rel=0.05)
    assert drawn["ET"].sum() == pytest.approx(math.pi * (10 * 5 - 5 * 2.5), rel=0.05)
    assert not drawn["ET"][14, 39]


def test_a_point_is_the_deepest_pixel_and_its_disk_tells_the_region():
    mask = np.zeros((40, 60), bool)
    mask[10:21, 30:41] = True
    point = prompts.from_mask(mask, "point", 3)
    assert point.value.tolist() == [35, 15]
    areas = [prompts.rasterised(point, mask.shape, name).sum() for name in ("WT", "TC", "ET")]
    wanted = [math.pi * (radius + 0.5) ** 2 for radius in (12, 7, 4)]
    assert areas == pytest.approx(wanted, rel=0.1)


def test_a_jittered_point_stays_in_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:21, 30:41] = True
    draw = np.random.default_rng(0)
    points = [prompts.from_mask(mask, "point", 0, 1.0, draw).value.astype(int) for _ in range(50)]
    assert all(mask[y, x] for x, y in points)
    assert len({(x, y) for x, y in points}) > 20


def test_an_empty_mask_is_no_prompt():
    with pytest.raises(InputInvalid, match="the mask is empty"):
        prompts.from_mask(np.zeros((4, 4), bool), "box", 0)


def test_prompts_of_a_command_line():
    box = prompts.parse("box:80:30,40,90,110")
    assert (box.kind, box.slice, box.value.tolist()) == ("box", 80, [30, 40, 90, 110])
    assert prompts.parse("point:7:1.5,2").value.tolist() == [1.5, 2]
    for wrong in ("box:80:1,2,3", "mask:1:2,3", "point:x:1,2", "box:1:9,9,1,1", "point:1:1.2.3,4"):
        with pytest.raises(InputInvalid, match="wanted point:SLICE:X,Y"):
            prompts.parse(wrong)


@settings(max_examples=200, database=None)
@given(st.text(max_size=40))
def test_any_text_is_a_prompt_or_told(text):
    with contextlib.suppress(InputInvalid):
        assert prompts.parse(text).kind in ("point", "box")


def test_the_square_holds_the_head_and_gives_it_back():
    channels = np.full((3, 4, 50, 70), -2.0, np.float32)
    channels[:, :, 10:40, 20:56] = np.random.default_rng(0).normal(size=(3, 4, 30, 36))
    square = crops.around(channels)
    assert square == crops.Square(3, 16, 44)
    cut = crops.cut(torch.from_numpy(channels[:, 0])[None], square, 44)[0]
    pasted = crops.paste(cut, square, (50, 70)).numpy()
    assert np.allclose(pasted[:, 10:40, 20:56], channels[:, 0, 10:40, 20:56], atol=1e-5)


# Networks and their files


def test_a_network_is_saved_and_loaded_as_every_model_is(tiny, tmp_path):
    store.save(tiny, tmp_path)
    found = store.load(tmp_path, network.TRUSTED)
    assert (found.name, found.size) == (tiny.name, 64)
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file as Meta publishes them, with the package's own shapes and random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "sam2.1_hiera_tiny.pt"
    torch.manual_seed(0)
    torch.save({"model": nets.Configured("sam2.1/sam2.1_hiera_t", 64, "").state_dict()}, path)
    return path


def test_a_checkpoint_of_sam_2_1_tiny_is_loaded_and_takes_boxes_as_they_are(checkpoint, volume):
    channels, _ = volume
    found = network.load(checkpoint, "sam2.1-tiny", size=64)
    torch.nn.init.constant_(found.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 10)
    assert found.name == "sam2.1-tiny (sam2.1_hiera_tiny.pt, 64 px)"
    one, other = (
        predictor.segment(found, channels[:, 12:18], {"WT": prompts.Prompt("box", 3, box)})
        for box in (np.array([15.0, 15, 35, 35]), np.array([5.0, 5, 12, 12]))
    )
    assert np.isfinite(one.logits["WT"]).all()
    assert not np.array_equal(one.confidence["WT"], other.confidence["WT"])


def test_weights_of_another_network_are_named(checkpoint):
    with pytest.raises(InputInvalid) as told:
        network.load(checkpoint, "medsam2-zhu", size=64)
    assert "50 missing: image_encoder.trunk.blocks.12" in str(told.value)
    assert "5 unexpected: no_obj_embed_spatial" in str(told.value)
    assert "of another shape" in str(told.value)


def test_a_checkpoint_comes_from_an_address_by_its_checksum(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SLIPWAY_DATA", str(tmp_path))
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(checkpoint.parent)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{checkpoint.name}?download=true"
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    with pytest.raises(ContentWrong, match="wanted 0000"):
        network.file_of(address, "0" * 64, "sam2.1-tiny")
    file = network.file_of(address, digest, "sam2.1-tiny")
    assert file.name == checkpoint.name
    assert "licence Apache-2.0" in capsys.readouterr().err
    server.shutdown()
    server.server_close()
    assert network.file_of(address, digest, "sam2.1-tiny") == file  # the cache has it
    with pytest.raises(DataUnavailable, match=r"127\.0\.0\.1"):
        network.file_of(address, "1" * 64, "sam2.1-tiny")
    with pytest.raises(InputInvalid, match="--sha256: found None; wanted the 64"):
        network.file_of(address, None, "sam2.1-tiny")
    assert network.file_of(str(checkpoint), None, "sam2.1-tiny") == checkpoint


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARK"],)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path / "ran"))
    torch.save({"model": Harmful()}, tmp_path / "bad.pt")
    torch.save(Harmful(), tmp_path / "plain.pt", _use_new_zipfile_serialization=False)
    for name in ("bad.pt", "plain.pt"):
        with pytest.raises(InputInvalid, match="more than tensors, or is damaged"):
            network.load(tmp_path / name, "sam2.1-tiny", size=64)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_checkpoint_is_told(tmp_path):
    with pytest.raises(DataUnavailable, match="no such file"):
        network.load(tmp_path / "none.pt", "sam2.1-tiny")
    with pytest.raises(InputInvalid, match=r"wanted one of sam2\.1-tiny"):
        network.load(tmp_path / "none.pt", "sam3")
    with pytest.raises(InputInvalid, match="multiple of 32"):
        network.load(tmp_path / "none.pt", "sam2.1-tiny", size=369)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputInvalid, match="found no named tensors"):
        network.load(tmp_path / "list.pt", "sam2.1-tiny", size=64)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(InputInvalid, match="damaged"):
        network.load(tmp_path / "cut.safetensors", "sam2.1-tiny", size=64)


# Phantoms and training


@pytest.fixture(scope="module")
def patient():
    return phantom.case(1_000_001)


def test_regions_of_a_phantom_are_nested_and_lie_in_the_brain(patient):
    labels = patient.segmentation
    assert labels.shape == phantom.SHAPE
    assert set(np.unique(labels)) == {0, 1, 2, 4}
    assert all((patient.volumes[name][labels > 0] > 0).all() for name in phantom.CONTRASTS)
    sizes = [np.isin(labels, held).sum() for held in ((1, 2, 4), (1, 4), (4,))]
    assert sizes[0] > sizes[1] > sizes[2] > 500


def test_a_phantom_looks_as_the_literature_says(patient):
    labels, volumes = patient.segmentation, patient.volumes
    healthy = (labels == 0) & (volumes["t1"] > 0)

    def mean(name, where):
        return volumes[name][where].mean()

    assert mean("flair", labels == 2) > 1.2 * mean("flair", healthy)  # oedema is bright
    assert mean("t1ce", labels == 4) > 1.2 * mean("t1", labels == 4)  # the rim takes contrast
    assert mean("t1ce", labels == 1) < mean("t1ce", labels == 4)  # what is dead does not
    assert mean("t1", labels == 1) < 0.8 * mean("t1", healthy)


def test_equal_seeds_give_equal_heads():
    one, other, third = (phantom.head(seed, ("flair",)) for seed in (5, 5, 6))
    assert np.array_equal(one[0]["flair"], other[0]["flair"])
    assert np.array_equal(one[1], other[1])
    assert not np.array_equal(one[1], third[1])


def test_a_named_region_changes_the_answer_and_another_name_nothing(tiny, volume):
    channels, ball = volume
    model = copy.deepcopy(tiny)
    given = {name: prompts.from_mask(ball[12], "mask", 0) for name in ("WT", "TC", "lesion")}

    def logits():
        return predictor.segment(model, channels[:, 12:20], given).logits

    before = logits()
    assert np.array_equal(before["WT"], before["TC"])
    torch.nn.init.normal_(model.regions.weight, generator=torch.Generator().manual_seed(0))
    after = logits()
    assert np.array_equal(after["lesion"], before["lesion"])
    assert not np.array_equal(after["WT"], before["WT"])
    assert not np.array_equal(after["WT"], after["TC"])
    assert np.array_equal(after["WT"][0], before["WT"][0])  # the prompted slice is the prompt


def test_both_ways_at_once_are_what_one_after_the_other_is(tiny, volume, monkeypatch):
    channels, ball = volume
    given = {
        "WT": prompts.from_mask(ball[14], "box", 14),
        "ET": prompts.from_mask(ball[9], "mask", 9),
    }
    found = []
    for count in (1, 4):
        monkeypatch.setattr(cores.machine, "usable_cores", lambda count=count: count)
        found.append(predictor.segment(tiny, channels, given, bank="selfsort"))
    for name in given:
        assert np.array_equal(found[0].logits[name], found[1].logits[name])
        assert np.array_equal(found[0].confidence[name], found[1].confidence[name])
    assert found[0].bank_log == found[1].bank_log
    assert found[0].bank_log


def balls(number):
    """Return a small volume with three nested balls, each bright in one channel."""
    draw = np.random.default_rng(number)
    places = np.indices((32, 48, 48)) - np.array([16, *draw.integers(18, 30, 2)])[:, *[None] * 3]
    far = np.sqrt((places**2).sum(axis=0))
    labels = np.select([far < 5, far < 8, far < 12], [4, 1, 2], 0).astype(np.uint8)
    channels = np.stack([labels > 0, labels == 4, np.isin(labels, (1, 4))]) * 2.0
    return training.volume_of(channels + draw.normal(0, 0.2, channels.shape), labels)


SHORT = {"make": balls, "count": 4, "settings": {"width": 16, "dim": 64, "memory": 16}}


def test_training_goes_on_where_it_stopped():
    recipe = (training.Stage(64, 2, 3, 1e-3), training.Stage(96, 3, 3, 1e-3))
    kept = []

    def keep(state, tensors):
        kept.append(state | {"tensors": {name: value.clone() for name, value in tensors.items()}})

    whole = training.fit(recipe=recipe, keep=keep, every=2, **SHORT)
    assert [state["step"] for state in kept] == [2, 4]
    again = training.fit(recipe=recipe, state=kept[0], **SHORT)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.size == 96


def test_training_learns_what_a_prompt_means():
    kept = []
    recipe = (training.Stage(64, 60, 3, 1e-3),)
    training.fit(recipe=recipe, keep=lambda state, _: kept.append(state), every=60, **SHORT)
    losses = [row[1] for row in kept[-1]["curve"]]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_the_rate_rises_in_each_stage_and_falls_over_each_round():
    recipe = (
        training.Stage(64, 100, 3, 8e-4), training.Stage(64, 100, 3, 4e-4),
        training.Stage(64, 50, 3, 2e-4, round=1),
    )  # fmt: skip
    rates = [training.rate(step, recipe) for step in (0, 24, 100, 124, 199, 200, 225, 249)]
    assert rates[0] == pytest.approx(8e-4 / 25)
    assert rates[1] == pytest.approx(8e-4 * 0.965, rel=1e-3)
    assert rates[2] == pytest.approx(4e-4 / 2 / 25)
    assert rates[3] == pytest.approx(4e-4 * 0.316, rel=1e-2)
    assert rates[4] < 1e-6
    assert rates[5] == pytest.approx(2e-4 / 25)
    assert rates[6] == pytest.approx(2e-4 / 2)
    assert rates[7] < 1e-6


def test_gradients_are_the_mean_over_clips_on_any_number_of_cores(monkeypatch):
    model = network.small(size=64, **SHORT["settings"])
    clips = training.batch(training.Shelf(balls, 4), 0, (training.Stage(64, 1, 3, 1e-3),), 2, 0)
    found = []
    for count, some in ((1, clips), (2, clips), (1, clips[:1]), (1, clips[1:])):
        monkeypatch.setattr(cores.machine, "usable_cores", lambda count=count: count)
        with cores.threads(2) as threads:
            loss, dice = training.Crew(model, len(some), threads).gradients(some, 64)
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((loss, dice, grads))
    (one, dice, grads), (other, again, same), first, second = found
    assert (one, dice) == (other, again)
    assert torch.equal(grads, same)
    assert grads.abs().sum() > 0
    assert one == pytest.approx((first[0] + second[0]) / 2)
    assert torch.allclose(grads, (first[2] + second[2]) / 2, atol=1e-6)


def test_membranes_are_bright_at_the_edge_and_change_nothing_else():
    with_them, without = (phantom.head(2, ("flair", "t1ce"), m) for m in (True, False))
    assert np.array_equal(with_them[1], without[1])
    more = with_them[0]["t1ce"] - without[0]["t1ce"]
    touched = more > 100
    assert 300 < touched.sum() < 0.05 * (without[0]["t1ce"] > 0).sum()
    assert (touched & (without[1] > 0)).mean() < 1e-4
    none = [phantom.head(3, ("t1ce",), membranes)[0]["t1ce"] for membranes in (True, False)]
    assert np.array_equal(*none)  # every other head has none


# The shipped weights


@pytest.fixture(scope="module")
def around_the_tumour(patient):
    """Channels (3, z, y, x) and labels of a phantom never trained on, 13 slices of its tumour."""
    area = (patient.segmentation == 4).sum(axis=(0, 1))
    middle = int(area.argmax())
    near = slice(middle - 6, middle + 7)
    labels = patient.segmentation.transpose(2, 1, 0)[near]
    return brats.channels(patient)[:, near], labels


def dice(found, wanted):
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


def test_two_prompts_on_one_slice_give_different_masks(around_the_tumour):
    channels, labels = around_the_tumour
    masks = {name: brats.region(labels, name) for name in brats.REGIONS}
    given = {name: prompts.from_mask(mask[6], "mask", 6) for name, mask in masks.items()}
    found = predictor.segment(network.shipped(), channels, given)
    rest = np.arange(13) != 6
    whole, rim = (found.logits[name][rest] > 0 for name in ("WT", "ET"))
    assert dice(whole, masks["WT"][rest]) > 0.8
    assert dice(whole, masks["WT"][rest]) > dice(rim, masks["WT"][rest])
    assert dice(rim, masks["ET"][rest]) > dice(whole, masks["ET"][rest])
