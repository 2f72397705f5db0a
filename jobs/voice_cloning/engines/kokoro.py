"""Kokoro-82M: phonemes and a style vector in, a waveform out, in one pass and without sampling.

Phonemes come from espeak-ng, so neither spaCy nor a dictionary is needed. It has voices and cannot
be given one. It is the one engine here that has an ONNX form: durations decide how long the sound
is, inside the graph.

Data:    weights of hexgrad/Kokoro-82M.
Source:  Li et al., StyleTTS 2, arXiv 2306.07691; Kaneko et al., iSTFTNet, arXiv 2203.02395.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from jobs.voice_cloning.speech import Speech
from slipway.errors import InputInvalid

from . import Facts, Size, Voice
from .text import joined, pieces
from .weights import RANDOM, checked, quiet, seeded

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

RATE = 24_000
MOST = 250
"""Characters of a piece; its phonemes must be 510 or fewer."""
PHONEMES = 510
OPSET = 17
FACTS = Facts(
    title="Kokoro-82M v1.0", hub="hexgrad/Kokoro-82M",
    revision="f3ff3571791e39611d31c381e3a41a3af07b4987", size_bytes=327_738_002,
    sha256="496dba118d1a58f5f3db2efc88dbdc216e0483fc89fe6e47ee1f2c53f18ad1e4",
    licence="Apache-2.0", gated=False,
    can="English in the voices of its folder voices/; faster than real time on a processor",
    cannot="It clones no one: a voice is a table of style vectors that came with the model.",
)  # fmt: skip
PINS = {
    "config.json": "5abb01e2403b072bf03d04fde160443e209d7a0dad49a423be15196b9b43c17f",
    "kokoro-v1_0.pth": FACTS.sha256,
    "voices/af_heart.pt": "0ab5709b8ffab19bfd849cd11d98f75b60af7733253ad0d67b12382a102cb4ff",
}
SIGNS = "".join(map(chr, (*range(32, 127), *range(0x250, 0x2B0), 0xE6, 0xF0, 0xF8, 0x14B,
                          0x2C8, 0x2CC, 0x2D0, 0x3B8, 0x1D4A, 0x1D7B)))  # fmt: skip
"""The alphabet of random weights, Latin and phonetic; trained ones bring theirs."""
SHAPE = {
    "n_token": 202, "hidden_dim": 512, "style_dim": 128, "dim_in": 64, "n_mels": 80, "n_layer": 3,
    "max_dur": 6, "text_encoder_kernel_size": 5, "max_conv_dim": 512, "dropout": 0.2,
    "plbert": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2048,
               "max_position_embeddings": 512, "num_hidden_layers": 12, "dropout": 0.1},
    "istftnet": {"upsample_rates": [10, 6], "upsample_kernel_sizes": [20, 12],
                 "upsample_initial_channel": 512, "resblock_kernel_sizes": [3, 7, 11],
                 "resblock_dilation_sizes": [[1, 3, 5]] * 3, "gen_istft_n_fft": 20,
                 "gen_istft_hop_size": 5},
}  # fmt: skip
"""The published shape, but for max_dur, which is 50: random weights say half of the longest
duration for every phoneme, and with 6 that is what people take. Half of the shape is fixed in the
package's code, so tiny is tiny in BERT alone."""
TINY_BERT = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
             "max_position_embeddings": 512, "num_hidden_layers": 2, "dropout": 0.1}  # fmt: skip


class Spoken(NamedTuple):
    """What one pass gives: samples (n,), and how many frames each phoneme lasts (phonemes + 2,)."""

    samples: np.ndarray
    durations: np.ndarray


@dataclass
class Kokoro:
    """The engine; see `Facts`."""

    size: Size
    folder: Path | None
    device: str
    name: str = "kokoro"
    facts: Facts = FACTS
    weights: str = RANDOM
    voices: tuple[str, ...] = ("random",)
    seed: int = 0
    model: Any = None
    packs: dict[str, Tensor] = field(default_factory=dict)

    def load(self) -> None:
        """Make the network, or read it from the folder."""
        quiet()
        if self.size == "full":
            self.weights = checked(self.folder, FACTS, PINS)
            self._read(Path(self.folder or ""))
        else:
            self._random()
        self.voices = tuple(sorted(self.packs))
        self.model.to(self.device).eval()

    def synthesize(self, text: str, voice: str | Voice) -> Speech:
        """Speak a text, a few sentences at a time."""
        return joined([self._said(piece, voice) for piece in pieces(text, MOST)])

    def _said(self, text: str, voice: str | Voice) -> Speech:
        return Speech(self.passed(*self.asked(text, voice)).samples.clip(-1, 1), RATE)

    def asked(self, text: str, voice: str | Voice) -> tuple[Tensor, Tensor]:
        """Return what the network takes: phonemes (1, n + 2) and the style for so many (1, 256)."""
        import torch

        if voice not in self.packs:
            known = ", ".join(self.voices)
            raise InputInvalid(f"voice: found {voice!r}; wanted one of {known}")
        ids = [self.model.vocab[sign] for sign in phonemes(text) if sign in self.model.vocab]
        ids = ids[:PHONEMES]
        if not ids:
            raise InputInvalid(f"text: found nothing that has a sound in {text[:40]!r}")
        style = self.packs[str(voice)][len(ids) - 1]
        return torch.tensor([[0, *ids, 0]], device=self.device), style.to(self.device)

    def passed(self, ids: Tensor, style: Tensor, speed: float = 1) -> Spoken:
        """Return sound and durations for phonemes."""
        import torch

        with seeded(self.seed), torch.inference_mode():
            samples, durations = self.model.forward_with_tokens(ids, style, speed)
        return Spoken(samples.squeeze().cpu().numpy(), durations.cpu().numpy())

    def clone(self, reference: Speech) -> NoReturn:
        """Refuse: the model has no encoder of voices."""
        raise InputInvalid("kokoro clones no one: it has fixed voices; xtts and csm can clone")

    def _read(self, folder: Path) -> None:
        import torch

        config = json.loads((folder / "config.json").read_text("utf-8"))
        self.model = network(config, folder / "kokoro-v1_0.pth")
        self.packs = {path.stem: torch.load(path, map_location="cpu", weights_only=True)
                      for path in sorted((folder / "voices").glob("*.pt"))}  # fmt: skip

    def _random(self) -> None:
        import torch

        config = SHAPE | {"vocab": {sign: number for number, sign in enumerate(SIGNS, start=1)}}
        if self.size == "tiny":
            config["plbert"] = TINY_BERT
        with seeded(self.seed), tempfile.TemporaryDirectory() as folder:
            nothing = Path(folder) / "none.pth"
            torch.save({}, nothing)
            self.model = network(config, nothing)
            self.packs = {"random": torch.randn(PHONEMES, 1, 256) * 0.1}


def made(size: Size, weights: Path | None, device: str) -> Kokoro:
    """Return the engine, not loaded yet."""
    return Kokoro(size, weights, device)


def network(config: dict[str, Any], weights: Path) -> Any:
    """Return the package's network; `disable_complex` so that its last layer has an ONNX form.

    The package's ``__init__`` imports a pipeline that wants spaCy, so it is passed by.
    """
    if "kokoro" not in sys.modules:
        spec = importlib.util.find_spec("kokoro")
        assert spec is not None
        sys.modules["kokoro"] = importlib.util.module_from_spec(spec)
    from kokoro.model import KModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about weight_norm, of itself
        return KModel(FACTS.hub, config, str(weights), disable_complex=True)


def _linked(library: Path, copy: Path, follow_symlinks: bool) -> None:
    copy.symlink_to(library)


@cache
def _voice_of_espeak() -> Any:
    """Return misaki's phonemes by espeak-ng, whose library stays where it can be executed.

    phonemizer would load a copy out of a temporary folder, and a container may forbid that; it
    wants one for each of its objects, of which there is one here.
    """
    from misaki import espeak
    from phonemizer.backend.espeak import api

    api.shutil = SimpleNamespace(copy=_linked, rmtree=shutil.rmtree)
    return espeak.EspeakG2P(language="en-us")


def phonemes(text: str) -> str:
    """Return the phonemes of an English text in Kokoro's alphabet, by espeak-ng."""
    return str(_voice_of_espeak()(text)[0])


def exported(engine: Kokoro, file: Path) -> None:
    """Write the network as ONNX, for any number n of phonemes.

    From ``input_ids`` (1, n), ``ref_s`` (1, 256) and ``speed`` (1,) to ``waveform`` and
    ``duration`` (n,).
    """
    import torch
    from kokoro.model import KModelForONNX

    ids, style = engine.asked("An example sentence of some length.", engine.voices[0])
    with warnings.catch_warnings(), seeded(engine.seed):
        warnings.simplefilter("ignore")  # of the tracer about shapes, of the exporter of itself
        torch.onnx.export(
            KModelForONNX(engine.model).eval(), (ids, style, torch.ones(1)), file, dynamo=False,
            opset_version=OPSET, input_names=["input_ids", "ref_s", "speed"],
            output_names=["waveform", "duration"],
            dynamic_axes={"input_ids": {1: "phonemes"}, "waveform": {0: "samples"},
                          "duration": {0: "phonemes"}},
        )  # fmt: skip
