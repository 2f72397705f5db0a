"""How well the mark is found, on which clips and after what, and how often where there is none.

Nothing is chosen here: the threshold of `watermark` is derived. Clips are cut from recordings at
random; each is marked and put through what happens to sound files on their way. What is not marked
is tried with keys of its own, and so is what is marked with another key.

Data:    recordings of speech.
Source:  Clopper and Pearson, Biometrika 1934 (the interval of a share).
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import InputInvalid

from . import corpus, watermark
from .speech import Speech, resampled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

SECONDS = (2.0, 5.0)
"""Length of a clip, drawn between these."""
MP3_KILOBITS = ((32_000, (32, 320)), (16_000, (8, 160)), (0, (8, 64)))
"""Least and most kilobits a second of an MP3 file, by the samples a second it is for."""


class Clip(NamedTuple):
    """A stretch of a recording, and where it is from."""

    name: str
    speech: Speech


class Mark(NamedTuple):
    """A clip before and after it was marked, with what."""

    bare: Speech
    marked: Speech
    key: bytes
    message: int


class After(NamedTuple):
    """What a detector says of marked clips after a change, and how many messages are right."""

    name: str
    answers: list[watermark.Detection]
    right: int


def recordings_in(place: Path) -> list[Clip]:
    """Read the recordings of a folder or a zip, those of at least two seconds."""
    shelf = corpus.Shelf(place)
    heard = (Clip(name, shelf.heard(name)) for name in shelf.sounds)
    found = [clip for clip in heard if clip.speech.seconds >= SECONDS[0]]
    if not found:
        raise InputInvalid(f"{place}: found no recording of {SECONDS[0]:g} s or more")
    return found


def cut(clips: Sequence[Clip], count: int, seed: int) -> list[Clip]:
    """Return stretches of two to five seconds from recordings drawn at random."""
    import numpy as np

    chance, found = np.random.default_rng(seed), []
    for _ in range(count):
        name, (samples, rate) = clips[chance.integers(len(clips))]
        size = min(round(chance.uniform(*SECONDS) * rate), len(samples))
        start = int(chance.integers(len(samples) - size + 1))
        found.append(Clip(name, Speech(samples[start : start + size], rate)))
    return found


def through(rate: int) -> Callable[[Speech], Speech]:
    """Return what brings speech to another rate and back."""
    return lambda speech: resampled(resampled(speech, rate), speech.rate)


def coded(kind: str, subtype: str, kilobits: float = 64) -> Callable[[Speech], Speech]:
    """Return what writes speech as a file and reads it again."""
    return lambda speech: _coded(speech, kind, subtype, kilobits)


def _coded(speech: Speech, kind: str, subtype: str, kilobits: float) -> Speech:
    """Encode and decode by libsndfile; ``kilobits`` a second, constant, where it is MP3."""
    import soundfile

    file = io.BytesIO()
    told: dict[str, Any] = {}
    if kind == "MP3":
        low, high = next(span for rate, span in MP3_KILOBITS if speech.rate >= rate)
        told = {"bitrate_mode": "CONSTANT", "compression_level": (high - kilobits) / (high - low)}
    soundfile.write(file, speech.samples, speech.rate, subtype, format=kind, **told)
    samples, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
    return Speech(samples, rate)


def cropped(speech: Speech) -> Speech:
    """Take away the first third of a second and a half of one: 2 s stay 1.5."""
    return Speech(speech.samples[int(0.333 * speech.rate) : -int(0.167 * speech.rate)], speech.rate)


def noisy(speech: Speech) -> Speech:
    """Add white noise 20 dB below the speech."""
    import numpy as np

    noise = np.random.default_rng(len(speech.samples)).standard_normal(len(speech.samples))
    level = 0.1 * np.sqrt(np.mean(np.square(speech.samples, dtype="float64")))
    return Speech((speech.samples + level * noise).astype("float32"), speech.rate)


def faster(speech: Speech) -> Speech:
    """Play five per cent faster, and so higher."""
    return Speech(resampled(Speech(speech.samples, 105), 100).samples, speech.rate)


def quieter(speech: Speech) -> Speech:
    """Turn it down by 20 dB and keep 16 bits."""
    return coded("WAV", "PCM_16")(Speech(speech.samples * 0.1, speech.rate))


CHANGES: dict[str, Callable[[Speech], Speech]] = {
    "as it is, 16 bits": coded("WAV", "PCM_16"),
    "through 8 kHz": through(8_000),
    "through 22.05 kHz": through(22_050),
    "through 44.1 kHz": through(44_100),
    "MP3, 64 kbit/s": coded("MP3", "MPEG_LAYER_III"),
    "MP3, 64 kbit/s at 44.1 kHz": lambda speech: coded("MP3", "MPEG_LAYER_III")(
        resampled(speech, 44_100)
    ),
    "MP3, 32 kbit/s": coded("MP3", "MPEG_LAYER_III", 32),
    "Opus": lambda speech: coded("OGG", "OPUS")(resampled(speech, 48_000)),
    "Vorbis": coded("OGG", "VORBIS"),
    "half a second cropped": cropped,
    "20 dB quieter": quieter,
    "white noise at 20 dB": noisy,
    "five per cent faster": faster,
}
"""What a mark is put through, by the words of a report."""


def cost(speech: Speech, marked: Speech) -> float:
    """Return the ratio of speech to mark in dB."""
    import numpy as np

    change = np.square(marked.samples - speech.samples, dtype="float64").sum()
    power = np.square(speech.samples, dtype="float64").sum()
    return float(10 * np.log10(power / change)) if change else math.inf


def key_number(number: int, seed: int) -> bytes:
    """Return one of many keys that have nothing to do with each other."""
    return hashlib.sha256(f"key {seed} {number}".encode()).digest()


def marks(clips: Sequence[Clip], seed: int) -> list[Mark]:
    """Mark each clip with a key of its own and one message after the other."""
    found = []
    for at, clip in enumerate(clips):
        key, message = key_number(at, seed), at % watermark.PERIOD
        found.append(Mark(clip.speech, watermark.marked(clip.speech, key, message), key, message))
    return found


def found_after(made: Sequence[Mark]) -> Iterator[After]:
    """Put marked clips through each of `CHANGES` and look for their marks."""
    for name, change in CHANGES.items():
        answers = [watermark.found(change(mark.marked), mark.key) for mark in made]
        pairs = zip(answers, made, strict=True)
        right = sum(answer.message == mark.message for answer, mark in pairs)
        yield After(name, answers, right)


def falsely(clips: Sequence[Clip], seed: int, keys: int, mark: bytes = b"") -> np.ndarray:
    """Return scores minus threshold (clips, keys) of keys that are not in the clips.

    With ``mark`` the clips are marked, with that other key.
    """
    import numpy as np

    found = []
    for at, clip in enumerate(clips):
        speech = watermark.marked(clip.speech, mark) if mark else clip.speech
        parts = watermark.evidence(speech)
        own = [
            watermark.matched(parts, key_number(at * keys + number, seed)) for number in range(keys)
        ]
        found.append([answer.score - answer.threshold for answer in own])
    return np.array(found)


def interval(hits: int, tries: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Clopper and Pearson)."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, tries - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, tries - hits)) if hits < tries else 1.0
    return low, high


def speed(clips: Sequence[Speech]) -> tuple[float, float]:
    """Return the processor's seconds for a second of speech: to mark, and to look for a mark."""
    seconds = sum(clip.seconds for clip in clips)
    start = time.process_time()
    marked = [watermark.marked(clip, b"speed") for clip in clips]
    between = time.process_time()
    for speech in marked:
        watermark.found(speech, b"speed")
    return (between - start) / seconds, (time.process_time() - between) / seconds


def chart(unmarked: np.ndarray, answers: Sequence[watermark.Detection]) -> Figure:
    """Draw scores less threshold of clips without a mark beside answers about those with one."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    threshold = answers[0].threshold
    bare, found = unmarked + threshold, np.array([answer.score for answer in answers])
    figure.suptitle(
        f"Marks score {found.min():.1f} and more, sound without a mark {bare.max():.1f} at most",
        fontsize=16,
        x=0.01,
        ha="left",
    )
    bins = np.linspace(min(bare.min(), found.min()) - 0.2, found.max() + 0.2, 80).tolist()
    for scores, colour, name in (
        (bare.ravel(), "#868e96", "no mark of this key"),
        (found, "#1864ab", "marked"),
    ):
        weights = np.full(len(scores), 100 / len(scores))
        axes.hist(
            scores,
            bins,
            weights=weights,
            color=colour,
            alpha=0.85,
            label=f"{name} ({len(scores):,} tries)",
        )
    axes.axvline(threshold, color="#e8890c", lw=3, label=f"threshold {threshold:.2f}")
    axes.set_xlabel("score of the best match (standard deviations)", fontsize=14)
    axes.set_ylabel("share of tries (%)", fontsize=14)
    axes.tick_params(labelsize=13)
    axes.legend(fontsize=13)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
