"""What a user gets wrong ends with a code of the contract and a message to act on."""

import re
import shutil

import pytest

DAMAGED = "damaged"
LINE = 3


@pytest.fixture
def refused(subject):
    """Return a function: run, and hold the end to a code, words of the message, no traceback."""

    def run(code, words, *arguments, **more):
        ended = subject.run(*arguments, **more)
        assert code == ended.code, ended.err
        for word in words:
            assert re.search(word, ended.err), f"{word!r} is not in: {ended.err}"
        assert "Traceback" not in ended.err
        return ended

    return run


@pytest.fixture
def dataset(subject):
    """Name and declaration of the job's first dataset."""
    if not subject.spec.data:
        pytest.skip(f"{subject.spec.name} has no data files")
    return next(iter(subject.spec.data.items()))


@pytest.fixture
def modelled(trained, make_folder):
    """A copy of the artifacts with nothing but the model."""
    place = make_folder()
    shutil.copytree(trained / "model", place / "model", copy_function=shutil.copyfile)
    return make_folder(place)


@pytest.mark.once
def test_an_unknown_verb(refused):
    refused(2, ["trian"], "trian")


def test_an_unknown_option(refused, out):
    refused(2, ["--sede"], "train", "--sede", "3", out=out)


@pytest.mark.once
@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "three"), ("--seed", "-1"), ("--epochs", "0")]
)
def test_a_bad_option(refused, out, option, value):
    refused(2, [option], "train", option, value, out=out)


@pytest.mark.once
def test_a_device_that_is_not_there(refused, out):
    refused(4, ["--device cuda", "--gpus all"], "train", "--device", "cuda", out=out)


def test_own_data_that_is_missing(refused, out):
    refused(5, ["/own/absent.csv", "wanted"], "prepare", "--data", "/own/absent.csv", out=out)


def test_own_data_that_is_damaged(refused, out, subject, dataset, make_folder):
    _, entry = dataset
    if not entry.sample:
        pytest.skip("the dataset has no sample to damage")
    if entry.sample.endswith(".toml"):
        pytest.skip(f"{entry.sample} only tells how the sample is made")
    source, own = subject.spec.folder / entry.sample, make_folder()
    lines = source.read_bytes().splitlines()
    lines[LINE - 1] = DAMAGED.encode()
    (own / source.name).write_bytes(b"\n".join(lines) + b"\n")
    place = f"/own/{source.name}"
    words = [rf"{re.escape(source.name)}.*line {LINE}\b", "wanted"]
    refused(6, words, "prepare", "--data", place, out=out, mounts={own: ("/own", "ro")})


def test_a_cached_file_of_another_checksum(refused, out, dataset, make_folder):
    _, entry = dataset
    cache = make_folder()
    path = cache / entry.file
    path.parent.mkdir(parents=True)
    path.write_text(DAMAGED, "utf-8")
    words = [f"/data/{entry.file}", "sha256 is [0-9a-f]{64}", f"wanted {entry.sha256}"]
    refused(5, words, "prepare", "--data", "real", out=out, mounts={cache: ("/data", "ro")})


def test_real_data_without_a_network(refused, out, dataset):
    words = [re.escape(dataset[1].url)]
    refused(5, words, "prepare", "--data", "real", out=out)


@pytest.mark.once
def test_a_mirror_that_does_not_hold_the_file(refused, out, dataset):
    environ = {"SLIPWAY_MIRROR": "/nowhere"}
    words = [f"/nowhere/{dataset[1].file}"]
    refused(5, words, "prepare", "--data", "mirror", out=out, environ=environ)


@pytest.mark.once
def test_artifacts_that_cannot_be_written(refused, make_folder):
    mounts = {make_folder(): ("/artifacts", "ro")}
    refused(5, ["/artifacts", "cannot be (read or )?written"], "prepare", mounts=mounts)


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_stage_before_the_one_it_needs(refused, out, verb):
    refused(5, ["run (prepare|train) first"], verb, out=out)


def test_scoring_without_a_model(refused, out, rows, write_rows):
    write_rows(out / "rows.jsonl", rows)
    inside = ("/artifacts/rows.jsonl", "/artifacts/scores.jsonl")
    refused(5, ["/artifacts/model", "run train first"], "score", *inside, out=out)


@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_scoring_with_a_damaged_model(refused, modelled, rows, write_rows, harm):
    path = next((modelled / "model").glob("model.*"))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 0xFF
    scored_without(
        refused, modelled, content if harm == "flipped" else content[:middle], rows, write_rows
    )


@pytest.mark.once
@pytest.mark.parametrize("content", [b"", b"PK\3\4"], ids=["empty", "other"])
def test_scoring_with_what_is_no_model(refused, modelled, rows, write_rows, content):
    scored_without(refused, modelled, content, rows, write_rows)


def scored_without(refused, modelled, content, rows, write_rows):
    """Put other bytes in the model's place and hold `score` to its refusal."""
    path = next((modelled / "model").glob("model.*"))
    path.write_bytes(content)
    write_rows(modelled / "rows.jsonl", rows)
    inside = ("/artifacts/rows.jsonl", "/artifacts/scores.jsonl")
    refused(6, [f"/artifacts/model/{path.name}"], "score", *inside, out=modelled)


@pytest.mark.once
def test_scoring_a_missing_file(refused, modelled):
    inside = ("/artifacts/absent.jsonl", "/artifacts/scores.jsonl")
    refused(5, ["/artifacts/absent.jsonl", "no such file"], "score", *inside, out=modelled)


@pytest.mark.once
def test_scoring_into_a_place_that_cannot_be_written(refused, modelled, rows, write_rows):
    write_rows(modelled / "rows.jsonl", rows)
    inside = ("/artifacts/rows.jsonl", "/srv/scores.jsonl")
    refused(5, ["/srv", "cannot be (read or )?written"], "score", *inside, out=modelled)


@pytest.mark.once
def test_scoring_a_file_of_unknown_kind(refused, modelled):
    inside = ("/artifacts/rows.txt", "/artifacts/scores.jsonl")
    refused(2, ["rows.txt", r"wanted .*\.jsonl"], "score", *inside, out=modelled)


def test_a_bad_line_is_told_and_the_rest_is_scored(
    subject, modelled, rows, wrong, write_rows, read_rows
):
    lines = [rows[0], '{"torn', rows[1], wrong, "[]", rows[2]]
    write_rows(modelled / "rows.jsonl", lines)
    inside = ("/artifacts/rows.jsonl", "/artifacts/scores.jsonl")
    ended = subject.run("score", *inside, out=modelled)
    assert ended.code == 0, ended.err
    assert [answer["line"] for answer in read_rows(modelled / "scores.jsonl")] == [1, 3, 6]
    errors = read_rows(modelled / "scores.errors.jsonl")
    assert [error["line"] for error in errors] == [2, 4, 5]
    assert f"/{next(iter(wrong))}" in errors[1]["problems"][0]["path"]
    for error in errors:
        assert {"path", "found", "wanted"} == set(error["problems"][0])


def test_only_bad_lines(refused, modelled, wrong, write_rows):
    write_rows(modelled / "rows.jsonl", [wrong, wrong])
    inside = ("/artifacts/rows.jsonl", "/artifacts/scores.jsonl")
    words = ["/artifacts/rows.jsonl", "line 1", "wanted"]
    refused(6, words, "score", *inside, out=modelled)
    assert not (modelled / "scores.jsonl").exists()


def test_a_csv_without_the_column(refused, modelled, rows):
    (modelled / "rows.csv").write_text("other\n1\n2\n", "utf-8")
    inside = ("/artifacts/rows.csv", "/artifacts/scores.csv")
    words = ["/artifacts/rows.csv", "line 1", "|".join(map(re.escape, rows[0]))]
    refused(6, words, "score", *inside, out=modelled)
