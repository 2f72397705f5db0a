"""What became of each held-out patient: masks on disk, measures of each region and each slice.

The prompted slice is left out of Dice and IoU, for its answer was nearly given; figures with it
stand beside. HD95 and surface Dice are of the whole volume.

Data:    patients of `cohort`; a row for each patient, method and region, one for each slice.
Source:  `measures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.data import written
from slipway.errors import DataUnavailable

from . import baseline, brats, measures, propagation

if TYPE_CHECKING:
    import numpy as np

    from .prompts import Prompt

Row = dict[str, Any]
OTHERS = ("Otsu", "region growing", "U-Net")


@dataclass
class Outcomes:
    """Rows of regions and of slices, and how long each patient took."""

    regions: list[Row] = field(default_factory=list)
    slices: list[Row] = field(default_factory=list)
    seconds: list[Row] = field(default_factory=list)

    def of(self, method: str, region: str) -> list[Row]:
        """Return the rows of one method and region, a patient each."""
        return [row for row in self.regions if (row["method"], row["region"]) == (method, region)]

    def values(self, method: str, region: str, measure: str) -> list[float]:
        """Return a measure, patient by patient."""
        return [row[measure] for row in self.of(method, region)]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order they were measured in."""
        return list(dict.fromkeys(row["method"] for row in self.regions))

    @property
    def cases(self) -> list[str]:
        """The patients, in order."""
        return list(dict.fromkeys(row["case"] for row in self.regions))

    def save(self, folder: Path) -> None:
        """Write the rows beside the masks."""
        with written(folder / "outcomes.json") as path:
            path.write_text(json.dumps(vars(self)) + "\n", "utf-8")


def load(folder: Path) -> Outcomes:
    """Return what `Outcomes.save` wrote."""
    path = folder / "outcomes.json"
    if not path.is_file():
        raise DataUnavailable(f"{path}: no such file; run evaluate first")
    return Outcomes(**json.loads(path.read_text("utf-8")))


def method_of(kind: str) -> str:
    """Return what a row of the network's answers to a kind of prompt is called."""
    return f"{kind} prompt"


def short(method: str) -> str:
    """Return what a method is called in a metric's name."""
    return method.removesuffix(" prompt").lower().replace(" ", "_").replace("-", "")


def mask_path(folder: Path, case: str, method: str, region: str) -> Path:
    """Return where the mask of a region lies."""
    return folder / case / f"{method.replace(' ', '-')}_{region}.nii.gz"


def add_case(
    outcomes: Outcomes,
    folder: Path,
    case: brats.Case,
    given: Mapping[str, Mapping[str, Prompt]],
    network: Any,
    settings: propagation.Settings,
    rival: Any = None,
) -> None:
    """Segment a patient by each kind of prompt and by the other methods, and measure it all.

    ``given`` holds prompts by kind and region; the classical methods get those of the first kind.
    """
    for kind, prompts in given.items():
        answer = propagation.answered(network, case, prompts, settings)
        method = method_of(kind)
        outcomes.seconds.append({"case": case.name, "method": method, "seconds": answer.seconds})
        for region, mask in answer.masks.items():
            at = prompts[region].slice if region in prompts else None
            add_region(outcomes, case, method, region, mask, at)
            add_slices(outcomes, case, method, region, mask, at, answer.confidence.get(region))
            brats.write(mask, case, mask_path(folder, case.name, method, region))
    add_others(outcomes, case, next(iter(given.values())), rival)


def add_others(
    outcomes: Outcomes, case: brats.Case, prompts: Mapping[str, Prompt], rival: Any
) -> None:
    """Measure Otsu and region growing from the same prompts, and the U-Net where there is one."""
    shown = {name: (propagation.drawn(prompt, case, name), prompt.slice)
             for name, prompt in prompts.items()}  # fmt: skip
    found = baseline.classical(case, shown)
    if rival is not None:
        found["U-Net"] = baseline.segmented(rival, case)
    for method, masks in found.items():
        for region in brats.REGIONS:
            mask = masks[region] if region in masks else propagation.nothing(case)
            at = prompts[region].slice if region in prompts else None
            add_region(outcomes, case, method, region, mask, at)


def add_region(
    outcomes: Outcomes, case: brats.Case, method: str, region: str, mask: np.ndarray, at: int | None
) -> None:
    """Add the row of one region; ``at`` is the prompted slice."""
    truth = region_of(case, region)
    whole = measures.fit(mask, truth, case.spacing)
    rest = (mask, truth) if at is None else tuple(
        measures.without_slice(part, at) for part in (mask, truth)
    )  # fmt: skip
    outcomes.regions.append(
        {
            "case": case.name, "method": method, "region": region,
            "dice": measures.dice(*rest), "iou": measures.iou(*rest),
            "hd95": whole.hd95, "surface_dice": whole.surface_dice,
            "dice_with_prompt": whole.dice, "iou_with_prompt": whole.iou,
            "false_slices": measures.false_slices(mask, truth),
            "consistency": finite(measures.consistency(mask, truth)),
            "ml": float(truth.sum() * volume_of(case) / 1000), "slice": at,
        }
    )  # fmt: skip


def add_slices(
    outcomes: Outcomes, case: brats.Case, method: str, region: str, mask: np.ndarray,
    at: int | None, confidence: np.ndarray | None,
) -> None:  # fmt: skip
    """Add a row for each slice but the prompted on which the region is or is claimed."""
    import numpy as np

    if at is None:
        return
    truth = region_of(case, region)
    scores = measures.slice_dice(mask, truth)
    areas, claimed = truth.sum(axis=(0, 1)), mask.sum(axis=(0, 1))
    for number in np.flatnonzero(np.isfinite(scores)).tolist():
        if number != at:
            outcomes.slices.append(
                {
                    "case": case.name, "method": method, "region": region, "z": number,
                    "mm": abs(number - at) * case.spacing[2], "dice": float(scores[number]),
                    "voxels": int(areas[number]), "found": int(claimed[number]),
                    "confidence": None if confidence is None else float(confidence[number]),
                }
            )  # fmt: skip


def region_of(case: brats.Case, region: str) -> np.ndarray:
    """Return the true mask of a region."""
    if case.segmentation is None:
        raise ValueError(f"case {case.name} has no labels")
    return brats.region(case.segmentation, region)


def volume_of(case: brats.Case) -> float:
    """Return the mm3 of a voxel."""
    x, y, z = case.spacing
    return x * y * z


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return value if value == value else None


def table(outcomes: Outcomes, methods: Sequence[str], seed: int) -> list[Row]:
    """Return a row for each method and region: means over patients and an interval of Dice."""
    rows = []
    for method in methods:
        for region in brats.REGIONS:
            found = {name: measures.mean(outcomes.values(method, region, name), seed)
                     for name in ("dice", "iou", "hd95", "surface_dice", "dice_with_prompt",
                                  "false_slices")}  # fmt: skip
            rows.append(
                {
                    "method": method, "region": region, "Dice": rounded(found["dice"].mean),
                    "95 % interval": interval(found["dice"]), "IoU": rounded(found["iou"].mean),
                    "HD95 (mm)": rounded(found["hd95"].mean, 1),
                    "surface Dice": rounded(found["surface_dice"].mean),
                    "Dice with the prompted slice": rounded(found["dice_with_prompt"].mean),
                    "false slices": rounded(found["false_slices"].mean),
                }
            )  # fmt: skip
    return rows


def rounded(value: float, places: int = 3) -> str:
    """Return a number for a table."""
    return f"{value:.{places}f}"


def interval(value: measures.Mean) -> str:
    """Return an interval for a table."""
    return "none" if value.low is None else f"{value.low:.3f} to {value.high:.3f}"


def patients(outcomes: Outcomes, methods: Iterable[str]) -> list[Row]:
    """Return a row for each patient and method with the Dice of each region."""
    rows = []
    for case in outcomes.cases:
        for method in methods:
            mine = {row["region"]: row for row in outcomes.regions
                    if (row["case"], row["method"]) == (case, method)}  # fmt: skip
            row = {"patient": case, "method": method, "tumour (ml)": rounded(mine["WT"]["ml"], 1)}
            for name, one in mine.items():
                row |= {f"{name} Dice": rounded(one["dice"]), f"{name} IoU": rounded(one["iou"]),
                        f"{name} HD95": rounded(one["hd95"], 1)}  # fmt: skip
            rows.append(row)
    return rows
