"""SAM 2's own video predictor on volumes: slices as frames, one prompt, a bank of memories.

Nothing of the package is changed or copied. `Segmenter` is its predictor with three methods
extended: one hears how sure the mask decoder is, one keeps that and the slice's feature, and one
chooses the memories and hands them to the package under the numbers it looks for. With the bank
``fifo`` it chooses none, and every mask is bit for bit that of the package; it only drops what can
never be looked at again, so memory does not grow with the number of slices.

Data:    channels (3, z, y, x) float32 of `brats.channels`; masks come back at that size.
Source:  Ravi et al., arXiv 2408.00714; Zhu et al., arXiv 2408.00874 (one prompt, slice orders).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import sam2.sam2_video_predictor
import torch
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from slipway.errors import InputInvalid

from . import cores, crops
from .brats import REGIONS
from .memory import BANKS, SLOTS, THRESHOLD, Bank, Memory
from .prompts import Prompt, rasterised

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""The axis of (z, y, x) that slices follow each other along."""
FAR = 1_000_000
"""Added to a slice's number where memories get made-up numbers, so that none is below zero."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of each channel that Meta's weights were trained with."""
LOCK = threading.Lock()
sam2.sam2_video_predictor.tqdm = partial(tqdm, disable=True)  # a bar for every pass says nothing


class Segmenter(SAM2VideoPredictor):  # type: ignore[misc]
    """SAM 2's predictor with a choice of memories; see the module's text."""

    settings: dict[str, Any]
    native = False
    """Whether points and boxes go in as they are, or as masks, which a small network needs."""
    natural = False
    """Whether the weights were trained on photographs with the mean and deviation of ImageNet."""
    regions: nn.Embedding
    """What a named region adds to a slice's features; `nets.Small` alone has it."""

    @property
    def name(self) -> str:
        """What card, report and answers call it."""
        return str(self.settings["name"])

    @property
    def size(self) -> int:
        """Pixels of a side."""
        return int(self.image_size)

    def start(self, slices: Sequence[Tensor], side: int) -> dict[str, Any]:
        """Return the state for slices (3, size, size), made when looked at; masks of ``side``.

        The package reads folders of JPEG, 8 bits deep; the one function that does is put aside.
        """
        place = mock.patch.object(
            sam2.sam2_video_predictor, "load_video_frames", return_value=(slices, side, side)
        )
        with LOCK, place:
            return self.init_state(video_path=None)

    def _track_step(
        self, frame_idx: int, is_init: bool, features: Any, places: Any, sizes: Any, points: Any,
        masks: Any, output_dict: dict[str, Any], *rest: Any,
    ) -> Any:  # fmt: skip
        found = super()._track_step(
            frame_idx, is_init, features, places, sizes, points, masks, output_dict, *rest
        )
        _, _, overlaps, _, _, _, score = found[1]
        output_dict["confidence"] = overlaps.amax(dim=1) * (score.flatten() > 0)
        return found

    def _run_single_frame_inference(
        self, inference_state: dict[str, Any], output_dict: dict[str, Any], frame_idx: int,
        batch_size: int, **rest: Any,
    ) -> Any:  # fmt: skip
        kept, masks = super()._run_single_frame_inference(
            inference_state, output_dict, frame_idx, batch_size, **rest
        )
        kept["confidence"] = output_dict["confidence"]
        if "bank" in output_dict:
            seen = inference_state["cached_features"][frame_idx][1]["backbone_fpn"][-1]
            kept["feature"] = normalize(seen.flatten(), dim=0)
        return kept, masks

    def _prepare_memory_conditioned_features(
        self, frame_idx: int, is_init_cond_frame: bool, current_vision_feats: Any,
        current_vision_pos_embeds: Any, feat_sizes: Any, output_dict: dict[str, Any],
        num_frames: int, track_in_reverse: bool = False,
    ) -> Any:  # fmt: skip
        given = output_dict
        if "bank" in output_dict and not is_init_cond_frame:
            query = normalize(current_vision_feats[-1].permute(1, 2, 0).flatten(), dim=0)
            given = chosen(output_dict, query, frame_idx, -1 if track_in_reverse else 1)
            frame_idx, num_frames = frame_idx + FAR, 2 * FAR
        else:
            self.forget(output_dict, frame_idx)
        found = super()._prepare_memory_conditioned_features(
            frame_idx, is_init_cond_frame, current_vision_feats, current_vision_pos_embeds,
            feat_sizes, given, num_frames, track_in_reverse,
        )  # fmt: skip
        if "region" in output_dict and not is_init_cond_frame:
            found = found + self.regions(output_dict["region"])[:, :, None, None]
        return found

    def forget(self, output_dict: dict[str, Any], place: int) -> None:
        """Drop memories out of reach of a slice and of every prompted one, in either direction."""
        reach = max(self.max_obj_ptrs_in_encoder,
                    self.num_maskmem * self.memory_temporal_stride_for_eval)  # fmt: skip
        near = [place, *output_dict["cond_frame_outputs"]]
        kept = output_dict["non_cond_frame_outputs"]
        for number in [number for number in kept if all(abs(number - at) > reach for at in near)]:
            del kept[number]


def chosen(output_dict: dict[str, Any], query: Tensor, place: int, way: int) -> dict[str, Any]:
    """Return what the package shall find: prompted slices, and the recalled ones as the last."""
    bank, tracked = output_dict["bank"], output_dict["non_cond_frame_outputs"]
    for number in list(tracked):
        output = tracked.pop(number)
        feature = output.pop("feature")
        bank.offer(Memory(number, output, feature, float(output["confidence"])))
    recalled = bank.recalled(query, place)
    prompted = output_dict["cond_frame_outputs"].items()
    return {
        "cond_frame_outputs": {number + FAR: output for number, output in prompted},
        "non_cond_frame_outputs": {
            FAR + place - way * far: one.output for far, one in enumerate(recalled, start=1)
        },
    }


class Slices(Sequence[Tensor]):
    """The slices of a volume in an order, cut and resized when looked at."""

    def __init__(
        self, network: Segmenter, channels: np.ndarray, order: Sequence[int], square: crops.Square
    ) -> None:
        self.channels, self.order, self.square = channels, order, square
        self.size, self.spread = network.size, None
        if network.natural:
            low = channels.min(axis=(1, 2, 3), keepdims=True)
            high = channels.max(axis=(1, 2, 3), keepdims=True)
            mean, deviation = (np.reshape(part, (3, 1, 1)) for part in IMAGENET)
            self.spread = (low[:, 0], np.maximum(high - low, 1e-6)[:, 0], mean, deviation)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: Any) -> Tensor:
        shown = self.channels[:, self.order[number]]
        if self.spread:
            low, width, mean, deviation = self.spread
            shown = ((shown - low) / width - mean) / deviation
        image = torch.from_numpy(np.ascontiguousarray(shown, dtype=np.float32))
        return crops.cut(image[None], self.square, self.size)[0]


@dataclass
class Result:
    """Logits (z, y, x) float32 and confidence (z,) by name, and what the banks did.

    Confidence is the predicted IoU, 0 where a slice is said not to hold the object, and NaN where
    it was not looked at.
    """

    logits: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]
    bank_log: list[dict[str, Any]] = field(default_factory=list)


def segment(
    network: Segmenter, channels: np.ndarray, prompts: Mapping[str, Prompt], bank: str = "fifo",
    k: int = SLOTS, threshold: float = THRESHOLD, directions: str = "both", seed: int = 0,
) -> Result:  # fmt: skip
    """Segment a volume (3, z, y, x) from one prompt for each name, slice after slice.

    ``directions``: ``forward`` and ``backward`` from the prompted slice, ``both``, or ``shuffled``.
    """
    check(network, channels, prompts, bank, k)
    shape = channels.shape[1:]
    result = Result(
        {name: np.full(shape, crops.OUTSIDE, np.float32) for name in prompts},
        {name: np.full(shape[0], np.nan, np.float32) for name in prompts},
    )
    square = crops.around(channels)
    tasks = [
        (order, {name: prompt for name, prompt in prompts.items() if prompt.slice == place})
        for place in sorted({prompt.slice for prompt in prompts.values()})
        for order in orders(shape[0], place, directions, seed)
    ]

    def done(task: tuple[list[int], dict[str, Prompt]]) -> list[dict[str, Any]]:
        order, here = task
        # A box or point that stands as a mask is not the answer: its slice is shown twice.
        drawn = [name for name in here if here[name].kind != "mask" and not network.native]
        slices = [order[0], *order] if drawn else order
        banks = {} if bank == "fifo" else {name: Bank(bank, k, threshold, seed) for name in here}
        run = propagated(network, Slices(network, channels, slices, square), here, banks)
        for number, name, logits, confidence in run:
            if number == 0 and name in drawn:
                continue
            result.logits[name][slices[number]] = logits
            result.confidence[name][slices[number]] = confidence
        return [row for name in banks for row in told(name, banks[name], slices)]

    # Both ways go at the same time: all that they share is the prompted slice, where they are one.
    with cores.threads(len(tasks) if network.device.type == "cpu" else 1) as threads:
        result.bank_log += [row for log in threads.map(done, tasks) for row in log]
    return result


def told(name: str, bank: Bank, slices: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield a bank's log with numbers of slices instead of places in the order they came."""
    for row in bank.log:
        left = None if row["left"] is None else slices[row["left"]]
        held = [slices[place] for place in row["held"]]
        yield {"name": name} | row | {"slice": slices[row["slice"]], "left": left, "held": held}


def check(
    network: Segmenter, channels: np.ndarray, prompts: Mapping[str, Prompt], bank: str, k: int
) -> None:
    """Raise InputInvalid where a request makes no sense."""
    if channels.ndim != 4 or channels.shape[0] != 3:
        raise InputInvalid(f"volume: found shape {channels.shape}; wanted (3, z, y, x)")
    if bank not in BANKS:
        raise InputInvalid(f"bank: found {bank!r}; wanted one of {', '.join(BANKS)}")
    if not 1 <= k < network.num_maskmem:
        raise InputInvalid(f"k: found {k}; wanted 1 to {network.num_maskmem - 1}, SAM 2's slots")
    if not prompts:
        raise InputInvalid("prompts: found none; wanted a point, box or mask")
    for name, prompt in prompts.items():
        if not 0 <= prompt.slice < channels.shape[1]:
            last = channels.shape[1] - 1
            raise InputInvalid(f"{name}: found slice {prompt.slice}; wanted 0 to {last}")


def orders(number: int, place: int, directions: str, seed: int) -> list[list[int]]:
    """Return the orders to take ``number`` slices in; each starts with the prompted one."""
    forward, backward = list(range(place, number)), list(range(place, -1, -1))
    if directions == "shuffled":
        rest = np.delete(np.arange(number), place)
        return [[place, *np.random.default_rng(seed).permutation(rest).tolist()]]
    ways = {"forward": [forward], "backward": [backward], "both": [forward, backward]}
    if directions not in ways:
        wanted = ", ".join([*ways, "shuffled"])
        raise InputInvalid(f"directions: found {directions!r}; wanted one of {wanted}")
    return ways[directions]


def propagated(
    network: Segmenter, slices: Slices, prompts: Mapping[str, Prompt], banks: Mapping[str, Bank]
) -> Iterator[tuple[int, str, np.ndarray, float]]:
    """Yield place in the order, name, logits (y, x) and confidence, from the prompted slice on."""
    square, shape = slices.square, slices.channels.shape[2:]
    device = network.device.type
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        state = network.start(slices, square.side)
        for name, prompt in prompts.items():
            give(network, state, name, prompt, square, shape)
        kept = {name: state["output_dict_per_obj"][at]
                for name, at in state["obj_id_to_idx"].items()}  # fmt: skip
        for number, name in enumerate(REGIONS if hasattr(network, "regions") else ()):
            if name in kept:
                kept[name]["region"] = torch.tensor([number], device=device)
        for name, bank in banks.items():
            kept[name]["bank"] = bank
        for number, names, masks in network.propagate_in_video(state):
            logits = crops.paste(masks[:, 0].float().clamp(-10, 10), square, shape).cpu().numpy()
            for index, name in enumerate(names):
                mine = kept[name]
                prompted = number in mine["cond_frame_outputs"]
                said = mine["cond_frame_outputs" if prompted else "non_cond_frame_outputs"]
                yield number, name, logits[index], float(said[number]["confidence"])


def give(
    network: Segmenter, state: dict[str, Any], name: str, prompt: Prompt, square: crops.Square,
    shape: tuple[int, int],
) -> None:  # fmt: skip
    """Give the network a prompt on the first slice, in pixels of the square."""
    if network.native and prompt.kind != "mask":
        off = np.array([square.left, square.top])
        value = (np.reshape(prompt.value, (-1, 2)) - off).astype(np.float32)
        shown = {"box": value.ravel()} if prompt.kind == "box" else {
            "points": value, "labels": np.ones(len(value), np.int32)
        }  # fmt: skip
        network.add_new_points_or_box(state, frame_idx=0, obj_id=name, **shown)
        return
    mask = torch.from_numpy(rasterised(prompt, shape, name))
    found = crops.cut(mask[None, None].float(), square, network.size, 0.0)[0, 0]
    if found.max() == 0:
        raise InputInvalid(f"{name}: the {prompt.kind} lies outside the head; wanted it inside")
    network.add_new_mask(state, frame_idx=0, obj_id=name, mask=found >= min(0.5, found.max()))


def along(volume: np.ndarray, plane: str) -> np.ndarray:
    """Return (..., z, y, x) with the slices of a plane along the third axis from the end."""
    return np.moveaxis(volume, PLANES[plane] - 3, -3)


def back(volume: np.ndarray, plane: str) -> np.ndarray:
    """Undo `along`."""
    return np.moveaxis(volume, -3, PLANES[plane] - 3)


def six_orders(
    network: Segmenter, channels: np.ndarray, prompts: Mapping[str, Prompt], plane: str = "axial",
    vote: str = "mean", **options: Any,
) -> Result:  # fmt: skip
    """Segment along three planes, each both ways, and vote: mean of logits, or the majority.

    ``channels`` are (3, z, y, x), and the prompts lie on slices of ``plane``. The other two planes
    are prompted with what the first one found, on the slice where it found most: still one prompt
    from the user. The confidence is the first plane's.
    """
    first = segment(network, along(channels, plane), prompts, **options)
    logits = {name: [back(found, plane)] for name, found in first.logits.items()}
    for other in [other for other in PLANES if other != plane]:
        again = {name: prompt for name, found in logits.items()
                 if (prompt := largest(along(found[0], other) > 0))}  # fmt: skip
        if again:
            more = segment(network, along(channels, other), again, **options)
            for name, found in more.logits.items():
                logits[name].append(back(found, other))
    voted = {name: voted_on(found, vote) for name, found in logits.items()}
    return Result({name: along(found, plane) for name, found in voted.items()},
                  first.confidence, first.bank_log)  # fmt: skip


def largest(mask: np.ndarray) -> Prompt | None:
    """Return the slice of a mask (z, y, x) with most in it as a prompt, None where all is empty."""
    area = mask.sum(axis=(1, 2))
    return Prompt("mask", int(area.argmax()), mask[area.argmax()]) if area.any() else None


def voted_on(logits: Sequence[np.ndarray], vote: str) -> np.ndarray:
    """Return one volume of logits from several: their mean, or 10 x (share for - share against)."""
    stack = np.stack(logits) if vote == "mean" else 10 * np.sign(np.stack(logits))
    return np.asarray(stack.mean(axis=0), np.float32)
