"""CSM-1B: a Llama over text and frames of Mimi's codes, told who speaks by what was said before.

The first code of a frame comes from the backbone, the other 31 from a small depth decoder. What it
speaks sounds like the turns that it is given as context, which is how it clones, and how it is
fine-tuned: turns of ``[speaker]text`` with sound, of which only the answer's frames are learned.
It voices an answer that is given; it does not think of one.

Data:    weights of sesame/csm-1b, whose files named transformers-* are the ones read.
Source:  Schalkwyk et al., Crossing the uncanny valley of conversational voice, Sesame 2025;
         Défossez et al., Moshi (for Mimi), arXiv 2410.00037.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.voice_cloning.speech import Speech, resampled
from slipway.errors import InputInvalid

from . import Facts, Size, Voice
from .text import joined, pieces
from .weights import RANDOM, checked, quiet, seeded

if TYPE_CHECKING:
    from torch import Tensor

RATE, FRAME = 24_000, 1920
"""Samples a second, and of a frame: 12.5 frames a second."""
FIRST = 10
"""Frames of the first piece of sound when speech is streamed."""
SPOKEN = 12.0
"""Characters a second; a model that has not ended by twice that will not."""
CONTEXT = 15.0
"""Seconds of a reference that are given as context."""
FACTS = Facts(
    title="CSM-1B", hub="sesame/csm-1b", revision="c92a71e1c419772e25be7dc14d952c2521a740ab",
    size_bytes=7_150_824_781, sha256="", licence="Apache-2.0", gated=True,
    can="English; clones from a few seconds given as the turn before, best with their transcript; "
    "keeps to the tone of a dialogue; streams",
    cannot="It answers no questions: it voices the answer that it is given. Other languages by "
    "accident only.",
)  # fmt: skip
PINS = {
    "config.json": "eb34392016242d345cec269e1623413f9071d910",
    "generation_config.json": "e7beaf68e64dcd17fee50190107117d29c357ec0",
    "tokenizer.json": "8de5df033b78de76dbe15fdd8b934678b5017aaf",
    "tokenizer_config.json": "9efdba317a3f1ea9acf0a99ad77e2451ecfa220c",
    "transformers.safetensors.index.json": "6bd497e812938dc53a500a7fc941f4f04c3adecd",
    "transformers-00001-of-00002.safetensors": "f6379cd719f180cfe3a0c3bd954903b632195979",
    "transformers-00002-of-00002.safetensors": "ca6ac15ccb23215d3813ba049010d5079aa08155",
}
TARGETS = r"(backbone_model|depth_decoder)\..*\.(q|k|v|o|gate|up|down)_proj"
"""What LoRA adapts; Mimi stays as it is."""


class Turn(NamedTuple):
    """What one speaker says: the text, and its sound where that is there already."""

    speaker: int
    text: str
    speech: Speech | None = None


class Letters:
    """A tokenizer for random weights: a token a byte."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return one token in [0, 256) a byte."""
        return list(text.encode())


@dataclass
class Csm:
    """The engine; see `Facts`. ``frames`` fixes the length of what random weights say."""

    size: Size
    folder: Path | None
    device: str
    name: str = "csm"
    facts: Facts = FACTS
    weights: str = RANDOM
    voices: tuple[str, ...] = ("0", "1")
    seed: int = 0
    frames: int | None = None
    model: Any = None
    tokenizer: Any = None

    def load(self) -> None:
        """Make the networks, or read them from the folder."""
        quiet()
        if self.size == "full":
            self.weights = checked(self.folder, FACTS, PINS)
            self.model, self.tokenizer = _read(Path(self.folder or ""))
        else:
            with seeded(self.seed):
                self.model, self.tokenizer = _random(self.size), Letters()
        self.model.to(self.device).eval()

    def synthesize(self, text: str, voice: str | Voice) -> Speech:
        """Speak a text, a few sentences at a time, each after the same context."""
        return joined([self.spoken(piece, voice)[0] for piece in pieces(text)])

    def first(self, text: str, voice: str | Voice) -> Speech:
        """Return the first 0.8 s, as soon as they are there."""
        return self.spoken(pieces(text)[0], voice, frames=FIRST)[0]

    def batch(self, text: str, voice: str | Voice, count: int) -> list[Speech]:
        """Speak one piece ``count`` times at once."""
        return self.spoken(pieces(text)[0], voice, count)

    def spoken(
        self, text: str, voice: str | Voice, count: int = 1, frames: int | None = None
    ) -> list[Speech]:
        """Speak one piece ``count`` times at once, up to so many frames each."""
        import torch

        speaker, context = self.context_of(voice)
        given = self.asked([*context, Turn(speaker, text)])
        given = {name: part.repeat(count, *[1] * (part.dim() - 1)) for name, part in given.items()}
        fixed = frames or self.frames
        most = fixed or int(len(text) / SPOKEN * 2 * RATE / FRAME) + 12
        with seeded(self.seed), torch.no_grad():  # Mimi keeps what it once made, for training too
            codes = self.model.generate(
                **given, max_new_tokens=most, do_sample=True, temperature=0.9,
                depth_decoder_do_sample=True, depth_decoder_temperature=0.9,
            )  # fmt: skip
            return [self.decoded(row) for row in codes]

    def context_of(self, voice: str | Voice) -> tuple[int, list[Turn]]:
        """Return the number of a speaker, and the turns that show how that speaker sounds."""
        if isinstance(voice, Voice):
            return 0, [voice.state["turn"]]
        if voice not in self.voices:
            raise InputInvalid(f"voice: found {voice!r}; wanted one of {', '.join(self.voices)}")
        return int(voice), []

    def decoded(self, codes: Tensor) -> Speech:
        """Return the sound of codes (frames, 32), up to the frame that ends it."""
        import torch

        config = self.model.config
        ends = (codes == config.codebook_eos_token_id).all(dim=1).nonzero()
        kept = codes[: ends[0, 0]] if len(ends) and self.size == "full" else codes
        kept = kept.clamp(max=config.codec_config.codebook_size - 1)
        if not len(kept):
            return Speech(torch.zeros(FRAME).numpy(), RATE)
        sound = self.model.codec_model.decode(kept.T[None]).audio_values
        return Speech(sound[0, 0].float().cpu().numpy().clip(-1, 1), RATE)

    def clone(self, reference: Speech, text: str = "") -> Voice:
        """Return the voice of a recording; ``text`` is what is said in it, if that is known."""
        known = resampled(reference, RATE)
        known = Speech(known.samples[: int(CONTEXT * RATE)], RATE)
        return Voice(self.name, "cloned", {"turn": Turn(0, text, known)})

    def asked(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Return turns as the model takes them: ``input_ids`` (1, n), and sounds behind each other.

        A frame of sound has one place in the text, where its codes are put in.
        """
        import torch

        config = self.model.config
        ids: list[int] = []
        sounds = []
        for turn in turns:
            ids += [config.bos_token_id, *self.tokenizer.encode(
                f"[{turn.speaker}]{turn.text}", add_special_tokens=False), self.end]  # fmt: skip
            if turn.speech is not None:
                sound = resampled(turn.speech, RATE).samples
                sound = torch.from_numpy(sound[: len(sound) // FRAME * FRAME].copy())
                sounds.append(sound)
                ids += [config.audio_token_id] * (len(sound) // FRAME) + [config.audio_eos_token_id]
        tokens = torch.tensor([ids])
        given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if sounds:
            given["input_values"] = torch.cat(sounds)[None, None]
            given["input_values_cutoffs"] = torch.tensor([[len(s) for s in sounds]]).cumsum(1)
        return {name: part.to(self.device) for name, part in given.items()}

    def labelled(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Return turns as the model learns them, for `forward`.

        Of ``labels`` (1, n, 32) only the last turn's frames, and the frame that ends them, are
        codes; all else is -100. The model itself would have every turn learned, whatever labels
        it is given: it replaces them by codes wherever there is sound. So its inputs are merged
        first and masked after.
        """
        asked = self.asked(turns)
        tokens = asked["input_ids"]
        mask = asked.pop("attention_mask")
        merged = self.model._merge_input_ids_with_input_values(**asked, labels=tokens)
        codes = merged["labels"]
        last = int((tokens[0] == self.model.config.bos_token_id).nonzero()[-1])
        sound = (tokens == self.model.config.audio_token_id) | (
            tokens == self.model.config.audio_eos_token_id
        )
        sound[:, :last] = False
        return {"inputs_embeds": merged["inputs_embeds"], "attention_mask": mask,
                "labels": codes.masked_fill(~sound[..., None], -100)}  # fmt: skip

    @property
    def end(self) -> int:
        """The token between text and sound."""
        return int(self.model.config.bos_token_id) + 1


def made(size: Size, weights: Path | None, device: str) -> Csm:
    """Return the engine, not loaded yet."""
    return Csm(size, weights, device, frames=None if size == "full" else 12)


def _random(size: Size) -> Any:
    """Return a model of random weights, of few or of as many weights as the real one."""
    from transformers import CsmConfig, CsmForConditionalGeneration

    model = CsmForConditionalGeneration(CsmConfig() if size != "tiny" else _tiny())
    for part in model.codec_model.modules():
        if hasattr(part, "embed_sum"):  # made of zeros: any sound would have the same codes
            part.embed_sum.normal_()
    return model


def _tiny() -> Any:
    from transformers import CsmConfig, MimiConfig

    width = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
             "num_key_value_heads": 2, "num_hidden_layers": 2, "num_codebooks": 8}  # fmt: skip
    codec = MimiConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, num_filters=4, codebook_size=64, codebook_dim=16,
        vector_quantization_hidden_dimension=16, num_quantizers=8, upsample_groups=32,
    )  # fmt: skip
    return CsmConfig(
        **width, vocab_size=64, text_vocab_size=262, bos_token_id=256, pad_token_id=261,
        audio_token_id=258, audio_eos_token_id=259, codebook_pad_token_id=62,
        codebook_eos_token_id=63, codec_config=codec.to_dict(),
        depth_decoder_config={**width, "backbone_hidden_size": 64, "vocab_size": 64,
                              "max_position_embeddings": 9},
    )  # fmt: skip


def _read(folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer from a folder."""
    import torch
    from transformers import AutoTokenizer, CsmForConditionalGeneration

    model = CsmForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, dtype=torch.bfloat16
    )
    model.codec_model.float()  # sound is heard and made in full precision
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)
