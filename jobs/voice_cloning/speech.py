"""What a recording holds: one channel of samples, decoded from a file that may be anything.

A voice is cloned from what is read here, so a file that is cut off, silent or not what its name
says is refused in words; what can be put right is put right and said.

Data:    WAV, FLAC, OGG (Vorbis, Opus) and MP3 by libsndfile.
Source:  Mel scale: Slaney, Auditory Toolbox, 1998.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import InputInvalid
from slipway.logs import say

if TYPE_CHECKING:
    import numpy as np
    import soundfile

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3"}
"""What libsndfile calls the content that a name promises."""
CONTAINERS = {"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "FLAC": "FLAC", "OGG": "OGG",
              "MP3": "MP3", "MPEG": "MP3"}  # fmt: skip
SHORTEST, LONGEST = 0.5, 30 * 60.0
"""Seconds of a recording that can be used; what is longer is cut."""
RATES = (8_000, 96_000)
SILENCE = 1e-3
"""The peak below which a recording holds nothing (-60 dB of full scale)."""
FULL, RUN, CLIPPED = 0.999, 3, 1e-3
"""Clipping: a level, how many samples in a row, and the share of them that is worth a word."""
BLOCK = 1 << 18
MELS, WINDOW, HOP = 80, 0.025, 0.010
FLOOR = 1e-5


class Speech(NamedTuple):
    """Mono samples (n,) float32 in [-1, 1] at ``rate`` Hz."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it takes to play."""
        return len(self.samples) / self.rate


def read(content: bytes, name: str) -> Speech:
    """Decode a file and say what was put right; see `heard` for what is refused."""
    speech, repairs = heard(content, name)
    for repair in repairs:
        say(repair, "WARNING")
    return speech


def heard(content: bytes, name: str, longest: float = LONGEST) -> tuple[Speech, list[str]]:
    """Decode a file: its first ``longest`` seconds, and what was put right, in words.

    Raises InputInvalid where it is no sound, cut off, renamed, silent or too short.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_kind(file, name)
            _check_whole(content, name)
            samples, repairs = _mixed(file, name, longest)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        told = str(error).partition(": ")[2] or str(error)
        raise InputInvalid(
            f"{name}: found no sound that can be read ({told}); wanted WAV, FLAC, OGG or MP3"
        ) from None
    speech, scaled = _checked(Speech(samples, file.samplerate), name)
    return speech, repairs + scaled


def _check_kind(file: soundfile.SoundFile, name: str) -> None:
    found = CONTAINERS.get(file.format)
    wanted = FORMATS.get(PurePath(name).suffix.lower())
    if found is None:
        raise InputInvalid(f"{name}: found {file.format}; wanted WAV, FLAC, OGG or MP3")
    if wanted and wanted != found:
        raise InputInvalid(f"{name}: found {found}; wanted {wanted}, as its name says")
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise InputInvalid(
            f"{name}: found {file.samplerate} samples a second; wanted {RATES[0]} to {RATES[1]}"
        )


def _check_whole(content: bytes, name: str) -> None:
    """Refuse a WAV file whose data chunk promises more than is there; others tell it by decoding.

    A size of 0 or 2**32 - 1 is what a program writes that cannot seek back.
    """
    at = 12
    while content[:4] == b"RIFF" and at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        at += 8
        if kind == b"data" and size not in (0, 0xFFFFFFFF) and at + size > len(content):
            raise InputInvalid(
                f"{name}: cut off: found {len(content) - at} bytes of sound; wanted {size}"
            )
        if kind == b"data":
            return
        at += size + size % 2


def _mixed(file: soundfile.SoundFile, name: str, longest: float) -> tuple[np.ndarray, list[str]]:
    """Return the mean of all channels, block by block, so that hours do not fill the memory."""
    import numpy as np

    repairs, most = [], int(longest * file.samplerate)
    promised = min(file.frames, most)
    blocks = list(_blocks(file, promised))
    samples = np.concatenate(blocks) if blocks else np.zeros(0, "float32")
    if len(samples) < promised:
        raise InputInvalid(f"{name}: cut off: found {len(samples)} samples; wanted {promised}")
    if file.channels > 1:
        repairs.append(f"{name}: {file.channels} channels are mixed down to one")
    if file.frames > most:
        was = file.frames / file.samplerate
        repairs.append(f"{name}: {was / 60:.0f} minutes are cut to the first {longest / 60:g}")
    return samples, repairs


def _blocks(file: soundfile.SoundFile, left: int) -> Iterator[np.ndarray]:
    """Yield what is there; the package's own blocks go on with whatever the memory holds."""
    while left:
        block = file.read(min(BLOCK, left), dtype="float32", always_2d=True)
        if not len(block):
            return
        left -= len(block)
        yield block.mean(axis=1, dtype="float32")


def _checked(speech: Speech, name: str) -> tuple[Speech, list[str]]:
    """Refuse what no voice can be heard in; scale down what is louder than full scale."""
    import numpy as np

    samples, repairs = speech.samples, []
    if not np.isfinite(samples).all():
        raise InputInvalid(f"{name}: found samples that are no numbers; wanted finite ones")
    if speech.seconds < SHORTEST:
        raise InputInvalid(f"{name}: found {speech.seconds:.2f} s; wanted {SHORTEST} s or more")
    peak = float(np.abs(samples).max())
    if peak < SILENCE:
        raise InputInvalid(f"{name}: found silence (peak {peak:.1e}); wanted a voice")
    if (share := clipped(samples)) > CLIPPED:
        repairs.append(f"{name}: {share:.1%} of the samples are clipped; its clone is harsher")
    if peak > 1:
        repairs.append(f"{name}: a peak of {peak:.2f} is scaled to 1")
        samples = samples / np.float32(peak)
    return Speech(samples, speech.rate), repairs


def clipped(samples: np.ndarray) -> float:
    """Return the share of samples that stand at full scale, three or more in a row."""
    import numpy as np

    full = np.abs(samples) >= FULL
    runs = np.convolve(full, np.ones(RUN), "valid") >= RUN
    held = np.convolve(runs, np.ones(RUN)) > 0
    return float(held.mean()) if len(samples) >= RUN else 0.0


def written(speech: Speech) -> bytes:
    """Return a WAV file of 16 bits."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, speech.samples.clip(-1, 1), speech.rate, "PCM_16", format="WAV")
    return file.getvalue()


def resampled(speech: Speech, rate: int) -> Speech:
    """Return the same speech at another rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    if rate == speech.rate:
        return speech
    shared = math.gcd(rate, speech.rate)
    samples = resample_poly(speech.samples, rate // shared, speech.rate // shared)
    return Speech(samples.astype("float32"), rate)


def log_mel(speech: Speech) -> np.ndarray:
    """Return the natural log of mel energies (frames, 80): windows of 25 ms, every 10 ms."""
    import numpy as np

    size, hop = round(WINDOW * speech.rate), round(HOP * speech.rate)
    padded = np.pad(speech.samples, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    frames = frames[: 1 + len(speech.samples) // hop]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).astype("float32")
    found: Any = np.log(np.maximum(spectrum @ mel_bank(speech.rate, size).T, FLOOR))
    return np.asarray(found, "float32")


@cache
def mel_bank(rate: int, size: int, count: int = MELS) -> np.ndarray:
    """Return triangles of equal area (count, size // 2 + 1) between 0 and half the rate."""
    import numpy as np

    edges = _hertz(np.linspace(0, _mel(rate / 2), count + 2))
    bins = np.fft.rfftfreq(size, 1 / rate)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bank = np.maximum(0, np.minimum(rise, fall)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return np.asarray(bank, "float32")


def _mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mels: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(math.log(6.4) / 27 * (mels - 15)))
