"""How close a clone is: to the words, to the speaker, to the sound and to the melody.

Every figure is relative. The recogniser makes errors on the real reader too, so its rate is shown
beside the real recording's; a similarity means something only beside the meter's own errors.

Data:    recordings and what was made of them.
Source:  word errors: CMU PocketSphinx 5, Levenshtein 1966; similarity: Wan et al., Generalized
         end-to-end loss (GE2E), ICASSP 2018, weights of Resemblyzer; distortion: Kubichek,
         Mel-cepstral distance, 1993, warping by Oppenheim and Johnson, 1972; pitch: Praat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.logs import say

from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

RATE = 16_000
ORDER, WARP = 24, 0.42
"""Of the mel-cepstrum: coefficients after the first, and all-pass constant at 16 kHz."""
DECIBELS = 10 / 2.302585092994046 * 2**0.5
FRAME = 0.005
LANGUAGE = 6.5
"""Weight of the recogniser's language model."""
PITCH = (60.0, 500.0)


class WordErrors(NamedTuple):
    """How many of ``words`` words were wrong, and what was heard."""

    errors: int
    words: int
    heard: str

    @property
    def rate(self) -> float:
        """Errors a word; above 1 where more was heard than said."""
        return self.errors / max(1, self.words)


def word_errors(speech: Speech, text: str) -> WordErrors:
    """Return the word errors of PocketSphinx on what was said."""
    said, heard = words(text), words(recognised(speech))
    return WordErrors(_edits(said, heard), len(said), " ".join(heard))


def recognised(speech: Speech) -> str:
    """Return what PocketSphinx hears; without its marks of variants, as in ``the(2)``."""
    return _transcript(_pulses(speech))


@lru_cache(maxsize=128)
def _transcript(pulses: bytes) -> str:
    """Return it for samples of 16 bits; studies listen to a source's sentence many times."""
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(pulses, no_search=False, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return re.sub(r"\(\d+\)", "", found.hypstr) if found else ""


def _pulses(speech: Speech) -> bytes:
    samples = sound.resampled(speech, RATE).samples
    return (samples.clip(-1, 1) * 32767).astype("int16").tobytes()


@cache
def _decoder() -> Any:
    """Return the recogniser; it normalises each utterance alone, so their order is no matter."""
    from pocketsphinx import Decoder

    return Decoder(samprate=RATE, lw=LANGUAGE, cmn="batch", loglevel="FATAL")


def word_times(speech: Speech, text: str) -> list[float]:
    """Return the second in the middle of each word of a text, by forced alignment.

    A word that the recogniser has never met lies between those around it.
    """
    import numpy as np

    decoder = _decoder()
    spelt = [re.sub(r"[^a-z0-9']", "", word) for word in text.lower().split()]
    known = [place for place, word in enumerate(spelt) if word and decoder.lookup_word(word)]
    middles = _aligned_words(decoder, speech, [spelt[place] for place in known])
    if len(middles) != len(known) or not known:
        say(f"the text does not fit the sound, so its words are spread evenly: {text}", "WARNING")
        return [float(at) for at in np.linspace(0, speech.seconds, 2 * len(spelt) + 1)[1::2]]
    return [float(at) for at in np.interp(range(len(spelt)), known, middles)]


def _aligned_words(decoder: Any, speech: Speech, spelt: list[str]) -> list[float]:
    """Return the middle of each word, or nothing where the text does not fit the sound."""
    decoder.set_align_text(" ".join(spelt))
    try:
        decoder.start_utt()
        decoder.process_raw(_pulses(speech), no_search=False, full_utt=True)
        decoder.end_utt()
        found = [(part.start_frame + part.end_frame) / 200 for part in decoder.seg() or []
                 if not part.word.startswith(("<", "["))]  # fmt: skip
    finally:
        decoder.activate_search("_default")
    return found


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("’", "'"))  # noqa: RUF001


def _edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """Return the least number of insertions, deletions and replacements (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for count, word in enumerate(said, start=1):
        left, row[0] = row[0], count
        for place, other in enumerate(heard, start=1):
            left, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, left + (word != other)),
            )
    return row[-1]


def embedding(speech: Speech) -> np.ndarray:
    """Return the voice as a unit vector (256,): the mean over windows of 1.6 s."""
    from . import speaker

    return speaker.embedding(speech)


def mean_voice(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Return the embedding (256,) that stands for some recordings of one voice."""
    import numpy as np

    mean: np.ndarray = np.mean(embeddings, 0)
    return mean / np.linalg.norm(mean)


def similarity(a: Speech | np.ndarray, b: Speech | np.ndarray) -> float:
    """Return the cosine of two voices, given as recordings or as their embeddings."""
    left, right = (embedding(one) if isinstance(one, Speech) else one for one in (a, b))
    return float(left @ right)


class ErrorRate(NamedTuple):
    """Where as many strangers are accepted as speakers are refused."""

    rate: float
    threshold: float


def equal_error_rate(same: Sequence[float], different: Sequence[float]) -> ErrorRate:
    """Return the equal-error rate of scores of same and of different speakers.

    The threshold is the middle of those at which the two rates are closest.
    """
    import numpy as np

    one, other = np.sort(same), np.sort(different)
    cuts = np.unique(np.concatenate([one, other, [np.inf]]))
    refused = np.searchsorted(one, cuts, "left") / len(one)
    accepted = 1 - np.searchsorted(other, cuts, "left") / len(other)
    gap = np.abs(refused - accepted)
    best = np.flatnonzero(gap == gap.min())
    below = cuts[max(0, best[0] - 1)]
    threshold = (below + cuts[best[-1]]) / 2 if np.isfinite(cuts[best[-1]]) else below
    return ErrorRate(float((refused[best] + accepted[best]).mean() / 2), float(threshold))


def envelope_of(speech: Speech) -> np.ndarray:
    """Return WORLD's power envelope (frames, 513) of speech at 16 kHz, every 5 ms."""
    from . import conversion

    return conversion.analysed(speech, noisiness=False).envelope


def mel_cepstrum(envelope: np.ndarray) -> np.ndarray:
    """Return the mel-cepstrum (frames, 25) of a power envelope (frames, bins)."""
    import numpy as np

    cepstrum = np.fft.irfft(np.log(np.maximum(envelope, 1e-20)), axis=1)
    cepstrum = cepstrum[:, : envelope.shape[1]].copy()
    cepstrum[:, 0] /= 2
    cepstrum[:, -1] /= 2
    found: np.ndarray = cepstrum @ _warping(envelope.shape[1])
    return found


@cache
def _warping(size: int) -> np.ndarray:
    """Return what maps a cepstrum (size,) to the warped one (25,): the recursion of freqt.

    The recursion runs from the last coefficient to the first; here on all unit vectors at once.
    """
    import numpy as np

    warped = np.zeros((ORDER + 1, size))
    for place in range(size - 1, -1, -1):
        before = warped.copy()
        warped[0] = WARP * before[0]
        warped[0, place] += 1
        warped[1] = (1 - WARP**2) * before[0] + WARP * before[1]
        for row in range(2, ORDER + 1):
            warped[row] = before[row - 1] + WARP * (before[row] - warped[row - 1])
    return warped.T.copy()


def distortion(a: Speech, b: Speech) -> float:
    """Return the mel-cepstral distortion in dB: the mean along the path of least distance."""
    return cepstral_distortion(mel_cepstrum(envelope_of(a)), mel_cepstrum(envelope_of(b)))


def cepstral_distortion(a: np.ndarray, b: np.ndarray) -> float:
    """Return it for two mel-cepstra (frames, 25); the first coefficient, loudness, is left out."""
    import numpy as np

    one, other = aligned(a[:, 1:], b[:, 1:])
    gaps = np.linalg.norm(a[one, 1:] - b[other, 1:], axis=1)
    return float(DECIBELS * gaps.mean())


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of ``a`` and of ``b`` along the path of least summed distance.

    Dynamic time warping with steps of one frame in either or both, diagonal by diagonal: all
    cells of a diagonal depend on the two before alone.
    """
    import numpy as np
    from scipy.spatial.distance import cdist

    cost = cdist(a, b)
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        best = np.minimum(np.minimum(total[i - 1, j], total[i, j - 1]), total[i - 1, j - 1])
        total[i, j] = best + cost[i - 1, j - 1]
    return _path(total)


def _path(total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    i, j = total.shape[0] - 1, total.shape[1] - 1
    path = []
    while i > 0 and j > 0:
        path.append((i - 1, j - 1))
        steps = (total[i - 1, j - 1], total[i - 1, j], total[i, j - 1])
        best = steps.index(min(steps))
        i, j = i - (best != 2), j - (best != 1)
    one, other = np.array(path[::-1]).T
    return one, other


class Prosody(NamedTuple):
    """The melody of a recording: pitch in Hz and semitones, time in seconds."""

    pitch: float
    """Median of voiced frames, Hz."""
    spread: float
    """Standard deviation of pitch, semitones."""
    range: float
    """From the 5th to the 95th percentile, semitones."""
    voiced: float
    """Share of frames."""
    seconds: float


def prosody(speech: Speech) -> Prosody:
    """Return the melody by Praat's autocorrelation; zeros where nothing is voiced."""
    import numpy as np

    hertz = pitch(speech)
    heard = hertz[hertz > 0]
    if len(heard) < 2:
        return Prosody(0.0, 0.0, 0.0, 0.0, speech.seconds)
    semitones = 12 * np.log2(heard / np.median(heard))
    low, high = np.percentile(semitones, [5, 95])
    return Prosody(float(np.median(heard)), float(semitones.std()), float(high - low),
                   len(heard) / len(hertz), speech.seconds)  # fmt: skip


def pitch(speech: Speech) -> np.ndarray:
    """Return the pitch in Hz every 10 ms, 0 where nothing is voiced."""
    import numpy as np
    import parselmouth

    samples = parselmouth.Sound(speech.samples.astype(np.float64), speech.rate)
    track = samples.to_pitch(time_step=0.01, pitch_floor=PITCH[0], pitch_ceiling=PITCH[1])
    return np.asarray(track.selected_array["frequency"])
