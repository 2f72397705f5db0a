"""XTTS-v2: a GPT writes codes of sound after a text and a voice, and a HiFi-GAN plays them.

Coqui's own package is no longer maintained and does not load beside today's transformers; its fork
coqui-tts stands in its place. The fork asks for torchaudio, of which only parts in Python are used
here, and for torchcodec, of which nothing is: recordings are handed over as samples.

Data:    weights of coqui/XTTS-v2.
Source:  Casanova et al., XTTS, arXiv 2406.04904; Kong et al., HiFi-GAN, arXiv 2010.05646.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jobs.voice_cloning.speech import Speech, resampled
from slipway.errors import InputInvalid

from . import Facts, Size, Voice
from .text import joined, pieces
from .weights import RANDOM, checked, quiet, seeded

if TYPE_CHECKING:
    from torch import Tensor

RATE, HEARD = 24_000, 22_050
"""Samples a second of what is spoken, and of what is listened to."""
HOP = 1024
"""Samples of `HEARD` that one code stands for."""
LANGUAGE = "en"
TEXT_WEIGHT = 0.01
"""Of the text's loss beside the sound's, as published."""
FACTS = Facts(
    title="XTTS-v2", hub="coqui/XTTS-v2", revision="6c2b0d75eae4b7047358e3b6bd9325f857d43f77",
    size_bytes=2_086_564_978,
    sha256="c7ea20001c6a0a841c77e252d8409f6a74fb423e79b3206a0771ba5989776187",
    licence="Coqui Public Model Licence 1.0.0: no commercial use, of its output neither",
    gated=False,
    can="17 languages, of which English is used here; clones from six seconds or more; streams",
    cannot="It may not be used commercially, and its maker is gone: no other licence is sold.",
)  # fmt: skip
PINS = {
    "model.pth": FACTS.sha256,
    "config.json": "ef262b1454dd2a77e1461b0b2cd53e19b8a7624cc131b837d36df67356bc75e8",
    "vocab.json": "928260878a59da8a72a2a5b7687fea29d5106137669d90945430fe17e415304a",
    "speakers_xtts.pth": "f0f6137c19a4eab0cbbe4c99b5babacf68b1746e50da90807708c10e645b943b",
}
TRAINING = {
    "dvae.pth": "b29bc227d410d4991e0a8c09b858f77415013eeb9fba9650258e96095557d97a",
    "mel_stats.pth": "1f69422a8a8f344c4fca2f0c6b8d41d2151d6615b7321e48e6bb15ae949b119c",
}
"""What only fine-tuning needs besides: the coder of sound, and the scale of its spectrogram."""
TARGETS = ["c_attn", "c_proj", "c_fc"]
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789'.,!?;:-\"()"
SPECIAL = ("[STOP]", "[UNK]", "[SPACE]", f"[{LANGUAGE}]", "[START]")
TINY = {
    "gpt_layers": 2, "gpt_n_model_channels": 64, "gpt_n_heads": 2, "gpt_num_audio_tokens": 130,
    "gpt_start_audio_token": 128, "gpt_stop_audio_token": 129, "gpt_max_audio_tokens": 240,
    "gpt_max_text_tokens": 300, "decoder_input_dim": 64,
}  # fmt: skip
FULL = {"gpt_num_audio_tokens": 1026, "gpt_start_audio_token": 1024,
        "gpt_stop_audio_token": 1025}  # fmt: skip
VOCABULARY = 6681
"""Text tokens of the published model, which random weights of its size have too."""


@contextmanager
def presented(name: str) -> Iterator[None]:
    """Let a package that is not there be found inside: coqui-tts only asks whether it is."""
    there = name in sys.modules
    if not there:
        stand_in = ModuleType(name)
        stand_in.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = stand_in
    try:
        yield
    finally:
        if not there:
            del sys.modules[name]


@cache
def package() -> Any:
    """Return coqui's module of the model. Its import sets PyTorch's threads, which is undone."""
    import torch

    threads = torch.get_num_threads()
    with presented("torchcodec"):
        from TTS.tts.configs import xtts_config  # noqa: F401, the model's module needs it first
        from TTS.tts.models import xtts
    torch.set_num_threads(threads)
    return xtts


@dataclass
class Xtts:
    """The engine; see `Facts`. ``codes`` fixes the length of what random weights say."""

    size: Size
    folder: Path | None
    device: str
    name: str = "xtts"
    facts: Facts = FACTS
    weights: str = RANDOM
    voices: tuple[str, ...] = ("random",)
    seed: int = 0
    codes: int | None = None
    model: Any = None
    speakers: dict[str, Voice] = field(default_factory=dict)

    def load(self) -> None:
        """Make the networks, or read them from the folder."""
        quiet()
        if self.size == "full":
            self.weights = checked(self.folder, FACTS, PINS)
            self._read(Path(self.folder or ""))
        else:
            with seeded(self.seed):
                self.model = _random(self.size)
        self.model.to(self.device).eval()
        if self.size != "full":
            self.speakers = {"random": self.clone(_murmur(self.seed))}
        self.voices = tuple(self.speakers)

    def synthesize(self, text: str, voice: str | Voice) -> Speech:
        """Speak a text, a few sentences at a time."""
        return joined([self._said(piece, voice) for piece in pieces(text)])

    def _said(self, text: str, voice: str | Voice) -> Speech:
        import torch

        state = self._state(voice)
        with seeded(self.seed), torch.inference_mode():
            found = self.model.inference(
                text, LANGUAGE, state["latent"], state["speaker"], **self._length()
            )
        return Speech(found["wav"].astype("float32").clip(-1, 1), RATE)

    def first(self, text: str, voice: str | Voice) -> Speech:
        """Return the first piece of sound of a stream: 20 codes, as coqui's streaming has them."""
        import torch

        state = self._state(voice)
        with seeded(self.seed), torch.inference_mode():
            stream = self.model.inference_stream(
                pieces(text)[0], LANGUAGE, state["latent"], state["speaker"], **self._length()
            )
            sound = next(stream)
            stream.close()
        return Speech(sound.float().cpu().numpy().clip(-1, 1), RATE)

    def batch(self, text: str, voice: str | Voice, count: int) -> list[Speech]:
        """Speak one piece ``count`` times at once: codes of all, then the sound of all."""
        import torch

        state = self._state(voice)
        tokens = self.tokens(pieces(text)[0])[None].to(self.device)
        gpt = self.model.gpt
        with seeded(self.seed), torch.inference_mode():
            codes = gpt.generate(
                cond_latents=state["latent"], text_inputs=tokens, input_tokens=None,
                do_sample=True, top_p=0.85, top_k=50, temperature=0.75, num_beams=1,
                num_return_sequences=count, length_penalty=1.0, repetition_penalty=10.0,
                **self._length(),
            )  # fmt: skip
            many = torch.ones(count, dtype=torch.long, device=self.device)
            latents = gpt(
                tokens.repeat(count, 1), many * tokens.shape[-1], codes,
                many * codes.shape[-1] * gpt.code_stride_len,
                cond_latents=state["latent"].repeat(count, 1, 1), return_latent=True,
            )  # fmt: skip
            speaker = state["speaker"].repeat(count, 1, 1)
            sounds = self.model.hifigan_decoder(latents, g=speaker).float().cpu()
        return [Speech(sound.flatten().numpy().clip(-1, 1), RATE) for sound in sounds]

    def clone(self, reference: Speech) -> Voice:
        """Return the voice of a recording: what the GPT and the vocoder are told of it."""
        import torch

        heard = torch.from_numpy(resampled(reference, HEARD).samples)[None]
        if heard.shape[1] < HEARD:
            raise InputInvalid(
                f"reference: found {reference.seconds:.2f} s; XTTS wants a second at least, "
                "and six to sound alike"
            )
        heard = heard.to(self.device)
        with torch.inference_mode():
            latent = self.model.get_gpt_cond_latents(heard, HEARD, length=30, chunk_length=6)
            speaker = self.model.get_speaker_embedding(heard, HEARD)
        return Voice(self.name, "cloned", {"latent": latent, "speaker": speaker})

    def _state(self, voice: str | Voice) -> dict[str, Any]:
        if isinstance(voice, Voice):
            return dict(voice.state)
        if voice not in self.speakers:
            known = ", ".join(self.voices)
            raise InputInvalid(f"voice: found {voice!r}; wanted one of {known}")
        return dict(self.speakers[voice].state)

    def _length(self) -> dict[str, int]:
        if self.codes is None:
            return {}
        return {"max_new_tokens": self.codes, "min_new_tokens": self.codes}

    def tokens(self, text: str) -> Tensor:
        """Return the tokens (n,) of a text."""
        import torch

        ids = self.model.tokenizer.encode(text.strip().lower(), lang=LANGUAGE)
        return torch.tensor(ids, dtype=torch.long)

    def _read(self, folder: Path) -> None:
        """Fill the model from a folder. Nothing is unpickled but tensors and coqui's settings.

        Coqui's own loader writes the file anew, which is then no longer what was pinned.
        """
        import torch

        xtts = package()
        from TTS.tts.configs.xtts_config import XttsConfig
        from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

        config = XttsConfig()
        config.load_json(str(folder / "config.json"))
        self.model = xtts.Xtts(config)
        self.model.tokenizer = VoiceBpeTokenizer(str(folder / "vocab.json"))
        self.model.init_models()  # anew: how many texts' tokens there are, the tokenizer knows
        with xtts._legacy_safe_globals():
            kept = torch.load(folder / "model.pth", map_location="cpu", weights_only=True)["model"]
        # What speaks has the same weights under two names; the second comes with `eval`.
        state = {name: value for name, value in kept.items()
                 if not name.startswith(("gpt.gpt_inference.", "gpt.gpt.wte."))}  # fmt: skip
        self.model.load_state_dict(state)
        speakers = torch.load(
            folder / "speakers_xtts.pth", map_location=self.device, weights_only=True
        )
        self.speakers = {
            name: Voice(self.name, name, {"latent": found["gpt_cond_latent"],
                                          "speaker": found["speaker_embedding"]})
            for name, found in speakers.items()
        }  # fmt: skip


def made(size: Size, weights: Path | None, device: str) -> Xtts:
    """Return the engine, not loaded yet."""
    return Xtts(size, weights, device, codes=None if size == "full" else 20)


def _murmur(seed: int) -> Speech:
    """Return three seconds of a hum with overtones: a reference for weights that know no one."""
    import numpy as np

    time = np.arange(3 * HEARD) / HEARD
    draw = np.random.default_rng(seed)
    tones = [
        np.sin(2 * np.pi * 120 * part * time + draw.uniform(0, 6)) / part for part in range(1, 9)
    ]
    return Speech((0.2 * np.sum(tones, axis=0)).astype("float32").clip(-1, 1), HEARD)


def letters() -> Any:
    """Return a tokenizer for random weights: a token a letter, in the form that XTTS has."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE

    known = {sign: number for number, sign in enumerate((*SPECIAL, *SIGNS))}
    tokenizer = Tokenizer(BPE(known, [], unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken(sign, normalized=False) for sign in SPECIAL])
    return tokenizer


def _random(size: Size) -> Any:
    """Return a model of random weights; the vocoder and its ear have one size only."""
    xtts = package()
    from TTS.tts.configs.xtts_config import XttsConfig

    shape = TINY if size == "tiny" else FULL
    tokenizer = letters()
    known = tokenizer.get_vocab_size() if size == "tiny" else VOCABULARY
    arguments = xtts.XttsArgs(
        **shape, gpt_use_perceiver_resampler=True, gpt_number_text_tokens=known,
        gpt_start_text_token=tokenizer.token_to_id("[START]"), gpt_stop_text_token=0,
    )  # fmt: skip
    model = xtts.Xtts(XttsConfig(model_args=arguments))
    model.tokenizer.tokenizer = tokenizer
    return model
