"""Whose voice it is: the speaker encoder of Resemblyzer, and its weights, without its package.

The package is a network of a page, and asks for librosa and a compiler; its weights are what
counts, so the network is written down here and reads them from where the package keeps them.

Data:    pretrained.pt of Resemblyzer 0.1.4 (Apache-2.0), trained on LibriSpeech and VoxCeleb.
Source:  Wan, Wang, Papir and Moreno, Generalized end-to-end loss for speaker verification,
         ICASSP 2018.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.errors import DataUnavailable

from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

RATE, WINDOW, HOP, MELS = 16_000, 400, 160, 40
FRAMES, STEP = 160, 77
"""Frames of one window (1.6 s) and from one to the next (1.3 windows a second)."""
COVERED = 0.75
"""The share of the last window that must be sound."""
LOUDNESS = 10 ** (-30 / 20)
WIDTH, LAYERS = 256, 3


def embedding(speech: Speech) -> np.ndarray:
    """Return the unit vector (256,) of a recording."""
    import numpy as np

    samples = sound.resampled(speech, RATE).samples
    loud = float(np.sqrt(np.mean(samples**2)))
    if 0 < loud < LOUDNESS:  # the encoder was trained on speech of this loudness or more
        samples = samples * np.float32(LOUDNESS / loud)
    found = _encoded(_windows(samples)).mean(0)
    return np.asarray(found / np.linalg.norm(found), "float32")


def _windows(samples: np.ndarray) -> np.ndarray:
    """Return mel energies (windows, 160, 40) of half-overlapping windows, the last filled up."""
    import numpy as np

    frames = -(-(len(samples) + 1) // HOP)
    starts = list(range(0, max(1, frames - FRAMES + STEP + 1), STEP))
    if len(starts) > 1 and (len(samples) / HOP - starts[-1]) / FRAMES < COVERED:
        starts.pop()
    samples = np.pad(samples, (0, max(0, (starts[-1] + FRAMES) * HOP - len(samples))))
    mels = _mels(samples)
    return np.stack([mels[start : start + FRAMES] for start in starts])


def _mels(samples: np.ndarray) -> np.ndarray:
    """Return mel energies (frames, 40), not their log, of windows that are centred."""
    import numpy as np
    from scipy.signal.windows import hann

    padded = np.pad(samples, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * hann(WINDOW, sym=False), axis=1)) ** 2
    return np.asarray(power @ sound.mel_bank(RATE, WINDOW, MELS).T, "float32")


@cache
def _weights() -> dict[str, np.ndarray]:
    import torch

    found = find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise DataUnavailable("resemblyzer: not installed; its wheel holds the speaker encoder")
    path = Path(found.origin).with_name("pretrained.pt")
    kept = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {name: tensor.numpy() for name, tensor in kept.items() if "similarity" not in name}


def _encoded(windows: np.ndarray) -> np.ndarray:
    """Return unit vectors (windows, 256): three LSTM layers, the last state through a line.

    On one thread: several wait for each other at each of 480 small steps, and take a hundred
    times as long where other work shares the cores.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    weights, sequence = _weights(), windows.swapaxes(0, 1)
    with threadpool_limits(1):
        for layer in range(LAYERS):
            sequence = _layer(sequence, weights, layer)
    voice = np.maximum(sequence[-1] @ weights["linear.weight"].T + weights["linear.bias"], 0)
    return np.asarray(voice / np.linalg.norm(voice, axis=1, keepdims=True))


def _layer(sequence: np.ndarray, weights: dict[str, np.ndarray], layer: int) -> np.ndarray:
    """Return the states (frames, windows, 256) of one LSTM layer; gates i, f, g, o as PyTorch's."""
    import numpy as np
    from scipy.special import expit

    into, back, *biases = (
        weights[f"lstm.{name}_l{layer}"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    given = sequence @ into.T + sum(biases)
    state = cell = np.zeros((sequence.shape[1], WIDTH), "float32")
    states = np.empty((*sequence.shape[:2], WIDTH), "float32")
    for frame, row in enumerate(given):
        gates = row + state @ back.T
        enters, stays, new, leaves = (
            gates[:, at : at + WIDTH] for at in range(0, 4 * WIDTH, WIDTH)
        )
        cell = expit(stays) * cell + expit(enters) * np.tanh(new)
        state = states[frame] = expit(leaves) * np.tanh(cell)
    return states
