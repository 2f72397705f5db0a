from pathlib import Path
from types import SimpleNamespace

import pytest

from slipway.host import run

OPTIONS = {"--csv", "--data"}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my table.csv"
    path.write_text("a,b\n")
    return path


@pytest.mark.parametrize("given", ["my table.csv", "./my table.csv"])
def test_a_file_of_an_option_is_mounted_read_only(table: Path, given: str) -> None:
    mounts, told = run.own_files(["--csv", given, "--target", "b"], lambda: OPTIONS)
    assert mounts == {table: ("/input/0/my table.csv", "ro")}
    assert told == ["--csv", "/input/0/my table.csv", "--target", "b"]


def test_an_option_with_an_equals_sign_and_a_named_dataset_are_understood(table: Path) -> None:
    given = ["run", "--csv=my table.csv", "--data", "messages=my table.csv"]
    mounts, told = run.own_files(given, lambda: OPTIONS)
    assert told == ["run", "--csv=/input/0/my table.csv", "--data",
                    "messages=/input/1/my table.csv"]  # fmt: skip
    assert list(mounts) == [table]


def test_a_value_that_only_looks_like_a_file_stays(table: Path) -> None:
    given = ["train", "--preset", "my table.csv", "--seed", "3", "--target", "", "my table.csv"]
    assert run.own_files(given, lambda: OPTIONS) == ({}, given)


@pytest.mark.parametrize("given", [["--data", "sample"], ["--data=sample"]])
def test_a_tier_is_no_folder_of_its_name(table: Path, given: list[str]) -> None:
    table.with_name("sample").mkdir()
    assert run.own_files(given, lambda: OPTIONS) == ({}, given)
    assert run.own_files(["--csv", "sample"], lambda: OPTIONS)[0]


def test_the_image_is_asked_only_where_a_value_is_a_file(table: Path) -> None:
    def ask() -> set[str]:
        raise AssertionError("asked")

    assert run.own_files(["run", "--csv", "none.csv"], ask) == ({}, ["run", "--csv", "none.csv"])


def test_the_image_tells_which_options_take_a_file() -> None:
    kinds = {"--csv": ("Path", True), "--out": ("Path", False), "--seed": ("IntRange", None)}
    options = [{"opts": [name], "type": {"param_type": kind, "file_okay": okay}}
               for name, (kind, okay) in kinds.items()]  # fmt: skip
    shown = run.json.dumps({"verbs": {"run": {"options": options}, "train": {"options": []}}})
    client = SimpleNamespace(containers=SimpleNamespace(run=lambda *_, **__: shown.encode()))
    assert run.path_options(client, SimpleNamespace(), ["--csv", "x"]) == {"--csv"}
    assert run.path_options(client, SimpleNamespace(), ["train"]) == set()
