"""A clone at work: a text spoken, or a recording converted, in the target's voice.

Data:    a text, or a recording.
Source:  `conversion` for the vocoder; matching means and deviations of two voices: Stylianou,
         Cappé and Moulines, Continuous probabilistic transform, IEEE TSAP 1998, with one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from slipway.errors import InputInvalid

from . import conversion, corpus, measure
from .engines import flite
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

    from .conversion import Frames
    from .network import Converter

METHODS = ("ridge", "mlp", "knn", "mix")
LOUDEST = 0.99
ENOUGH = 3.0
"""Seconds of a recording from which its pitch and mean sound are known."""
VOICED = 20
"""Frames of 5 ms that have a pitch, at least."""
SAID = "The weather will be sunny in the morning, and rain is expected in the late afternoon."


def spoken(model: Converter, text: str, method: str = "") -> Speech:
    """Speak a text in the voice that a model learned."""
    said = flite.Flite().spoken(text, model.settings["source"])
    return recast(model, said, method)


def recast(model: Converter, said: flite.Spoken, method: str = "") -> Speech:
    """Return what the source voice said in the target's voice; ``pitch`` moves the pitch alone."""
    frames = conversion.analysed(said.speech)
    code = conversion.coded(frames.envelope)
    if method != "pitch":
        phones = conversion.phone_features(said.phones, len(code))
        code = model.mapped(code, phones, method)
    return _limited(conversion.synthesized(_moved(model, frames), code, frames.noisiness))


def converted(model: Converter, speech: Speech, method: str = "") -> Speech:
    """Return any recording in the voice that a model learned.

    The speaker is brought to the source's mean and deviation first; no phone is known.
    """
    frames = taken_apart(speech)
    code = conversion.coded(frames.envelope)
    heard = conversion.audible(code)
    like = (code - code[heard].mean(0)) / code[heard].std(0)
    like = like * model.array("source_scale") + model.array("source_mean")
    return voiced(frames, model.mapped(like, None, method), model.pitches[1])


class Tone(NamedTuple):
    """How a voice sounds in the mean: its coded envelope's mean and deviation (40,), its pitch."""

    mean: np.ndarray
    scale: np.ndarray
    pitch: conversion.PitchStats


def tone(codes: Sequence[np.ndarray], pitches: Sequence[np.ndarray]) -> Tone:
    """Return the tone of some recordings of one voice, silence aside."""
    import numpy as np

    heard = np.concatenate([code[conversion.audible(code)] for code in codes])
    return Tone(heard.mean(0), heard.std(0), conversion.pitch_stats(pitches))


def borrowed(speech: Speech, reference: Speech) -> Speech:
    """Return speech with the mean sound and the pitch of a reference, learned from that alone.

    A few seconds are enough, and the likeness is small: no sound is mapped by itself.
    """
    other = taken_apart(reference)
    return toned(speech, tone([conversion.coded(other.envelope)], [other.pitch]))


def source_for(reference: Speech) -> str:
    """Return the voice of flite that is nearest to a reference: the least is left to be moved."""
    heard = measure.embedding(reference)
    return max(flite.VOICES, key=lambda voice: measure.similarity(heard, _heard(voice)))


@cache
def _heard(voice: str) -> np.ndarray:
    """Return the embedding (256,) of one of flite's voices."""
    return measure.embedding(flite.Flite().synthesize(SAID, voice))


def toned(speech: Speech, other: Tone) -> Speech:
    """Return speech in a voice of which only the tone is known."""
    frames = taken_apart(speech)
    code = conversion.coded(frames.envelope)
    own = tone([code], [frames.pitch])
    return voiced(frames, (code - own.mean) / own.scale * other.scale + other.mean, other.pitch)


def voiced(frames: Frames, code: np.ndarray, pitch: conversion.PitchStats) -> Speech:
    """Return frames with another coded envelope (n, 40), their pitch moved to another voice's."""
    own = conversion.pitch_stats([frames.pitch])
    moved = conversion.moved(frames.pitch, own, pitch)
    return _limited(conversion.synthesized(moved, code, frames.noisiness))


def taken_apart(speech: Speech) -> Frames:
    """Return the frames of a recording, levelled; InputInvalid where nobody speaks in it."""
    frames = conversion.analysed(corpus.levelled(speech))
    _check_voiced(frames.pitch)
    return frames


def check_voiced(reference: Speech) -> None:
    """Refuse a reference in which nobody speaks, before it is among others in a batch."""
    _check_voiced(conversion.pitch(corpus.levelled(reference)))


def _check_voiced(pitch: np.ndarray) -> None:
    if (pitch > 0).sum() < VOICED:
        raise InputInvalid("reference: found no voiced sound; wanted someone who speaks")


def _moved(model: Converter, frames: Frames) -> np.ndarray:
    return conversion.moved(frames.pitch, *model.pitches)


def _limited(speech: Speech) -> Speech:
    """Return speech that does not clip: louder than full scale is scaled down."""
    import numpy as np

    peak = float(np.abs(speech.samples).max(initial=0))
    return Speech(speech.samples * np.float32(min(1.0, LOUDEST / max(peak, 1e-9))), speech.rate)
