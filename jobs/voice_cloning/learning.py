"""From pairs of sentences to a mapping: warp, map, warp again on what was mapped, and train.

The first warp compares two different voices; once a linear map has brought them closer the second
is better, and with phones a third. The network is kept at the pass that is best on sentences of
their own, which it does not learn from.

Data:    prepared pairs of `preparing`.
Source:  Toda, Saruwatari and Shikano, realignment of converted frames, ICASSP 2001.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import charts, cloning, conversion, measure
from .preparing import Pair

if TYPE_CHECKING:
    import numpy as np
    import torch

    from slipway import Run

    from .network import Converter

HIDDEN, EPOCHS, BATCH = 192, 8, 512
RATE, DECAY, WARM = 2e-3, 1e-4, 0.15
HIDDEN_PHONES = 0.15
"""The share of pairs whose phones are not told, for recordings that have none."""
RIDGE = 100.0
SHARES, NEARLY = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), 1.01
"""Of the source's own envelope; and how near to the least distortion is as good."""
BANK = 20_000


class Seen(NamedTuple):
    """A pair as WORLD sees it: coded envelopes (n, 40) and (m, 40), phones, pitches.

    ``cepstra`` (m, 25) is the target's mel-cepstrum, ``voice`` (256,) its embedding.
    """

    pair: Pair
    source: np.ndarray
    target: np.ndarray
    phones: np.ndarray
    source_pitch: np.ndarray
    target_pitch: np.ndarray
    cepstra: np.ndarray
    voice: np.ndarray


class Matched(NamedTuple):
    """Frames that belong together: what is seen (n, 405), what is wanted (n, 3, 40)."""

    given: np.ndarray
    wanted: np.ndarray


def seen(pair: Pair) -> Seen:
    """Analyse a pair."""
    source = conversion.analysed(pair.source.speech, noisiness=False)
    alone = pair.real is pair.source.speech
    target = source if alone else conversion.analysed(pair.real, noisiness=False)
    phones = conversion.phone_features(pair.source.phones, len(source.pitch))
    return Seen(pair, conversion.coded(source.envelope), conversion.coded(target.envelope), phones,
                source.pitch, target.pitch, measure.mel_cepstrum(target.envelope),
                measure.embedding(pair.real))  # fmt: skip


class Scales(NamedTuple):
    """Means and deviations (40,) of each side's frames."""

    source_mean: np.ndarray
    source_scale: np.ndarray
    target_mean: np.ndarray
    target_scale: np.ndarray

    def source(self, code: np.ndarray) -> np.ndarray:
        """Return a normalised source."""
        normal: np.ndarray = (code - self.source_mean) / self.source_scale
        return normal

    def target(self, code: np.ndarray) -> np.ndarray:
        """Return a normalised target."""
        normal: np.ndarray = (code - self.target_mean) / self.target_scale
        return normal


def scales_of(clips: Sequence[Seen]) -> Scales:
    """Return the scales of some clips."""
    import numpy as np

    sides = (np.concatenate([clip.source for clip in clips]),
             np.concatenate([clip.target for clip in clips]))  # fmt: skip
    return Scales(*(value for side in sides for value in (side.mean(0), side.std(0))))


Warp = tuple["np.ndarray", "np.ndarray"]


def matched(clips: Sequence[Seen], warps: Sequence[Warp], scales: Scales,
            phones: bool = True) -> Matched:  # fmt: skip
    """Return all pairs of frames, those without a voice on either side left out."""
    import numpy as np

    given, wanted = [], []
    for clip, (one, other) in zip(clips, warps, strict=True):
        heard = conversion.audible(clip.source)[one] & conversion.audible(clip.target)[other]
        inputs = conversion.inputs_of(scales.source(clip.source), clip.phones if phones else None)
        given.append(inputs[one[heard]])
        wanted.append(conversion.with_deltas(scales.target(clip.target))[other[heard]])
    return Matched(np.concatenate(given).astype("float32"), np.concatenate(wanted))


def line(pairs: Matched) -> np.ndarray:
    """Return the ridge regression (406, 40) of values on inputs; the last row is the intercept."""
    import numpy as np

    one = np.c_[pairs.given.astype(float), np.ones(len(pairs.given))]
    gram = one.T @ one + RIDGE * np.eye(one.shape[1])
    return np.linalg.solve(gram, one.T @ pairs.wanted[:, 0])


def warped(clips: Sequence[Seen], scales: Scales) -> tuple[list[Warp], np.ndarray]:
    """Return how each pair lies on each other after three warps, and the last linear map.

    A clip that is only chosen by is warped too, and no map is fitted to it.
    """
    learned = [clip for clip in clips if clip.pair.part == "train"]
    warps = [measure.aligned(conversion.normal(clip.source)[:, :measure.ORDER],
                             conversion.normal(clip.target)[:, :measure.ORDER])
             for clip in clips]  # fmt: skip
    for phones in (False, True):
        own = [warp for clip, warp in zip(clips, warps, strict=True) if clip.pair.part == "train"]
        ridge = line(matched(learned, own, scales, phones))
        warps = [_again(clip, ridge, scales, phones) for clip in clips]
    own = [warp for clip, warp in zip(clips, warps, strict=True) if clip.pair.part == "train"]
    return warps, line(matched(learned, own, scales))


def _again(clip: Seen, ridge: np.ndarray, scales: Scales, phones: bool) -> Warp:
    inputs = conversion.inputs_of(scales.source(clip.source), clip.phones if phones else None)
    mapped = inputs @ ridge[:-1] + ridge[-1]
    size = measure.ORDER
    return measure.aligned(mapped[:, :size], scales.target(clip.target)[:, :size])


class Pass(NamedTuple):
    """A pass over the pairs: squared errors, and the distortion in dB of unlearned sentences."""

    train_loss: float
    choose_loss: float
    distortion: float


class Learned(NamedTuple):
    """A mapping, and how it came about."""

    model: Converter
    curve: list[Pass]
    pairs: int
    seconds: float
    """Of the target, to learn from."""
    linear: float
    """The linear map's distortion of sentences to choose by, in dB; NaN without a network."""


def fit(run: Run, pairs: Sequence[Pair], method: str, epochs: int | None = None) -> Converter:
    """Learn the mapping of some pairs and tell how; resumes where a run was stopped."""
    from slipway import networks

    networks.settle(run)
    clips = [seen(pair) for pair in run.progress(pairs, "analysed")]
    found = learned(clips, method, run.seed, epochs or EPOCHS, run)
    _told(run, found)
    return found.model


def learned(clips: Sequence[Seen], method: str, seed: int, epochs: int,
            run: Run | None = None) -> Learned:  # fmt: skip
    """Learn the mapping of some clips; ``run`` keeps checkpoints, and without passes no network.

    All ways to map are made ready where the network is trained, and else the linear one alone.
    """
    parts = {part: [clip for clip in clips if clip.pair.part == part]
             for part in ("train", "choose")}  # fmt: skip
    scales = scales_of(parts["train"])
    warps, ridge = warped(clips, scales)
    own = {part: matched(found, [warp for clip, warp in zip(clips, warps, strict=True)
                                 if clip.pair.part == part], scales)
           for part, found in parts.items()}  # fmt: skip
    model = _begun(parts["train"], scales, ridge, method)
    learner = Learner(model, own["train"], own["choose"], parts["choose"])
    curve = _trained(run, learner, seed, epochs) if epochs else []
    methods = cloning.METHODS if curve else cloning.METHODS[:1]
    model.settings["detail"] = details(model, parts["choose"], methods)
    linear = distortion(model, parts["choose"], "ridge") if curve else math.nan
    _refit(model, clips, warps, scales)
    seconds = sum(clip.pair.real.seconds for clip in parts["train"])
    return Learned(model.eval(), curve, len(own["train"].given), seconds, linear)


def _told(run: Run, found: Learned) -> None:
    """Put shares, curves and figures of learning into the report."""
    curve = found.curve
    rows = [{"way": name, "share of the source's detail": share}
            for name, share in found.model.settings["detail"].items()]  # fmt: skip
    run.table("detail", rows, "How much of the source's own envelope is kept: the share with the "
              "least distortion on sentences to choose by.")  # fmt: skip
    best = min(range(len(curve)), key=lambda at: curve[at].choose_loss)
    run.log(train_loss=curve[best].train_loss, choose_loss=curve[best].choose_loss,
            choose_distortion=curve[best].distortion, choose_distortion_ridge=found.linear,
            pairs=found.pairs, train_seconds=found.seconds)  # fmt: skip
    run.figure("loss", charts.loss(curve, best, found.linear),
               "Left: squared error of normalised envelopes with slopes, after each pass. Right: "
               "mel-cepstral distortion of whole sentences that are not learned from, mapped "
               "without the source's own detail.")  # fmt: skip
    for name in Pass._fields:
        steps = {step: getattr(one, name) for step, one in enumerate(curve, start=1)}
        run.curve(f"pass/{name}", steps)


def _begun(clips: Sequence[Seen], scales: Scales, ridge: np.ndarray, method: str) -> Converter:
    """Return a converter that knows everything but the network's weights."""
    import numpy as np
    import torch

    from .network import Converter

    frames = np.concatenate([scales.target(clip.target)[conversion.audible(clip.target)]
                             for clip in clips])  # fmt: skip
    frames = frames[:: -(-len(frames) // BANK)]
    stats = [conversion.pitch_stats([getattr(clip, side) for clip in clips])
             for side in ("source_pitch", "target_pitch")]  # fmt: skip
    pitch = [round(value, 9) for side in stats for value in side]
    torch.manual_seed(0)
    seconds = sum(clip.pair.real.seconds for clip in clips)
    model = Converter(HIDDEN, len(frames), clips[0].pair.voice, clips[0].pair.speaker, method, {},
                      pitch, {"clips": len(clips), "seconds": round(seconds, 1)})  # fmt: skip
    lively = np.mean([scales.target(clip.target)[conversion.audible(clip.target)].std(0)
                      for clip in clips], 0)  # fmt: skip
    pauses = np.concatenate([scales.target(clip.target)[~conversion.audible(clip.target)]
                             for clip in clips])  # fmt: skip
    voice = measure.mean_voice([clip.voice for clip in clips])
    known = scales._asdict() | {"ridge": ridge, "bank_frames": frames, "liveliness": lively,
                                "pause": pauses.mean(0), "identity": voice}  # fmt: skip
    for name, values in known.items():
        getattr(model, name).copy_(torch.from_numpy(np.asarray(values, "float32")))
    return model


class Learner(NamedTuple):
    """A network at work: pairs to learn from, pairs and whole sentences to choose by."""

    model: Converter
    train: Matched
    choose: Matched
    unseen: Sequence[Seen]


def _trained(run: Run | None, learner: Learner, seed: int, epochs: int) -> list[Pass]:
    """Train the network, keep its best weights, and return what became of it in each pass."""
    import torch

    from slipway import networks

    torch.set_num_threads(1)  # the network is small: threads would wait for each other
    network = learner.model.mlp
    torch.manual_seed(seed)
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            layer.reset_parameters()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    curve: list[Pass] = []
    best = {name: value.clone() for name, value in network.state_dict().items()}
    if run and (state := run.resume()):
        tensors = state["tensors"]
        best = {name[5:]: value for name, value in tensors.items() if name.startswith("best.")}
        own = {name: value for name, value in tensors.items() if not name.startswith("best.")}
        networks.put_back(own, network, optimizer)
        curve = [Pass(*row) for row in state["curve"]]
    sides = [tuple(torch.from_numpy(side.astype("float32")) for side in part)
             for part in (learner.train, learner.choose)]  # fmt: skip
    for epoch in range(len(curve), epochs):
        torch.manual_seed(seed * 1000 + epoch)
        loss = _passed(network, optimizer, *sides[0], epoch, epochs)
        _spread(learner.model, learner.choose)
        found = Pass(loss, _loss(network, *sides[1]), distortion(learner.model, learner.unseen))
        if all(found.choose_loss < row.choose_loss for row in curve):
            best = {name: value.clone() for name, value in network.state_dict().items()}
        curve.append(found)
        kept = {f"best.{name}": value for name, value in best.items()}
        if run:
            run.checkpoint({"curve": curve}, networks.state_of(network, optimizer) | kept)
    network.load_state_dict(best)
    network.eval()
    _spread(learner.model, learner.choose)
    return curve


def distortion(model: Converter, clips: Sequence[Seen], method: str = "mlp") -> float:
    """Return the mean distortion in dB of clips mapped without the source's own detail."""
    import numpy as np

    found = [model.mapped(clip.source, clip.phones, method, 0.0) for clip in clips]
    return float(np.mean([
        measure.cepstral_distortion(measure.mel_cepstrum(conversion.decoded(code)), clip.cepstra)
        for code, clip in zip(found, clips, strict=True)
    ]))  # fmt: skip


def _passed(network: torch.nn.Module, optimizer: torch.optim.Optimizer, given: torch.Tensor,
            wanted: torch.Tensor, epoch: int, epochs: int) -> float:  # fmt: skip
    """Go through all pairs once; the step grows over the first passes and falls to nothing."""
    import torch

    network.train()
    total, steps = 0.0, math.ceil(len(given) / BATCH)
    phones = given.shape[1] - conversion.PHONE_INPUTS
    for step, places in enumerate(torch.randperm(len(given)).split(BATCH)):
        share = (epoch + step / steps) / epochs
        pace = (
            share / WARM
            if share < WARM
            else (1 + math.cos(math.pi * (share - WARM) / (1 - WARM))) / 2
        )
        optimizer.param_groups[0]["lr"] = RATE * max(pace, 1e-3)
        told = given[places]
        told[torch.rand(len(told)) < HIDDEN_PHONES, phones:] = 0
        loss = (network(told) - wanted[places].flatten(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(places)
    return total / len(given)


def _loss(network: torch.nn.Module, given: torch.Tensor, wanted: torch.Tensor) -> float:
    import torch

    network.eval()
    with torch.inference_mode():
        return float((network(given) - wanted.flatten(1)).square().mean())


def _refit(model: Converter, clips: Sequence[Seen], warps: Sequence[Warp], scales: Scales) -> None:
    """Fit the linear map to all clips, now that nothing is left to be chosen by some of them."""
    import torch

    model.ridge.copy_(torch.from_numpy(line(matched(clips, warps, scales))))


def details(model: Converter, clips: Sequence[Seen], methods: Sequence[str]) -> dict[str, float]:
    """Return for each of some ways the share of detail that distorts unlearned sentences least.

    More detail is clearer, and up to this share it costs nothing; so of shares that are
    within 1 % of the least distortion the largest is taken.
    """
    import numpy as np

    found = {}
    for method in methods:
        off = np.mean([_off(model, clip, method) for clip in clips], 0)
        found[method] = max(np.array(SHARES)[off <= NEARLY * off.min()].tolist())
    return found


def _off(model: Converter, clip: Seen, method: str) -> list[float]:
    """Return how far a mapped clip is off in coded numbers, with each share of detail."""
    import numpy as np

    path, own = model.path(clip.source, clip.phones, method), model.own(clip.source)
    scale, middle = model.array("target_scale"), model.array("target_mean")
    wanted = (clip.target - middle) / scale
    one, other = measure.aligned(path[:, : measure.ORDER], wanted[:, : measure.ORDER])
    heard = conversion.audible(clip.source)[one]
    one, other = one[heard], other[heard]
    gaps = [((1 - share) * path + share * own)[one] - wanted[other] for share in SHARES]
    return [float(np.linalg.norm((gap * scale)[:, 1:], axis=1).mean()) for gap in gaps]


def _spread(model: Converter, choose: Matched) -> None:
    """Keep how far values and slopes are off, on sentences that were not learned from."""
    import torch

    with torch.inference_mode():
        found = model.mlp(torch.from_numpy(choose.given)).reshape(choose.wanted.shape)
    off = (found.double() - torch.from_numpy(choose.wanted)).var(0)
    model.variances.copy_(off.float())
