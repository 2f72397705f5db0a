"""A run's corpus: the target's clips, the source voice reading the same sentences, and the meter.

Sentences are split, not clips: what is held out was said by neither voice in training.

Data:    LJ Speech with VCTK and LibriSpeech for the meter; or flite's voices for the sample.
Source:  none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import InputInvalid

from . import corpus, measure
from . import speech as sound
from .corpus import Clip, Recording
from .engines import flite
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

    from slipway import Run

FOLDS = 5
SAMPLE_TARGET, SAMPLE_SOURCE, SOURCE = "slt", "rms", "slt"
METER_TEXTS = 4
"""Sentences that each of the sample's voices reads for the meter."""
SAME_TEXTS = 5
LEAST_SECONDS = 30.0
NEW = Path(__file__).parent / "sample" / "new.txt"


class Pair(NamedTuple):
    """A sentence of the target, and the source voice saying it."""

    name: str
    text: str
    part: str
    real: Speech
    source: flite.Spoken
    voice: str
    """Of the source."""
    speaker: str
    """Of the target."""


def prepared(run: Run, source: str | None, fold: int) -> list[dict[str, Any]]:
    """Write clips, transcripts, the source's reading and embeddings; return the corpus' rows."""
    path = run.data("ljspeech")
    sample = is_recipe(path)
    found = list(sample_recordings(path) if sample else corpus.recordings(path))
    found = found[: run.limit]
    clips = [clip for one in run.progress(found, "clips")
             for clip in corpus.clips_of(one, listened=not sample)]  # fmt: skip
    speaker = _only_speaker(clips, path)
    kept, rejected = ([clip for clip in clips if bool(clip.fault) == bad] for bad in (False, True))
    _check_enough(kept, path)
    voice = source or (SAMPLE_SOURCE if sample else SOURCE)
    rows = _written(run, kept, parts_of([clip.text for clip in kept], run.seed, fold), voice)
    voices = sample_meter(path) if sample else real_meter(run, clips)
    meter = _embedded(run, voices)
    corpus.write_table(run.out / "data" / "corpus.json", rows)
    corpus.write_table(run.out / "data" / "meter.json", meter)
    _told(run, speaker, kept, rejected, rows)
    return rows


def is_recipe(path: Path) -> bool:
    """Tell whether a file holds sentences for flite to read, as the sample's does."""
    return path.suffix == ".toml"


def sentences(path: Path) -> list[str]:
    """Return the sentences of a recipe. Raises InputInvalid where it is none."""
    try:
        found = tomllib.loads(path.read_text("utf-8")).get("sentences")
    except (OSError, ValueError) as error:
        raise InputInvalid(f'{path}: {error}; wanted sentences = ["..."]') from None
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise InputInvalid(f'{path}: found no list of sentences; wanted sentences = ["..."]')
    return found


def sample_recordings(path: Path) -> Iterator[Recording]:
    """Yield the target's voice of flite reading the sample's sentences."""
    engine = flite.Flite()
    engine.load()
    for number, text in enumerate(sentences(path)):
        speech = engine.synthesize(text, SAMPLE_TARGET)
        yield Recording(SAMPLE_TARGET, f"{SAMPLE_TARGET}-{number:02d}", text, speech)


def sample_meter(path: Path) -> Iterator[Recording]:
    """Yield each voice of flite with sentences of its own."""
    engine = flite.Flite()
    texts = sentences(path)
    for place, voice in enumerate(flite.VOICES):
        for text in texts[place * METER_TEXTS : (place + 1) * METER_TEXTS]:
            yield Recording(voice, "", text, engine.synthesize(text, voice))


def speakers(run: Run, name: str) -> dict[str, list[Clip]]:
    """Return the clips of each speaker of a corpus; the sample's voices all read one text."""
    path = run.data(name)
    found = _same_texts(path) if is_recipe(path) else corpus.recordings(path)
    clips = [clip for one in found for clip in corpus.clips_of(one, listened=False)]
    return {speaker: [clip._replace(speech=sound.resampled(clip.speech, measure.RATE))
                      for clip in clips if clip.speaker == speaker]
            for speaker in dict.fromkeys(clip.speaker for clip in clips)}  # fmt: skip


def _same_texts(path: Path) -> Iterator[Recording]:
    engine = flite.Flite()
    for voice in flite.VOICES:
        for text in sentences(path)[:SAME_TEXTS]:
            yield Recording(voice, "", text, engine.synthesize(text, voice))


def real_meter(run: Run, clips: list[Clip]) -> Iterator[Recording]:
    """Yield the recordings of all speakers at hand, the target's among them."""
    for clip in clips:
        yield Recording(clip.speaker, clip.name, clip.text, clip.speech)
    if run.tier == "own":
        return
    for name in ("vctk", "librispeech"):
        yield from corpus.recordings(run.data(name))


def parts_of(texts: Sequence[str], seed: int, fold: int) -> list[str]:
    """Return train, choose or held_out for each clip: by sentence, one fold of five held out."""
    import numpy as np

    keys = [corpus.text_key(text) for text in texts]
    order = np.random.default_rng(seed).permutation(sorted(set(keys)))
    held = set(order[fold::FOLDS])
    rest = [key for key in order if key not in held]
    choose = set(rest[:: FOLDS + 1])
    return ["held_out" if key in held else "choose" if key in choose else "train" for key in keys]


def _only_speaker(clips: list[Clip], path: Path) -> str:
    speakers = sorted({clip.speaker for clip in clips})
    if len(speakers) != 1:
        shown = ", ".join(speakers[:5]) or "none"
        raise InputInvalid(f"{path}: found speakers {shown}; wanted the recordings of one")
    return speakers[0]


def _check_enough(clips: list[Clip], path: Path) -> None:
    seconds = sum(clip.speech.seconds for clip in clips)
    if seconds < LEAST_SECONDS or len(clips) < 2 * FOLDS:
        raise InputInvalid(
            f"{path}: found {len(clips)} good clips of {seconds:.0f} s in all; wanted {2 * FOLDS} "
            f"of {LEAST_SECONDS:.0f} s, and two minutes or more for a clear voice"
        )


def _written(run: Run, clips: list[Clip], parts: list[str], voice: str) -> list[dict[str, Any]]:
    """Write each clip at its own rate and at 16 kHz, and the source voice saying it."""
    engine, folder, rows = flite.Flite(), run.out / "data", []
    engine.load()
    for clip, part in zip(clips, parts, strict=True):
        spoken = engine.spoken(clip.text, voice)
        corpus.write(folder / "native", clip.name, clip.speech)
        corpus.write(folder / "clips", clip.name, sound.resampled(clip.speech, measure.RATE))
        corpus.write(folder / "source", clip.name, spoken.speech)
        rows.append({"name": clip.name, "speaker": clip.speaker, "part": part, "text": clip.text,
                     "voice": voice, "seconds": round(clip.speech.seconds, 3),
                     "noise_db": round(clip.noise_db, 1), "clipped": round(clip.clipped, 5),
                     "misheard": round(clip.misheard, 3), "phones": spoken.phones})  # fmt: skip
    return rows


def _embedded(run: Run, voices: Iterator[Recording]) -> list[dict[str, Any]]:
    return [{"speaker": one.speaker, "voice": [round(float(value), 6) for value in
                                               measure.embedding(one.speech)]}
            for one in voices]  # fmt: skip


def _told(run: Run, speaker: str, kept: list[Clip], rejected: list[Clip],
          rows: list[dict[str, Any]]) -> None:  # fmt: skip
    import collections

    parts = collections.Counter(row["part"] for row in rows)
    run.log(clips=len(kept), rejected=len(rejected), **{f"{name}_clips": count for name, count in
                                                         sorted(parts.items())})  # fmt: skip
    run.table("data card", [{"speaker": speaker} | corpus.card(kept)], "The target's clips.")
    reasons = [{"clip": clip.name, "reason": clip.fault} for clip in rejected]
    if reasons:
        run.table("rejected", reasons, "What was left out, and why.")


def pairs(run: Run, *parts: str) -> list[Pair]:
    """Return the prepared pairs of some parts, at 16 kHz."""
    found = []
    for row in corpus.read_table(run.prepared("corpus.json")):
        if row["part"] in parts:
            real, said = (_wav(run, folder, row["name"]) for folder in ("clips", "source"))
            phones = tuple(flite.Phone(*phone) for phone in row["phones"])
            found.append(Pair(row["name"], row["text"], row["part"], real,
                              flite.Spoken(said, phones), row["voice"],
                              row["speaker"]))  # fmt: skip
    return found


def _wav(run: Run, folder: str, name: str) -> Speech:
    return sound.read(run.prepared(f"{folder}/{name}.wav").read_bytes(), f"{name}.wav")


class Meter(NamedTuple):
    """Similarities of two recordings: of one speaker, and of two."""

    same: np.ndarray
    different: np.ndarray
    errors: measure.ErrorRate

    @property
    def told(self) -> str:
        """How sure it is, in words."""
        return (
            f"The similarity meter errs in {self.errors.rate:.2%} of {len(self.same)} pairs of one "
            f"speaker and {len(self.different)} of two, at {self.errors.threshold:.3f} (its "
            "equal-error rate). It is no WavLM similarity: compare it with no paper's."
        )


def meter(run: Run) -> Meter:
    """Return what the similarity meter says of every two prepared recordings."""
    import numpy as np

    rows = corpus.read_table(run.prepared("meter.json"))
    voices = np.array([row["voice"] for row in rows])
    names = np.array([row["speaker"] for row in rows])
    one, other = np.triu_indices(len(rows), 1)
    scores = (voices @ voices.T)[one, other]
    same = names[one] == names[other]
    errors = measure.equal_error_rate(scores[same], scores[~same])
    return Meter(scores[same], scores[~same], errors)


def new_count(run: Run) -> int:
    """Return how many new sentences are said where nobody asks for a number."""
    return 3 if run.tier == "sample" else 12


def new_sentences() -> list[str]:
    """Return sentences that no corpus holds."""
    return NEW.read_text("utf-8").splitlines()
