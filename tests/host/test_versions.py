"""Versions of split files: the counting by hand, and DVC against a folder and an S3-like store."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.errors import DataUnavailable, InputInvalid, SlipwayError
from slipway.host import catalog, environment, versions
from slipway.host.versions import Versions
from tests.host.conftest import REPOSITORY


def write_split(folder: Path, train: str, test: str, label: str = "label") -> None:
    """Write two files of one row a letter: the row's text is the letter, its class the case."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, letters in {"train.csv": train, "test.csv": test}.items():
        lines = [f"{letter},{'upper' if letter.isupper() else 'lower'}" for letter in letters]
        (folder / name).write_text("\n".join([f"text,{label}", *lines]) + "\n", "utf-8")


def test_rows_and_classes_are_counted(tmp_path: Path) -> None:
    write_split(tmp_path, train="abC", test="D")
    told = {name: str(part) for name, part in versions.read_parts(tmp_path).items()}
    assert told == {"test.csv": "1 rows (upper 1)", "train.csv": "3 rows (lower 2, upper 1)"}


def test_the_label_column_is_the_one_that_dataset_json_names(tmp_path: Path) -> None:
    write_split(tmp_path, train="aB", test="c", label="kind")
    assert versions.read_parts(tmp_path)["train.csv"].classes == {}
    (tmp_path / "dataset.json").write_text('{"label": "kind"}')
    assert versions.read_parts(tmp_path)["train.csv"].classes == {"lower": 1, "upper": 1}


def test_a_label_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    write_split(tmp_path, train="a", test="b")
    (tmp_path / "dataset.json").write_text('{"label": "kind"}')
    with pytest.raises(InputInvalid, match=r"test\.csv: no column 'kind'; there is text, label"):
        versions.read_parts(tmp_path)


def test_a_folder_without_splits_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="run the job's prepare first"):
        versions.read_parts(tmp_path)


def test_a_diff_tells_what_moved_came_and_went(tmp_path: Path) -> None:
    write_split(tmp_path / "one", train="abC", test="D")
    write_split(tmp_path / "two", train="abD", test="E")
    before, after = (versions.read_parts(tmp_path / name) for name in ("one", "two"))
    lines = versions.compare(before, after)
    assert lines[1].endswith("-> 3 rows (lower 2, upper 1); 1 left, 1 entered")
    assert lines[-1] == "1 rows changed their file, 1 went, 1 came"


def test_rows_that_occur_twice_are_counted_twice(tmp_path: Path) -> None:
    write_split(tmp_path / "one", train="aa", test="b")
    write_split(tmp_path / "two", train="a", test="ab")
    before, after = (versions.read_parts(tmp_path / name) for name in ("one", "two"))
    assert versions.membership(before, after) == (1, 0, 0)


def test_a_seed_is_told_only_of_the_files_it_made(tmp_path: Path) -> None:
    write_split(tmp_path / "data", train="a", test="b")
    digest = {path.name: versions.sha256_of(path) for path in (tmp_path / "data").iterdir()}
    record = {"prepare": {"options": {"seed": 7}, "prepared": digest}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert versions.seed_of(tmp_path) == "7"
    write_split(tmp_path / "data", train="b", test="a")
    assert versions.seed_of(tmp_path) == ""


@pytest.fixture(scope="module")
def data_python() -> Path:
    """Return the Python beside DVC; skip where that environment cannot be made."""
    try:
        return environment.make(REPOSITORY, "data", ["data"])
    except DataUnavailable as error:
        pytest.skip(f".venv-data cannot be made: {error}")


@pytest.fixture
def kept(root: Path, data_python: Path, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Return the versions of a job that has one, v1, in a store yet to be named."""
    monkeypatch.setattr(environment, "make", lambda *_: data_python)
    found = Versions.of(root, catalog.find_job(root, "example"))
    write_split(found.data, train="abC", test="D")
    return found


def lose_cache(kept: Versions) -> None:
    shutil.rmtree(kept.folder / ".dvc" / "cache")


@pytest.mark.data
def test_a_version_comes_back_from_a_folder_when_the_cache_is_lost(
    kept: Versions, tmp_path: Path
) -> None:
    kept.set_remote(str(tmp_path / "store"))
    assert kept.snapshot(seed="0")[0] == "v1"
    with pytest.raises(SlipwayError, match="these files are version v1 already"):
        kept.snapshot()
    write_split(kept.data, train="abD", test="C")
    name, message = kept.snapshot(seed="1")
    assert (name, message.split("; ")[0]) == ("v2", "seed 1")
    lose_cache(kept)
    assert str(kept.checkout("v1")["test.csv"]) == "1 rows (upper 1)"
    assert (kept.data / "test.csv").read_text() == "text,label\nD,upper\n"
    assert [name for name, _ in kept.described()] == ["v1", "v2"]


@pytest.mark.data
def test_an_unknown_version_is_told_with_the_known(kept: Versions) -> None:
    with pytest.raises(DataUnavailable, match="no version 'v9'; there is none"):
        kept.checkout("v9")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a bucket in an S3-like store on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    boto3 = pytest.importorskip("boto3")
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="versions")
    client.close()
    yield "s3://versions/example"
    server.stop()


@pytest.mark.data
def test_a_version_comes_back_from_an_s3_like_store(kept: Versions, bucket: str) -> None:
    kept.set_remote(bucket)
    kept.snapshot()
    lose_cache(kept)
    shutil.rmtree(kept.data)
    assert str(kept.checkout("v1")["train.csv"]) == "3 rows (lower 2, upper 1)"
