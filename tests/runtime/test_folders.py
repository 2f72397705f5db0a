"""Folders of files that are a row each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

from slipway.scoring import folders, rows
from slipway.scoring.stores import entries
from slipway.types import Field, Input, Media

PNG = b"\x89PNG\r\n\x1a\n"


class Pair(Input):
    left: Annotated[bytes, Media("image/png")]
    right: Annotated[bytes, Media("image/png")] = b""
    note: str = Field("", max_length=20)


class Sentence(Input):
    text: str


JOB: Any = SimpleNamespace(row=Pair)


@pytest.fixture
def source(tmp_path) -> Path:
    """Three rows: one whole, one of a left picture alone, one with no field at all."""
    for name, content in {
        "a/a_left.png": PNG + b"1", "a/a-right.png": PNG + b"2", "a/note.txt": b"\xef\xbb\xbfhi\n",
        "a/a_seg.png": b"left out", "b/deep/left.png": PNG + b"3", "c/readme.md": b"nothing",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def checked(source: Path, longest: int = 1000) -> list[rows.Checked]:
    files = entries(str(source))
    checker = rows.Checker(JOB)
    return [checker(chunk) for chunk in
            folders.chunks(folders.as_entries(files), files, JOB, longest)]  # fmt: skip


def test_each_folder_is_a_row_and_a_file_fills_the_field_it_is_named_by(source) -> None:
    whole, alone, none = checked(source)

    assert {"left": PNG + b"1", "right": PNG + b"2", "note": "hi"} == whole.rows[0].model_dump()
    assert ["a"] == whole.files
    assert PNG + b"3" == alone.rows[0].left
    assert ["b/deep"] == alone.files
    assert "/left" == none.bad[0]["problems"][0]["path"]
    assert "c" == none.bad[0]["file"]


def test_a_folder_that_is_no_row_is_told(source) -> None:
    (source / "a" / "left.png").write_bytes(PNG)
    (source / "b" / "deep" / "note.txt").write_bytes(b"\xff")
    twice, odd, _ = checked(source)

    assert "two files for left" == twice.bad[0]["problems"][0]["found"]
    assert "note: bytes that are no UTF-8" in odd.bad[0]["problems"][0]["found"]


def test_a_folder_over_the_limit_is_never_read(source) -> None:
    (source / "a" / "a_left.png").write_bytes(PNG + bytes(2000))

    assert "over 1000 bytes" in checked(source)[0].bad[0]["problems"][0]["found"]


def test_files_beside_each_other_and_types_of_text_are_no_folders_of_rows(source) -> None:
    files = entries(str(source))
    assert folders.are_rows(JOB, files)
    assert not folders.are_rows(SimpleNamespace(row=Sentence), files)
    assert not folders.are_rows(JOB, entries(str(source / "a")))
