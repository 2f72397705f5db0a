"""The job on its sample: training, both forms of a model, files of strangers, the maths."""

import base64
import gzip
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from jobs.sql_image_pipeline import (
    adopted,
    charts,
    collection,
    database,
    learning,
    pixels,
    sending,
    sources,
)
from jobs.sql_image_pipeline.conftest import EPOCHS, a_run, noise, rows_of, told
from jobs.sql_image_pipeline.job import (
    EXAMPLE,
    Picture,
    evaluate,
    export,
    held_out,
    job,
    migrate,
    prepare,
    score,
    score_exported,
    train,
)
from jobs.sql_image_pipeline.network import ResNet, moved
from slipway import store
from slipway.errors import DataUnavailable, InputInvalid, Stopped
from slipway.export import export_model

SMALL = {"labels": ["a", "b"], "channels": 1, "side": 16, "widths": [4, 8], "blocks": 1,
         "mean": 0.3, "spread": 0.2}  # fmt: skip


@pytest.fixture(autouse=True)
def embedded(monkeypatch):
    """These tests are about the job, on SQLite; the databases have tests of their own."""
    monkeypatch.delenv(database.VARIABLE, raising=False)


@pytest.fixture(scope="module")
def model(trained):
    return job.load(trained / "model")


def test_the_network_beats_a_constant_guess_and_every_chart_is_there(trained, model):
    run = a_run(trained, "evaluate")
    evaluate(run, model)
    assert run.metrics["test_accuracy"] > 0.9  # the commonest of ten digits is 0.12 of them
    names = {piece["name"] for piece in run.pieces if piece["kind"] == "figure"}
    assert {f"evaluate-{name}" for name in ("confidence", "counts", "schema")} <= names
    engine = database.opened(trained)
    kept = rows_of(engine, "SELECT COUNT(*), SUM(correct), SUM(labelled) FROM predictions p"
                   " JOIN daily_counts d ON d.label_id = p.label_id GROUP BY d.day")  # fmt: skip
    assert kept
    ((count, right),) = rows_of(engine, "SELECT SUM(labelled), SUM(correct) FROM daily_counts")
    ((accuracy, digest),) = rows_of(engine, "SELECT accuracy, digest FROM model_versions")
    engine.dispose()
    assert count == 360
    assert right / count == pytest.approx(run.metrics["test_accuracy"]) == accuracy
    assert digest == store.identity(trained / "model")


def test_a_batch_scores_like_its_rows_alone(model, trained):
    rows = held_out(a_run(trained, "export"))[:9]
    together = score(model, rows)
    for row, verdict in zip(rows, together, strict=True):
        (alone,) = score(model, [row])
        assert alone.label == verdict.label
        assert alone.probabilities == pytest.approx(verdict.probabilities, abs=1e-5)
        assert sum(verdict.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert verdict.confidence == max(verdict.probabilities.values())


def test_the_exported_model_answers_alike_and_is_served(trained):
    assert "answers like the trained model on 360 held-out rows" in export_model(job, trained)
    assert job.form(job.load(trained / "model", "auto")) == "exported"


def test_a_stopped_training_ends_in_the_same_model(trained, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "again")
    run = a_run(tmp_path / "again", "train")
    run.stopping = True
    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            train(run, None, False)
    run.stopping = False
    store.save(train(run, None, False), tmp_path / "model")
    assert store.identity(tmp_path / "model") == store.identity(trained / "model")


def test_a_split_holds_each_picture_once_and_depends_on_the_seed(trained):
    engine = database.opened(trained)
    one, other = (collection.split(engine, "sample", seed, False) for seed in (0, 1))
    engine.dispose()
    assert [len(one[part]) for part in collection.PARTS] == [1294, 143, 360]
    every = [digest for part in collection.PARTS for digest, _ in one[part]]
    assert len(set(every)) == 1797
    assert one["test"] == other["test"]
    assert one["validation"] != other["validation"]


def test_corrected_uploads_are_trained_on_when_asked(tmp_path, trained, loaded):
    import shutil

    from slipway.scorer import create_app

    out = tmp_path / "copy"
    shutil.copytree(trained, out)
    client = create_app(job, out, background=False, loaded=loaded).test_client()
    row = told(client.post("/images", data=noise(5), content_type="image/png"))
    client.post("/corrections", json={"prediction": row["id"], "label": "4"})
    sizes = []
    for corrected in (False, True):
        run = a_run(out, "prepare")
        prepare(run, corrected, 0, "sample")
        sizes.append(run.metrics["train_pictures"] + run.metrics["validation_pictures"])
    assert sizes == [1437, 1438]


def test_too_few_pictures_are_refused(tmp_path):
    with pytest.raises(InputInvalid, match="wanted 10 of 2 at least"):
        prepare(a_run(tmp_path, "prepare", limit=5), False, 0, "sample")


def test_migrate_tells_the_revision(tmp_path):
    run = a_run(tmp_path, "migrate")
    migrate(run, "head", False)
    migrate(run, "0001", True)
    assert [piece["text"] for piece in run.pieces] == [
        "The schema is at revision 0003.", "The schema is at revision 0001."
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["oracle://x", "postgresql://there:port/x", "nonsense", "sqlite+x"])
def test_a_url_that_names_no_database_is_refused_without_its_password(url, monkeypatch, tmp_path):
    monkeypatch.setenv(database.VARIABLE, url.replace("//", "//me:secret@"))
    with pytest.raises(InputInvalid) as caught:
        database.url_of(tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "mysql", "mariadb"])
def test_the_driver_is_the_one_of_the_image(scheme, monkeypatch, tmp_path):
    monkeypatch.setenv(database.VARIABLE, f"{scheme}://me@there/name")
    assert database.url_of(tmp_path).drivername in ("postgresql+psycopg", "mariadb+pymysql")


# Models of others


def onnx_of(folder, labels, beside):
    """Write the exported model of another job: labels in its metadata or in a file beside it."""
    network = ResNet(**SMALL).eval()
    export(network, folder)
    graph = adopted._graph(folder / "model.onnx")
    del graph.metadata_props[:]
    if beside:
        (folder / "labels.json").write_text(json.dumps(labels), "utf-8")
    else:
        adopted.told(graph, {"labels": labels})
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return network


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("place", ["", "model/export"])
def test_an_exported_model_of_another_job_is_taken(tmp_path, beside, place):
    folder = tmp_path / "theirs" / place
    folder.mkdir(parents=True)
    network = onnx_of(folder, ["cat", "dog"], beside)
    out = tmp_path / "ours"
    store.save(train(a_run(out, "train"), tmp_path / "theirs", False), out / "model")
    session = job.load(out / "model")
    row = Picture(image=base64.b64decode(EXAMPLE))
    (verdict,) = score(session, [row])
    assert set(verdict.probabilities) == {"cat", "dog"}
    pixels_of = pixels.stacked([row.image.read], 1, 16)
    assert verdict.confidence == pytest.approx(learning.chances(network, pixels_of).max(), abs=1e-5)
    assert score_exported(session, [row]) == [verdict]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["only one"], r"wanted \(2, 1\)"),
        ([1, 2], "wanted a list of labels"),
        ({"a": 1}, "wanted a list of labels"),
        ([], r"wanted \(2, 0\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, wanted):
    onnx_of(tmp_path, labels, True)
    with pytest.raises(InputInvalid, match=wanted):
        adopted.read(tmp_path)


def test_a_folder_without_a_model_or_labels_is_refused(tmp_path):
    with pytest.raises(DataUnavailable, match=r"found no model\.onnx"):
        adopted.read(tmp_path)
    onnx_of(tmp_path, ["a", "b"], True)
    (tmp_path / "labels.json").unlink()
    with pytest.raises(InputInvalid, match="found no labels"):
        adopted.read(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputInvalid, match="no ONNX model"):
        adopted.read(tmp_path)


# Pictures


def picture(mode, colour, size=(20, 10), kind="PNG", **kept):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind, **kept)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "pixel"),
    [
        (picture("L", 7), "image/png", 7),
        (picture("RGB", (1, 2, 3)), "image/png", [1, 2, 3]),
        (picture("RGBA", (0, 0, 0, 0)), "image/png", [255, 255, 255]),
        (picture("RGB", (1, 2, 3), transparency=(1, 2, 3)), "image/png", [255, 255, 255]),
        (picture("L", 7, transparency=7), "image/png", [255, 255, 255]),
        (picture("RGB", (0, 0, 0), kind="BMP"), "image/bmp", [0, 0, 0]),
        (picture("RGB", (255, 255, 255), kind="JPEG"), "image/jpeg", [255, 255, 255]),
        (picture("RGB", (255, 255, 255), kind="WEBP"), "image/webp", [255, 255, 255]),
    ],
)
def test_pixels_of_each_kind_of_file(content, kind, pixel):
    found = pixels.opened(content)
    assert found.media_type == kind
    assert found.pixels.shape[:2] == (10, 20)
    assert found.pixels[0, 0].tolist() == pixel


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_remark_changes_a_file_and_no_pixel(kind):
    content = picture("RGB", (200, 3, 3), kind=kind)
    files = sending.Anew([content])
    assert len({content, files[0], files[1], sending.Anew([content])[0]}) == 4
    assert (pixels.opened(files[0]).pixels == pixels.opened(content).pixels).all()


def test_the_middle_square_is_what_a_network_sees():
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert pixels.fitted(wide, 1, 10).tolist() == np.full((1, 10, 10), 200).tolist()
    assert pixels.fitted(wide, 3, 5).shape == (3, 5, 5)


def test_a_bomb_is_refused_before_it_is_unfolded():
    with pytest.raises(ValidationError, match="16,000,000 pixels at most"):
        Picture(image=picture("1", 0, (5000, 5000)))


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=120), st.integers(0, 200))
def test_any_damage_to_a_picture_is_a_wrong_field_or_harmless(damage, place):
    content = bytearray(noise(1))
    content[place : place + len(damage)] = damage
    wrong = []
    try:
        Picture(image=bytes(content))
    except ValidationError as error:
        wrong = [entry["loc"] for entry in error.errors()]
    assert wrong in ([], [("image",)])


# Sources


@settings(max_examples=80, deadline=None, database=None)
@given(st.text(max_size=40))
def test_any_name_gives_a_label_that_fits_or_a_problem(name):
    found = sources.named(name, b"x")
    assert found.problem or found.label is None or 0 < len(found.label) <= 64
    assert found.label not in (".", "..", "")


@pytest.mark.parametrize(
    ("name", "label", "split"),
    [
        ("train/7/1.png", "7", "train"),
        ("data/test/cat/1.png", "cat", "test"),
        ("cat/1.png", "cat", None),
        ("train/1.png", None, "train"),
        ("1.png", None, None),
        ("../../etc/7/1.png", "7", None),
        ("a\\b\\1.png", "b", None),
    ],
)
def test_label_and_split_are_in_the_path(name, label, split):
    found = sources.named(name, b"x")
    assert (found.label, found.split) == (label, split)


@settings(max_examples=60, deadline=None, database=None)
@given(st.binary(max_size=300), st.integers(0, 500))
def test_any_damage_to_a_zip_is_told_of(tmp_path_factory, damage, place):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train/1/a.png", noise(1))
        archive.writestr("train/2/b.png", noise(2))
    content = bytearray(file.getvalue())
    content[place : place + len(damage)] = damage
    path = tmp_path_factory.mktemp("zip") / "some.zip"
    path.write_bytes(content)
    for found in sources.files_of(str(path)):
        assert found.problem or found.content is not None


def idx(*sizes, body=None):
    head = bytes([0, 0, 8, len(sizes)])
    content = head + b"".join(size.to_bytes(4, "big") for size in sizes)
    return gzip.compress(content + (bytes(int(np.prod(sizes))) if body is None else body))


def test_idx_files_become_pictures(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    (tmp_path / "i").write_bytes(idx(2, 28, 28, body=images.tobytes()))
    (tmp_path / "l").write_bytes(idx(2, body=b"\x03\x09"))
    found = list(sources.mnist(tmp_path / "i", tmp_path / "l", "train"))
    assert [(entry.label, entry.split) for entry in found] == [("3", "train"), ("9", "train")]
    assert (pixels.opened(found[1].content).pixels == images[1]).all()


@pytest.mark.parametrize(
    ("images", "labels", "wanted"),
    [
        (idx(2, 28, 28), idx(3), "wanted a label for each picture"),
        (idx(2, 28, 28), idx(2, body=b"\x01\x0a"), "byte 9: found label 10"),
    ],
)
def test_a_wrong_idx_file_is_named(tmp_path, images, labels, wanted):
    (tmp_path / "i").write_bytes(images)
    (tmp_path / "l").write_bytes(labels)
    with pytest.raises(InputInvalid, match=wanted):
        list(sources.mnist(tmp_path / "i", tmp_path / "l", "train"))


def test_a_source_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataUnavailable, match="no such file or folder"):
        collection.fill_from(a_run(tmp_path, "ingest"), None, str(tmp_path / "none"), "x")
    with pytest.raises(InputInvalid, match="choose another one"):
        collection.name_of("/some/upload.zip")


# The maths, worked by hand


def test_the_rate_warms_up_and_falls_along_a_cosine():
    middle = (learning.WARM_UP + 1) / 2
    found = [learning.rate(done) for done in (0, learning.WARM_UP / 2, learning.WARM_UP, middle, 1)]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)


def test_the_network_has_the_parameters_of_the_paper():
    """He et al., section 4.2: 6 n + 2 layers of 16, 32 and 64 channels; n = 3 has 0.27 million."""
    network = ResNet(labels=list("0123456789"), channels=3, side=32, widths=[16, 32, 64], blocks=3,
                     mean=0.5, spread=0.25)  # fmt: skip
    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    main = [part for part in convolutions if part.kernel_size == (3, 3)]
    assert len(main) + 1 == 20
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(0.27e6, rel=0.03)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_moved_picture_is_the_same_picture_elsewhere():
    pictures = torch.zeros(5, 1, 20, 20)
    pictures[:, :, 8:12, 8:12] = 1
    found = moved(pictures, torch.Generator().manual_seed(0), False)
    again = moved(pictures, torch.Generator().manual_seed(0), False)
    assert torch.equal(found, again)
    assert found.sum(dim=(1, 2, 3)).tolist() == [16] * 5
    assert not torch.equal(found[0], found[1])
    rising = torch.arange(20.0).expand(40, 1, 20, 20)
    mirrored = moved(rising, torch.Generator().manual_seed(0), True)
    falling = (mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, -1]).sum()
    assert 8 <= falling <= 32


def test_a_network_fits_its_pictures():
    grey = [pixels.opened(noise(seed)) for seed in range(3)]
    settings_of = learning.made(grey, ["b", "a", "b"]).settings
    assert (settings_of["channels"], settings_of["side"], settings_of["labels"]) == (
        1,
        16,
        ["a", "b"],
    )
    colour = [pixels.opened(picture("RGB", (200, 3, 3), (40, 30)))]
    known = learning.made(colour, ["x"]).settings
    assert (known["channels"], known["side"]) == (3, 32)


def test_calibration_tells_the_gap():
    page = charts.calibration(np.array([0.9] * 8), np.array([True] * 4 + [False] * 4), bins=1)
    assert "40.0 percentage points" in page.axes[0].get_title(loc="left")
