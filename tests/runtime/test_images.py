"""Pictures that a stranger sent: decoded within limits, or refused with what was wanted."""

import io
import struct
import zlib
from typing import Annotated

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from slipway import images
from slipway.images import opened
from slipway.types import Content, Input, Media


class Photo(Input):
    """A row with a picture."""

    image: Annotated[
        Content,
        Media("image/png", "image/jpeg", drawn=True, reader=lambda content: opened(content, 100)),
    ]


def encoded(picture: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def declared(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that says it is so large."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT")
    parts = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_picture_comes_back_with_its_pixels() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    found = images.rgba(images.opened(encoded(Image.fromarray(pixels))))

    assert (found[..., :3] == pixels).all()
    assert (found[..., 3] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_colours_and_opacity(mode: str) -> None:
    white = 65535 if mode == "I;16" else 1 if mode == "1" else "white"
    found = images.rgba(images.opened(encoded(Image.new(mode, (3, 2), white))))

    assert ((2, 3, 4), np.uint8) == (found.shape, found.dtype)
    assert (found == 255).all()


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 25_700, 65_535]], np.uint16))

    assert [0, 100, 255] == images.rgba(images.opened(encoded(grey)))[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("picture", "kept", "seen"),
    [
        (Image.new("RGB", (1, 1), (1, 2, 3)), {}, [1, 2, 3]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), {"transparency": (1, 2, 3)}, [255, 255, 255]),
        (
            Image.new("RGBA", (1, 1), (200, 0, 0, 128)),
            {},
            [227, 127, 127],
        ),  # (200 * 128 + 255 * 127) / 255
        (Image.new("L", (1, 1), 9), {}, [9, 9, 9]),
    ],
)
def test_white_paper_is_behind_what_is_transparent(picture, kept, seen) -> None:
    assert seen == images.on_white(images.opened(encoded(picture, **kept)))[0, 0].tolist()


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    content = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)

    assert (2, 4) == images.opened(content).size


@pytest.mark.parametrize(("width", "height"), [(11, 10), (5000, 5000), (100_000, 100_000)])
def test_a_larger_picture_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="a picture of 100 pixels at most"):
        images.opened(declared(width, height), 100)


def test_another_format_than_the_declared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a whole picture \(PNG\)"):
        images.opened(encoded(Image.new("L", (2, 2)), "GIF"), 100, ["image/png"])


def test_a_field_names_what_is_wrong_with_its_picture() -> None:
    whole = encoded(Image.effect_noise((10, 10), 90))
    for content, told in ((whole[:80], "a whole picture"), (declared(50, 50), "found 50 x 50")):
        with pytest.raises(ValidationError, match=told) as caught:
            Photo(image=content)

        assert ("image",) == caught.value.errors()[0]["loc"]
    row = Photo(image=whole)
    assert whole == row.image
    assert (10, 10) == row.image.read.size
    assert row == Photo.model_validate_json(row.model_dump_json())


def test_the_schema_says_that_a_picture_may_be_drawn() -> None:
    assert Photo.model_json_schema()["properties"]["image"]["drawn"] is True


@settings(max_examples=200, deadline=None, database=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), st.data())
def test_every_damage_is_told_or_harmless(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.new("RGB", (9, 9), "teal"), kind))
    place = data.draw(st.integers(0, len(content)))
    noise = data.draw(st.binary(max_size=8))
    content[place : place + len(noise)] = noise
    found = None
    try:
        found = images.opened(bytes(content), 100)
    except ValueError as error:
        told = str(error)
    assert found is not None or told.startswith("a ")
