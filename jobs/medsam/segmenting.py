"""Folders of patients in, a NIfTI mask for each out, one after the other.

A patient is finished when its record lies beside its masks; the same command passes it over, so a
run that was killed goes on at the next one. A patient that cannot be read does not stop the others.

Data:    patients of `brats`; prompts of a command line, a table, or made of labels.
Source:  none.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slipway.data import sha256_of, written
from slipway.errors import InputInvalid, Stopped
from slipway.logs import say
from slipway.scoring.shards import Shard

from . import asking, brats, propagation

if TYPE_CHECKING:
    from slipway import Run

    from .predictor import Segmenter

COLUMNS = ("case", "region", "prompt")


@dataclass(frozen=True)
class Wishes:
    """What each patient is prompted with: by name and region, one text for all, or its labels."""

    table: Mapping[str, Mapping[str, str]]
    text: str | None = None
    region: str = "WT"
    kind: str | None = None

    def of(self, name: str) -> dict[str, str]:
        """Return the texts for one patient by region; empty where its labels are to be used."""
        if name in self.table:
            return dict(self.table[name])
        if self.text:
            return {self.region: self.text}
        if self.kind:
            return {}
        raise InputInvalid(f"case {name}: found no prompt; wanted --prompt, --prompts or --kind")


def read_table(path: Path | None) -> dict[str, dict[str, str]]:
    """Return prompts by patient and region from a CSV file with the columns of `COLUMNS`."""
    found: dict[str, dict[str, str]] = {}
    if path is None:
        return found
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if set(COLUMNS) - set(rows.fieldnames or ()):
            raise InputInvalid(
                f"{path}, line 1: found {rows.fieldnames}; wanted {', '.join(COLUMNS)}"
            )
        for number, row in enumerate(rows, start=2):
            if row["region"] not in brats.REGIONS:
                raise InputInvalid(f"{path}, line {number}: found region {row['region']!r}; wanted "
                                   f"{', '.join(brats.REGIONS)}")  # fmt: skip
            found.setdefault(row["case"], {})[row["region"]] = row["prompt"]
    return found


def patients(source: Path) -> list[brats.Files]:
    """Return the patients that a folder or one file holds."""
    if source.is_dir():
        return brats.patients(source)
    return [brats.Files(source.name.partition(".nii")[0], stack=source)]


def mine(files: Sequence[brats.Files], shard: Shard) -> list[brats.Files]:
    """Return every count-th patient, from the shard's index on."""
    return [*files[shard.index :: shard.count]]


def segment_all(
    run: Run, network: Segmenter, identity: str, files: Sequence[brats.Files], wishes: Wishes,
    settings: propagation.Settings, target: Path,
) -> None:  # fmt: skip
    """Write the masks of each patient; InputInvalid at the end where not one could be read."""
    errors, done = [], 0
    for entry in run.progress(files, "patients"):
        if run.stopping:
            raise Stopped(f"segment stopped by SIGTERM; {done} patients are done and kept")
        try:
            segment_one(network, identity, entry, wishes, settings, target)
            done += 1
        except InputInvalid as error:
            say(f"error: {error}", "ERROR")
            errors.append({"case": entry.name, "error": str(error)})
    if errors:
        lines = "".join(json.dumps(error) + "\n" for error in errors)
        with written(target / f"errors-{files[0].name}.jsonl") as path:
            path.write_text(lines, "utf-8")
    if errors and not done:
        raise InputInvalid(f"not one of {len(errors)} patients was segmented; {errors[0]['error']}")


def segment_one(
    network: Segmenter, identity: str, files: brats.Files, wishes: Wishes,
    settings: propagation.Settings, target: Path,
) -> None:  # fmt: skip
    """Write masks and record of one patient, unless they are there."""
    texts = wishes.of(files.name)
    mark = fingerprint(files, texts, wishes.kind, settings, identity)
    record = target / files.name / "record.json"
    if record.is_file() and json.loads(record.read_text("utf-8")).get("fingerprint") == mark:
        say(f"segment: {files.name} is finished; skipped")
        return
    case = read(files, settings)
    settings = replace(settings, modalities=used(case, settings))
    told: dict[str, Any] = {"case": case.name, "network": network.name, "fingerprint": mark}
    told |= {"settings": asdict(settings), "regions": {}}
    for given, plane in prompted(case, texts, wishes.kind):
        answer = propagation.answered(network, case, given, replace(settings, plane=plane))
        for region in given:
            path = target / files.name / f"{files.name}_{region}.nii.gz"
            brats.write(answer.masks[region], case, path)
            told["regions"][region] = {
                "prompt": texts.get(region, f"{wishes.kind} of the labels"),
                "slice": given[region].slice, "plane": plane,
                "voxels": int(answer.masks[region].sum()),
                "confidence": [None if sure != sure else round(float(sure), 4)
                               for sure in answer.confidence[region]],
            }  # fmt: skip
            click.echo(path)
    with written(record) as part:
        part.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def read(files: brats.Files, settings: propagation.Settings) -> brats.Case:
    """Return a patient with the volumes that the channels need; of one file what is in it."""
    if files.stack is not None and files.segmentation is None:
        return replace(brats.read_one(files.stack, files.name), name=files.name)
    return brats.read(files, sorted(set(settings.modalities)))


def used(case: brats.Case, settings: propagation.Settings) -> tuple[str, ...]:
    """Return what fills the channels: what was asked for, or all that a single file has."""
    held = set(settings.modalities) <= set(case.volumes)
    return settings.modalities if held else brats.three_of(case)


def prompted(
    case: brats.Case, texts: Mapping[str, str], kind: str | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield prompts by region with the plane that they lie on."""
    if not texts and kind:
        yield propagation.asked(case, kind), "axial"
    for region, text in texts.items():
        asked = asking.parse(text, case)
        yield {region: asked.prompt}, asked.plane


def fingerprint(
    files: brats.Files, texts: Mapping[str, str], kind: str | None,
    settings: propagation.Settings, identity: str,
) -> str:  # fmt: skip
    """Return what an answer depends on: files, prompts, settings and weights."""
    contents = {**files.volumes, "seg": files.segmentation, "stack": files.stack}
    sums = {name: sha256_of(path) for name, path in contents.items() if isinstance(path, Path)}
    told = [sums, dict(texts), kind, asdict(settings), identity]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
