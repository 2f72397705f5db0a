"""MNIST's files: read as they were written, or refused with the place that is wrong."""

import contextlib
import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import idx
from slipway.errors import InputInvalid


def written(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return b"\0\0\x08" + bytes([values.ndim]) + sizes + values.tobytes()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_as_it_was_written(shape, packed, tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = written(values)
    (tmp_path / "file").write_bytes(gzip.compress(content) if packed else content)

    assert (idx.read(tmp_path / "file") == values).all()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "byte 0: found b''; wanted idx of 1 or 3 axes"),
        (b"\0\0\x0d\x01\0\0\0\0", "byte 0: "),
        (b"\0\0\x08\x02" + bytes(8), "byte 0: "),
        (b"\0\0\x08\x01\0\0", "byte 4: "),
        (b"\0\0\x08\x01" + bytes(4), r"byte 4: found sizes \(0,\); wanted 1 to "),
        (b"\0\0\x08\x03" + b"\xff" * 12, "byte 4: "),
        (b"\0\0\x08\x01\0\0\0\x02a", "byte 8: found 1 bytes of values, or more; wanted 2"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "byte 8: found 3 bytes of values, or more; wanted 2"),
        (b"\x1f\x8brubbish", "found a damaged gzip file"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(content, told, tmp_path) -> None:
    (tmp_path / "file").write_bytes(content)

    with pytest.raises(InputInvalid, match=f"file(, |: ){told}"):
        idx.read(tmp_path / "file")


@settings(max_examples=80, deadline=None, database=None)
@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_values_or_invalid_input(tmp_path_factory, content, packed) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    with contextlib.suppress(InputInvalid):  # any other error fails the test
        assert idx.read(path).size > 0


def test_pictures_without_a_label_each_are_no_pair(tmp_path) -> None:
    pictures, three = np.zeros((2, 4, 4), np.uint8), np.zeros(3, np.uint8)
    (tmp_path / "pictures").write_bytes(written(pictures))
    (tmp_path / "labels").write_bytes(written(three[:2]))
    (tmp_path / "three").write_bytes(written(three))
    found, labels = idx.read_labelled(tmp_path / "pictures", tmp_path / "labels")

    assert ((2, 4, 4), (2,)) == (found.shape, labels.shape)
    for one, other in (("pictures", "three"), ("labels", "labels")):
        with pytest.raises(InputInvalid, match="wanted a label for each picture"):
            idx.read_labelled(tmp_path / one, tmp_path / other)
