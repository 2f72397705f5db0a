"""Which patients are trained on and which are held out, and where their files lie.

Data:    phantoms by seed (the sample), one real patient, or a folder of the user's own.
Source:  none.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.data import sha256_of, written
from slipway.errors import InputInvalid

from . import brats

if TYPE_CHECKING:
    from slipway import Run

SPLIT = "split.json"
HELD_SHARE = 0.2
PARTS = ("flair", "t1ce", "t2", "t1", "seg")


def prepared(run: Run, count: int | None) -> dict[str, list[brats.Files]]:
    """Return the patients of each part and write down where they are.

    ``count`` is how many phantoms there shall be instead of the sample's number.
    """
    source = run.data(PARTS[0])
    folder = run.out / "data"
    if run.tier == "sample":
        found = {"train": [], "held_out": phantoms(source, folder, count)}
    elif run.tier == "own":
        found = divided(brats.patients(source), run.seed)
    else:
        found = {"train": [], "held_out": [the_real_one(run, folder)]}
    if run.limit:
        found = {part: patients[: run.limit] for part, patients in found.items()}
    with written(folder / SPLIT) as path:
        told = {part: [_told(files, folder) for files in some] for part, some in found.items()}
        path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    return found


def phantoms(described: Path, folder: Path, count: int | None) -> list[brats.Files]:
    """Make the held-out phantoms and return their files, as BraTS names them."""
    from . import phantom

    told = tomllib.loads(described.read_text("utf-8"))
    seeds = range(told["first"], told["first"] + (count or told["count"]))
    shutil.rmtree(folder / "held_out", ignore_errors=True)
    phantom.write(folder / "held_out", seeds)
    return brats.patients(folder / "held_out")


def the_real_one(run: Run, folder: Path) -> brats.Files:
    """Copy the files of the real patient beside each other."""
    paths = {name: run.data(name) for name in PARTS}
    place = folder / "held_out" / paths["seg"].parent.name
    place.mkdir(parents=True, exist_ok=True)
    for path in paths.values():
        shutil.copyfile(path, place / path.name)
    return brats.of_folder(place)


def divided(patients: Sequence[brats.Files], seed: int) -> dict[str, list[brats.Files]]:
    """Hold out a fifth of the patients at random; of fewer than five all, to be evaluated only."""
    import numpy as np

    labelled = [files for files in patients if files.segmentation is not None]
    if not labelled:
        raise InputInvalid(
            f"{len(patients)} patients, the first is {patients[0].name}: found no labels; wanted "
            "files like NAME_seg.nii.gz (the verb segment needs none)"
        )
    held = max(1, round(HELD_SHARE * len(labelled))) if len(labelled) >= 5 else len(labelled)
    order = np.random.default_rng(seed).permutation(len(labelled))
    parts = {"held_out": order[:held], "train": order[held:]}
    return {name: [labelled[at] for at in sorted(some)] for name, some in parts.items()}


def read(run: Run, part: str) -> list[brats.Files]:
    """Return the patients of a part, as `prepared` wrote them down."""
    told = json.loads(run.prepared(SPLIT).read_text("utf-8"))
    return [_files(entry, run.out / "data") for entry in told[part]]


def _told(files: brats.Files, folder: Path) -> dict[str, Any]:
    """Return files as JSON: paths below the artifacts as such, and what is in each."""
    contents = {**files.volumes, "seg": files.segmentation, "stack": files.stack}
    paths = {name: path for name, path in contents.items() if isinstance(path, Path)}
    return {
        "name": files.name,
        "files": {name: str(_below(path, folder)) for name, path in paths.items()},
        "sha256": {name: sha256_of(path) for name, path in paths.items()},
        "order": list(files.order),
        "labels": {str(found): label for found, label in files.labels.items()},
    }


def _below(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path.resolve()


def _files(told: Mapping[str, Any], folder: Path) -> brats.Files:
    paths = {name: folder / path for name, path in told["files"].items()}
    labels = {int(found): label for found, label in told["labels"].items()}
    segmentation, stack = paths.pop("seg", None), paths.pop("stack", None)
    return brats.Files(told["name"], paths, segmentation, stack, told["order"], labels)
