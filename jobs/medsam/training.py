"""Training of the small SAM 2: short clips, three regions at once, from one prompt outwards.

Whole tumour, core and rim of the same clip stand in one batch. A network shown one of them at a
time learns to paint any tumour and to ignore prompt and memory; here that cannot lower the loss.
Clips start on the prompted slice and go away from it in steps of random size along any axis.
First at 128 pixels, where a step is cheap, then at the size it is used at.

Data:    phantoms by seed, or cases; each made when needed, a few dozen in memory.
Source:  Ravi et al., arXiv 2408.00714, section 4 and appendix D (losses 20 focal + dice + IoU +
         object score); Zhu et al., arXiv 2408.00874, section 4 (kinds of prompt).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import crops, network, phantom, prompts
from .brats import REGIONS, normalised

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from .predictor import Segmenter

PROMPTED = {"mask": 0.5, "box": 0.25, "point": 0.25}
"""How often each kind of prompt is trained with."""
WINDOW, FRESH = 20, 16
"""Volumes to choose from at any time, and steps after which the oldest makes room for another."""
LEAST = 12
"""Pixels that a region has on a prompted slice at least."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training: pixels of a side, steps, slices of a clip, peak of the rate."""

    size: int
    steps: int
    slices: int
    peak: float


RECIPE = (Stage(128, 400, 3, 8e-4), Stage(128, 1600, 5, 8e-4), Stage(256, 1500, 5, 4e-4))


class Volume(NamedTuple):
    """Channels (3, z, y, x) float16, labels (z, y, x) uint8, the head's square along each axis."""

    channels: np.ndarray
    labels: np.ndarray
    squares: tuple[crops.Square, ...]


class Clips(NamedTuple):
    """A batch: images (b, t, 3, s, s), prompts (3b, 1, s, s), targets (3b, t, s, s).

    ``jump`` is how many slices the prompt is said to lie further back than it does: clips are
    short, volumes are not.
    """

    images: Tensor
    prompts: Tensor
    targets: Tensor
    jump: int = 0


def phantom_volume(seed: int) -> Volume:
    """Return phantom ``seed`` as `brats.channels` would give it, only faster."""
    volumes, labels = phantom.head(seed, ("flair", "t1ce", "t2"))
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


def clip(volume: Volume, size: int, slices: int, draw: np.random.Generator) -> Clips:
    """Return one clip of a volume: a prompted slice and others ever further from it."""
    import torch

    axis = int(draw.choice(3, p=(0.7, 0.15, 0.15)))
    channels = np.moveaxis(volume.channels, axis + 1, 1)
    labels = np.moveaxis(volume.labels, axis, 0)
    masks = np.stack([labels > 0, (labels == 1) | (labels == 4), labels == 4])
    enough = np.flatnonzero((masks.sum(axis=(2, 3)) >= LEAST).all(axis=0))
    if not len(enough):
        return clip(volume, size, slices, draw)
    first = int(draw.choice(enough))
    order = walk(first, len(labels), slices, draw)
    shown = [shown_as(mask[first], name, draw) for name, mask in zip(REGIONS, masks, strict=True)]
    square = moved(volume.squares[axis], draw)
    flip = [axis for axis in (-2, -1) if draw.random() < 0.5]
    images = torch.from_numpy(channels[:, order].astype(np.float32)).transpose(0, 1)
    cut = crops.cut(images, square, size)
    targets = crops.cut(torch.from_numpy(masks[:, order].astype(np.float32)), square, size, 0.0)
    marks = crops.cut(
        torch.from_numpy(np.stack(shown).astype(np.float32))[:, None], square, size, 0.0
    )
    return Clips(
        spoiled(cut, draw).flip(flip)[None],
        (marks > 0.5).float().flip(flip), targets.flip(flip),
    )  # fmt: skip


def walk(first: int, number: int, slices: int, draw: np.random.Generator) -> list[int]:
    """Return ``slices`` slice numbers of ``number`` from ``first`` on, one way, within bounds.

    Mostly small steps; now and then far ones, or the prompted slice once more.
    """
    way = 1 if draw.random() < 0.5 else -1
    stride = int(draw.choice((1, 2, 3, 5, 8), p=(0.25, 0.25, 0.2, 0.2, 0.1)))
    again = 0 if draw.random() < 0.3 else stride
    steps = [0, again, *(draw.integers(1, stride + 1, slices - 2))]
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

    scale = torch.from_numpy(draw.uniform(0.85, 1.15, (1, 3, 1, 1)).astype(np.float32))
    shift = torch.from_numpy(draw.uniform(-0.15, 0.15, (1, 3, 1, 1)).astype(np.float32))
    images = images * scale + shift
    for number in range(1, len(images)):
        if draw.random() < 0.08:
            noise = draw.normal(0, draw.uniform(0.2, 0.8), images[number].shape)
            fade = draw.uniform(0.2, 1.0)
            images[number] = images[number] * fade + torch.from_numpy(noise.astype(np.float32))
    return images


def batch(shelf: Shelf, step: int, stage: Stage, clips: int, seed: int) -> Clips:
    """Return the clips of a step, the same whenever it is asked for."""
    import torch

    draw = np.random.default_rng((seed, step))
    found = [clip(shelf.chosen(step, draw), stage.size, stage.slices, draw) for _ in range(clips)]
    parts = (torch.cat(parts) for parts in zip(*(one[:3] for one in found), strict=True))
    jump = int(draw.integers(1, 100)) if draw.random() < 0.5 else 0
    return Clips(*parts, jump)


class Heard:
    """What the mask decoder said last, before an absent object's mask is set to -1024.

    That constant has no gradient: a wrong "absent" early on would never be unlearned.
    """

    def __init__(self, model: Segmenter) -> None:
        self.said: tuple[Tensor, ...] = ()
        self.handle = model.sam_mask_decoder.register_forward_hook(self.hear)

    def hear(self, module: Any, given: Any, said: tuple[Tensor, ...]) -> None:
        """Keep masks, IoU, tokens and object score."""
        self.said = said


def tracked(model: Segmenter, heard: Heard, clips: Clips) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return logits (n, 1, s/4, s/4), IoU (n, 1) and object score (n, 1) after the first slice."""
    count, slices = clips.images.shape[:2]
    each = len(clips.prompts) // count
    output = model._prepare_backbone_features(model.forward_image(clips.images.flatten(0, 1)))
    _, features, places, sizes = output
    kept: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    found = []
    for number in range(slices):
        mine = [
            [part[:, number::slices].repeat_interleave(each, dim=1) for part in parts]
            for parts in (features, places)
        ]
        first = number == 0
        place = 0 if first else number + clips.jump
        out = model.track_step(
            frame_idx=place, is_init_cond_frame=first, current_vision_feats=mine[0],
            current_vision_pos_embeds=mine[1], feat_sizes=sizes, point_inputs=None,
            mask_inputs=clips.prompts if first else None, output_dict=kept, num_frames=1000,
            run_mem_encoder=not first,
        )  # fmt: skip
        if first:
            remember(model, out, mine[0], sizes)
        else:
            logits, overlap, _, score = heard.said
            found.append((logits, overlap, score))
        kept["cond_frame_outputs" if first else "non_cond_frame_outputs"][place] = out
    return found


def remember(model: Segmenter, out: dict[str, Any], features: list[Tensor], sizes: Any) -> None:
    """Encode a prompted slice as the predictor does: from the mask at a quarter of the size."""
    from torch.nn.functional import interpolate

    model._encode_memory_in_output(
        features, sizes, None, True,
        interpolate(out["pred_masks"], size=[model.image_size] * 2, mode="bilinear",
                    align_corners=False),
        out["object_score_logits"], out,
    )  # fmt: skip


def loss_of(found: list[tuple[Tensor, Tensor, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of tracked slices, and the mean Dice where there is something to find.

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
    missed = (chance - wanted).abs()
    focal = 0.5 * (missed**2 * raw).mean(dim=(1, 2))
    common = (chance * wanted).sum(dim=(1, 2))
    dice = 1 - (2 * common + 1) / (chance.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2)) + 1)
    with torch.no_grad():
        hard, true = logits > 0, wanted > 0.5
        both = (hard & true).sum(dim=(1, 2)).float()
        union = (hard | true).sum(dim=(1, 2)).float()
        true_overlap = both / union.clamp(min=1)
        right = 2 * both / (hard.sum(dim=(1, 2)) + true.sum(dim=(1, 2))).clamp(min=1) * there
    overlap = (overlaps.flatten() - true_overlap).abs() * there
    absent = binary_cross_entropy_with_logits(scores.flatten(), there)
    count = there.sum().clamp(min=1)
    total = 20 * focal.mean() + (dice * there).sum() / count + overlap.sum() / count + 0.5 * absent
    return total, right.view(-1, 3, len(found)).sum(dim=(0, 2)) / there.view(-1, 3, len(found)).sum(
        dim=(0, 2)
    ).clamp(min=1)


def rate(step: int, recipe: tuple[Stage, ...]) -> float:
    """Return the learning rate of a step: each stage warms up, the last one falls to nothing."""
    done = step
    for stage in recipe[:-1]:
        if done < stage.steps:
            return stage.peak * min(1.0, (done + 1) / 25)
        done -= stage.steps
    stage = recipe[-1]
    fall = 0.5 * (1 + math.cos(math.pi * done / stage.steps))
    return stage.peak * min(1.0, (done + 1) / 25) * fall


def stage_of(step: int, recipe: tuple[Stage, ...]) -> Stage:
    """Return the stage that a step is of."""
    for stage in recipe:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return recipe[-1]


def fit(
    make: Callable[[int], Volume] = phantom_volume, count: int = 100_000,
    recipe: tuple[Stage, ...] = RECIPE, clips: int = 2, seed: int = 0,
    settings: Mapping[str, Any] | None = None, state: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any], dict[str, Tensor]], None] | None = None, every: int = 50,
) -> Segmenter:  # fmt: skip
    """Return a small network fitted to ``count`` volumes that ``make`` gives by number.

    Every ``every`` steps ``keep`` is given what goes into a checkpoint: the state and its tensors,
    which come back as ``state``. The weights are averaged over the last hundreds of steps.
    """
    import time

    import torch

    from slipway import networks

    torch.manual_seed(seed)
    model = network.small(**{**(settings or {}), "size": recipe[0].size})
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe[0].peak, weight_decay=0.01)
    curve, start = [], 0
    if state:
        curve, start = state["curve"], state["step"]
        tensors = state["tensors"]
        average = {k[8:]: v for k, v in tensors.items() if k.startswith("average.")}
        networks.put_back(
            {k: v for k, v in tensors.items() if not k.startswith("average.")}, model, optimizer
        )
    shelf, heard = Shelf(make, count), None
    clock = time.process_time()
    for step in range(start, sum(stage.steps for stage in recipe)):
        stage = stage_of(step, recipe)
        if heard is None or model.image_size != stage.size:
            model = resized(model, stage.size, optimizer)
            heard = Heard(model)
        given = batch(shelf, step, stage, clips, seed)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe)
        loss, dice = loss_of(tracked(model, heard, given), given.targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        share = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - share)
        curve.append([step, loss.item(), *dice.tolist()])
        if (step + 1) % every == 0:
            last = np.mean(curve[-every:], axis=0)
            print(
                f"{step + 1} {stage.size} loss {last[1]:.3f} dice {last[2:].round(3)} "
                f"{(time.process_time() - clock) / every:.2f} s/step",
                flush=True,
            )
            clock = time.process_time()
            if keep:
                keep(
                    {"curve": curve, "step": step + 1},
                    networks.state_of(model, optimizer)
                    | {f"average.{k}": v for k, v in average.items()},
                )
    model.load_state_dict(average)
    return model.eval()


def resized(model: Segmenter, size: int, optimizer: Optimizer) -> Segmenter:
    """Set the size of a network in place: no weight depends on it."""
    model.image_size = size
    side = size // model.backbone_stride
    model.sam_image_embedding_size = side
    encoder = model.sam_prompt_encoder
    encoder.image_embedding_size = (side, side)
    encoder.input_image_size = (size, size)
    encoder.mask_input_size = (4 * side, 4 * side)
    model.settings["size"] = size
    return model
