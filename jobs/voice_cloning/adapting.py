"""What XTTS and CSM learn from a clip: the tasks of `finetune.tune`.

Data:    clips with their transcripts; for trained XTTS also dvae.pth and mel_stats.pth of its hub.
Source:  Casanova et al., XTTS, arXiv 2406.04904; Schalkwyk et al., CSM, Sesame 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import InputInvalid

from . import measure
from .engines import csm, xtts
from .engines.weights import checked, seeded
from .speech import resampled

if TYPE_CHECKING:
    from torch import Tensor

    from .engines.csm import Csm
    from .engines.xtts import Xtts
    from .finetune import Clip

LONGEST = 11.6
"""Seconds of a clip: XTTS was trained on no longer ones."""
REFERENCE = 6.0
"""Seconds of a clip that show XTTS whose voice it is."""
NAMES = ("xtts", "csm")


def task(engine: Xtts | Csm) -> XttsTask | CsmTask:
    """Return the task of an engine that is loaded; InputInvalid where it has none."""
    if engine.name == "xtts":
        return XttsTask(engine)
    if engine.name == "csm":
        return CsmTask(engine)
    raise InputInvalid(f"engine: found {engine.name!r}; wanted one of {', '.join(NAMES)}")


class Example(NamedTuple):
    """A clip as XTTS learns it: text (1, n), codes (1, m), samples, the voice's mel (1, 80, t)."""

    text: Tensor
    codes: Tensor
    samples: int
    mel: Tensor


class Speaking:
    """A task whose engine can be listened to while it learns."""

    engine: Xtts | Csm

    def distortion(self, known: Clip, clips: Sequence[Clip]) -> float:
        """Speak clips in the voice of a known one; return how far in dB that is from them."""
        voice = self.engine.clone(known.speech)
        return fmean(measure.distortion(self.engine.synthesize(clip.text, voice), clip.speech)
                     for clip in clips)  # fmt: skip


class XttsTask(Speaking):
    """Codes of sound after text and voice; the cross-entropy of both, the text's a hundredth."""

    def __init__(self, engine: Xtts) -> None:
        self.engine, self.hub, self.device = engine, engine.facts.hub, engine.device
        self.weights = engine.weights
        engine.model.requires_grad_(False)
        self.gpt = engine.model.gpt
        self.network, self.targets, self.transposed = self.gpt.gpt, xtts.TARGETS, True
        self.coder, self.scale = self._coder()

    def _coder(self) -> tuple[Any, Tensor]:
        """Return what turns a spectrogram into codes, and the scale of that spectrogram."""
        import torch
        from TTS.tts.layers.xtts.dvae import DiscreteVAE

        full = self.engine.size == "full"
        width = 512 if self.engine.size != "tiny" else 32
        with seeded(self.engine.seed):
            coder = DiscreteVAE(
                channels=80, normalization=None, positional_dims=1,
                num_tokens=self.gpt.num_audio_tokens - 2, codebook_dim=width, hidden_dim=width,
                num_resnet_blocks=3, kernel_size=3, num_layers=2, use_transposed_convs=False,
            )  # fmt: skip
        scale = torch.ones(80)
        if full:
            folder = Path(self.engine.folder or "")
            checked(folder, xtts.FACTS, xtts.TRAINING)
            state = torch.load(folder / "dvae.pth", map_location="cpu", weights_only=True)
            coder.load_state_dict(state, strict=False)
            scale = torch.load(folder / "mel_stats.pth", map_location="cpu", weights_only=True)
        return coder.to(self.device).eval().requires_grad_(False), scale

    def examples(self, clips: Sequence[Clip]) -> list[Example]:
        """Return clips as text, codes and the spectrogram of their first seconds."""
        return [self._example(clip) for clip in clips]

    def _example(self, clip: Clip) -> Example:
        import torch

        heard = resampled(clip.speech, xtts.HEARD).samples[: int(LONGEST * xtts.HEARD)]
        sound = torch.from_numpy(heard.copy())[None]
        mels = xtts.package().wav_to_mel_cloning
        shape = {"hop_length": 256, "win_length": 1024, "sample_rate": xtts.HEARD, "n_mels": 80,
                 "f_min": 0, "f_max": 8000, "power": 2, "normalized": False}  # fmt: skip
        with torch.no_grad():
            learned = mels(sound, mel_norms=self.scale, n_fft=1024, **shape).to(self.device)
            codes = self.coder.get_codebook_indices(learned)
            shown = sound[:, : int(REFERENCE * xtts.HEARD)]
            mel = mels(shown, mel_norms=self.engine.model.mel_stats.cpu(), n_fft=2048, **shape)
        text = self.engine.tokens(clip.text)[None].to(self.device)
        return Example(text, codes, sound.shape[1], mel.to(self.device))

    def loss(self, examples: Sequence[Example]) -> Tensor:
        """Return the mean loss of clips, each by itself: so none is padded."""
        import torch

        losses = []
        for one in examples:
            length = torch.tensor([one.text.shape[1]], device=self.device)
            samples = torch.tensor([one.samples], device=self.device)
            text, sound, _ = self.gpt(
                one.text, length, one.codes, samples, cond_mels=one.mel[None], cond_idxs=None,
                cond_lens=None,
            )  # fmt: skip
            losses.append(xtts.TEXT_WEIGHT * text + sound)
        return torch.stack(losses).mean()

    def finish(self, network: Any) -> None:
        """Merge adapters into the weights, and make the engine speak with them."""
        self.gpt.gpt = network.merge_and_unload()
        self.gpt.init_gpt_for_inference(kv_cache=True)
        self.engine.model.eval()


class CsmTask(Speaking):
    """A dialogue: the clip before is the context, of the next one every frame is learned."""

    def __init__(self, engine: Csm) -> None:
        self.engine, self.hub, self.device = engine, engine.facts.hub, engine.device
        self.weights = engine.weights
        engine.model.requires_grad_(False)
        self.network, self.targets, self.transposed = engine.model, csm.TARGETS, False

    def examples(self, clips: Sequence[Clip]) -> list[dict[str, Tensor]]:
        """Return pairs of turns: a clip after the one before it, and the first one alone.

        Embeddings and codec are frozen, so what goes into the backbone is made once.
        """
        import torch

        turns = [csm.Turn(0, clip.text, clip.speech) for clip in clips]
        pairs = [turns[max(0, number - 1) : number + 1] for number in range(len(turns))]
        with torch.no_grad():
            return [self.engine.labelled(pair) for pair in pairs]

    def loss(self, examples: Sequence[dict[str, Tensor]]) -> Tensor:
        """Return the mean over dialogues of the backbone's loss and the depth decoder's."""
        import torch

        found = [self.network(**one, use_cache=False) for one in examples]
        return torch.stack([one.backbone_loss + one.depth_decoder_loss for one in found]).mean()

    def finish(self, network: Any) -> None:
        """Merge adapters into the weights, and make the engine speak with them."""
        self.engine.model = network.merge_and_unload().eval()
