"""Sound over HTTP while it is made: a WAV file whose length nobody knows yet.

Data:    rows as `/score` takes them.
Source:  none.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

from slipway import bodies
from slipway.errors import InputInvalid

from . import speech as sound
from .engines import text

if TYPE_CHECKING:
    from slipway.scorer import Service

UNKNOWN = 0xFFFFFFFF


def add_route(routes: Blueprint, scorer: Service) -> None:
    """Add ``POST /speech``."""

    @routes.post("/speech")
    def speech() -> Response:
        """Say one text and answer with WAV, piece by piece as it is made."""
        asked = bodies.read(request, scorer.job.row)
        if len(asked.rows) != 1:
            raise InputInvalid(f"found {len(asked.rows)} rows; wanted one")
        row = asked.rows[0]
        parts = sounds(scorer, row)
        first = next(parts)  # its errors are still statuses
        return Response(_streamed(first, parts), mimetype="audio/wav")


def sounds(scorer: Service, row: Any) -> Iterator[sound.Speech]:
    """Yield the speech of each piece of a text; together they bear one mark."""
    began = 0.0
    for piece in text.pieces(text.english(row.text)[0]):
        answer = scorer.score([row.piece(piece, began)])[0]
        speech = sound.read(base64.b64decode(answer["audio"]), "answer.wav")
        began += speech.seconds
        yield speech


def _streamed(first: sound.Speech, others: Iterator[sound.Speech]) -> Iterator[bytes]:
    """Yield a header without a length, then pulses of 16 bits."""
    rate = first.rate
    yield struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", UNKNOWN, b"WAVE", b"fmt ", 16, 1, 1, rate,
                      2 * rate, 2, 16, b"data", UNKNOWN)  # fmt: skip
    yield _pulses(first)
    for speech in others:
        yield _pulses(speech)


def _pulses(speech: sound.Speech) -> bytes:
    return (speech.samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
