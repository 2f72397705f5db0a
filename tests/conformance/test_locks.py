"""A model may be made in one image and used in another: they hold the same libraries."""

import re

import pytest


def version_of(root, lock, package):
    text = (root / "images" / f"{lock}.txt").read_text("utf-8")
    found = re.search(rf"^{package}==([\d.]+)", text, re.M)
    assert found, f"images/{lock}.txt: no {package}"
    return found[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("torch", "torch"), ("cuda", "torch")),
        (("base", "onnxruntime"), ("cuda", "onnxruntime-gpu")),
    ],
)
def test_a_library_for_cuda_is_the_version_of_that_without(root, one, other):
    here, there = version_of(root, *one), version_of(root, *other)
    assert here == there, f"images/{other[0]}.txt: {other[1]} is {there}, wanted {here}"
