"""What the prompt and the memory bank change: everything else is held equal.

Prompts are varied one thing at a time. The banks are compared on volumes as they are, on
shuffled ones (the paper's claim is that order does not matter) and with 30 % of the slices spoiled;
each patient is its own control, so what is shown is the difference from stock SAM 2's `fifo`.

Data:    held-out patients. Banks: the slices of the tumour and some on either side.
Source:  Zhu et al., arXiv 2408.00874, table 3 and figure 7 (what they vary).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from . import brats, charts, cohort, cores, measures, outcomes, propagation

if TYPE_CHECKING:
    import numpy as np

    from slipway import Run

    from .predictor import Segmenter

Row = dict[str, Any]
PROMPTS: dict[str, dict[str, dict[str, Any]]] = {
    "kind": {kind: {"kind": kind} for kind in propagation.KINDS},
    "place": {"first quarter": {"place": 0.25}, "middle": {}, "last quarter": {"place": 0.75},
              "largest slice": {"place": "largest"}},
    "jitter of the box": {"none": {}, "10 %": {"jitter": 0.1}, "20 %": {"jitter": 0.2},
                          "40 %": {"jitter": 0.4}},
    "jitter of the point": {"deepest": {"kind": "point"},
                            "any of half": {"kind": "point", "jitter": 0.5},
                            "any": {"kind": "point", "jitter": 1.0}},
    "modalities": {"FLAIR, T1Gd, T2": {}, "FLAIR": {"modalities": ("flair",)},
                   "T1Gd": {"modalities": ("t1ce",)}, "T2": {"modalities": ("t2",)},
                   "FLAIR, T1, T2": {"modalities": ("flair", "t1", "t2")}},
    "direction": {"both": {}, "forward": {"directions": "forward"},
                  "backward": {"directions": "backward"}, "six orders": {"orders": "six"}},
}  # fmt: skip
"""By what is varied, then by name: what differs from a box on the middle slice."""
ASKED = ("kind", "place", "jitter")
CONDITIONS = ("clean", "shuffled", "corrupted")
DRAWING = ("selfsort",)
"""Banks that a seed changes on clean volumes: the others are run there once."""
SIZES = ((2, 0.6), (4, 0.6), (6, 0.6), (6, 0.0), (6, 0.4), (6, 0.8))
"""K and threshold of a self-sorting bank on corrupted volumes."""
SPOILED = 0.3
MARGIN = 15
"""Slices on either side of a tumour."""


def prompts(run: Run, network: Segmenter, patients: int | None) -> None:
    """Put one figure into the report for each thing that is varied."""
    rows = kept(run, "rows")
    for case in remaining(run, rows, patients):
        for varied, options in PROMPTS.items():
            for name, changed in options.items():
                rows += [{"case": case.name, "varied": varied, "name": name} | row
                         for row in asked_so(run, network, case, changed)]  # fmt: skip
        run.checkpoint({"rows": rows})
    for varied in PROMPTS:
        mine = [row for row in rows if row["varied"] == varied]
        means = by_region(mine, "name", "dice", run.seed)
        best = max(means["WT"], key=lambda name: means["WT"][name].mean)
        worst = min(means["WT"], key=lambda name: means["WT"][name].mean)
        title = (f"{varied.capitalize()}: whole tumour from {means['WT'][worst].mean:.2f} "
                 f"({worst}) to {means['WT'][best].mean:.2f} ({best})")  # fmt: skip
        run.figure(varied.replace(" ", "-"), charts.study(title, "Dice", means),
                   f"{counted(mine)}, mean and interval; without the prompted slice.")  # fmt: skip
        run.table(varied, table(means), f"Dice by {varied}.")
        run.log(**{f"{varied} {name} {region} dice".replace(" ", "_").lower(): value.mean
                   for region, one in means.items() for name, value in one.items()})  # fmt: skip


def asked_so(
    run: Run, network: Segmenter, case: brats.Case, changed: dict[str, Any]
) -> Iterator[Row]:
    """Yield the Dice of each region for one way of prompting."""
    asked = {"kind": "box"} | {name: changed[name] for name in ASKED if name in changed}
    given = propagation.asked(case, seed=run.seed, **asked)
    other = {name: value for name, value in changed.items() if name not in ASKED}
    settings = replace(propagation.Settings(seed=run.seed), **other)
    masks = propagation.answered(network, case, given, settings).masks
    for region, prompt in given.items():
        truth = outcomes.region_of(case, region)
        mask, truth = (
            measures.without_slice(part, prompt.slice) for part in (masks[region], truth)
        )
        yield {"region": region, "dice": measures.dice(mask, truth)}


def banks(run: Run, network: Segmenter, patients: int | None, seeds: int) -> None:
    """Put the differences of the banks into the report, and what K and the threshold change."""
    rows = kept(run, "rows")
    conditions = [
        (condition, seed, bank)
        for condition in CONDITIONS
        for seed in range(seeds)
        for bank in (propagation.BANKS if condition != "clean" or not seed else DRAWING)
    ]
    for case in remaining(run, rows, patients):
        with cores.threads(len(conditions)) as threads:
            found = threads.map(partial(compared, network, case), conditions)
            rows += [row for some in found for row in some]
            rows += [row for some in threads.map(partial(sized, network, case), SIZES)
                     for row in some]  # fmt: skip
        run.checkpoint({"rows": rows})
    number = len({row["case"] for row in rows})
    for region in brats.REGIONS:
        found = {condition: differences(rows, condition, region, run.seed)
                 for condition in CONDITIONS}  # fmt: skip
        run.figure(f"banks-{region}", charts.banks(found, number), f"{region}: paired differences, "
                   f"mean and interval over volumes, {seeds} seeds where one matters.")  # fmt: skip
        run.log(**{f"{condition}_{bank}_{region}_minus_fifo".lower().replace("-", "_"): value.mean
                   for condition, one in found.items() for bank, value in one.items()})  # fmt: skip
    run.table("banks", bank_table(rows, run.seed), "Mean Dice and difference from fifo.")
    sizes = [row for row in rows if row["condition"] == "sizes"]
    run.figure("sizes", charts.study("K and threshold on corrupted volumes", "Dice",
               by_region(sizes, "bank", "dice", run.seed)), counted(sizes))  # fmt: skip


def compared(network: Segmenter, case: brats.Case, asked: tuple[str, int, str]) -> list[Row]:
    """Return the Dice of each region on one volume in a condition, with a seed and a bank."""
    condition, seed, bank = asked
    part, at = around(case)
    channels = brats.channels(part)
    if condition == "corrupted":
        channels = corrupted(channels, at, seed)
    directions = "shuffled" if condition == "shuffled" else "both"
    settings = propagation.Settings(bank, directions=directions, seed=seed)
    return [{"case": case.name, "condition": condition, "seed": seed, "bank": bank} | row
            for row in carried(network, part, channels, at, settings)]  # fmt: skip


def sized(network: Segmenter, case: brats.Case, asked: tuple[int, float]) -> list[Row]:
    """Return the Dice for another size and threshold of the bank on one corrupted volume."""
    k, threshold = asked
    part, at = around(case)
    channels = corrupted(brats.channels(part), at, 0)
    settings = propagation.Settings("selfsort", k, threshold)
    name = f"K {k}, threshold {threshold:g}"
    return [{"case": case.name, "condition": "sizes", "seed": 0, "bank": name} | row
            for row in carried(network, part, channels, at, settings)]  # fmt: skip


def around(case: brats.Case) -> tuple[brats.Case, int]:
    """Return the slices of the tumour and a margin, and the middle one of enhancing tumour."""
    import numpy as np

    if case.segmentation is None:
        raise ValueError(f"case {case.name} has no labels")
    held = np.flatnonzero(brats.region(case.segmentation, "WT").any(axis=(0, 1)))
    some = slice(max(int(held[0]) - MARGIN, 0), int(held[-1]) + MARGIN + 1)
    labels = case.segmentation[:, :, some]
    volumes = {name: volume[:, :, some] for name, volume in case.volumes.items()}
    core = next(mask for name in ("ET", "TC", "WT") if (mask := brats.region(labels, name)).any())
    at = propagation.slice_at(core.transpose(2, 1, 0), 0.5)
    return replace(case, volumes=volumes, segmentation=labels, original=None), at


def corrupted(channels: np.ndarray, keep: int, seed: int) -> np.ndarray:
    """Return channels (3, z, y, x) with 30 % of the slices spoiled, not the prompted one."""
    import numpy as np

    draw = np.random.default_rng(seed)
    others = np.delete(np.arange(channels.shape[1]), keep)
    chosen = draw.choice(others, round(SPOILED * len(others)), replace=False)
    found = channels.copy()
    found[:, chosen] = 0.35 * found[:, chosen] + draw.normal(0, 0.7, found[:, chosen].shape)
    return found


def carried(
    network: Segmenter, case: brats.Case, channels: np.ndarray, at: int,
    settings: propagation.Settings,
) -> Iterator[Row]:  # fmt: skip
    """Yield the Dice of each region from boxes on one slice, which is left out."""
    from . import predictor
    from . import prompts as shapes

    if case.segmentation is None:
        return
    truths = {name: brats.region(case.segmentation, name).transpose(2, 1, 0)
              for name in brats.REGIONS}  # fmt: skip
    given = {name: shapes.from_mask(truth[at], "box", at)
             for name, truth in truths.items() if truth[at].any()}  # fmt: skip
    found = predictor.segment(
        network, channels, given, bank=settings.bank, k=settings.k, threshold=settings.threshold,
        directions=settings.directions, seed=settings.seed,
    )  # fmt: skip
    for region in given:
        mask, truth = (
            measures.without_slice(part, at, 0)
            for part in (found.logits[region] > 0, truths[region])
        )
        yield {"region": region, "dice": measures.dice(mask, truth)}


def differences(
    rows: Sequence[Row], condition: str, region: str, seed: int
) -> dict[str, measures.Mean]:
    """Return each bank's Dice minus fifo's, over volumes, seeds averaged first."""
    mine = averaged(rows, condition, region)
    return {
        bank: measures.difference([mine[bank][case] for case in mine[bank]],
                                  [mine["fifo"][case] for case in mine[bank]], seed)
        for bank in propagation.BANKS[1:]
    }  # fmt: skip


def averaged(rows: Sequence[Row], condition: str, region: str) -> dict[str, dict[str, float]]:
    """Return the mean over seeds by bank and patient."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if (row["condition"], row["region"]) == (condition, region):
            found.setdefault(row["bank"], {}).setdefault(row["case"], []).append(row["dice"])
    return {bank: {case: sum(some) / len(some) for case, some in one.items()}
            for bank, one in found.items()}  # fmt: skip


def bank_table(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return a row for each condition, region and bank."""
    found = []
    for condition in CONDITIONS:
        for region in brats.REGIONS:
            apart = differences(rows, condition, region, seed)
            for bank, one in averaged(rows, condition, region).items():
                mean = measures.mean([*one.values()], seed)
                found.append(
                    {
                        "volumes": condition, "region": region, "bank": bank,
                        "Dice": outcomes.rounded(mean.mean), "interval": outcomes.interval(mean),
                        "minus fifo": told(apart.get(bank)),
                        "interval of that": outcomes.interval(apart[bank]) if bank in apart else "",
                    }
                )  # fmt: skip
    return found


def told(apart: measures.Mean | None) -> str:
    """Return a difference with its sign."""
    return "" if apart is None else f"{apart.mean:+.3f}"


def by_region(
    rows: Sequence[Row], key: str, value: str, seed: int
) -> dict[str, dict[str, measures.Mean]]:
    """Return means over patients by region, then by what a key holds, in the order of the rows."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in brats.REGIONS}
    for row in rows:
        found[row["region"]].setdefault(row[key], []).append(row[value])
    return {region: {name: measures.mean(some, seed) for name, some in one.items()}
            for region, one in found.items()}  # fmt: skip


def table(means: dict[str, dict[str, measures.Mean]]) -> list[Row]:
    """Return a row for each name with mean and interval of each region."""
    names = list(next(iter(means.values())))
    return [
        {"": name} | {key: told for region, one in means.items() if name in one
                      for key, told in ((f"{region} Dice", outcomes.rounded(one[name].mean)),
                                        (f"{region} interval", outcomes.interval(one[name])))}
        for name in names
    ]  # fmt: skip


def counted(rows: Sequence[Row]) -> str:
    """Return how many patients rows are of."""
    number = len({row["case"] for row in rows})
    return f"{number} patient{'s' if number > 1 else ''}"


def kept(run: Run, name: str) -> list[Row]:
    """Return the rows that a stopped study has already, none at its start."""
    return list((run.resume() or {}).get(name, []))


def remaining(run: Run, rows: Sequence[Row], patients: int | None) -> Iterator[brats.Case]:
    """Yield the patients that no row is of yet."""
    done = {row["case"] for row in rows}
    files = [entry for entry in cohort.read(run, "held_out")[:patients] if entry.name not in done]
    for entry in run.progress(files, "patients"):
        yield brats.read(entry)
