"""The benchmark without learning: ten signs of spam that a person would write down.

Data:    none, the rules are fixed.
Source:  the wording of British premium-rate messages; no rule was tuned on the data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIGNS = {
    "a prize": r"\b(win|won|winner|prize|award(ed)?|selected|guaranteed)\b",
    "free": r"\bfree\b",
    "money": r"[£$€]\s?\d|\bcash\b",
    "claim it": r"\bclaim\b",
    "hurry": r"\b(urgent|expires?|last chance|limited|today only)\b",
    "send a word to a number": r"\b(txt|text|send|reply)\b.{0,25}\bto\b",
    "a phone number or short code": r"\b\d{5,}\b",
    "an address": r"\bwww\.|https?:|\.(com|co\.uk|net|example)\b",
    "a price for each message": r"\b\d+p\b|\bp/?m(sg|in)?\b|\bper (msg|min|week)\b",
    "how to opt out": r"\bstop\b|\bopt.?out\b|\bunsub|\bt&?cs?\b|\b1[68]\+",
}
PATTERNS = [re.compile(sign, re.IGNORECASE) for sign in SIGNS.values()]
ENOUGH = 3
"""Signs from which a message counts as spam."""

THRESHOLD = ENOUGH / len(PATTERNS)


def propensity(texts: Sequence[str]) -> np.ndarray:
    """Return the share of the ten signs found in each text, shape (n,), in [0, 1]."""
    import numpy as np

    hits = [sum(bool(sign.search(text)) for sign in PATTERNS) for text in texts]
    return np.array(hits, dtype=float) / len(PATTERNS)
