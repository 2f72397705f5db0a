"""Reading and writing of patients, measures worked by hand, the verbs and the scorer."""

import base64
import copy
import csv
import gzip
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import example as such_as
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.medsam import (
    asking,
    baseline,
    brats,
    cohort,
    fitting,
    measures,
    network,
    outcomes,
    overlays,
    paper,
    propagation,
    sections,
    segmenting,
    speed,
    studies,
    training,
    unet,
)
from jobs.medsam.job import Scan, evaluate, failures, job, overlay, prepare, score, train
from slipway import store
from slipway.errors import DataUnavailable, InputInvalid, Stopped
from slipway.run import Options, Run
from slipway.scoring.merge import merge_parts
from slipway.scoring.score import Wishes, score_file
from slipway.types import example

SHAPE = (40, 44, 20)
RAS = np.diag([1.0, 1.0, 2.0, 1.0])
RAS[:3, 3] = (-20, -22, -20)


def head():
    """Volumes by modality and labels (x, y, z) in RAS: a rim around dead tissue, within oedema."""
    draw = np.random.default_rng(0)
    x, y, z = np.ogrid[:40, :44, :20]
    inside = ((x - 19.5) / 17) ** 2 + ((y - 21.5) / 19) ** 2 + ((z - 9.5) / 14) ** 2 < 1
    away = np.sqrt((x - 13.0) ** 2 + (y - 25) ** 2 + (2.0 * (z - 9)) ** 2)
    labels = np.select([away < 3, away < 6, away < 9], [1, 4, 2], 0).astype(np.uint8)
    bright = {"t1": (60, 80, 70), "t1ce": (60, 200, 70), "t2": (200, 150, 160),
              "flair": (140, 160, 190)}  # fmt: skip
    volumes = {}
    for name, (dead, rim, oedema) in bright.items():
        tissue = np.select([labels == 1, labels == 4, labels == 2], [dead, rim, oedema], 100.0)
        volumes[name] = np.where(inside, tissue + draw.normal(0, 4, SHAPE), 0).astype(np.float32)
    return volumes, labels


def written(path, data, affine=RAS, axes="RAS"):
    """Write a volume that is given in RAS as a file of other axes."""
    wanted = nibabel.orientations.axcodes2ornt(axes)
    ras = nibabel.orientations.axcodes2ornt("RAS")
    moved = nibabel.orientations.ornt_transform(ras, wanted)
    turned = nibabel.orientations.apply_orientation(data, moved)
    back = affine @ nibabel.orientations.inv_ornt_aff(moved, data.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(turned, back), path)
    return path


def patient(folder, name, axes="RAS", affine=RAS, suffix=".nii.gz", mark="_"):
    """Write a patient as BraTS does."""
    volumes, labels = head()
    for kind, volume in (volumes | {"seg": labels}).items():
        data = volume.astype(np.int16)
        written(folder / name / f"{name}{mark}{kind}{suffix}", data, affine, axes)
    return folder / name


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return brats.read(patient(tmp_path_factory.mktemp("one"), "BraTS19_A_1"))


@pytest.fixture(scope="module")
def tiny():
    """Random weights at 64 pixels, which see an object everywhere."""
    torch.manual_seed(0)
    made = network.small(size=64, width=16, dim=64, memory=16, layers=1)
    torch.nn.init.constant_(made.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 10)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six patients: one is held out, five are to train on."""
    place = tmp_path_factory.mktemp("patients")
    for number in range(6):
        patient(place / "HGG", f"BraTS19_B_{number}")
    return place


@pytest.fixture(scope="module")
def small_recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "RECIPE", (training.Stage(64, 4, 2, 1e-3),))
        yield patch


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folder, tiny, small_recipe):
    """Artifacts of prepare and train with random weights in place of the shipped ones."""
    small_recipe.setattr(network, "shipped", lambda: tiny)
    out = tmp_path_factory.mktemp("artifacts")
    run = a_run(out, "prepare", folder)
    prepare(run, None)
    run.finish()
    run = a_run(out, "train", folder)
    store.save(train(run, "shipped", None, None, None, None, None), out / "model")
    run.finish()
    return out


@pytest.fixture(scope="module")
def evaluated(trained, folder):
    run = a_run(trained, "evaluate", folder)
    evaluate(run, job.load(trained / "model"), ("box", "point"), "middle", **HOW)
    run.finish()
    return trained, run


HOW = {"bank": "selfsort", "k": 6, "threshold": 0.6, "directions": "both", "orders": "two",
       "keep": "connected", "modalities": "flair,t1ce,t2"}  # fmt: skip


def a_run(out, verb, folder, **options):
    return Run(job.spec, out, verb, Options(data=str(folder), **options))


# Reading


def test_labels_and_volumes_are_those_of_the_files(case):
    volumes, labels = head()
    assert (case.segmentation == labels).all()
    assert np.allclose(case.volumes["t1ce"], volumes["t1ce"].astype(np.int16))
    assert case.spacing == (1, 1, 2)
    assert {name: int(brats.region(labels, name).sum()) for name in brats.REGIONS} == {
        "WT": int((labels > 0).sum()),
        "TC": int((labels % 3 == 1).sum()),
        "ET": int((labels == 4).sum()),
    }


OBLIQUE = RAS.copy()
OBLIQUE[:3, :3] = RAS[:3, :3] @ np.array(
    [[math.cos(0.3), -math.sin(0.3), 0], [math.sin(0.3), math.cos(0.3), 0], [0, 0, 1]]
)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "RPI", "SAR", "PIL"])
@pytest.mark.parametrize("affine", [RAS, OBLIQUE], ids=["straight", "oblique"])
def test_a_mask_goes_back_to_the_voxels_it_came_from(tmp_path, axes, affine):
    place = patient(tmp_path, "a", axes, affine)
    found = brats.read(place)
    assert (found.segmentation == head()[1]).all()
    brats.write(brats.region(found.segmentation, "TC"), found, tmp_path / "mask.nii.gz")
    one, other = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(place / "a_seg.nii.gz")
    assert np.array_equal(one.affine, other.affine)
    assert one.header.get_zooms() == other.header.get_zooms()
    assert (np.asarray(one.dataobj) == np.isin(np.asarray(other.dataobj), (1, 4))).all()
    assert (brats.read_mask(tmp_path / "mask.nii.gz") == np.isin(head()[1], (1, 4))).all()


def test_equal_masks_are_equal_bytes(case):
    mask = brats.region(case.segmentation, "WT")
    assert brats.encoded(mask, case) == brats.encoded(mask, case)


@pytest.mark.parametrize(
    ("names", "mark", "suffix"),
    [
        ("t1 t1ce t2 flair seg", "_", ".nii.gz"),  # 2018 to 2021
        ("t1 t1ce t2 flair seg", "_", ".nii"),  # 2020
        ("t1n t1c t2w t2f seg", "-", ".nii.gz"),  # 2023
        ("T1 T1CE T2 FLAIR Segm", "_", ".nii"),  # one patient of 2020
    ],
)
def test_each_years_names_are_known(tmp_path, names, mark, suffix):
    volumes, labels = head()
    for name, data in zip(names.split(), [*volumes.values(), labels], strict=True):
        written(tmp_path / "p" / f"p{mark}{name}{suffix}", data)
    (tmp_path / "p" / f"._p{mark}t1{suffix}").write_text("left by a Mac")
    (files,) = brats.patients(tmp_path)
    assert set(files.volumes) == set(brats.MODALITIES)
    assert (brats.read(files).segmentation == labels).all()


def test_the_decathlon_is_read_with_its_own_labels(tmp_path):
    volumes, labels = head()
    order = ("flair", "t1", "t1ce", "t2")
    theirs = np.select([labels == 2, labels == 1, labels == 4], [1, 2, 3], 0).astype(np.uint8)
    stack = np.stack([volumes[name] for name in order], axis=-1)
    (tmp_path / "imagesTr").mkdir()
    nibabel.save(nibabel.Nifti1Image(stack, RAS), tmp_path / "imagesTr" / "BRATS_001.nii.gz")
    written(tmp_path / "labelsTr" / "BRATS_001.nii.gz", theirs)
    told = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    (files,) = brats.patients(tmp_path)
    found = brats.read(files)
    assert (found.segmentation == labels).all()
    assert np.allclose(found.volumes["t2"], volumes["t2"])
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT"}}')
    with pytest.raises(InputInvalid, match=r"dataset.json: found no 'modality'"):
        brats.patients(tmp_path)


def spoiled(path, kind):
    """Spoil one file of a patient in a given way."""
    image = nibabel.load(path)
    data = image.get_fdata(dtype=np.float32)
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "text":
        path.write_text("no NIfTI")
    elif kind == "flipped bits":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(bytes(content))
    else:
        changed = {
            "shape": data[:-1], "NaN": np.where(data > 0, np.nan, data), "flat": data * 0 + 7,
            "label": np.where(data > 0, 9, data), "moved": data, "axes": np.stack([data] * 3, -1),
        }[kind]  # fmt: skip
        affine = image.affine + (kind == "moved") * 5 * np.eye(4, k=3)
        nibabel.save(nibabel.Nifti1Image(changed.astype(np.float32), affine), path)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("t2", "gone", r"case a: found flair, t1, t1ce; wanted a t2 volume too"),
        ("t2", "cut", r"case a, t2 .*broken gzip"),
        ("t2", "flipped bits", r"case a, t2 .*(broken gzip|found)"),
        ("t2", "text", r"case a, t2 .*found no NIfTI file"),
        ("t2", "shape", r"case a, t2: found shape \(39, 44, 20\); wanted \(40, 44, 20\)"),
        ("t2", "axes", r"case a, t2 .*found shape \(40, 44, 20, 3\); wanted 3 axes"),
        ("flair", "NaN", r"case a, flair: found [\d,]+ voxels of 35,200 that are NaN"),
        ("flair", "flat", r"case a, flair: found 7 in every voxel"),
        ("t2", "moved", r"case a, t2: found an affine 5 mm off at the corner"),
        ("seg", "label", r"case a, seg: found labels 9; wanted 0, 1, 2, 3, 4"),
        ("seg", "shape", r"case a, seg: found shape"),
    ],
)
def test_what_is_wrong_with_a_patient_is_told_by_name(tmp_path, name, kind, told):
    place = patient(tmp_path, "a")
    spoiled(place / f"a_{name}.nii.gz", kind)
    with pytest.raises(InputInvalid, match=told):
        brats.read(place)


def test_other_refusals(tmp_path):
    with pytest.raises(InputInvalid, match="found no patient; wanted folders with files like"):
        brats.patients(tmp_path)
    place = patient(tmp_path, "a")
    (place / "a_t1c.nii.gz").write_bytes(b"")
    with pytest.raises(InputInvalid, match=r"found a_t1c.nii.gz and a_t1ce.nii.gz; wanted one"):
        brats.patients(tmp_path)
    with pytest.raises(DataUnavailable, match="no such file"):
        brats.read(brats.Files("b", {"t1": tmp_path / "b_t1.nii.gz"}), ["t1"])


def test_a_header_that_promises_too_much_is_refused_before_it_is_unfolded():
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    header = image.header.copy()
    header.set_data_shape((2000, 2000, 2000))
    bomb = gzip.compress(header.binaryblock + bytes(4 + 10_000_000))
    assert len(bomb) < 20_000
    with pytest.raises(InputInvalid, match="found 8,000,000,000 voxels; wanted 1 to"):
        brats.read_one(bomb, "bomb")


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan, 1e30])
@pytest.mark.parametrize("entry", ["srow_x", "pixdim", "qoffset_y", "quatern_b"])
def test_an_affine_that_is_no_number_is_refused(odd, entry):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.set_sform(None if entry != "srow_x" else np.eye(4), code=0 if entry != "srow_x" else 1)
    image.set_qform(np.eye(4), code=1)
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    header[entry] = [odd] * header[entry].size if header[entry].size > 1 else odd
    content[:348] = header.binaryblock
    with pytest.raises(InputInvalid, match=r"case odd.*(affine|NIfTI)"):
        brats.read_one(bytes(content), "odd")


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=60), st.integers(0, 360), st.booleans())
@such_as(b"\0\0\0\0\0\0\0\0\0\xc0\x7f", 273, False)
@such_as(b"\0\0\0\0\0\0\0\0\0\x81\x7f", 273, True)
@such_as(b"_", 111, True)
@such_as(b"Q", 111, False)
def test_any_damage_to_a_file_is_an_error_that_names_it_or_harmless(noise, place, packed):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    content = bytearray(image.to_bytes())
    content[place : place + len(noise)] = noise
    whole = gzip.compress(bytes(content)) if packed else bytes(content)
    try:
        found = brats.read_one(whole, "odd")
    except InputInvalid as error:
        assert "case odd" in str(error)  # noqa: PT017
    else:
        assert all(np.isfinite(volume).all() for volume in found.volumes.values())


def test_channels_have_mean_0_and_deviation_1_in_the_brain(case):
    found = brats.channels(case)
    inside = (case.volumes["flair"] != 0).transpose(2, 1, 0)
    assert found.shape == (3, 20, 44, 40)
    assert found.dtype == np.float32
    assert found[0][inside].mean() == pytest.approx(0, abs=1e-3)
    assert found[0][inside].std() == pytest.approx(1, abs=1e-2)
    assert found[0][~inside].max() == pytest.approx(found[0].min())
    alone = brats.channels(case, ["t2"])
    assert (alone[0] == alone[2]).all()
    assert (alone[0] == found[2]).all()


def test_values_above_255_survive(tmp_path):
    data = np.arange(60, dtype=np.uint16).reshape(3, 4, 5) * 1000
    found = brats.read(brats.Files("a", {"t1": written(tmp_path / "a_t1.nii", data)}), ["t1"])
    assert found.volumes["t1"].max() == 59_000


# Measures by hand


def cube(*spans):
    mask = np.zeros((12, 12, 12), bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def test_dice_and_iou_of_two_boxes():
    one, other = cube((0, 4), (0, 4), (0, 4)), cube((2, 6), (0, 4), (0, 4))  # 64, 64, common 32
    assert measures.dice(one, other) == pytest.approx(0.5)
    assert measures.iou(one, other) == pytest.approx(32 / 96)
    found = measures.fit(one, other, (1, 1, 1))
    assert found.iou == pytest.approx(found.dice / (2 - found.dice))


def test_hd95_is_in_millimetres_along_each_axis():
    one = cube((2, 8), (2, 8), (2, 8))
    for axis, mm in enumerate((1.0, 2.0, 3.0)):
        moved = np.roll(one, 1, axis)
        assert measures.fit(one, moved, (1, 2, 3)).hd95 == pytest.approx(mm)
    far = one.copy()
    far[11, 11, 11] = True  # one voxel of 153 is no 5 %
    assert measures.fit(far, one, (1, 1, 1)).hd95 == 0


def test_surface_dice_counts_what_is_within_a_millimetre():
    one = cube((2, 8), (2, 8), (2, 8))
    assert measures.fit(one, np.roll(one, 1, 0), (1, 1, 1)).surface_dice == 1
    assert measures.fit(one, np.roll(one, 1, 0), (1.5, 1, 1)).surface_dice < 1
    flat, other = cube((2, 3), (0, 10), (0, 10)), cube((4, 5), (0, 10), (0, 10))
    assert measures.fit(flat, other, (1, 1, 1)).surface_dice == 0
    assert measures.fit(flat, other, (1, 1, 1)).hd95 == 2


def test_empty_regions_follow_the_rule():
    empty, some = cube((0, 0), (0, 0), (0, 0)), cube((0, 2), (0, 2), (0, 2))
    assert measures.fit(empty, empty, (1, 1, 1)) == (1, 1, 0, 1)
    missed = measures.fit(empty, some, (1, 1, 2))
    assert missed[:2] == (0, 0)
    assert missed.hd95 == pytest.approx(math.sqrt(12**2 + 12**2 + 24**2))
    assert measures.fit(some, empty, (1, 1, 2)) == missed


def test_the_prompted_slice_is_left_out():
    one, other = cube((0, 4), (0, 4), (0, 3)), cube((0, 4), (0, 4), (0, 2))
    parts = [measures.without_slice(part, 2) for part in (one, other)]
    assert parts[0].shape == (12, 12, 11)
    assert measures.dice(*parts) == 1


def test_slices_claimed_where_there_is_none():
    truth, found = cube((0, 4), (0, 4), (4, 8)), cube((0, 4), (0, 4), (4, 10))
    assert measures.false_slices(found, truth) == pytest.approx(2 / 8)
    assert measures.slice_dice(found, truth)[4:10].tolist() == [1, 1, 1, 1, 0, 0]
    assert np.isnan(measures.slice_dice(found, truth)[0])


def test_a_mask_that_flickers_is_less_consistent():
    truth = cube((0, 4), (0, 4), (2, 10))
    flicker = truth.copy()
    flicker[:, :, 5] = False
    assert measures.smoothness(truth) == pytest.approx(7 / 9)  # two of nine pairs are an end
    assert measures.smoothness(flicker) == pytest.approx(5 / 9)
    assert measures.consistency(flicker, truth) == pytest.approx(5 / 7)
    assert math.isnan(measures.consistency(truth, np.zeros_like(truth)))


def test_an_interval_holds_the_mean_and_one_patient_has_none():
    found = measures.mean([0.2, 0.4, 0.9], seed=0)
    assert found.mean == pytest.approx(0.5)
    assert 0.2 <= found.low < 0.5 < found.high <= 0.9
    assert measures.mean([0.3]) == (pytest.approx(0.3), None, None)
    apart = measures.difference([0.5, 0.7], [0.4, 0.6])
    assert (apart.mean, apart.low) == (pytest.approx(0.1), pytest.approx(0.1))


# Prompts, rivals


@pytest.mark.parametrize("axes", ["RAS", "LPS", "RPI"])
def test_a_prompt_in_voxels_of_the_file_means_the_same_place(tmp_path, axes):
    found = brats.read(patient(tmp_path, "a", axes))
    truth = brats.region(found.segmentation, "WT")
    own = np.asarray(nibabel.load(tmp_path / "a" / "a_seg.nii.gz").dataobj) > 0
    number = 7
    i, j = (np.flatnonzero(own[:, :, number].any(axis=axis)) for axis in (1, 0))
    asked = asking.parse(f"box:{number}:{i[0]},{j[0]},{i[-1]},{j[-1]}", found)
    wanted = propagation.prompt_of(truth.transpose(2, 1, 0), "box", asked.prompt.slice)
    assert asked.plane == "axial"
    assert asked.prompt.value.tolist() == wanted.value.tolist()
    assert number == (asked.prompt.slice if axes[2] == "S" else SHAPE[2] - 1 - asked.prompt.slice)


def test_a_file_whose_third_axis_is_another_is_prompted_in_that_plane(tmp_path):
    found = brats.read(patient(tmp_path, "a", "SAR"))  # the third axis of the file is x
    asked = asking.parse("point:13:9,25", found)
    assert (asked.plane, asked.prompt.slice, asked.prompt.value.tolist()) == (
        "sagittal",
        13,
        [25, 9],
    )


def test_a_mask_in_a_file_is_a_prompt(tmp_path, case):
    mask = brats.region(case.segmentation, "WT")
    brats.write(mask, case, tmp_path / "m.nii.gz")
    asked = asking.parse(f"mask:{tmp_path / 'm.nii.gz'}", case)
    assert asked.prompt.slice == int(mask.sum(axis=(0, 1)).argmax())
    assert (asked.prompt.value == mask[:, :, asked.prompt.slice].T).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [("circle:1:2,3", "wanted point"), ("box:1:2,3", "wanted"), ("point:99:2,3", "voxel 99 along "),
     ("point:3:2,90", "voxel 90 along axis J; wanted 0 to 43"), ("", "wanted"),
     ("box:4:9,9,2,2", "first corner"), ("box:9:0,0,3,3", "found no tissue there"),
     ("mask:/nowhere.nii", "no such file")],
)  # fmt: skip
def test_a_wrong_prompt_is_told(case, text, told):
    with pytest.raises((InputInvalid, DataUnavailable), match=told):
        asking.parse(text, case)


def test_otsu_parts_two_heaps():
    values = np.concatenate([np.full(50, 1.0), np.full(30, 5.0)])
    assert 1 < baseline.otsu_threshold(values) < 5


def test_classical_methods_find_a_bright_tumour_from_its_box(case):
    asked = propagation.asked(case, "box", regions=("WT",))
    drawn = {"WT": (propagation.drawn(asked["WT"], case, "WT"), asked["WT"].slice)}
    found = baseline.classical(case, drawn)
    truth = brats.region(case.segmentation, "WT")
    assert measures.dice(found["Otsu"]["WT"], truth) > 0.9
    assert measures.dice(found["region growing"]["WT"], truth) > 0.4


def test_a_u_net_learns_a_patient_and_resumes_to_the_same_weights(
    case, tmp_path, folder, monkeypatch
):
    monkeypatch.setattr(unet, "small", lambda: unet.Segmenter([8, 16, 32], 1))
    kept, run = {}, a_run(tmp_path, "baseline-unet", folder)

    def keep(state, tensors):
        kept[state["step"]] = state | {"tensors": {n: v.clone() for n, v in tensors.items()}}

    whole = baseline.trained(run, [case], 150, {}, keep)
    found = baseline.segmented(whole, case)
    assert measures.dice(found["WT"], brats.region(case.segmentation, "WT")) > 0.6
    again = baseline.trained(run, [case], 150, kept[100], keep)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    store.save(whole, tmp_path / "unet")
    loaded = store.load(tmp_path / "unet", (baseline.UNET,))
    assert (baseline.segmented(loaded, case)["ET"] == found["ET"]).all()


def test_the_prompted_slice_is_where_it_was_asked_for(case):
    present = np.flatnonzero(brats.region(case.segmentation, "WT").any(axis=(0, 1)))
    for place, wanted in ((0.0, present[0]), (1.0, present[-1]), (0.5, 9), ("largest", 9)):
        assert propagation.asked(case, "box", place)["WT"].slice == wanted
    without = replace(case, segmentation=np.where(case.segmentation == 2, 2, 0))
    assert set(propagation.asked(without, "box")) == {"WT"}


# The verbs


def test_what_hangs_together_with_the_prompt_is_kept(capsys):
    mask = np.zeros((12, 40, 40), bool)
    mask[3:9, 5:12, 5:12] = True
    mask[3:9, 13:16, 5:12] = True  # a gap of one voxel: still the same
    mask[3:9, 30:35, 30:35] = True  # far away on the same slices
    mask[11, 5:12, 5:12] = True  # a gap of two slices above
    shown = np.zeros((40, 40), bool)
    shown[7:9, 7:9] = True
    kept = propagation.connected(mask, shown, 5)
    assert np.array_equal(kept, mask & (np.indices(mask.shape)[1] < 20))
    far = np.zeros_like(shown)
    far[32, 32] = True
    assert propagation.connected(mask, far, 5).sum() == 6 * 25
    assert np.array_equal(propagation.connected(mask, far, 0), mask)  # nothing is on that slice
    assert "slice 0: nothing was found where the prompt is" in capsys.readouterr().err
    nothing = np.zeros_like(mask)
    assert not propagation.connected(nothing, shown, 5).any()


def test_weights_are_kept_as_the_folder_has_them(tmp_path, trained):
    run = Run(job.spec, trained, "keep_weights", Options())
    folder = fitting.keep(run, job.load(trained / "model"), tmp_path / "weights")
    told = json.loads((folder / "run.json").read_text())
    assert told["run"]["tier"] == "own"
    assert told["metrics"]["check_loss_first"] > 0
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (
        (trained / "model" / "model.safetensors").stat().st_size
    )
    again = store.load(folder, network.TRUSTED).float().state_dict()
    for name, value in job.load(trained / "model").state_dict().items():
        assert torch.allclose(value, again[name], rtol=1e-3, atol=1e-6), name


def test_a_fifth_is_held_out_and_the_split_is_written_down(trained, folder):
    parts = {part: cohort.read(a_run(trained, "train", folder), part)
             for part in ("train", "held_out")}  # fmt: skip
    assert [len(parts["train"]), len(parts["held_out"])] == [5, 1]
    names = [files.name for part in parts.values() for files in part]
    assert sorted(names) == [f"BraTS19_B_{number}" for number in range(6)]
    other = cohort.divided(brats.patients(folder), 1)
    assert other["held_out"][0].name != parts["held_out"][0].name


def test_patients_without_labels_are_refused(tmp_path):
    place = patient(tmp_path, "a")
    (place / "a_seg.nii.gz").unlink()
    with pytest.raises(InputInvalid, match="found no labels; wanted files like NAME_seg"):
        prepare(a_run(tmp_path / "out", "prepare", tmp_path), None)


def test_evaluate_measures_each_region_and_shows_it(evaluated):
    out, run = evaluated
    for region in ("wt", "tc", "et"):
        assert 0 <= run.metrics[f"box_{region}_dice"] <= 1
        assert 0 <= run.metrics[f"point_{region}_iou"] <= 1
        assert run.metrics[f"otsu_{region}_dice"] > 0.3  # the rivals are in the same table
    shown = {piece["name"] for piece in run.pieces if piece["kind"] == "figure"}
    wanted = "methods distance confidence overlay-0 failures architecture"
    assert {f"evaluate-{name}" for name in wanted.split()} <= shown
    (series,) = [piece for piece in run.pieces if piece["kind"] == "series"]
    assert len(series["names"]) == overlays.MOST
    (name,) = outcomes.load(out / "masks").cases
    mask = nibabel.load(out / "masks" / name / "box-prompt_WT.nii.gz")
    assert mask.shape == SHAPE


def test_pictures_are_made_again_of_what_evaluate_left(evaluated, folder):
    out, _ = evaluated
    for verb, name in ((overlay, "overlay-0"), (failures, "failures")):
        run = a_run(out, verb.__name__, folder)
        verb(run)
        assert f"{verb.__name__}-{name}" in {piece.get("name") for piece in run.pieces}
    with pytest.raises(DataUnavailable, match="run evaluate first"):
        overlay(a_run(out / "none", "overlay", folder))


def test_causes_of_bad_slices():
    row = {"voxels": 0, "found": 9, "mm": 5, "dice": 0.0, "region": "WT"}
    assert sections.cause(row) == "claimed where there is none"
    assert sections.cause(row | {"voxels": 200, "found": 0}) == "missed"
    assert sections.cause(row | {"voxels": 20}) == "thin end of the region"
    assert sections.cause(row | {"voxels": 200, "mm": 40}) == "far from the prompt"
    assert sections.cause(row | {"voxels": 200}) == "wrong outline"
    table = sections.causes([row, row | {"voxels": 200}, row | {"dice": 0.9}])
    assert [entry["WT"] for entry in table] == [1, 0, 0, 0, 1]


def test_training_goes_on_from_weights_and_resumes(tmp_path, folder, trained, tiny):
    (tmp_path / "data").mkdir()
    content = (trained / "data" / cohort.SPLIT).read_text()
    (tmp_path / "data" / cohort.SPLIT).write_text(content)
    run = a_run(tmp_path, "train", folder)
    whole = fitting.small(run, "shipped", 4)
    assert run.metrics["train_steps"] == 4
    before, after = tiny.state_dict(), whole.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert fitting.scaled(training.RECIPE, 2)[0].steps == 2


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([segmenting.COLUMNS, *rows])
    return path


def test_a_folder_of_patients_is_segmented_and_goes_on_where_it_was_stopped(
    tmp_path, folder, trained, tiny
):
    files = brats.patients(folder)[:3]
    rows = [(entry.name, region, "box:9:6,18,20,32") for entry in files for region in ("WT", "ET")]
    wishes = segmenting.Wishes(segmenting.read_table(table(tmp_path / "p.csv", rows)))
    run = a_run(tmp_path, "segment", folder)
    calls = []

    def one(name):
        place = tmp_path / "to" / name
        return place / f"{name}_WT.nii.gz", place / "record.json"

    stopping = iter([False, True])
    real = segmenting.segment_one

    def counted(*given):
        calls.append(given[2].name)
        real(*given)
        run.stopping = next(stopping, False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenting, "segment_one", counted)
        with pytest.raises(Stopped, match="2 patients are done and kept"):
            segmenting.segment_all(run, tiny, "id", files, wishes, FAST, tmp_path / "to")
    assert all(path.is_file() for name in calls for path in one(name))
    kept = {name: one(name)[0].stat().st_mtime_ns for name in calls}
    again = a_run(tmp_path, "segment", folder)
    segmenting.segment_all(again, tiny, "id", files, wishes, FAST, tmp_path / "to")
    assert {name: one(name)[0].stat().st_mtime_ns for name in calls} == kept
    assert one(files[2].name)[0].is_file()
    told = json.loads(one(files[2].name)[1].read_text())
    assert set(told["regions"]) == {"WT", "ET"}
    assert len(told["regions"]["WT"]["confidence"]) == SHAPE[2]
    mask = nibabel.load(one(files[2].name)[0])
    assert np.array_equal(mask.affine, nibabel.load(files[2].volumes["t1"]).affine)


FAST = propagation.Settings("prompt-only")


def test_a_patient_that_cannot_be_read_does_not_stop_the_others(tmp_path, tiny):
    for name in "ab":
        patient(tmp_path / "in", name)
    spoiled(tmp_path / "in" / "a" / "a_t2.nii.gz", "cut")
    files = brats.patients(tmp_path / "in")
    wishes = segmenting.Wishes({}, kind="box")
    run = a_run(tmp_path, "segment", tmp_path)
    segmenting.segment_all(run, tiny, "id", files, wishes, FAST, tmp_path / "to")
    assert (tmp_path / "to" / "b" / "b_ET.nii.gz").is_file()
    assert "case a, t2" in (tmp_path / "to" / "errors-a.jsonl").read_text()
    with pytest.raises(InputInvalid, match="not one of 1 patients was segmented; case a, t2"):
        segmenting.segment_all(run, tiny, "id", files[:1], wishes, FAST, tmp_path / "to")
    with pytest.raises(InputInvalid, match="wanted --prompt, --prompts or --kind"):
        segmenting.Wishes({}).of("a")


def test_prompts_of_a_table_are_checked(tmp_path):
    with pytest.raises(InputInvalid, match=r"p.csv, line 2: found region 'XX'; wanted WT"):
        segmenting.read_table(table(tmp_path / "p.csv", [("a", "XX", "point:1:2,3")]))
    (tmp_path / "q.csv").write_text("name\nx\n")
    with pytest.raises(InputInvalid, match=r"q.csv, line 1: found \['name'\]; wanted case, region"):
        segmenting.read_table(tmp_path / "q.csv")


def test_shards_tile_the_patients(folder):
    files = brats.patients(folder)
    shards = [segmenting.mine(files, segmenting.Shard(at, 4)) for at in range(4)]
    assert sorted(entry.name for some in shards for entry in some) == [one.name for one in files]


def test_studies_compare_on_the_same_patients(trained, folder, tiny, monkeypatch):
    monkeypatch.setattr(studies, "PROMPTS", {"kind": studies.PROMPTS["kind"]})
    run = a_run(trained, "prompt_study", folder)
    studies.prompts(run, tiny, 1)
    assert "prompt_study-kind" in {piece.get("name") for piece in run.pieces}
    assert "point" in str(run.pieces)
    monkeypatch.setattr(studies, "sized", lambda *_: [
        {"case": "a", "condition": "sizes", "bank": "K 6", "region": region, "dice": 0.5}
        for region in brats.REGIONS])  # fmt: skip
    run = a_run(trained, "bank_study", folder)
    studies.banks(run, tiny, 1, seeds=1)
    assert {f"{condition}_prompt_only_wt_minus_fifo" for condition in studies.CONDITIONS} <= set(
        run.metrics
    )


def test_speed_is_measured_beside_the_packages_predictor(trained, folder, tiny):
    run = a_run(trained, "measure_speed", folder)
    speed.measured(run, speed.networks(copy.deepcopy(tiny), [96, 64]), slices=3, turns=1)
    (table,) = [piece for piece in run.pieces if piece.get("name") == "speed"]
    assert [row["pixels"] for row in table["rows"]] == [64] * 5 + [96] * 5
    with pytest.raises(InputInvalid, match="found 64; wanted 96"):
        list(speed.networks(SimpleNamespace(size=96, name="a checkpoint"), [64]))


def test_corruption_spares_the_prompted_slice_and_hits_three_in_ten(case):
    channels = brats.channels(case)
    found = studies.corrupted(channels, 9, seed=0)
    hit = (found != channels).any(axis=(0, 2, 3))
    assert hit.sum() == round(0.3 * 19)
    assert not hit[9]


def test_differences_are_paired_and_seeds_averaged():
    rows = [
        {"case": case, "condition": "clean", "seed": seed, "bank": bank, "region": "WT",
         "dice": 0.5 + 0.1 * (bank == "selfsort") + 0.2 * (case == "b") + 0.01 * seed}
        for case in "ab" for seed in (0, 1) for bank in propagation.BANKS
    ]  # fmt: skip
    found = studies.differences(rows, "clean", "WT", 0)
    assert found["selfsort"] == pytest.approx((0.1, 0.1, 0.1))
    assert found["prompt-only"].mean == pytest.approx(0)


def test_published_figures_have_their_sources():
    assert all(row["source"] for row in paper.published())
    assert len(paper.architecture().axes) == 1


# The scorer


def scan(**changed):
    return Scan(**(example(Scan) | changed))


def test_a_scan_is_answered_on_its_own_grid(tiny):
    (found,) = score(tiny, [scan()])
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(found.mask))
    sent = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(base64.b64decode(example(Scan)["volume"]))
    )
    assert np.array_equal(mask.affine, sent.affine)
    assert mask.shape == sent.shape
    assert int(np.asarray(mask.dataobj).sum()) == found.voxels
    assert found.network == tiny.name
    assert base64.b64decode(found.model_dump(mode="json")["mask"]) == found.mask


def test_a_batch_is_answered_like_its_rows_in_order(tiny):
    rows = [scan(prompt="point:1:13,15"), scan(), scan(prompt="box:2:4,4,9,9", region="ET")]
    together = score(tiny, rows)
    assert together == [score(tiny, [row])[0] for row in rows]
    assert together[0] != together[2]


def test_four_files_are_a_scan(tiny, folder):
    files = brats.patients(folder)[0]
    sent = {kind: path.read_bytes() for kind, path in files.volumes.items()}
    (found,) = score(tiny, [Scan(**sent, prompt="box:9:6,18,20,32", region="TC")])
    assert found.region == "TC"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": "box:2:8,10"}, "String should match pattern"),
        ({"prompt": "point:9:8,10"}, "voxel 9 along axis K; wanted 0 to 3"),
        ({"volume": base64.b64encode(b"text").decode()}, "content that begins as"),
        ({"volume": base64.b64encode(gzip.compress(b"text")).decode()}, "found no NIfTI file"),
        ({"flair": example(Scan)["volume"]}, "found volume and flair; wanted volume, or some of"),
    ],
)
def test_a_wrong_scan_is_told(changed, told):
    with pytest.raises(ValidationError, match=told):
        scan(**changed)


def test_a_scan_without_a_volume_is_told():
    with pytest.raises(ValidationError, match="found no volume; wanted volume, or some of"):
        Scan(prompt="point:1:2,3")


def test_a_folder_of_patients_is_scored_in_shards(tmp_path, trained):
    for name in "ab":
        place = patient(tmp_path / "in", name)
        (place / f"{name}_prompt.txt").write_text("box:9:6,18,20,32\n")
    spoiled(tmp_path / "in" / "b" / "b_t2.nii.gz", "cut")
    source, parts = str(tmp_path / "in"), str(tmp_path / "parts")
    for shard in ("0/2", "1/2"):
        wishes = Wishes(shard=shard, workers=1, format=".jsonl")
        score_file(job, trained / "model", source, parts, wishes)
    merge_parts(job, parts, source, str(tmp_path / "all.jsonl"))
    (answer,) = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    assert (answer["file"], answer["region"]) == ("a", "WT")
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(answer["mask"])))
    assert np.array_equal(mask.affine, nibabel.load(tmp_path / "in" / "a" / "a_t1.nii.gz").affine)
    (error,) = map(json.loads, (tmp_path / "all.errors.jsonl").read_text().splitlines())
    assert error["file"] == "b"
    assert "scan, t2" in json.dumps(error)
