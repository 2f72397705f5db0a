"""One voice mapped to another: a recording taken apart, its sound replaced, and put together.

WORLD splits speech into pitch, envelope and noisiness. The envelope is mapped frame by frame; the
pitch is moved to the target's mean and spread; the noisiness stays. Pairs to learn from come from
two voices that say the same sentence, warped onto each other in time.

Data:    pairs of `corpus`: the source voice reading the target's transcripts.
Source:  Morise, Yokomori and Ozawa, WORLD, IEICE Transactions 2016; Tokuda et al., Speech
         parameter generation (MLPG), ICASSP 2000; Toda, Black and Tokuda, Voice conversion based on
         maximum-likelihood estimation of spectral parameter trajectory, IEEE TASLP 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

    from .engines.flite import Phone

RATE, FRAME_MS = 16_000, 5.0
SIZE = 1024
"""Of the spectra that WORLD takes at this rate."""
CODED = 40
"""Numbers of an envelope after WORLD's coding on the mel scale."""
CONTEXT = 3
"""Frames to each side that a frame is mapped with, every second one."""
ARPABET = (
    "pau aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh "
    "uw v w y z zh"
)
PHONES = ARPABET.split()
PHONE_INPUTS = 3 * len(PHONES) + 2
INPUTS = CODED * (2 * CONTEXT + 1) + PHONE_INPUTS
PHONE_WEIGHT = 2.0
DELTAS = ((0.0, 1.0, 0.0), (-0.5, 0.0, 0.5), (1.0, -2.0, 1.0))
"""Windows of a trajectory: the value, its slope and its bend."""
LOUD, LOUDEST = 6.0, 95
"""Frames that are this much below a clip's loud ones hold no voice and are paired with nothing: in
the first coded number, of which 1 is 5 dB, and as a percentile."""


class Frames(NamedTuple):
    """Speech as WORLD sees it, every 5 ms."""

    pitch: np.ndarray
    """Hz (n,), 0 where nothing is voiced."""
    envelope: np.ndarray
    """Power (n, 513)."""
    noisiness: np.ndarray
    """Aperiodicity in [0, 1] (n, 513)."""


def analysed(speech: Speech, noisiness: bool = True) -> Frames:
    """Return pitch, envelope and, where it is wanted, noisiness of speech, at 16 kHz."""
    import numpy as np
    import pyworld

    samples = sound.resampled(speech, RATE).samples.astype(np.float64)
    pitch, times = _pitch(samples)
    envelope = pyworld.cheaptrick(samples, pitch, times, RATE)
    noise = pyworld.d4c(samples, pitch, times, RATE) if noisiness else np.zeros((0, 0))
    return Frames(pitch, envelope, noise)


def coded(envelope: np.ndarray) -> np.ndarray:
    """Return an envelope as 40 numbers a frame (n, 40): cepstra on the mel scale."""
    import pyworld

    found: np.ndarray = pyworld.code_spectral_envelope(envelope, RATE, CODED)
    return found


def _pitch(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch (n,) in Hz and the second of each frame."""
    import pyworld

    rough, times = pyworld.dio(samples, RATE, frame_period=FRAME_MS)
    return pyworld.stonemask(samples, rough, times, RATE), times


def pitch(speech: Speech) -> np.ndarray:
    """Return the pitch (n,) in Hz every 5 ms, 0 where nothing is voiced."""
    import numpy as np

    return _pitch(sound.resampled(speech, RATE).samples.astype(np.float64))[0]


def decoded(code: np.ndarray) -> np.ndarray:
    """Return the power envelope (n, 513) of a coded one (n, 40)."""
    import numpy as np
    import pyworld

    found: np.ndarray = pyworld.decode_spectral_envelope(np.ascontiguousarray(code), RATE, SIZE)
    return found


def synthesized(pitch: np.ndarray, code: np.ndarray, noisiness: np.ndarray) -> Speech:
    """Return the speech of a pitch (n,), a coded envelope (n, 40) and a noisiness (n, 513)."""
    import pyworld

    samples = pyworld.synthesize(pitch, decoded(code), noisiness, RATE, FRAME_MS)
    return Speech(samples.astype("float32"), RATE)


class PitchStats(NamedTuple):
    """Mean and standard deviation of the log of pitch where it is voiced."""

    mean: float
    spread: float


def pitch_stats(pitches: Sequence[np.ndarray]) -> PitchStats:
    """Return the statistics of some clips' pitch."""
    import numpy as np

    logs = np.log(np.concatenate([pitch[pitch > 0] for pitch in pitches]))
    return PitchStats(float(logs.mean()), float(logs.std()))


def moved(pitch: np.ndarray, source: PitchStats, target: PitchStats) -> np.ndarray:
    """Return a pitch moved from one voice's mean and spread to another's, in the log domain."""
    import numpy as np

    with np.errstate(divide="ignore"):
        logs = (np.log(pitch) - source.mean) / source.spread * target.spread + target.mean
    return np.where(pitch > 0, np.exp(logs), 0.0)


def phone_features(phones: Sequence[Phone], count: int) -> np.ndarray:
    """Return (count, 125): this phone, the one before and after, and how far it has come."""
    import numpy as np

    size = len(PHONES)
    found = np.zeros((count, PHONE_INPUTS), "float32")
    names = [name if name in PHONES else "ax" for name, _ in phones]
    began = 0
    for place, (_, end) in enumerate(phones):
        ended = min(count, round(end * 1000 / FRAME_MS))
        here = slice(began, ended)
        for block, near in enumerate((place, place - 1, place + 1)):
            name = names[near] if 0 <= near < len(names) else "pau"
            found[here, block * size + PHONES.index(name)] = 1
        inside = (np.arange(ended - began) + 0.5) / max(1, ended - began)
        found[here, -2:] = np.stack([inside, 1 - inside], 1)
        began = max(began, ended)
    return found


def with_context(code: np.ndarray) -> np.ndarray:
    """Return frames beside their neighbours (n, 40 * 7)."""
    import numpy as np

    reach = 2 * CONTEXT
    padded = np.pad(code, ((reach, reach), (0, 0)), "edge")
    shifts = range(0, 2 * reach + 1, 2)
    return np.concatenate([padded[at : at + len(code)] for at in shifts], 1)


def inputs_of(normal: np.ndarray, phones: np.ndarray | None) -> np.ndarray:
    """Return normalised frames with context and phones (n, 405); zeros for unknown phones."""
    import numpy as np

    if phones is None:
        phones = np.zeros((len(normal), PHONE_INPUTS), "float32")
    return np.concatenate([with_context(normal), PHONE_WEIGHT * phones], 1)


def trajectory(wanted: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the smoothest path (n, d) through predicted values, slopes and bends (n, 3, d).

    Equation 8 of Tokuda et al.: the path whose own slopes agree best with those predicted, each
    weighted by one over its variance (3, d). The normal equations are a band of five diagonals.
    """
    import numpy as np
    from scipy.linalg import solveh_banded

    count, _, dims = wanted.shape
    found = np.empty((count, dims))
    for dim in range(dims):
        band, right = np.zeros((3, count + 4)), np.zeros(count + 4)
        for window, variance, values in zip(
            DELTAS, variances[:, dim], wanted[:, :, dim].T, strict=True
        ):
            for one, weight in enumerate(window):
                right[one + 1 : one + 1 + count] += weight / variance * values
                for other in range(one, 3):
                    product = weight * window[other] / variance
                    band[2 - (other - one), other + 1 : other + 1 + count] += product
        found[:, dim] = solveh_banded(band[:, 2 : 2 + count], right[2 : 2 + count])
    return found


def with_deltas(code: np.ndarray) -> np.ndarray:
    """Return values, slopes and bends (n, 3, d)."""
    import numpy as np

    padded = np.pad(code, ((1, 1), (0, 0)), "edge")
    count = len(code)
    parts = [sum(weight * padded[at : at + count] for at, weight in enumerate(window))
             for window in DELTAS]  # fmt: skip
    return np.stack(parts, 1)


def normal(code: np.ndarray) -> np.ndarray:
    """Return frames of mean 0 and deviation 1, silence aside."""
    heard = code[audible(code)]
    normal: np.ndarray = (code - heard.mean(0)) / heard.std(0)
    return normal


def audible(code: np.ndarray) -> np.ndarray:
    """Tell for each frame whether it is loud enough to hold a voice."""
    import numpy as np

    level = code[:, 0]
    heard: np.ndarray = level > np.percentile(level, LOUDEST) - LOUD
    return heard
