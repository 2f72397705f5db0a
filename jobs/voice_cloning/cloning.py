"""A clone at work: a text spoken, or a recording converted, in the target's voice.

Data:    a text, or a recording.
Source:  `conversion` for the vocoder; matching means and deviations of two voices: Stylianou,
         Cappé and Moulines, Continuous probabilistic transform, IEEE TSAP 1998, with one class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.errors import InputInvalid

from . import conversion, corpus
from .engines import flite
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

    from .conversion import Frames
    from .network import Converter

METHODS = ("ridge", "mlp", "knn", "mix")
LOUDEST = 0.99


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
    frames = _frames(speech)
    code = conversion.coded(frames.envelope)
    heard = conversion.audible(code)
    like = (code - code[heard].mean(0)) / code[heard].std(0)
    like = like * model.array("source_scale") + model.array("source_mean")
    own = conversion.pitch_stats([frames.pitch])
    pitch = conversion.moved(frames.pitch, own, model.pitches[1])
    return _limited(
        conversion.synthesized(pitch, model.mapped(like, None, method), frames.noisiness)
    )


def borrowed(speech: Speech, reference: Speech) -> Speech:
    """Return speech with the mean sound and the pitch of a reference, learned from that alone.

    A few seconds are enough, and the likeness is small: no sound is mapped by itself.
    """
    own, other = _frames(speech), _frames(reference)
    codes = [conversion.coded(frames.envelope) for frames in (own, other)]
    means, scales = zip(
        *(
            (code[heard].mean(0), code[heard].std(0))
            for code, heard in ((code, conversion.audible(code)) for code in codes)
        ),
        strict=True,
    )
    code = (codes[0] - means[0]) / scales[0] * scales[1] + means[1]
    stats = [conversion.pitch_stats([frames.pitch]) for frames in (own, other)]
    pitch = conversion.moved(own.pitch, *stats)
    return _limited(conversion.synthesized(pitch, code, own.noisiness))


def _frames(speech: Speech) -> Frames:
    frames = conversion.analysed(corpus.levelled(speech))
    if (frames.pitch > 0).sum() < 20:
        raise InputInvalid("reference: found no voiced sound; wanted someone who speaks")
    return frames


def _moved(model: Converter, frames: Frames) -> np.ndarray:
    return conversion.moved(frames.pitch, *model.pitches)


def _limited(speech: Speech) -> Speech:
    """Return speech that does not clip: louder than full scale is scaled down."""
    import numpy as np

    peak = float(np.abs(speech.samples).max(initial=0))
    return Speech(speech.samples * np.float32(min(1.0, LOUDEST / max(peak, 1e-9))), speech.rate)
