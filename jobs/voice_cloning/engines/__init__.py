"""Engines that turn text into speech: one module each, one protocol for all.

`make` looks a name up and imports its module only then: each engine brings libraries of its own.
A module ``engines/NAME.py`` has ``made(size, weights, device) -> Engine``.

Data:    weights of a hub, which are never fetched without being asked for.
Source:  one of each module.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from jobs.voice_cloning.speech import Speech
from slipway.errors import InputInvalid

NAMES = ("flite", "xtts", "csm", "orpheus", "kokoro")
Size = Literal["tiny", "full"]


class Facts(NamedTuple):
    """What is to be known of an engine before anything is fetched."""

    title: str
    hub: str
    """The name at the hub; empty where the engine comes with the image."""
    revision: str
    size_bytes: int
    sha256: str
    licence: str
    gated: bool
    can: str
    cannot: str


class Voice(NamedTuple):
    """A voice that an engine made of a reference: what `synthesize` takes instead of a name."""

    engine: str
    name: str
    state: Mapping[str, Any]


class Engine(Protocol):
    """What every engine does."""

    name: str
    facts: Facts
    weights: str
    """Which weights speak: ``built in``, a file, or ``random weights: speed and shape only``."""
    voices: tuple[str, ...]
    """Names that `synthesize` knows; the first is the default."""

    def load(self) -> None:
        """Make ready to speak. Raises DataUnavailable, with how to get it, for what is missing."""

    def synthesize(self, text: str, voice: str | Voice) -> Speech:
        """Speak a text. Raises InputInvalid for a voice or text that the engine does not have."""

    def clone(self, reference: Speech) -> Voice:
        """Return the voice of a recording; InputInvalid in a plain sentence where it cannot."""


def make(
    name: str, size: Size = "tiny", weights: Path | None = None, device: str = "cpu"
) -> Engine:
    """Return an engine by name, not loaded yet. Raises InputInvalid for an unknown one."""
    if name not in NAMES:
        raise InputInvalid(f"engine: found {name!r}; wanted one of {', '.join(NAMES)}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    engine: Engine = module.made(size, weights, device)
    return engine
