"""The parts of the report that `evaluate` makes, and single verbs again.

Data:    outcomes of held-out patients, their files and the masks on disk.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import brats, charts, cohort, measures, outcomes, overlays, paper, propagation

if TYPE_CHECKING:
    from slipway import Run

    from .outcomes import Outcomes
    from .predictor import Segmenter

SHOWN = 5
"""Patients in the montages."""
WORST = 8
APART = 8
"""Slices between two failures of one region that are shown."""
SMALL = 60
"""Pixels: a slice with less is an end of the tumour, where a pixel's width decides."""
FAR = 25.0
"""Millimetres from the prompt."""


def folder_of(run: Run) -> Path:
    """Return where evaluate leaves its masks."""
    return run.out / "masks"


def scores(run: Run, found: Outcomes) -> None:
    """Put the measures of all methods into the report and the metrics."""
    for method in found.methods:
        for region in brats.REGIONS:
            for measure in ("dice", "iou", "hd95", "surface_dice", "dice_with_prompt",
                            "false_slices"):  # fmt: skip
                name = f"{outcomes.short(method)}_{region.lower()}_{measure}"
                run.log(**{name: measures.mean(found.values(method, region, measure)).mean})
    caption = ("Means over the held-out patients. Dice and IoU are without the prompted slice; "
               "false slices: of those without the region, the share claimed.")  # fmt: skip
    run.table("regions", outcomes.table(found, found.methods, run.seed), caption)
    run.table("patients", outcomes.patients(found, found.methods), "Each held-out patient.")
    means = {
        region: {
            method: measures.mean(found.values(method, region, "dice"), run.seed)
            for method in found.methods
        }
        for region in brats.REGIONS
    }
    run.figure("methods", charts.methods(means, len(found.cases)),
               "The prompted methods get one slice; the U-Net gets none.")  # fmt: skip


def spread(run: Run, found: Outcomes, kind: str) -> None:
    """Show how quality falls with the distance from the prompt, and what the network knows."""
    import numpy as np

    mine = [row for row in found.slices if row["method"] == outcomes.method_of(kind)]
    by_region = {
        region: {
            name: np.array([row[name] for row in mine if row["region"] == region and row["voxels"]])
            for name in ("mm", "dice")
        }
        for region in brats.REGIONS
    }
    by_region = {name: one for name, one in by_region.items() if len(one["mm"])}
    caption = f"Slices that hold the region; {kind} prompt on the middle slice."
    run.figure("distance", charts.along(by_region), caption)
    known = [row for row in mine if row["confidence"] is not None and row["voxels"]]
    if known:
        sure = np.array([row["confidence"] for row in known])
        true = np.array([row["dice"] for row in known])
        run.figure("confidence", charts.confidences(sure, true),
                   "The self-sorting bank admits a slice by this confidence.")  # fmt: skip


def overlay(run: Run, found: Outcomes, kind: str) -> None:
    """Draw the first patients, and the slices of the first one to scroll through."""
    method = outcomes.method_of(kind)
    for number, files in enumerate(cohort.read(run, "held_out")[:SHOWN]):
        case = brats.read(files)
        views = views_of(run, case, kind)
        rows = {row["region"]: row for row in found.regions
                if [row["case"], row["method"]] == [case.name, method]}  # fmt: skip
        told = ", ".join(f"{name} {rows[name]['dice']:.2f}" for name in views)
        run.figure(f"overlay-{number}", overlays.montage(list(views.values()), f"Dice {told}"),
                   f"{case.name}: {kind} prompt on one slice, from the feet up.")  # fmt: skip
        if number == 0:
            run.series("slices", overlays.stack(views), f"{case.name}, slice by slice.")


def views_of(run: Run, case: brats.Case, kind: str) -> dict[str, overlays.View]:
    """Return what there is to draw of a patient, by region."""
    given = propagation.asked(case, kind, seed=run.seed)
    found = {}
    for name, prompt in given.items():
        path = outcomes.mask_path(folder_of(run), case.name, outcomes.method_of(kind), name)
        truth = outcomes.region_of(case, name)
        shown = propagation.drawn(prompt, case, name).T
        found[name] = overlays.View(case, name, truth, brats.read_mask(path), shown, prompt.slice)
    return found


def failures(run: Run, found: Outcomes, kind: str) -> None:
    """Show the worst patients and slices, and say what is wrong with them."""
    mine = [row for row in found.slices if row["method"] == outcomes.method_of(kind)]
    if not mine:
        return
    run.table("causes", causes(mine), "Slices with a Dice below 0.5, by what is special of them.")
    regions = [row for row in found.regions if row["method"] == outcomes.method_of(kind)]
    run.table("worst", worst_patients(regions), "The worst patients and regions first.")
    picked = worst_slices(mine)
    views: dict[str, dict[str, overlays.View]] = {}
    held = {files.name: files for files in cohort.read(run, "held_out")}
    pictures = []
    for row in picked:
        if row["case"] not in views:
            views = {row["case"]: views_of(run, brats.read(held[row["case"]]), kind)}
        pictures.append((views[row["case"]][row["region"]], row["z"], cause(row)))
    share = sum(row["dice"] < 0.5 for row in mine) / len(mine)
    title = f"{share:.0%} of the slices have a Dice below 0.5: these are among the worst"
    run.figure("failures", overlays.gallery(pictures, title),
               "The slices with most wrong pixels, patient by patient.")  # fmt: skip


def cause(row: dict[str, Any]) -> str:
    """Return what is special of a slice that went wrong."""
    if not row["voxels"]:
        return "claimed where there is none"
    if not row["found"]:
        return "missed"
    if row["voxels"] < SMALL:
        return "thin end of the region"
    return "far from the prompt" if row["mm"] > FAR else "wrong outline"


def causes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many bad slices there are of each cause."""
    bad = [row for row in rows if row["dice"] < 0.5]
    names = ("claimed where there is none", "missed", "thin end of the region",
             "far from the prompt", "wrong outline")  # fmt: skip
    return [
        {"what is wrong": name, **{region: sum(1 for row in bad if cause(row) == name
                                               and row["region"] == region)
                                   for region in brats.REGIONS},
         "share of bad slices": f"{sum(cause(row) == name for row in bad) / max(len(bad), 1):.0%}"}
        for name in names
    ]  # fmt: skip


def worst_patients(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the regions with the lowest Dice, and how smooth they are from slice to slice."""
    ranked = sorted(rows, key=lambda row: float(row["dice"]))[:WORST]
    return [
        {
            "patient": row["case"], "region": row["region"], "Dice": round(row["dice"], 3),
            "HD95 (mm)": round(row["hd95"], 1), "region (ml)": round(row["ml"], 1),
            "false slices": round(row["false_slices"], 3),
            "slice consistency (1 is the truth's)": row["consistency"],
        }
        for row in ranked
    ]  # fmt: skip


def worst_slices(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the slices with most wrong voxels, some apart from each other, patient by patient."""

    def wrong(row: dict[str, Any]) -> float:
        return float((row["voxels"] + row["found"]) * (1 - row["dice"]))

    worst: list[dict[str, Any]] = []
    for row in sorted(rows, key=wrong, reverse=True):
        near = [one for one in worst if abs(one["z"] - row["z"]) < APART
                and all(one[name] == row[name] for name in ("case", "region"))]  # fmt: skip
        if not near and len(worst) < WORST:
            worst.append(row)
    return sorted(worst, key=lambda row: (row["case"], row["region"], row["z"]))


def each(run: Run, part: str = "held_out") -> Iterator[brats.Case]:
    """Yield the patients of a part, one in memory at a time."""
    for files in run.progress(cohort.read(run, part), "patients"):
        yield brats.read(files)


def evaluated(run: Run) -> tuple[Outcomes, str]:
    """Return what the last evaluate found, and the kind of prompt of its pictures."""
    found = outcomes.load(folder_of(run))
    return found, found.methods[0].split()[0]


def route(network: Segmenter) -> str:
    """Tell how points and boxes get into the network."""
    if network.native:
        return "Points and boxes go in as they are."
    return ("This small network is told the region's name, and gets a box (filled for the whole "
            "tumour, its ellipse for the core, a ring for the rim) and a point (a disk of the size "
            "of a usual region) as a mask.")  # fmt: skip


def method(run: Run) -> None:
    """Tell what MedSAM-2 is, and what was published about it."""
    for text in paper.SUMMARY:
        run.note(text)
    run.figure("architecture", paper.architecture(), "One slice; the volume is gone through both "
               "ways from the prompted slice.")  # fmt: skip
    run.table("published", paper.published(), "Published figures, of other data and larger models: "
              "not to be compared with those above.")  # fmt: skip
