"""Speech that was listened to: a piece that comes out wrong is spoken again, and tails are cut.

A model that writes codes one after another now and then skips words, babbles on, or ends in
breath. A recogniser finds the first two. It mishears real readers, too (measure.py), so only what
it cannot follow at all is spoken again, with another draw, and the best of the turns is kept.

Data:    text of a user.
Source:  none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jobs.voice_cloning.engines import text as writing

from . import corpus, measure
from .engines.weights import RANDOM
from .speech import Speech

if TYPE_CHECKING:
    from .engines import Engine, Voice

WRONG, TURNS = 0.5, 3
"""Share of wrong words up to which a piece is kept, and how often it is spoken at most."""
FALL, KEPT = 40.0, 0.15
"""dB below the loudest one that are silence, and seconds of it that stay."""


class Said(NamedTuple):
    """A piece, its sound, the share of words heard otherwise (None: not listened to), and turns."""

    text: str
    speech: Speech
    wrong: float | None
    turns: int


def said(engine: Engine, text: str, voice: str | Voice, turns: int = TURNS) -> list[Said]:
    """Speak a text in pieces; random weights speak no words, so nobody listens to them."""
    listened = engine.weights != RANDOM
    pieces = writing.pieces(writing.english(text)[0])
    return [_piece(engine, piece, voice, turns if listened else 0) for piece in pieces]


def _piece(engine: Engine, text: str, voice: str | Voice, turns: int) -> Said:
    if not turns:
        return Said(text, trimmed(engine.synthesize(text, voice)), None, 1)
    first, found = getattr(engine, "seed", None), []
    for turn in range(turns if first is not None else 1):
        if first is not None:
            engine.seed = first + turn
        speech = trimmed(engine.synthesize(text, voice))
        found.append((measure.word_errors(speech, text).rate, turn, speech))
        if found[-1][0] <= WRONG:
            break
    if first is not None:
        engine.seed = first
    wrong, _, speech = min(found, key=lambda entry: entry[:2])
    return Said(text, speech, wrong, len(found))


def trimmed(speech: Speech) -> Speech:
    """Return speech without the silence or breath that it ends in."""
    import numpy as np

    level = corpus.levels(speech)
    if not len(level) or not speech.samples.any():
        return speech
    last = int(np.flatnonzero(level > level.max() - FALL)[-1])
    end = ((last + 1) * corpus.FRAME + KEPT) * speech.rate
    return Speech(speech.samples[: round(end)], speech.rate)
