"""Does Kokoro in onnxruntime say the same as in PyTorch, for longer and shorter texts than one?

Data:    a few sentences.
Source:  none.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .engines import kokoro
from .speech import Speech, log_mel

if TYPE_CHECKING:
    from .engines.kokoro import Kokoro

TEXTS = ("Come in.", "The harbour lay quiet, and the last boat came in.")
DECIBELS = 10 / np.log(10)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two sounds of equal length are apart: mean difference of log mels, in dB."""
    first, second = (log_mel(Speech(sound, kokoro.RATE)) for sound in (one, other))
    return float(DECIBELS * np.abs(first - second).mean())


def compared(engine: Kokoro, file: Path, texts: tuple[str, ...] = TEXTS) -> list[dict[str, Any]]:
    """Return a row for each text: durations, sound and seconds, of the graph and of PyTorch."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [_row(engine, session, text) for text in texts]


def _row(engine: Kokoro, session: Any, text: str) -> dict[str, Any]:
    ids, style = engine.asked(text, engine.voices[0])
    given = {"input_ids": ids.numpy(), "ref_s": style.numpy(), "speed": np.ones(1, np.float32)}
    began = time.perf_counter()
    waveform, durations = session.run(["waveform", "duration"], given)
    taken = time.perf_counter() - began
    began = time.perf_counter()
    own = engine.passed(ids, style)
    slower = time.perf_counter() - began
    engine.seed += 1
    again = engine.passed(ids, style)
    engine.seed -= 1
    equal = np.array_equal(durations.ravel(), own.durations.ravel())
    same = waveform.size == own.samples.size
    return {
        "phonemes": ids.shape[1] - 2,
        "speech (s)": round(own.samples.size / kokoro.RATE, 2),
        "durations equal": equal and same,
        "apart (dB)": round(distance(waveform.ravel(), own.samples), 2) if same else None,
        "PyTorch from itself (dB)": round(distance(again.samples, own.samples), 2),
        "onnxruntime (s)": round(taken, 2),
        "PyTorch (s)": round(slower, 2),
    }
