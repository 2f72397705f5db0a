"""The page to listen on: source, clone and target side by side, one file for everything.

Data:    recordings as WAV, pictures as PNG.
Source:  none.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.data import written

from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "pages" / "side_by_side.html"


class Sentence(NamedTuple):
    """What was said, by which voices, and what was measured on each."""

    text: str
    kind: str
    voices: Mapping[str, Speech]
    told: Mapping[str, str]
    """A line below each player."""
    picture: bytes
    """PNG of the spectrograms; empty for none."""


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, and close it."""
    from slipway.report import pyplot

    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    pyplot().close(figure)
    return file.getvalue()


def write(path: Path, title: str, notes: Sequence[str], sentences: Sequence[Sentence]) -> None:
    """Write the page; it needs no other file and no network."""
    import jinja2

    pages = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = pages.from_string(TEMPLATE.read_text("utf-8"))
    html = template.render(title=title, notes=notes, sentences=[_shown(one) for one in sentences])
    with written(path) as part:
        part.write_text(html, "utf-8")


def _shown(sentence: Sentence) -> dict[str, Any]:
    voices = [{"name": name, "told": sentence.told.get(name, ""),
               "audio": _base64(sound.written(speech))}
              for name, speech in sentence.voices.items()]  # fmt: skip
    return {"text": sentence.text, "kind": sentence.kind, "voices": voices,
            "picture": _base64(sentence.picture)}  # fmt: skip


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
