"""A mark in the sound that a key holder finds again: this speech was made by this program.

Spread spectrum in the spectrogram: each cell of a grid over time and the band of speech is made a
little louder or softer, as the bits of a keyed stream say, and the detector correlates the log
magnitudes, freed of what neighbouring cells share, with that stream at every shift. Half of the
columns carry the stream as it is, which tells where the recording begins; the other half carries it
turned by the message, a number from 0 to 255. The mark is 26 dB below the speech; loud
cells are changed by a smaller share than soft ones, which costs least for what the detector gains,
and silence stays silent. What is not survived: a change of speed or pitch, and whoever tries.

The threshold is derived, not fitted. For a sound that knows nothing of the key the signs are fair
coins, so the normalised sum s of weighted signs has P(s > t) <= exp(-t^2 / 2) (Hoeffding), and the
best of N shifts and messages passes sqrt(2 ln(N / a)) with a probability of at most a.

Data:    speech of any rate; a key of bytes.
Source:  Kirovski and Malvar, Spread-spectrum watermarking of audio signals, IEEE TSP 2003;
         Tachibana et al., An audio watermarking method using a two-dimensional pseudo-random
         array, Signal Processing 2002; Hoeffding, JASA 1963.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .speech import Speech, resampled

if TYPE_CHECKING:
    import numpy as np

KEY_NAME = "SLIPWAY_WATERMARK_KEY"
PUBLIC_KEY = b"voice_cloning: this key is public, whoever reads the source can remove the mark"
RATE = 16_000
"""Marks are made and found at this rate; the change is brought to the speech's own rate."""
FRAME, STEP = 512, 128
"""Samples of a window, and from one to the next where the detector looks."""
CHIP = 512
"""Samples that a cell lasts: 32 ms."""
BAND, WIDTH = (500.0, 3800.0), 2
"""Hertz; bins of the spectrum in a cell."""
PERIOD = 256
"""Cells in time until the stream begins again: 8.2 s."""
COST_DB = 26.0
"""How far below the speech a mark is, in power."""
SOFTER, MOST = 0.3, 0.35
"""A cell of power p is changed by a share of its magnitude like p ** -0.3, at most by this one."""
FLOOR = 1e-5
"""Power below that of the whole recording (-50 dB), under which a cell says nothing."""
AROUND, WIDER = (3, 7), (5, 9)
"""Cells in time and in frequency: whose mean and whose spread are the speech's own."""
OUTLIER = 2.0
FALSE_POSITIVES = 1e-5
"""The bound on the share of recordings without a mark in which one is found."""


class Detection(NamedTuple):
    """The best match of a key: present where ``score`` is above ``threshold``."""

    score: float
    threshold: float
    present: bool
    message: int | None
    """What the mark says; None where there is none."""


def key_of() -> tuple[bytes, bool]:
    """Return the machine's key, and whether it is a secret: else it is the job's public one."""
    given = os.environ.get(KEY_NAME, "")
    return (given.encode(), True) if given else (PUBLIC_KEY, False)


def marked(speech: Speech, key: bytes, message: int = 0, start: float = 0.0) -> Speech:
    """Return the speech with the mark of a key.

    ``start`` is how many seconds of the same output came before, so that a stream of pieces bears
    one mark.
    """
    import numpy as np

    low = resampled(speech, RATE)
    change = Speech(_change(low.samples, _stream(key, message), round(start * RATE)), RATE)
    added = resampled(change, speech.rate).samples[: len(speech.samples)]
    samples = speech.samples.copy()
    samples[: len(added)] += added
    return Speech(np.clip(samples, -1, 1), speech.rate)


def found(speech: Speech, key: bytes) -> Detection:
    """Look for the mark of a key in a recording, or in any eight seconds of it."""
    return matched(evidence(speech), key)


@lru_cache(maxsize=8)
def _signs(key: bytes) -> np.ndarray:
    """Return the stream of a key (256, cells) of -1 and 1."""
    import numpy as np

    cells = _bins().size // WIDTH
    seed = hmac.new(key, b"watermark", hashlib.sha256).digest()
    content = hashlib.shake_256(seed).digest(PERIOD * cells // 8)
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    return (bits.reshape(PERIOD, cells) * 2.0 - 1).astype("float32")


def _stream(key: bytes, message: int) -> np.ndarray:
    """Return the signs (256, cells) that say a message: every second column is turned by it."""
    import numpy as np

    if not 0 <= message < PERIOD:
        raise ValueError(f"message: found {message}; wanted 0 to {PERIOD - 1}")
    signs = _signs(key).copy()
    signs[:, 1::2] = np.roll(signs[:, 1::2], -message, axis=0)
    return signs


def _bins() -> np.ndarray:
    """Return the bins of the spectrum that bear the mark, a whole number of cells."""
    import numpy as np

    first, last = (round(edge * FRAME / RATE) for edge in BAND)
    return np.arange(first, last - (last - first) % (2 * WIDTH))


def _window() -> np.ndarray:
    """Return the root of a Hann window: its squares at half its length add up to one."""
    import numpy as np

    return np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME).astype("float32")


def _frames(samples: np.ndarray, step: int) -> np.ndarray:
    """Return windows (n, 512) of the samples, the first half before them, each ``step`` later."""
    import numpy as np

    padded = np.pad(samples, (FRAME // 2, FRAME))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::step] * _window()


def _change(samples: np.ndarray, stream: np.ndarray, start: int) -> np.ndarray:
    """Return what the mark adds to samples at 16 kHz, which begin ``start`` samples into it."""
    import numpy as np

    spectrum = np.fft.rfft(_frames(samples, FRAME // 2), axis=1)
    cells = (start + np.arange(len(spectrum)) * (FRAME // 2)) // CHIP % PERIOD
    gains = np.zeros(spectrum.shape, "float32")
    shares = _shares(np.abs(spectrum) ** 2) * stream[cells]
    gains[:, _bins()] = np.repeat(shares, WIDTH, axis=1)
    pieces = np.fft.irfft(spectrum * gains, FRAME, axis=1).astype("float32") * _window()
    added = np.zeros((len(pieces) + 1) * (FRAME // 2), "float32")
    for half in (0, 1):  # each window overlaps the next by half
        part = pieces[:, half * FRAME // 2 : (half + 1) * FRAME // 2].ravel()
        added[half * FRAME // 2 :][: part.size] += part
    return added[FRAME // 2 :][: len(samples)]


def _shares(power: np.ndarray) -> np.ndarray:
    """Return by what share of its magnitude to change each cell (frames, cells).

    All shares together cost `COST_DB`; each is at most `MOST`, so a quiet mark may cost less.
    """
    import numpy as np
    from scipy.ndimage import uniform_filter

    cells = power[:, _bins()].reshape(len(power), -1, WIDTH).sum(axis=2)
    allowed = power.sum() * 10 ** (-COST_DB / 10)
    around = uniform_filter(cells, AROUND, mode="nearest")
    shares = np.maximum(around / max(float(around.mean()), 1e-30), FLOOR) ** -SOFTER
    low, high = 0.0, 1.0
    for _ in range(20):  # the cost grows with the factor: find it by halving
        factor = (low + high) / 2
        cost = float((np.minimum(factor * shares, MOST) ** 2 * cells).sum())
        low, high = (low, factor) if cost > allowed else (factor, high)
    return np.minimum(low * shares, MOST)


def evidence(speech: Speech) -> np.ndarray:
    """Return what a detector goes by (parts, 4, 256, cells): cells of stretches of eight seconds.

    A stretch begins every four seconds, and its cells are cut in four ways, a quarter of a cell
    apart. With more than one stretch, the last part is the sum over the whole recording.
    """
    import numpy as np

    low = resampled(speech, RATE).samples
    floor = FLOOR * max(float(np.mean(np.square(low, dtype="float64"))), 1e-12) * FRAME / 2
    half, whole = PERIOD * CHIP // 2, PERIOD * CHIP
    starts = range(0, max(len(low) - half, 1), half)
    parts = [_cells(low[start : start + whole + CHIP], floor) for start in starts]
    if len(parts) > 1:
        parts.append(np.sum(parts[::2], axis=0))
    return np.stack(parts)


def _cells(samples: np.ndarray, floor: float) -> np.ndarray:
    """Return the log magnitude of cells (4, 256, cells) minus their neighbours' mean."""
    import numpy as np

    spectrum = np.fft.rfft(_frames(samples, STEP), axis=1)[:, _bins()]
    power = np.abs(spectrum) ** 2
    level = np.log(power + floor) / 2
    across = level.reshape(len(level), -1, WIDTH).mean(axis=2)
    ways, found = CHIP // STEP, []
    for shift in range(ways):
        count = min((len(across) - shift) // ways, PERIOD)
        cells = across[shift : shift + count * ways].reshape(count, ways, across.shape[1]).mean(1)
        found.append(np.pad(_freed(cells), ((0, PERIOD - count), (0, 0))))
    return np.stack(found).astype("float32")


def _freed(cells: np.ndarray) -> np.ndarray:
    """Return cells (n, cells) less the mean around each, by the spread around; no outliers."""
    import numpy as np
    from scipy.ndimage import uniform_filter

    rest = cells - uniform_filter(cells, AROUND, mode="nearest")
    usual = float(np.sqrt(np.mean(rest**2))) if rest.size else 0.0
    spread = np.sqrt(np.maximum(uniform_filter(rest**2, WIDER, mode="nearest"), 0))
    rest = rest / (spread + usual / 2 + 1e-9)
    most = OUTLIER * float(np.sqrt(np.mean(rest**2))) if rest.size else 0.0
    return np.asarray(rest.clip(-most, most))


def matched(parts: np.ndarray, key: bytes) -> Detection:
    """Return the best match of a key over all parts, cuts, shifts and messages."""
    import numpy as np

    signs = np.fft.rfft(_signs(key), axis=0)
    score, message = max(_best_in(part, signs) for part in parts)
    threshold = threshold_of(parts.shape[0] * parts.shape[1] * PERIOD**2)
    present = score > threshold
    return Detection(score, threshold, present, message if present else None)


def _best_in(part: np.ndarray, signs: np.ndarray) -> tuple[float, int]:
    """Return the best score of one part (4, 256, cells), and the message that goes with it.

    The columns of the message are correlated apart, so each message is tried at every shift for
    the price of one.
    """
    import numpy as np

    turned = np.fft.rfft(part, axis=1).conj() * signs
    sync, said = (
        np.fft.irfft(turned[..., first::2].sum(axis=2), PERIOD, axis=1) for first in (0, 1)
    )
    spread = np.maximum(np.sqrt(np.square(part).sum(axis=(1, 2))), 1e-9)
    scores = (sync.max(axis=1) + said.max(axis=1)) / spread
    best = int(scores.argmax())
    return float(scores[best]), int(said[best].argmax() - sync[best].argmax()) % PERIOD


def settings() -> dict[str, object]:
    """Return what the figures of a measurement depend on."""
    return {
        "rate": RATE,
        "frame": [FRAME, STEP],
        "cell": [CHIP, WIDTH],
        "band": list(BAND),
        "period": PERIOD,
        "cost_db": COST_DB,
        "shares": [SOFTER, MOST],
        "floor": FLOOR,
        "around": [list(AROUND), list(WIDER), OUTLIER],
        "false_positives": FALSE_POSITIVES,
    }


def threshold_of(tries: int, false_positives: float = FALSE_POSITIVES) -> float:
    """Return what the best of so many matches passes by chance, at most so often."""
    return math.sqrt(2 * math.log(tries / false_positives))
