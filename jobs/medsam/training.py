"""Training of the small SAM 2: short clips, three regions at once, from one prompt outwards.

Whole tumour, core and rim of the same clip stand in one batch. A network shown one of them at a
time learns to paint any tumour and to ignore prompt and memory; here that cannot lower the loss.
Clips start on the prompted slice and go away from it in steps of random size along any axis.
First short ones until prompts are heeded, then six slices, which fill the memory as a volume does
and leave the region behind; at 192 pixels, where a step is cheaper, and last at the 256 it is used
at. The clips of a step find their gradients at the same time, each on a core.

Data:    phantoms by seed, or cases; each made when needed, a dozen in memory.
Source:  Ravi et al., arXiv 2408.00714, section 4 and appendix D (losses 20 focal + dice + IoU +
         object score); Zhu et al., arXiv 2408.00874, section 4 (kinds of prompt).
"""

from __future__ import annotations

import copy
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from slipway import networks
from slipway.logs import say

from . import cores, crops, network, phantom, prompts
from .brats import REGIONS, normalised

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from .nets import Small

    Keep = Callable[[dict[str, Any], dict[str, Tensor]], None]

NAME = "small SAM 2 of 3.8 million weights, trained on phantoms"
PROMPTED = {"mask": 0.5, "box": 0.25, "point": 0.25}
"""How often each kind of prompt is trained with."""
WINDOW, FRESH = 12, 24
"""Volumes to choose from at any time, and steps after which the oldest makes room for another."""
UNLIMITED = 1_000_000
"""Phantoms there are: no step sees one that an earlier window held."""
LEAST = 12
"""Pixels that a region has on a prompted slice at least."""
OFTEN = 0.0005
"""Seconds after which a thread lets another speak to PyTorch: with Python's own 0.005 two clips in
two threads took 1.68 times less than one after the other, with this 1.87 times."""
AHEAD = 8
"""Steps whose clips are drawn before they are needed: now and then one waits for a new phantom."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training: pixels of a side, steps, slices of a clip, peak of the rate.

    ``stride`` is how many slices two neighbours of a clip lie apart at most. Over the stages of a
    ``round`` the rate falls to nothing once.
    """

    size: int
    steps: int
    slices: int
    peak: float
    stride: int = 8
    round: int = 0


RECIPE = (
    Stage(192, 200, 2, 6e-4, 2), Stage(192, 1000, 3, 6e-4),
    Stage(192, 2000, 6, 4e-4, round=1), Stage(256, 700, 6, 4e-4, round=1),
)  # fmt: skip
NAMED = 0.75
"""How often a clip's regions are named; else the prompt alone must tell them apart."""
STRIDES = {1: 0.2, 2: 0.2, 3: 0.2, 5: 0.25, 8: 0.15}
"""How often neighbours lie up to so many slices apart."""


class Volume(NamedTuple):
    """Channels (3, z, y, x) float16, labels (z, y, x) uint8, the head's square along each axis."""

    channels: np.ndarray
    labels: np.ndarray
    squares: tuple[crops.Square, ...]


class Clip(NamedTuple):
    """Slices of one volume: images (t, 3, s, s), prompts (3, 1, s, s), targets (3, t, s, s).

    ``jump`` is how many slices the prompt is said to lie further back than it does: clips are
    short, volumes are not. ``named`` tells whether the network hears the regions' names.
    """

    images: Tensor
    prompts: Tensor
    targets: Tensor
    jump: int = 0
    named: bool = True

    def to(self, device: str) -> Clip:
        """Return the clip on a device."""
        tensors = (self.images, self.prompts, self.targets)
        return Clip(*(part.to(device) for part in tensors), *self[3:])


def phantom_volume(seed: int) -> Volume:
    """Return phantom ``seed`` as `brats.channels` would give it, only faster."""
    volumes, labels = phantom.head(seed, ("flair", "t1ce", "t2"), membranes=True)
    channels = np.stack([normalised(volume) for volume in volumes.values()])
    return volume_of(channels.transpose(0, 3, 2, 1), labels.transpose(2, 1, 0))


def volume_of(channels: np.ndarray, labels: np.ndarray) -> Volume:
    """Return channels (3, z, y, x) and labels (z, y, x) as training keeps them."""
    squares = tuple(crops.around(np.moveaxis(channels, axis + 1, 1)) for axis in range(3))
    return Volume(channels.astype(np.float16), np.ascontiguousarray(labels), squares)


class Shelf:
    """Volumes that training chooses from: a window that moves on, each volume made once."""

    def __init__(self, make: Callable[[int], Volume], count: int) -> None:
        self.make, self.count = make, count
        self.kept: dict[int, Volume] = {}

    def chosen(self, step: int, draw: np.random.Generator) -> Volume:
        """Return a volume of the window at a step."""
        first = step // FRESH
        number = (first + int(draw.integers(min(WINDOW, self.count)))) % self.count
        if number not in self.kept:
            self.kept[number] = self.make(number)
            for old in [old for old in self.kept if (old - first) % self.count >= WINDOW]:
                del self.kept[old]
        return self.kept[number]


def clip(volume: Volume, stage: Stage, draw: np.random.Generator) -> Clip:
    """Return one clip of a volume: a prompted slice and others ever further from it."""
    import torch

    axis = int(draw.choice(3, p=(0.7, 0.15, 0.15)))
    channels = np.moveaxis(volume.channels, axis + 1, 1)
    labels = np.moveaxis(volume.labels, axis, 0)
    masks = np.stack([labels > 0, (labels == 1) | (labels == 4), labels == 4])
    enough = np.flatnonzero((masks.sum(axis=(2, 3)) >= LEAST).all(axis=0))
    if not len(enough):
        return clip(volume, stage, draw)
    first = int(draw.choice(enough))
    order = walk(first, len(labels), stage, draw)
    shown = [shown_as(mask[first], name, draw) for name, mask in zip(REGIONS, masks, strict=True)]
    square = moved(volume.squares[axis], draw)
    flip = [axis for axis in (-2, -1) if draw.random() < 0.5]
    images = torch.from_numpy(channels[:, order].astype(np.float32)).transpose(0, 1)
    cut = crops.cut(images, square, stage.size)
    wanted = torch.from_numpy(masks[:, order].astype(np.float32))
    targets = crops.cut(wanted, square, stage.size, 0.0)
    marks = crops.cut(
        torch.from_numpy(np.stack(shown).astype(np.float32))[:, None], square, stage.size, 0.0
    )
    return Clip(
        spoiled(cut, draw).flip(flip),
        (marks > 0.5).float().flip(flip), targets.flip(flip),
    )  # fmt: skip


def walk(first: int, number: int, stage: Stage, draw: np.random.Generator) -> list[int]:
    """Return the slices of a clip, of ``number``, from ``first`` on, one way, within bounds.

    Mostly small steps; now and then far ones, or the prompted slice once more.
    """
    way = 1 if draw.random() < 0.5 else -1
    chance = np.array([part * (stride <= stage.stride) for stride, part in STRIDES.items()])
    stride = int(draw.choice(list(STRIDES), p=chance / chance.sum()))
    again = 0 if draw.random() < 0.3 else stride
    steps = [0, again, *(draw.integers(1, stride + 1, stage.slices - 2))]
    return [int(np.clip(first + way * far, 0, number - 1)) for far in np.cumsum(steps)]


def shown_as(mask: np.ndarray, name: str, draw: np.random.Generator) -> np.ndarray:
    """Return the mask that stands for a random prompt of a region on one slice."""
    kind = draw.choice(list(PROMPTED), p=list(PROMPTED.values()))
    jitter = draw.uniform(0, 0.5) if kind == "point" else draw.uniform(0, 0.1)
    return prompts.rasterised(prompts.from_mask(mask, kind, 0, jitter, draw), mask.shape, name)


def moved(square: crops.Square, draw: np.random.Generator) -> crops.Square:
    """Return a square somewhat off and of another size."""
    side = round(square.side * draw.uniform(0.85, 1.1))
    room = (square.side - side) // 2
    off = 0.05 * square.side
    top, left = (room + round(draw.uniform(-off, off)) for _ in range(2))
    return crops.Square(square.top + top, square.left + left, side)


def spoiled(images: Tensor, draw: np.random.Generator) -> Tensor:
    """Return images (t, 3, s, s) as another scanner would give them; some slices badly."""
    import torch

    low, high = (torch.amin(images, (0, 2, 3), True), torch.amax(images, (0, 2, 3), True))
    power = torch.from_numpy(np.exp(draw.uniform(-0.25, 0.25, (1, 3, 1, 1))).astype(np.float32))
    width = (high - low).clamp(min=1e-3)
    images = ((images - low) / width).pow(power) * width + low
    scale = torch.from_numpy(draw.uniform(0.85, 1.15, (1, 3, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(draw.uniform(-0.15, 0.15, (1, 3, 1, 1)).astype(np.float32))
    images = images * scale + shift
    for number in range(1, len(images)):
        if draw.random() < 0.08:
            noise = draw.normal(0, draw.uniform(0.2, 0.8), images[number].shape)
            fade = draw.uniform(0.2, 1.0)
            images[number] = images[number] * fade + torch.from_numpy(noise.astype(np.float32))
    return images


def batch(shelf: Shelf, step: int, recipe: tuple[Stage, ...], clips: int, seed: int) -> list[Clip]:
    """Return the clips of a step, the same whenever it is asked for."""
    draw = np.random.default_rng((seed, step))
    stage, _ = stage_of(step, recipe)
    return [
        clip(shelf.chosen(step, draw), stage, draw)._replace(
            jump=int(draw.integers(1, 100)) if draw.random() < 0.5 else 0,
            named=draw.random() < NAMED,
        )
        for _ in range(clips)
    ]


class Heard:
    """What the mask decoder said last, before an absent object's mask is set to -1024.

    That constant has no gradient: a wrong "absent" early on would never be unlearned.
    """

    def __init__(self, model: Small) -> None:
        self.said: tuple[Tensor, ...] = ()
        model.sam_mask_decoder.register_forward_hook(self.hear)

    def hear(self, module: Any, given: Any, said: tuple[Tensor, ...]) -> None:
        """Keep masks, IoU, tokens and object score."""
        self.said = said


def tracked(model: Small, heard: Heard, clip: Clip) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return logits (n, 1, s/4, s/4), IoU (n, 1) and object score (n, 1) after the first slice."""
    import torch

    regions = len(clip.prompts)
    output = model._prepare_backbone_features(model.forward_image(clip.images))
    _, features, places, sizes = output
    kept: dict[str, Any] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    if clip.named:
        kept["region"] = torch.arange(regions, device=clip.images.device)
    found = []
    for number in range(len(clip.images)):
        mine = [
            [part[:, number : number + 1].expand(-1, regions, -1) for part in parts]
            for parts in (features, places)
        ]
        first = number == 0
        place = 0 if first else number + clip.jump
        out = model.track_step(
            frame_idx=place, is_init_cond_frame=first, current_vision_feats=mine[0],
            current_vision_pos_embeds=mine[1], feat_sizes=sizes, point_inputs=None,
            mask_inputs=clip.prompts if first else None, output_dict=kept, num_frames=1000,
            run_mem_encoder=not first,
        )  # fmt: skip
        if first:
            remember(model, out, mine[0], sizes)
        else:
            logits, overlap, _, score = heard.said
            found.append((logits, overlap, score))
        kept["cond_frame_outputs" if first else "non_cond_frame_outputs"][place] = out
    return found


def remember(model: Small, out: dict[str, Any], features: list[Tensor], sizes: Any) -> None:
    """Encode a prompted slice as the predictor does: from the mask at a quarter of the size."""
    from torch.nn.functional import interpolate

    model._encode_memory_in_output(
        features, sizes, None, True,
        interpolate(out["pred_masks"], size=[model.image_size] * 2, mode="bilinear",
                    align_corners=False),
        out["object_score_logits"], out,
    )  # fmt: skip


def loss_of(found: list[tuple[Tensor, Tensor, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of tracked slices, and each region's Dice (3,) where it is to be found.

    ``targets`` (n, t, s, s) hold the prompted slice first. Logits are compared at half the
    size: an edge between two of their pixels has a right place.
    """
    import torch
    from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, interpolate

    logits, overlaps, scores = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    wanted = avg_pool2d(targets[:, 1:], 2).flatten(0, 1)
    logits = interpolate(
        logits.flatten(0, 1), size=wanted.shape[-1], mode="bilinear", align_corners=False
    ).squeeze(1)
    there = (wanted.amax(dim=(1, 2)) > 0.5).float()
    raw = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    chance = logits.sigmoid()
    focal = 0.5 * ((chance - wanted).abs() ** 2 * raw).mean(dim=(1, 2))
    common = (chance * wanted).sum(dim=(1, 2))
    dice = 1 - (2 * common + 1) / (chance.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2)) + 1)
    true_overlap, right = agreement(logits > 0, wanted > 0.5)
    overlap = (overlaps.flatten() - true_overlap).abs() * there
    absent = binary_cross_entropy_with_logits(scores.flatten(), there)
    count = there.sum().clamp(min=1)
    total = 20 * focal.mean() + (dice * there).sum() / count + overlap.sum() / count + 0.5 * absent
    by_region = [part.view(-1, 3, len(found)).sum(dim=(0, 2)) for part in (right * there, there)]
    return total, by_region[0] / by_region[1].clamp(min=1)


def agreement(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU (n,) and Dice (n,) of masks (n, h, w), 0 where both are empty."""
    both = (found & wanted).sum(dim=(1, 2)).float()
    union = (found | wanted).sum(dim=(1, 2)).float()
    sizes = found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2))
    return both / union.clamp(min=1), 2 * both / sizes.clamp(min=1)


def rate(step: int, recipe: tuple[Stage, ...]) -> float:
    """Return the learning rate of a step: each stage warms up, and a round falls by one cosine.

    With the rate held at its peak, training lost what tells prompts apart around step 600, and it
    did not come back. The fall, AdamW's second beta and the clipping of gradients came together:
    which of them cured it was not tried apart.
    """
    stage, done = stage_of(step, recipe)
    before = sum(part.steps for part in recipe if part.round < stage.round)
    whole = sum(part.steps for part in recipe if part.round == stage.round)
    fall = 0.5 * (1 + math.cos(math.pi * (step - before) / whole))
    return stage.peak * min(1.0, (done + 1) / 25) * fall


def stage_of(step: int, recipe: tuple[Stage, ...]) -> tuple[Stage, int]:
    """Return the stage that a step is of, and how many of the stage's steps came before."""
    for stage in recipe[:-1]:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return recipe[-1], step


def fit(
    make: Callable[[int], Volume] = phantom_volume, count: int = UNLIMITED,
    recipe: tuple[Stage, ...] = RECIPE, clips: int = 2, seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    state: Mapping[str, Any] | None = None, keep: Keep | None = None, every: int = 50,
    device: str = "cpu",
) -> Small:  # fmt: skip
    """Return a small network fitted to ``count`` volumes that ``make`` gives by number.

    It is fresh with ``settings``. Every ``every`` steps ``keep`` is given the state and the tensors
    of a checkpoint, which come back as ``state``.
    """
    import torch

    torch.manual_seed(seed)
    model = network.small(**{"name": NAME, **(settings or {}), "size": recipe[0].size})
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe[0].peak, betas=(0.9, 0.98), weight_decay=0.01
    )
    average = Average(model)
    curve, first = taken_up(state, model, optimizer, average) if state else ([], 0)
    total = sum(stage.steps for stage in recipe)
    drawn = partial(batch, Shelf(make, count), recipe=recipe, clips=clips, seed=seed)
    with ExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(OFTEN)
        drawing = stack.enter_context(ThreadPoolExecutor(1))
        threads = stack.enter_context(cores.threads(clips))
        crew = Crew(model, clips, threads)
        ahead = deque(drawing.submit(drawn, step) for step in range(first, total)[:AHEAD])
        for step in range(first, total):
            stage, _ = stage_of(step, recipe)
            given = [one.to(device) for one in ahead.popleft().result()]
            if step + AHEAD < total:
                ahead.append(drawing.submit(drawn, step + AHEAD))
            for group in optimizer.param_groups:
                group["lr"] = rate(step, recipe)
            loss, dice = crew.gradients(given, stage.size)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            average.take(model, step)
            curve.append([step, loss, *dice])
            if (step + 1) % every == 0:
                told(curve[-every:], stage)
                if keep:
                    keep({"curve": curve, "step": step + 1},
                         networks.state_of(model, optimizer) | average.named())  # fmt: skip
    resize(model, recipe[-1].size)
    model.load_state_dict(average.tensors)
    return model.cpu().eval()


class Crew:
    """Copies of a network, one for each clip of a step, which work at the same time.

    A weight's gradient is the mean over the clips that used it (unnamed ones use no region's vector
    for one), each found by one thread and added in their order: equal on any number of cores.
    """

    def __init__(self, model: Small, clips: int, threads: Executor) -> None:
        self.model, self.threads = model, threads
        self.copies = [copy.deepcopy(model) for _ in range(clips)]
        self.heard = [Heard(one) for one in self.copies]

    def gradients(self, clips: Sequence[Clip], size: int) -> tuple[float, list[float]]:
        """Put the mean gradient into the network, and return mean loss and Dice of each region."""
        import torch

        found = list(self.threads.map(partial(self.one, size=size), range(len(clips)), clips))
        for mine, *theirs in zip(
            self.model.parameters(), *(one.parameters() for one in self.copies), strict=True
        ):
            parts = [part.grad for part in theirs if part.grad is not None]
            mine.grad = torch.stack(parts).mean(dim=0) if parts else None
        losses, dice = zip(*found, strict=True)
        return float(np.mean(losses)), np.mean(dice, axis=0).tolist()

    def one(self, number: int, clip: Clip, size: int) -> tuple[float, list[float]]:
        """Find the gradients of one clip, and return its loss and the Dice of each region."""
        copied = self.copies[number]
        copied.load_state_dict(self.model.state_dict())
        copied.zero_grad()
        resize(copied, size)
        loss, dice = loss_of(tracked(copied, self.heard[number], clip), clip.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), dice.tolist()


class Average:
    """Weights averaged over the last few hundred steps: smoother than those of any one step."""

    def __init__(self, model: Small) -> None:
        self.tensors = {name: value.clone() for name, value in model.state_dict().items()}

    def take(self, model: Small, step: int) -> None:
        """Move a little towards the weights of a step, further at the start."""
        share = min(0.995, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            self.tensors[name].lerp_(value, 1 - share)

    def named(self) -> dict[str, Tensor]:
        """Return the tensors under names of a checkpoint."""
        return {f"average.{name}": value for name, value in self.tensors.items()}


def taken_up(
    state: Mapping[str, Any], model: Small, optimizer: Optimizer, average: Average
) -> tuple[list[list[float]], int]:
    """Put a checkpoint back, and return the curve so far and the next step."""
    tensors = dict(state["tensors"])
    for name in average.tensors:
        average.tensors[name].copy_(tensors.pop(f"average.{name}"))
    networks.put_back(tensors, model, optimizer)
    return list(state["curve"]), int(state["step"])


def told(rows: list[list[float]], stage: Stage) -> None:
    """Say how the last steps went."""
    _, loss, *dice = np.mean(rows, axis=0)
    regions = ", ".join(f"{name} {part:.2f}" for name, part in zip(REGIONS, dice, strict=True))
    say(f"step {rows[-1][0] + 1}, {stage.size} px: loss {loss:.3f}, Dice in clips {regions}")


def resize(model: Small, size: int) -> None:
    """Have a network work at another size; no weight depends on it."""
    side = size // model.backbone_stride
    model.image_size, model.sam_image_embedding_size = size, side
    encoder = model.sam_prompt_encoder
    encoder.image_embedding_size, encoder.input_image_size = (side, side), (size, size)
    encoder.mask_input_size = (4 * side, 4 * side)
    model.settings["size"] = size
