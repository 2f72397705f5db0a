"""Text before it is spoken: what can be said, in pieces that an engine does not stumble over.

Engines drop words or babble when a text is long, so each gets a few sentences at a time and the
pieces of sound are faded into each other.

Data:    text of a user.
Source:  none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.voice_cloning.speech import Speech
from slipway.errors import InputInvalid

if TYPE_CHECKING:
    import numpy as np

MOST = 5_000
"""Characters of one text: about six minutes of speech."""
WORD = 100
"""Characters without a space: a voice reads a longer number digit by digit, for minutes."""
FADE_MS = 20.0
BREAKS = (r"(?<=[.!?\u2026])[\"')\]]*\s+", r"(?<=[,;:])\s+|\s+(?=[-\u2013\u2014])", r"\s+")
"""Where to break, best first: after sentences, after clauses, between words."""
SIGNS = {
    "&": " and ", "%": " percent ", "\u20ac": " euros ", "\u00a3": " pounds ",
    "\u00b0": " degrees ", "\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"',
    "\u2013": "-", "\u2014": "-", "\u2026": "...", "\u00df": "ss", "\u00e6": "ae", "\u00c6": "Ae",
    "\u0153": "oe", "\u0152": "Oe", "\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L",
}  # fmt: skip


def english(text: str, name: str = "text") -> tuple[str, list[str]]:
    """Return what an English voice can say of a text, in ASCII, and what was left out, in words.

    Raises InputInvalid for a text that is empty, too long, or in another script, and for what is
    no word.
    """
    if len(text) > MOST:
        raise InputInvalid(f"{name}: found {len(text):,} characters; wanted {MOST:,} or fewer")
    longest = max(map(len, text.split()), default=0)
    if longest > WORD:
        raise InputInvalid(
            f"{name}: found {longest:,} characters without a space; wanted {WORD} or fewer"
        )
    kept, left = [], []
    for sign in unicodedata.normalize("NFKC", text):
        said = _ascii(sign, name)
        kept.append(said)
        if not said and not unicodedata.category(sign).startswith(("M", "C")):
            left.append(sign)
    said = " ".join("".join(kept).split())
    if not re.search(r"[A-Za-z0-9]", said):
        raise InputInvalid(f"{name}: found nothing that can be spoken; wanted English words")
    shown = " ".join(dict.fromkeys(left))
    return said, [f"{name}: left out, it cannot be spoken: {shown[:60]}"] if left else []


def _ascii(sign: str, name: str) -> str:
    """Return what is said for one character: nothing for a symbol. Refuses foreign letters."""
    if sign.isspace():
        return " "
    if sign.isascii():
        return SIGNS.get(sign, sign) if sign.isprintable() else ""
    if sign in SIGNS:
        return SIGNS[sign]
    plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    if not plain and unicodedata.category(sign)[0] == "L":
        script = unicodedata.name(sign, "another script").split()[0].title()
        raise InputInvalid(f"{name}: found {script} letters ({sign}); wanted English")
    return plain


def pieces(text: str, most: int = 250) -> list[str]:
    """Cut a text into pieces of at most ``most`` characters: at sentences, clauses, then words.

    Raises InputInvalid for a text without anything but white space.
    """
    text = " ".join(text.split())
    if not text:
        raise InputInvalid("text: found nothing to say; wanted words")
    return _packed(text, most, 0)


def _packed(text: str, most: int, level: int) -> list[str]:
    if len(text) <= most:
        return [text]
    if level == len(BREAKS):
        return [text[at : at + most] for at in range(0, len(text), most)]
    found: list[str] = []
    for part in re.split(BREAKS[level], text):
        if found and len(found[-1]) + 1 + len(part) <= most:
            found[-1] += f" {part}"
        elif part:
            found += _packed(part, most, level + 1)
    return found


def joined(speeches: Sequence[Speech], fade_ms: float = FADE_MS) -> Speech:
    """Join pieces of one rate; each fades into the next over ``fade_ms`` (raised cosine)."""
    import numpy as np

    if len({speech.rate for speech in speeches}) != 1:
        raise ValueError("pieces of one rate can be joined")
    rate = speeches[0].rate
    whole: np.ndarray = speeches[0].samples
    for piece, _ in speeches[1:]:
        overlap = min(round(fade_ms * rate / 1000), len(whole), len(piece))
        rising = np.sin(np.linspace(0, np.pi / 2, overlap, dtype="float32")) ** 2
        seam = whole[len(whole) - overlap :] * (1 - rising) + piece[:overlap] * rising
        whole = np.concatenate([whole[: len(whole) - overlap], seam, piece[overlap:]])
    return Speech(whole.astype("float32"), rate)
