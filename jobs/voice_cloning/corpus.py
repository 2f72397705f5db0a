"""Recordings made ready to learn from: trimmed, cut at pauses, of one loudness, or rejected.

Data:    LJ Speech, VCTK and LibriSpeech as they are laid out, in a folder or a zip file, or a
         folder of recordings with or without NAME.txt beside each.
Source:  loudness: ITU-R BS.1770-4 and EBU R 128.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import DataUnavailable, InputInvalid

from . import measure
from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 256 * 2**20
FRAME, MARGIN = 0.01, 0.1
VOICE_DB, PAUSE = 38.0, 0.2
"""How far below the loudest frame a voice may be, and seconds without one that are a pause."""
SHORT, LONG = 5.0, 10.0
"""Seconds of a clip; a recording that is shorter than the first stays whole."""
LOUDNESS, PEAK = -23.0, 10 ** (-1 / 20)
NOISY_DB, CLIPPED, MISHEARD = 15.0, 0.01, 0.9
"""Rejected below this signal-to-noise ratio, above these shares of clipping and wrong words."""


class Recording(NamedTuple):
    """What somebody said, as it was found; without a transcript ``text`` is empty."""

    speaker: str
    name: str
    text: str
    speech: Speech


class Clip(NamedTuple):
    """A recording or a part of it, ready to use, and what was measured on it."""

    speaker: str
    name: str
    text: str
    speech: Speech
    noise_db: float
    """Between the voice and the pauses."""
    clipped: float
    misheard: float

    @property
    def fault(self) -> str:
        """Why it is rejected; empty where it is good."""
        if self.noise_db < NOISY_DB:
            return f"noise: {self.noise_db:.0f} dB below the voice; wanted {NOISY_DB:.0f}"
        if self.clipped > CLIPPED:
            return f"clipping: {self.clipped:.1%} of the samples; wanted {CLIPPED:.0%} or less"
        if self.misheard > MISHEARD:
            return f"transcript: {self.misheard:.0%} of the words are heard otherwise"
        return ""


class Shelf:
    """The files of a folder or a zip file, by their path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Any] = {}
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.is_file())
            self.files = {entry.relative_to(path).as_posix(): entry.read_bytes for entry in found}
            return
        try:
            archive = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise DataUnavailable(f"{path}: no such folder or zip file") from None
        except zipfile.BadZipFile as error:
            raise InputInvalid(f"{path}: {error}; wanted a folder or a zip file") from None
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        large = [entry.filename for entry in entries if entry.file_size > MOST_BYTES]
        if large:
            raise InputInvalid(f"{path}: {large[0]} is over {MOST_BYTES // 2**20} MB")
        self.files = {entry.filename: partial(archive.read, entry) for entry in entries}

    @property
    def sounds(self) -> list[str]:
        """The files that are recordings by their name, sorted."""
        return sorted(
            name for name in self.files if PurePosixPath(name).suffix.lower() in sound.FORMATS
        )

    def text(self, name: str) -> str:
        """Return a text file; InputInvalid where it is not UTF-8."""
        try:
            return str(self.files[name]().decode("utf-8"))
        except UnicodeDecodeError:
            raise InputInvalid(f"{self.path}: {name} is not UTF-8") from None

    def heard(self, name: str) -> Speech:
        """Return the recording in a file."""
        return sound.read(self.files[name](), name)


def recordings(path: Path) -> Iterator[Recording]:
    """Yield the recordings of a folder or zip file, in the layout that its files tell."""
    shelf = Shelf(path)
    tables = [name for name in shelf.files if PurePosixPath(name).name == "metadata.csv"]
    chapters = [name for name in shelf.files if name.endswith(".trans.txt")]
    if not shelf.sounds:
        raise InputInvalid(f"{path}: found no recordings; wanted {', '.join(sound.FORMATS)} files")
    if tables:
        yield from _ljspeech(shelf, tables[0])
    elif chapters:
        yield from _librispeech(shelf, chapters)
    else:
        yield from _beside(shelf)


def _ljspeech(shelf: Shelf, table: str) -> Iterator[Recording]:
    """One reader: ``id|text|normalised text`` a line, and wavs/ID.wav, here also ID.flac."""
    root = PurePosixPath(table).parent
    found = {PurePosixPath(name).stem: name for name in shelf.files
             if PurePosixPath(name).parent == root / "wavs"}  # fmt: skip
    for number, line in enumerate(shelf.text(table).splitlines(), start=1):
        name, *texts = line.split("|")
        if not texts or name not in found:
            wanted = "id|text|text" if not texts else f"wavs/{name}.wav"
            raise InputInvalid(f"{shelf.path}: {table}, line {number}: wanted {wanted}")
        yield Recording(name.partition("-")[0][:2], name, texts[-1], shelf.heard(found[name]))


def _librispeech(shelf: Shelf, chapters: list[str]) -> Iterator[Recording]:
    """SPEAKER/CHAPTER/ID.flac, and the transcripts of a chapter in one file, in capitals."""
    for chapter in sorted(chapters):
        root = PurePosixPath(chapter).parent
        for number, line in enumerate(shelf.text(chapter).splitlines(), start=1):
            name, _, text = line.partition(" ")
            file = (root / f"{name}.flac").as_posix()
            if file not in shelf.files or not text:
                raise InputInvalid(f"{shelf.path}: {chapter}, line {number}: no text or {file}")
            yield Recording(name.partition("-")[0], name, text.lower(), shelf.heard(file))


def _beside(shelf: Shelf) -> Iterator[Recording]:
    """VCTK's txt/SPEAKER/ID.txt for wav/SPEAKER/ID.flac, or NAME.txt beside; or no transcripts."""
    texts = {PurePosixPath(name).stem: name for name in shelf.files if name.endswith(".txt")}
    for file in shelf.sounds:
        stem = PurePosixPath(file).stem
        text = shelf.text(texts[stem]).strip() if stem in texts else ""
        speaker = PurePosixPath(file).parent.name or "speaker"
        yield Recording(speaker, stem, text, shelf.heard(file))


def clips_of(recording: Recording, listened: bool = True) -> list[Clip]:
    """Return the clips of a recording: trimmed, 5 to 10 s, of one loudness, and measured.

    What has no transcript gets what the recogniser hears; ``listened`` compares it otherwise.
    """
    name, speech = recording.name, recording.speech
    parts = cut(speech)
    texts = _texts(recording, parts)
    found = []
    for number, ((start, end), text) in enumerate(zip(parts, texts, strict=True)):
        own = Speech(speech.samples[start:end], speech.rate)
        if own.seconds < sound.SHORTEST or not text:
            continue
        known = bool(recording.text) and listened
        misheard = measure.word_errors(own, text).rate if known else 0.0
        label = name if len(parts) == 1 else f"{name}.{number}"
        found.append(Clip(recording.speaker, label, text, levelled(own), noise_db(own),
                          sound.clipped(own.samples), misheard))  # fmt: skip
    return found


def levels(speech: Speech) -> np.ndarray:
    """Return the level in dB of each 10 ms."""
    import numpy as np

    size = round(FRAME * speech.rate)
    frames = speech.samples[: len(speech.samples) // size * size].reshape(-1, size)
    found: np.ndarray = 10 * np.log10(np.mean(frames.astype(float) ** 2, 1) + 1e-10)
    return found


def noise_db(speech: Speech) -> float:
    """Return how far the quietest tenth of the frames is below the loudest tenth."""
    import numpy as np

    quiet, loud = np.percentile(levels(speech), [10, 90])
    return float(loud - quiet)


def voiced_spans(speech: Speech) -> list[tuple[int, int]]:
    """Return samples from where to where a voice is heard; what is between is a pause."""
    import numpy as np

    level = levels(speech)
    heard = np.flatnonzero(level > np.percentile(level, 95) - VOICE_DB)
    gaps = np.flatnonzero(np.diff(heard) * FRAME > PAUSE)
    starts = [heard[0], *heard[gaps + 1]]
    ends = [*heard[gaps], heard[-1]]
    size = round(FRAME * speech.rate)
    return [
        (int(one) * size, (int(other) + 1) * size) for one, other in zip(starts, ends, strict=True)
    ]


def cut(speech: Speech) -> list[tuple[int, int]]:
    """Return the samples of each clip: without silence at its ends, cut in pauses.

    Spans are gathered until a clip has 5 s; one that would pass 10 s begins a new one. A span
    that is longer itself stays whole: a clip is never cut within a word.
    """
    margin = round(MARGIN * speech.rate)
    clips: list[list[int]] = []
    for start, end in voiced_spans(speech):
        long = clips and end - clips[-1][0] > LONG * speech.rate
        full = clips and clips[-1][1] - clips[-1][0] >= SHORT * speech.rate
        if not clips or (long and full):
            clips.append([start, end])
        else:
            clips[-1][1] = end
    whole = len(speech.samples)
    return [(max(0, start - margin), min(whole, end + margin)) for start, end in clips]


def _texts(recording: Recording, parts: list[tuple[int, int]]) -> list[str]:
    """Return what is said in each part: words go where their middle is."""
    speech, text = recording.speech, recording.text
    if text and len(parts) == 1:
        return [text]
    if not text:
        own = [Speech(speech.samples[start:end], speech.rate) for start, end in parts]
        return [measure.recognised(one) for one in own]
    said: list[list[str]] = [[] for _ in parts]
    times = measure.word_times(speech, text)
    for word, second in zip(text.split(), times, strict=True):
        place = sum(end <= second * speech.rate for _, end in parts[:-1])
        said[place].append(word)
    return [" ".join(words) for words in said]


def levelled(speech: Speech) -> Speech:
    """Return speech at -23 LUFS, or lower where its peak would pass -1 dB."""
    import numpy as np
    import pyloudnorm

    meter = pyloudnorm.Meter(speech.rate, block_size=min(0.4, speech.seconds / 2))
    loud = meter.integrated_loudness(speech.samples.astype(float))
    gain = 10 ** ((LOUDNESS - loud) / 20) if np.isfinite(loud) else 1.0
    gain = min(gain, PEAK / float(np.abs(speech.samples).max()))
    return Speech((speech.samples * gain).astype("float32"), speech.rate)


def card(clips: list[Clip]) -> dict[str, Any]:
    """Return what a data card says of one speaker's clips: minutes, pitch, rate."""
    import numpy as np

    heard = [measure.prosody(clip.speech) for clip in clips]
    seconds = sum(clip.speech.seconds for clip in clips)
    words = sum(len(measure.words(clip.text)) for clip in clips)
    return {
        "clips": len(clips),
        "minutes": f"{seconds / 60:.2f}",
        "clip (s)": f"{seconds / len(clips):.1f}",
        "pitch (Hz)": f"{np.median([one.pitch for one in heard]):.0f}",
        "pitch spread (semitones)": f"{np.median([one.spread for one in heard]):.1f}",
        "words a second": f"{words / seconds:.2f}",
        "noise (dB)": f"{np.median([clip.noise_db for clip in clips]):.0f}",
        "rate (Hz)": f"{clips[0].speech.rate}",
    }


def text_key(text: str) -> str:
    """Return a sentence without case, punctuation and spaces: equal ones stay on one side."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def write(folder: Path, name: str, speech: Speech) -> None:
    """Write a WAV file below a folder of the artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.wav").write_bytes(sound.written(speech))


def read_table(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that `write_table` wrote."""
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return rows


def write_table(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Write rows of the prepared corpus, one a line."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n", "utf-8")
