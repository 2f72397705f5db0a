"""Orpheus-3B: a Llama that writes the codes of SNAC as if they were words.

A frame of SNAC is seven codes at three rates. They are flattened in one order and each slot of
seven has a range of tokens of its own, so a token tells which code it is. Without trained weights
nothing keeps the model to that order, so a mask does; with them it costs nothing and rules out the
broken frames that sampling now and then gives.

Data:    weights of canopylabs/orpheus-3b-0.1-ft, here by a copy in half precision without the
         state of its optimiser; and of the codec hubertsiuzdak/snac_24khz.
Source:  Siuzdak, Grötschla and Lanzendörfer, SNAC, arXiv 2410.14411; the token order is that of
         Orpheus' published decoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jobs.voice_cloning.speech import Speech
from slipway.errors import InputInvalid

from . import Facts, Size, Voice
from .text import joined, pieces
from .weights import RANDOM, checked, quiet, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

RATE, HOP = 24_000, 512
SLOTS = 7
ORDER = ((0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3))
"""Of each slot of a frame: the level of SNAC (coarse, middle, fine), and which of its codes."""
WIDTHS = (1, 2, 4)
"""Codes of a frame at each level."""
FRAME = HOP * 4
"""Samples of a frame: 11.7 frames, 82 tokens a second."""
FIRST = 4
"""Frames of the first piece of sound when speech is streamed."""
SPOKEN = 15.0
"""Characters a second of quick speech; a model that has not ended by twice that will not."""
FACTS = Facts(
    title="Orpheus-3B 0.1 (fine-tuned)", hub="unsloth/orpheus-3b-0.1-ft",
    revision="eae2b6e5e429c81b95ac42a883ac64f126583d43", size_bytes=6_601_763_560,
    sha256="1064bbba044a8ba0f5e1c88a9f301399c958875ca0db5fb216b7c7d39c91a6ca",
    licence="Apache-2.0, with the Llama 3.2 Community Licence of its base",
    gated=False,
    can="English in eight voices, with laughs and sighs as tags; streams",
    cannot="It clones no one: only the pretrained checkpoint has been seen to follow a reference, "
    "and not dependably. The original, canopylabs/orpheus-3b-0.1-ft, is gated.",
)  # fmt: skip
PINS = {
    "model-00001-of-00002.safetensors": FACTS.sha256,
    "model-00002-of-00002.safetensors":
        "6fac70f10fa2d2c37e06952366d43a0a4363b7e9e5fe48572b29f4a21b3479a9",
}  # fmt: skip
CODEC = Facts(
    title="SNAC at 24 kHz, which belongs into the folder snac of Orpheus' weights",
    hub="hubertsiuzdak/snac_24khz", revision="d73ad176a12188fcf4f360ba3bf2c2fbbe8f58ec",
    size_bytes=79_488_554,
    sha256="4b8164cc6606bfa627f1a784734c1e539891518f1191ed9194fe1e3b9b4bff40", licence="MIT",
    gated=False, can="turn codes into sound", cannot="",
)  # fmt: skip
CODEC_PINS = {
    "config.json": "e119b9366d4f5e73c6ca5f31137c4ff361578bbb132953a5203afe037c4012be",
    "pytorch_model.bin": CODEC.sha256,
}
VOICES = ("tara", "leah", "jess", "leo", "dan", "mia", "zac", "zoe")


@dataclass(frozen=True)
class Layout:
    """Where tokens of sound lie: ``base + slot * codebook + code``; and what frames a prompt."""

    base: int = 128_266
    codebook: int = 4096
    before: tuple[int, ...] = (128_259,)
    after: tuple[int, ...] = (128_009, 128_260, 128_261, 128_257)
    end: int = 128_258

    @property
    def tokens(self) -> int:
        """How many tokens there are, those of text included."""
        return self.base + SLOTS * self.codebook

    def sounds(self, tokens: np.ndarray) -> np.ndarray:
        """Return which tokens are codes of sound."""
        return (tokens >= self.base) & (tokens < self.tokens)


TINY = Layout(base=270, codebook=64, before=(257,), after=(258, 259), end=260)


def flattened(codes: Sequence[np.ndarray], layout: Layout = Layout()) -> np.ndarray:
    """Return tokens (7 n,) of codes at three levels, (n,), (2 n,) and (4 n,)."""
    import numpy as np

    parts = [level.reshape(-1, width) for level, width in zip(codes, WIDTHS, strict=True)]
    frames = np.stack([parts[level][:, place] for level, place in ORDER], axis=1)
    return np.asarray(frames + layout.base + np.arange(SLOTS) * layout.codebook).ravel()


def unflattened(tokens: np.ndarray, layout: Layout = Layout()) -> list[np.ndarray]:
    """Return the codes of three levels; an unfinished last frame is left out.

    Raises InputInvalid for a token that is not of its slot.
    """
    import numpy as np

    frames = np.asarray(tokens)[: len(tokens) // SLOTS * SLOTS].reshape(-1, SLOTS)
    frames = frames - layout.base - np.arange(SLOTS) * layout.codebook
    wrong = np.argwhere((frames < 0) | (frames >= layout.codebook))
    if len(wrong):
        frame, slot = wrong[0].tolist()
        found = int(tokens[frame * SLOTS + slot])
        raise InputInvalid(f"frame {frame}: found token {found}, which is not of slot {slot}")
    codes = [np.empty((len(frames), width), np.int64) for width in WIDTHS]
    for slot, (level, place) in enumerate(ORDER):
        codes[level][:, place] = frames[:, slot]
    return [level.ravel() for level in codes]


@dataclass
class SlotMask:
    """What lets `generate` choose among the tokens of the slot that is due, and the end of speech.

    ``start`` is where sound begins; ``least`` tokens must come before the end.
    """

    layout: Layout
    start: int
    least: int = 0

    def __call__(self, given: Tensor, scores: Tensor) -> Tensor:
        """Return scores (n, tokens) with minus infinity for all that is not allowed."""
        import torch

        done = given.shape[1] - self.start
        low = self.layout.base + done % SLOTS * self.layout.codebook
        allowed = torch.full_like(scores, -torch.inf)
        allowed[:, low : low + self.layout.codebook] = 0
        if done % SLOTS == 0 and done >= self.least:
            allowed[:, self.layout.end] = 0
        return scores + allowed


class Bytes:
    """A tokenizer for random weights: a token a byte."""

    def encode(self, text: str) -> list[int]:
        """Return one token in [0, 256) a byte."""
        return list(text.encode())


@dataclass
class Orpheus:
    """The engine; see `Facts`. ``frames`` fixes the length of what random weights say."""

    size: Size
    folder: Path | None
    device: str
    name: str = "orpheus"
    facts: Facts = FACTS
    weights: str = RANDOM
    voices: tuple[str, ...] = VOICES
    seed: int = 0
    frames: int | None = None
    layout: Layout = field(default_factory=Layout)
    model: Any = None
    codec: Any = None
    tokenizer: Any = None

    def load(self) -> None:
        """Make the networks, or read them from the folder."""
        quiet()
        if self.size == "full":
            self.weights = checked(self.folder, FACTS, PINS)
            checked(Path(self.folder or "") / "snac", CODEC, CODEC_PINS)
            self.model, self.tokenizer, self.codec = _read(Path(self.folder or ""))
        else:
            self.layout = TINY if self.size == "tiny" else Layout()
            with seeded(self.seed):
                self.model, self.codec = _random(self.size)
            self.tokenizer = Bytes()
        self.model.to(self.device).eval()
        self.codec.to(self.device).eval()

    def synthesize(self, text: str, voice: str | Voice) -> Speech:
        """Speak a text, a few sentences at a time."""
        return joined([self.spoken([piece], voice)[0] for piece in pieces(text)])

    def first(self, text: str, voice: str | Voice) -> Speech:
        """Return the first third of a second, as soon as it is there."""
        return self.spoken([pieces(text)[0]], voice, FIRST)[0]

    def batch(self, text: str, voice: str | Voice, count: int) -> list[Speech]:
        """Speak one piece ``count`` times at once."""
        return self.spoken([pieces(text)[0]] * count, voice)

    def spoken(
        self, texts: list[str], voice: str | Voice, frames: int | None = None
    ) -> list[Speech]:
        """Speak pieces of equally many tokens at once, up to so many frames each."""
        import torch

        if voice not in VOICES:
            raise InputInvalid(f"voice: found {voice!r}; wanted one of {', '.join(VOICES)}")
        asked = [self.prompt(f"{voice}: {text}") for text in texts]
        given = torch.tensor(asked, device=self.device)
        fixed = frames or self.frames or 0
        most = fixed or int(len(texts[0]) / SPOKEN * 2 * RATE / FRAME) + 12
        mask = SlotMask(self.layout, given.shape[1], fixed * SLOTS)
        with seeded(self.seed), torch.inference_mode():
            found = self.model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=most * SLOTS,
                do_sample=True, temperature=0.6, top_p=0.8, repetition_penalty=1.1,
                logits_processor=[mask], eos_token_id=self.layout.end, pad_token_id=self.layout.end,
            )[:, given.shape[1] :].cpu()  # fmt: skip
            return [self.decoded(row[self.layout.sounds(row)]) for row in found.numpy()]

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of what is asked for."""
        return [*self.layout.before, *self.tokenizer.encode(text), *self.layout.after]

    def decoded(self, tokens: np.ndarray) -> Speech:
        """Return the sound of flattened codes."""
        import torch

        codes = [torch.from_numpy(level)[None].to(self.device) for level in
                 unflattened(tokens, self.layout)]  # fmt: skip
        return Speech(self.codec.decode(codes)[0, 0].float().cpu().numpy(), RATE)

    def clone(self, reference: Speech) -> NoReturn:
        """Refuse: there is no dependable way."""
        raise InputInvalid("orpheus clones no one: it has eight voices; xtts and csm can clone")


def made(size: Size, weights: Path | None, device: str) -> Orpheus:
    """Return the engine, not loaded yet."""
    return Orpheus(size, weights, device, frames=None if size == "full" else 12)


def _random(size: Size) -> tuple[Any, Any]:
    """Return a Llama and a SNAC of random weights: a few thousand of them, or as many as real."""
    from snac import SNAC
    from transformers import LlamaConfig, LlamaForCausalLM

    if size == "tiny":
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 2,
                 "vocab_size": TINY.tokens}  # fmt: skip
        codec = {"encoder_dim": 4, "decoder_dim": 32, "codebook_size": TINY.codebook}
    else:
        shape = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
                 "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
                 "tie_word_embeddings": True, "vocab_size": 156_940}  # fmt: skip
        codec = {"encoder_dim": 48, "decoder_dim": 1024, "codebook_size": 4096}
    config = LlamaConfig(**shape, max_position_embeddings=131_072)
    rates = {"encoder_rates": [2, 4, 8, 8], "decoder_rates": [8, 8, 4, 2], "vq_strides": [4, 2, 1]}
    return LlamaForCausalLM(config), SNAC(
        sampling_rate=RATE, attn_window_size=None, **rates, **codec
    )


def _read(folder: Path) -> tuple[Any, Any, Any]:
    """Return model, tokenizer and codec from a folder, with nothing unpickled."""
    import torch
    from snac import SNAC
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    codec = SNAC(**json.loads((folder / "snac" / "config.json").read_text("utf-8")))
    state = torch.load(folder / "snac" / "pytorch_model.bin", map_location="cpu", weights_only=True)
    codec.load_state_dict(state)
    return model, tokenizer, codec
