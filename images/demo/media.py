"""Files as they travel: what a picture or a recording is, and in which form a scorer takes it."""

from __future__ import annotations

import base64
import binascii
import io
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
"""Pictures that every browser shows; of others a page can only give the file."""
WRITTEN = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP", "image/bmp": "BMP"}


def content_of(path: Path, accept: Sequence[str]) -> tuple[str, bytes]:
    """Return media type and bytes of a file.

    A picture of a type that the scorer does not name is written anew in the first that it names.
    """
    content = path.read_bytes()
    found = kind_of(content)
    if not found:
        return _named(path, accept), content
    wanted = next((kind for kind in accept if kind in WRITTEN), "")
    if found in accept or not wanted:
        return found, content
    return wanted, _written(content, wanted)


def _named(path: Path, accept: Sequence[str]) -> str:
    """Return the media type of a file's ending; where a scorer takes one type only, that one."""
    if len(accept) == 1:
        return accept[0]
    return (mimetypes.guess_type(path)[0] or "application/octet-stream").replace("/x-", "/")


def kind_of(content: bytes) -> str:
    """Return the media type of a picture; nothing where the content is none."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.get_format_mimetype() or ""
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return ""


def _written(content: bytes, kind: str) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as picture:
        upright = ImageOps.exif_transpose(picture)
        plain = upright if kind in ("image/png", "image/webp") else upright.convert("RGB")
        plain.save(buffer, WRITTEN[kind])
    return buffer.getvalue()


def is_blank(path: Path) -> bool:
    """Tell whether a picture is of one colour, as a sheet is on which nobody drew."""
    with Image.open(path) as picture:
        return all(low == high for low, high in _extrema(picture.convert("RGB")))


def _extrema(picture: Image.Image) -> Sequence[tuple[int, int]]:
    found: Sequence[tuple[int, int]] = picture.getextrema()  # type: ignore[assignment]
    return found


def decoded(text: object) -> bytes:
    """Return the bytes of base64, nothing where it is none."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        return b""


def size(content: bytes) -> str:
    """Return how large a file is, in words."""
    megabytes = len(content) / 1e6
    return f"{megabytes:,.1f} MB" if megabytes >= 0.1 else f"{len(content) / 1e3:,.1f} kB"
