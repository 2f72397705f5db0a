"""The tables of a run: presets or the user's CSV, split into train and held-out rows on disk.

Data:    ``data/<table>/train.csv`` and ``test.csv`` of raw cells, ``table.json`` with the plan.
Source:  presets.toml, sample/tables.toml.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import DataUnavailable, InputInvalid
from slipway.run import Run

from . import columns, reading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

HELD_OUT = 0.2
HERE = Path(__file__).parent
PRESETS, SAMPLES = (
    tomllib.loads((HERE / name).read_text("utf-8"))
    for name in ("presets.toml", "sample/tables.toml")
)
DEFAULT = {"real": PRESETS.pop("default")["tables"], "sample": SAMPLES.pop("default")["tables"]}
PRESETS |= SAMPLES


@dataclass
class Table:
    """One table of a run; ``train`` and ``test`` are raw cells with the target in ``target``."""

    name: str
    task: str
    target: str
    plan: columns.Plan
    crosses: list[list[str]]
    train: pd.DataFrame = field(repr=False)
    test: pd.DataFrame = field(repr=False)

    @cached_property
    def key(self) -> str:
        """The name in figures of metrics.json."""
        return self.name.replace("-", "_")

    @cached_property
    def classes(self) -> list[str]:
        """The classes, sorted; none of a regression."""
        return [] if self.task == "regression" else sorted(set(self.train[self.target]))

    @cached_property
    def expanded(self) -> dict[str, pd.DataFrame]:
        """The features of ``train`` and ``test``, see `columns.expanded`."""
        parts = {"train": self.train, "test": self.test}
        return {
            part: columns.expanded(cells, self.plan, self.crosses) for part, cells in parts.items()
        }

    @cached_property
    def kinds(self) -> tuple[list[str], list[str]]:
        """The names of the features that are floats and of those that are categories."""
        rows = self.expanded["train"]
        floats = [str(name) for name in rows.select_dtypes("number")]
        return floats, [str(name) for name in rows if name not in floats]

    @cached_property
    def skewed(self) -> list[str]:
        """The floats that are never negative and have a long tail."""
        rows = self.expanded["train"]
        return [name for name in self.kinds[0] if rows[name].min() >= 0 and rows[name].skew() > 1]

    def rows(self, part: str) -> pd.DataFrame:
        """Return the features of ``train`` or ``test``."""
        return self.expanded[part]

    def targets(self, part: str) -> np.ndarray:
        """Return the targets: float64 (n,), or classes as text."""
        cells = getattr(self, part)[self.target]
        return cells.to_numpy(float if self.task == "regression" else object)


def names(run: Run, presets: Sequence[str], own: Path | None) -> list[str]:
    """Return the tables of a run; one that is not the job's whole default is a part of it."""
    if own:
        return [own.name.split(".")[0] or "table"]
    if presets:
        run.part = f"preset {', '.join(presets)}"
        return list(presets)
    run.data("red_wine")  # which tier there is
    return DEFAULT["sample" if run.sources.pop("red_wine").tier == "sample" else "real"]


def sheet_of(run: Run, name: str, own: Path | None) -> tuple[reading.Sheet, dict[str, Any]]:
    """Return the cells of a table, and what its preset says of it."""
    if own:
        return reading.read(run.note_source("csv", own, "own")), {}
    preset = PRESETS[name]
    if "library" in preset:
        return built_in(run, preset), preset
    path = run.data(preset["data"])
    if run.tier == "sample":
        told = f"preset {name} has no sample; those that have are {', '.join(SAMPLES)}"
        raise DataUnavailable(told)
    return graded(reading.read(path), preset), preset


def built_in(run: Run, preset: dict[str, Any]) -> reading.Sheet:
    """Return a table that scikit-learn brings, as if it had been read from a CSV file."""
    from sklearn import datasets

    name, target = preset["library"], preset["target"]
    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **raw)
    path = Path(datasets.__file__).parent / "data" / preset["file"]
    run.note_source(name, path, "sample")
    frame = bunch.data.assign(**{target: bunch.target})
    if "target_names" in bunch:
        frame[target] = [str(bunch.target_names[number]) for number in bunch.target]
    rows = [[str(cell) for cell in row] for row in frame.itertuples(index=False)]
    lines = list(range(2, len(rows) + 2))
    return reading.Sheet(path, list(frame.columns), rows, lines, ",", "from scikit-learn")


def graded(sheet: reading.Sheet, preset: dict[str, Any]) -> reading.Sheet:
    """Return a sheet whose target is cut into grades, where the preset has them."""
    place = sheet.names.index(preset["target"])
    for row in sheet.rows if "grades" in preset else ():
        grades = preset["grades"].items()
        row[place] = next(grade for grade, (low, high) in grades if low <= int(row[place]) <= high)
    return sheet


def make(
    run: Run, name: str, sheet: reading.Sheet, preset: dict[str, Any], asked: dict[str, Any]
) -> Table:
    """Find out what a table is, split it, write it down and tell of it in the report."""
    target = asked["target"] or preset.get("target", "")
    if not target:
        told = ", ".join(sheet.names[:30])
        raise InputInvalid(f"{sheet.path}: --target NAME says which column to predict, of {told}")
    task, why, targets, places = columns.target_of(sheet, target, asked["task"])
    drop = [*preset.get("drop", ()), *asked["drop"]]
    categories = [*preset.get("categories", ()), *asked["category"]]
    plan = columns.found(sheet, target, drop, categories)
    if run.limit and run.limit < len(places):  # evenly spaced: a file may be sorted by class
        chosen = [len(places) * number // run.limit for number in range(run.limit)]
        places, targets = [places[n] for n in chosen], [targets[n] for n in chosen]
    parts = split(targets, task, run.seed)
    kept = [column["name"] for column in columns.kept(plan)]
    cells = {part: [[*(sheet.rows[places[n]][sheet.names.index(c)] for c in kept), targets[n]]
                    for n in numbers] for part, numbers in parts.items()}  # fmt: skip
    write(run.out / "data" / name, kept, cells, {
        "task": task, "target": target, "plan": columns.kept(plan),
        "crosses": preset.get("crosses", []),
    })  # fmt: skip
    run.note(
        f"{name}: {sheet.told}. {task.capitalize()} of {target!r}, because {why}. "
        f"{len(sheet.rows) - len(places)} rows without a usable target are left out; "
        f"{len(parts['train'])} rows to train on, {len(parts['test'])} held out."
    )
    run.table(f"profile-{name}", columns.profile(plan), f"{name}: what each column is")
    run.log(**{f"{name.replace('-', '_')}_{part}": len(n) for part, n in parts.items()})
    return load(run, name)


def split(targets: Sequence[Any], task: str, seed: int) -> dict[str, list[int]]:
    """Return the row numbers of train and held-out rows; classes in equal shares."""
    from sklearn.model_selection import train_test_split

    every = list(range(len(targets)))
    like = targets if task == "classification" else None
    size = max(HELD_OUT, len(set(targets)) / len(targets)) if like else HELD_OUT
    train, test = train_test_split(every, test_size=size, random_state=seed, stratify=like)
    return {"train": sorted(train), "test": sorted(test)}


def write(
    folder: Path, header: Sequence[str], parts: dict[str, list[list[Any]]], told: dict[str, Any]
) -> None:
    """Write the parts of a table and what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        with (folder / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([[*header, told["target"]], *rows])
    (folder / "table.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def load(run: Run, name: str) -> Table:
    """Read what `write` wrote."""
    import pandas as pd

    told = json.loads(run.prepared(f"{name}/table.json").read_text("utf-8"))
    parts = {
        part: pd.read_csv(run.prepared(f"{name}/{part}.csv"), dtype=str, keep_default_na=False)
        for part in ("train", "test")
    }
    return Table(name, **told, **parts)


def all_of(run: Run) -> list[Table]:
    """Return the tables that `prepare` wrote, the one whose model is served first."""
    order = json.loads(run.prepared("tables.json").read_text("utf-8"))
    return [load(run, name) for name in order]


def suspects(table: Table) -> list[str]:
    """Return warnings about columns that give the target away, seen on the training rows."""
    import numpy as np

    rows, target = table.rows("train"), table.targets("train")
    found = []
    for name in rows:
        strength = foretold(rows[name], target, table.task)
        if strength >= 0.99:
            found.append(
                f"{name} alone foretells {table.target} ({strength:.3f} of 1): was it known before?"
            )
    numbers = rows.select_dtypes("number").dropna(axis=1)
    if table.task == "regression" and not found and 1 < numbers.shape[1] < len(rows) / 2:
        across = np.column_stack([np.ones(len(rows)), numbers])
        weights, *_ = np.linalg.lstsq(across, target, rcond=None)
        missed = np.var(target - across @ weights) / np.var(target)
        size = np.abs(weights[1:]) * numbers.std().to_numpy()
        if missed < 1e-4:
            giving = [
                name for name, part in zip(numbers, size, strict=True) if part > size.max() / 20
            ]
            found.append(
                f"{' + '.join(giving)} together give {table.target}: was that known before?"
            )
    return found


def foretold(values: pd.Series, target: np.ndarray, task: str) -> float:
    """Return how well one feature alone foretells the target, 1 for exactly.

    Of numbers the squared rank correlation; of categories or classes the share of the variance, or
    of the errors of a constant guess, that group means or group majorities take away.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import rankdata

    if task == "regression" and pd.api.types.is_numeric_dtype(values):
        there = values.notna().to_numpy()
        if there.sum() < 3 or values[there].nunique() < 2:
            return 0.0
        pair = rankdata(values[there]), rankdata(target[there])
        return float(np.corrcoef(*pair)[0, 1] ** 2)
    groups = values
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 20:
        groups = pd.qcut(values, 20, duplicates="drop").astype(str)
    known = pd.Series(target)
    grouped = known.groupby(groups.astype(str).to_numpy())
    if grouped.ngroups > len(known) / 10:
        return 0.0
    if task == "regression":
        within = ((known - grouped.transform("mean")) ** 2).sum()
        return float(1 - within / ((known - known.mean()) ** 2).sum())
    wrong = len(known) - grouped.agg(lambda part: part.value_counts().iloc[0]).sum()
    return float(1 - wrong / (len(known) - known.value_counts().iloc[0]))
