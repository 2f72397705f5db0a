"""Fine-tuning of XTTS and CSM: low-rank updates of attention and MLP, in a loop of our own.

Coqui's trainer swallows what goes wrong with a clip and wants its own configuration files; ours
reads like the paper: mixed precision, gradients accumulated over clips, activations computed twice
instead of kept (checkpointing), a checkpoint every few steps that resumes to the very same model.
Each step draws its clips and its dropout from seed and step alone, so nothing of a generator's
state has to be kept.

Data:    clips with their transcripts.
Source:  Hu et al., LoRA, arXiv 2106.09685; Chen et al., Training deep nets with sublinear memory
         cost, arXiv 1604.06174; Micikevicius et al., Mixed precision training, arXiv 1710.03740.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from slipway import logs, networks
from slipway.data import sha256_of, written

from .engines.weights import RANDOM

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, ParameterList

    from .speech import Speech

    Keep = Callable[[dict[str, Any], dict[str, Tensor]], None]


LISTENED = 2
"""Held-out sentences that are spoken while it learns."""


class Clip(NamedTuple):
    """A recording of at most a few seconds, and what is said in it."""

    text: str
    speech: Speech


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. A step sees ``batch`` x ``accumulate`` clips; ``rank`` is LoRA's."""

    steps: int = 200
    batch: int = 2
    accumulate: int = 2
    rate: float = 2e-4
    rank: int = 8
    clip: float = 1.0
    checkpointing: bool = True
    bf16: bool = True
    every: int = 5
    listen: int = 50
    """Steps from one time that held-out sentences are spoken to the next; 0 for never."""
    seed: int = 0


class Task(Protocol):
    """What differs between engines: which network is adapted, and the loss of clips."""

    hub: str
    device: str
    network: Module
    targets: str | Sequence[str]
    transposed: bool
    """Whether its weights are (in, out), as GPT-2's are."""
    weights: str

    def examples(self, clips: Sequence[Clip]) -> list[Any]:
        """Return what the loss is computed of, made once."""

    def loss(self, examples: Sequence[Any]) -> Tensor:
        """Return the mean loss of examples."""

    def distortion(self, known: Clip, clips: Sequence[Clip]) -> float:
        """Speak clips in the voice of a known one; return how far in dB that is from them."""


class Adapted(NamedTuple):
    """A network with adapters: peft's wrapper, and the parameters that are trained."""

    network: Any
    trained: ParameterList


class Tuned(NamedTuple):
    """What came out: adapters, (step, loss) of each step, and held-out losses before and after.

    ``heard`` is (steps taken, distortion in dB) of held-out sentences that were spoken.
    """

    adapted: Adapted
    curve: list[tuple[int, float]]
    before: float
    after: float
    heard: list[tuple[int, float]]


def adapted(task: Task, recipe: Recipe) -> Adapted:
    """Freeze a network and put low-rank updates beside its weights; they begin at nothing."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=task.targets,
                        lora_dropout=0.0, bias="none", fan_in_fan_out=task.transposed)  # fmt: skip
    torch.manual_seed(recipe.seed)
    network = get_peft_model(task.network, config)
    network.peft_config["default"].base_model_name_or_path = task.hub
    switch(task, recipe.checkpointing)
    trained = [part for part in network.parameters() if part.requires_grad]
    return Adapted(network, torch.nn.ParameterList(trained))


def switch(task: Task, checkpointing: bool) -> None:
    """Have activations computed twice, or kept.

    transformers' public switch hooks onto embeddings, which XTTS has taken out of its GPT and which
    CSM overwrites in place; both for the re-entrant kind, which is not wanted here.
    """
    import torch.utils.checkpoint

    twice = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    task.network._set_gradient_checkpointing(checkpointing, twice)


def tune(
    task: Task, own: Adapted, clips: Sequence[Clip], held_out: Sequence[Clip], recipe: Recipe,
    state: Mapping[str, Any] | None = None, keep: Keep | None = None,
) -> Tuned:  # fmt: skip
    """Return a network fine-tuned on clips; ``state`` is what ``keep`` was given last."""
    import torch

    optimizer = torch.optim.AdamW(own.trained, lr=recipe.rate, betas=(0.9, 0.96), weight_decay=0.01)
    examples, others = task.examples(clips), task.examples(held_out)
    curve: list[tuple[int, float]] = []
    heard: list[tuple[int, float]] = []
    if state:
        networks.put_back(state["tensors"], own.trained, optimizer)
        curve, heard = ([(int(step), float(found)) for step, found in state[name]]
                        for name in ("curve", "heard"))  # fmt: skip
        before = float(state["before"])
    else:
        before = judged(task, own, others)
        heard += listened(task, own, clips, held_out, recipe, 0)
    own.network.train()
    for step in range(len(curve), recipe.steps):
        loss = stepped(task, own, optimizer, examples, recipe, step)
        curve.append((step, loss))
        heard += listened(task, own, clips, held_out, recipe, step + 1)
        if (step + 1) % recipe.every:
            continue
        logs.say(f"step {step + 1} of {recipe.steps}: loss {loss:.3f}")
        if keep:
            keep({"curve": curve, "before": before, "heard": heard},
                 networks.state_of(own.trained, optimizer))  # fmt: skip
    return Tuned(own, curve, before, judged(task, own, others), heard)


def listened(
    task: Task, own: Adapted, clips: Sequence[Clip], held_out: Sequence[Clip], recipe: Recipe,
    taken: int,
) -> list[tuple[int, float]]:  # fmt: skip
    """Return the distortion of held-out sentences after some steps, where it is time to listen."""
    due = recipe.listen and (taken % recipe.listen == 0 or taken == recipe.steps)
    if not due or not held_out:
        return []
    own.network.eval()
    longest = max(clips, key=lambda clip: clip.speech.seconds)
    found = task.distortion(longest, held_out[:LISTENED])
    own.network.train()
    logs.say(f"after {taken} steps: {found:.2f} dB from the held-out recordings")
    return [(taken, found)]


def stepped(
    task: Task, own: Adapted, optimizer: Any, examples: Sequence[Any], recipe: Recipe, step: int
) -> float:
    """Take one step of the optimiser and return the mean loss before it."""
    import torch

    torch.manual_seed(recipe.seed * 1_000_003 + step)
    draw = np.random.default_rng((recipe.seed, step))
    total = 0.0
    for _ in range(recipe.accumulate):
        chosen = draw.choice(len(examples), min(recipe.batch, len(examples)), replace=False)
        with autocast(task.device, recipe.bf16):
            loss = task.loss([examples[number] for number in chosen]) / recipe.accumulate
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(own.trained, recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def autocast(device: str, bf16: bool) -> Any:
    """Compute in bfloat16 what stands it; it has float32's range, so no loss is scaled."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=bf16)


def judged(task: Task, own: Adapted, examples: Sequence[Any]) -> float:
    """Return the mean loss on held-out examples, without dropout and in full precision."""
    import torch

    own.network.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        found = [task.loss([example]).item() for example in examples]
    own.network.train()
    return float(np.mean(found)) if found else float("nan")


class Memory(NamedTuple):
    """What one backward pass needs beside weights: bytes kept for it, and a GPU's peak or None."""

    kept: int
    peak: int | None


def memory(task: Task, own: Adapted, examples: Sequence[Any], recipe: Recipe) -> Memory:
    """Measure what the forward pass keeps for the backward one: each storage once, no weights."""
    import torch

    weights = {part.untyped_storage().data_ptr() for part in task.network.parameters()}
    kept: dict[int, int] = {}

    def seen(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own.network.train()  # nothing is computed twice otherwise
    cuda = task.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(recipe.seed)
    with (
        autocast(task.device, recipe.bf16),
        torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor),
    ):
        loss = task.loss(examples)
    loss.backward()
    for part in own.trained:
        part.grad = None
    return Memory(sum(kept.values()), torch.cuda.max_memory_allocated() if cuda else None)


def memories(task: Task, own: Adapted, clips: Sequence[Clip], recipe: Recipe) -> dict[bool, Memory]:
    """Measure one gradient's memory without checkpointing and with it; leave it as it was."""
    examples, found = task.examples(clips[: recipe.batch]), {}
    for checkpointing in (False, True):
        switch(task, checkpointing)
        found[checkpointing] = memory(task, own, examples, recipe)
    switch(task, recipe.checkpointing)
    return found


def saved(tuned: Tuned, task: Task, recipe: Recipe, folder: Path) -> None:
    """Write adapters as hubs have them: adapter_config.json, safetensors and a card."""
    # Told not to, it does not ask a hub how many words the model knows.
    tuned.adapted.network.save_pretrained(folder, save_embedding_layers=False)
    (folder / "adapter_model.safetensors").chmod(0o644)  # as all else that is written
    config = folder / "adapter_config.json"
    content = json.loads(config.read_text("utf-8"))
    content |= {
        "target_modules": task.targets if isinstance(task.targets, str) else sorted(task.targets)
    }  # a set has another order in each process
    for path, text in ((config, json.dumps(content, indent=1, sort_keys=True) + "\n"),
                       (folder / "README.md", card(tuned, task, recipe, folder))):  # fmt: skip
        with written(path) as part:
            part.write_text(text, "utf-8")


def card(tuned: Tuned, task: Task, recipe: Recipe, folder: Path) -> str:
    """Return the card of adapters: of what, how trained, how well, and what not to do."""
    random = f"\n**{RANDOM}**\n" if task.weights == RANDOM else ""
    digest = sha256_of(folder / "adapter_model.safetensors")
    told = "\n".join(f"| {name} | {value} |" for name, value in asdict(recipe).items())
    return f"""---
base_model: {task.hub}
library_name: peft
tags: [text-to-speech, lora]
---
# Adapters of {task.hub}
{random}
Trained from: {task.weights}. Loss on held-out clips {tuned.before:.3f} before, {tuned.after:.3f}
after. sha256 of the tensors: `{digest}`.

They hold the voice of the recordings that they were trained on: use them only as that person
agreed to, and with the licence of the model.

| setting | value |
|---|---|
{told}
"""
