"""flite: a synthesiser of 2001 that is part of the image and speaks at once, with no weights.

Its sound is plain and its words are clear, which makes it the source that a voice is mapped from:
it also tells which phone it says when, and that is what the mapping is conditioned on.

Data:    voices that Debian's package holds, made of CMU ARCTIC recordings of consenting speakers.
Source:  Black and Lenzo, Flite: a small fast run-time synthesis engine, SSW4 2001.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from jobs.voice_cloning.speech import Speech, read
from slipway.errors import DataUnavailable, InputInvalid

from . import Facts, Size, Voice, text

VOICES = ("slt", "rms", "awb", "kal16")
FACTS = Facts(
    title="flite 2.2", hub="", revision="Debian flite 2.2-5", size_bytes=0, sha256="",
    licence="MIT-like (CMU)", gated=False,
    can="four built-in voices; speaks many times faster than real time on one core",
    cannot="clone: a recording is imitated by the mapping of conversion.py behind it",
)  # fmt: skip


class Phone(NamedTuple):
    """A phone and the second at which it ends."""

    name: str
    end: float


class Spoken(NamedTuple):
    """What was said, and which phone when."""

    speech: Speech
    phones: tuple[Phone, ...]


class Flite:
    """The program, called once for each piece of text."""

    name = "flite"
    facts = FACTS
    weights = "built in"
    voices = VOICES

    def load(self) -> None:
        """See that the program is there."""
        if not shutil.which("flite"):
            raise DataUnavailable("flite: no such program; Debian's package flite has it")

    def synthesize(self, text: str, voice: str | Voice = VOICES[0]) -> Speech:
        """Speak a text."""
        return self.spoken(text, voice).speech

    def clone(self, reference: Speech) -> Voice:
        """Refuse: the voices are fixed."""
        raise InputInvalid("flite clones no one: it has four voices; xtts and csm can clone")

    def spoken(self, said: str, voice: str | Voice = VOICES[0]) -> Spoken:
        """Speak a text and tell its phones; pieces follow each other without a fade."""
        if voice not in VOICES:
            raise InputInvalid(f"voice: found {voice!r}; wanted one of {', '.join(VOICES)}")
        pieces = [_piece(piece, str(voice)) for piece in text.pieces(text.english(said)[0])]
        phones, began = [], 0.0
        for speech, own in pieces:
            phones += [Phone(name, began + end) for name, end in own]
            began += speech.seconds
        return Spoken(text.joined([piece.speech for piece in pieces], 0), tuple(phones))


def _piece(said: str, voice: str) -> Spoken:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = ["flite", "-voice", voice, "-psdur", "-t", f" {said}", "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pairs = [pair.rpartition(":") for pair in done.stdout.split()]
        phones = tuple(Phone(name, float(end)) for name, _, end in pairs)
        return Spoken(read(path.read_bytes(), "flite"), phones)


def made(size: Size, weights: Path | None, device: str) -> Flite:
    """Return the engine; it has one size and runs on the CPU."""
    return Flite()
