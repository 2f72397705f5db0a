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
from typing import TYPE_CHECKING, Any

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
    import torch

    samples = sound.resampled(speech, RATE).samples
    loud = float(np.sqrt(np.mean(samples**2)))
    if 0 < loud < LOUDNESS:  # the encoder was trained on speech of this loudness or more
        samples = samples * np.float32(LOUDNESS / loud)
    with torch.inference_mode():
        found = _network()(torch.from_numpy(_windows(samples))).mean(0)
    return np.asarray(found / found.norm(), "float32")


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
def _network() -> Any:
    import torch

    found = find_spec("resemblyzer")
    if found is None or found.origin is None:
        raise DataUnavailable("resemblyzer: not installed; its wheel holds the speaker encoder")
    path = Path(found.origin).with_name("pretrained.pt")
    kept = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    network = _encoder()
    network.load_state_dict({name: kept[name] for name in network.state_dict()})
    return network.eval()


def _encoder() -> Any:
    import torch

    class Encoder(torch.nn.Module):
        """An LSTM whose last state is the voice."""

        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(MELS, WIDTH, LAYERS, batch_first=True)
            self.linear = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, mels: torch.Tensor) -> torch.Tensor:
            """Return unit vectors (windows, 256) of mels (windows, 160, 40)."""
            _, (state, _) = self.lstm(mels)
            voice = torch.relu(self.linear(state[-1]))
            return voice / voice.norm(dim=1, keepdim=True)

    return Encoder()
