"""Any recording turned into a target's voice by retrieval: sounds are looked up, not mapped.

HuBERT hears every 20 ms what is said. Each such frame of a recording is looked up among those of
the target's clips, and has the envelope that the target had in the nearest four. Nothing is
trained, and neither transcripts nor pairs are needed. The pitch is moved as by `cloning`; the
noisiness stays the recording's own, because with the pitch it tells what is voiced.

A frame of HuBERT hears 25 ms and comes every 20: the middle of frame t is at 12.5 + 20 t ms. Those
of WORLD come every 5 ms: the four from 4 t + 1 to 4 t + 4 have that middle, too, and belong to it.

Data:    the target's prepared clips; weights of facebook/hubert-base-ls960.
Source:  Hsu et al., HuBERT, IEEE TASLP 2021; Baas, van Niekerk and Kamper, Voice conversion with
         just nearest neighbors, Interspeech 2023, which has WavLM for HuBERT and a neural vocoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import ContentWrong, InputInvalid

from . import cloning, conversion
from . import speech as sound
from .engines import Facts, Size
from .engines.weights import RANDOM, checked, quiet, seeded
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np

STRIDE, HEARD = 320, 400
"""Samples at 16 kHz from frame to frame, and of a frame."""
EACH = 4
"""Frames of WORLD for one of HuBERT."""
LAYER = 9
"""Of 12; the later ones are left out. Baas et al. take the sixth of 24, which tells who speaks,
as their vocoder must know; here a frame is looked up for what is said alone. The choice is not
measured: there were no trained weights at hand."""
NEAREST = 4
PIECE, MARGIN = 750, 50
"""Frames that are heard at once, 15 s as in HuBERT's training, and those heard to each side."""
FACTS = Facts(
    title="HuBERT Base", hub="facebook/hubert-base-ls960",
    revision="dba3bb02fda4248b6e082697eee756de8fe8aa8a", size_bytes=377_571_139,
    sha256="062249fffb353eab67547a2fbc129f7c31a2f459faf641b19e8fb007cc5c48ad",
    licence="Apache-2.0", gated=False,
    can="tells what is said in 20 ms of any voice; learned from English",
    cannot="It speaks nothing itself.",
)  # fmt: skip
PINS = {
    "config.json": "56be398848bbd9cbc720172b0d45b2f01cac7652f2968f0f31f5faf9f2986acc",
    "pytorch_model.bin": FACTS.sha256,
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
        "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16}  # fmt: skip


@dataclass
class Encoder:
    """HuBERT up to a middle layer, and which weights it has."""

    model: Any
    weights: str
    device: str = "cpu"

    def features(self, speech: Speech) -> np.ndarray:
        """Return a unit vector (n, 768) for each 20 ms; InputInvalid where there is not one."""
        import numpy as np

        samples = sound.resampled(speech, conversion.RATE).samples
        count = (len(samples) - HEARD) // STRIDE + 1
        if count < 1:
            raise InputInvalid(f"found {1000 * speech.seconds:.1f} ms of sound; wanted 25 or more")
        normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        parts = [self._heard(normal, start, count) for start in range(0, count, PIECE)]
        found: np.ndarray = np.concatenate(parts)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def _heard(self, samples: np.ndarray, start: int, count: int) -> np.ndarray:
        """Return a piece's frames, heard with some on each side: attention grows with a square."""
        import torch

        first, last = max(0, start - MARGIN), min(count, start + PIECE + MARGIN)
        given = torch.from_numpy(samples[first * STRIDE : (last - 1) * STRIDE + HEARD])
        with torch.inference_mode():
            found = self.model(given[None].to(self.device)).last_hidden_state[0]
        here: np.ndarray = found[start - first :][:PIECE].float().cpu().numpy()
        return here


def encoder(size: Size, folder: Path | None, device: str = "cpu") -> Encoder:
    """Return HuBERT of random weights, or with those of a folder; see `checked` for what raises."""
    quiet()
    if size == "full":
        weights = checked(folder, FACTS, PINS)
        return Encoder(_read(Path(folder or "")).to(device).eval(), weights, device)
    from transformers import HubertConfig, HubertModel

    with seeded(0):
        made = HubertModel(HubertConfig(num_hidden_layers=LAYER, **TINY if size == "tiny" else {}))
    return Encoder(made.to(device).eval(), RANDOM, device)


def _read(folder: Path) -> Any:
    """Return the network in a folder, whose files hold tensors and no code."""
    from transformers import HubertModel

    try:
        model, told = HubertModel.from_pretrained(
            folder, local_files_only=True, weights_only=True, num_hidden_layers=LAYER,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # each format has errors of its own for what it cannot read
        raise ContentWrong(f"{folder}: cannot be read as HuBERT's weights ({error})") from None
    if missing := sorted({*told["missing_keys"]} - {"masked_spec_embed"}):
        raise ContentWrong(f"{folder}: found no {missing[0]}; wanted HuBERT with {LAYER} layers")
    return model


@dataclass
class Retriever:
    """A target to retrieve from: its frames, their envelopes (n, 4, 40) and its pitch."""

    encoder: Encoder
    index: Any
    codes: np.ndarray
    pitch: conversion.PitchStats

    def retrieved(self, speech: Speech, count: int, nearest: int = NEAREST) -> np.ndarray:
        """Return the target's coded envelope (count, 40), every 5 ms, for what is said."""
        import numpy as np

        heard = self.encoder.features(speech)
        _, places = self.index.search(heard, min(nearest, len(self.codes)))
        path = self.codes[places].mean(1).reshape(-1, conversion.CODED)
        found: np.ndarray = path[np.clip(np.arange(count) - 1, 0, len(path) - 1)]
        return found.astype(float)

    def converted(self, speech: Speech) -> Speech:
        """Return any recording in the target's voice."""
        frames = cloning.taken_apart(speech)
        return cloning.voiced(frames, self.retrieved(speech, len(frames.pitch)), self.pitch)


def retriever(encoder: Encoder, clips: Sequence[Speech]) -> Retriever:
    """Return what retrieves from some clips of one voice; they are heard anew each time."""
    import numpy as np

    from .network import indexed

    heard, codes, pitches = [], [], []
    for clip in clips:
        frames = cloning.taken_apart(clip)
        heard.append(encoder.features(clip))
        codes.append(beside(conversion.coded(frames.envelope), len(heard[-1])).astype("float32"))
        pitches.append(frames.pitch)
    return Retriever(encoder, indexed(np.concatenate(heard)), np.concatenate(codes),
                     conversion.pitch_stats(pitches))  # fmt: skip


def beside(code: np.ndarray, count: int) -> np.ndarray:
    """Return the four frames (count, 4, d) of WORLD that belong to each frame of HuBERT."""
    return code[1 : 1 + EACH * count].reshape(count, EACH, -1)
