"""What a listening test says: means with intervals, whether raters agree, what differs.

Raters and sentences are both samples, so an interval is of both drawn again. Raters who did not
tell the anchor from the real recording, or rate a clip otherwise when it comes again, are left out
by rules that are the same for all systems and are printed. Tests compare each rater's own means, so
that a strict rater and a mild one count alike.

Data:    CSV files that `listening`'s page saves, and the key of its names.
Source:  Shrout and Fleiss, Psychological Bulletin 1979 (ICC); Friedman, JASA 1937; Wilcoxon 1945;
         Holm, Scand. J. Statistics 1979; Owen, Annals of Applied Statistics 2007 (two ways of
         drawing again).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slipway.errors import DataUnavailable, InputInvalid

from .listening import ANCHOR, REFERENCE

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

COLUMNS = (
    "test",
    "rater",
    "position",
    "phase",
    "stimulus",
    "rating",
    "plays",
    "seconds",
    "device",
    "headphones",
)
PHASES = ("practice", "rated", "repeat")
APART, DRIFT = 1.0, 1.0
"""How much better than the anchor a rater must find the reference; how far repeats may differ."""
HEADPHONES = 5
"""Tones of six to be heard right (Woods et al. 2017)."""
DRAWS = 4000


class Rater(NamedTuple):
    """One person's ratings: by stimulus ``(system, item)``, and of clips that came again."""

    name: str
    first: dict[tuple[str, str], int]
    again: dict[tuple[str, str], int]
    trials: int
    device: str
    headphones: int


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def key_in(path: Path) -> dict[str, Any]:
    """Read the key that `listening.key_of` made. Raises InputInvalid where it is none."""
    if not path.is_file():
        raise DataUnavailable(
            f"{path}: no such file; wanted the key that mos wrote beside its page"
        )
    try:
        found = json.loads(path.read_text("utf-8"))
        stimuli = {
            token: (entry["system"], entry["item"]) for token, entry in found["stimuli"].items()
        }
        return {
            "test": str(found["test"]),
            "ask": str(found["ask"]),
            "stimuli": stimuli,
            "trials": int(found["trials"]),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputInvalid(f"{path}: found no key of a test ({error!r})") from None


def read(content: bytes, name: str, key: Mapping[str, Any]) -> list[Rater]:
    """Read the raters of one CSV file; InputInvalid names file, line, found and wanted."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputInvalid(f"{name}: found no CSV in UTF-8 ({error})") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        found = ",".join(rows[0])[:80] if rows else "nothing"
        raise InputInvalid(f"{name}, line 1: found {found}; wanted {','.join(COLUMNS)}")
    raters: dict[str, Rater] = {}
    for line, row in enumerate(rows[1:], start=2):
        if row:
            _add(raters, row, f"{name}, line {line}", key)
    return list(raters.values())


def _add(raters: dict[str, Rater], row: list[str], place: str, key: Mapping[str, Any]) -> None:
    """Add one line of a file to the rater it is of."""
    if len(row) != len(COLUMNS):
        raise InputInvalid(f"{place}: found {len(row)} cells; wanted {len(COLUMNS)}")
    cells = dict(zip(COLUMNS, row, strict=True))
    rating = _number(cells, "rating", 1, 5, place)
    headphones = _number(cells, "headphones", 0, 6, place)
    for column, wanted in (
        ("phase", PHASES),
        ("test", [key["test"]]),
        ("stimulus", key["stimuli"]),
    ):
        if cells[column] not in wanted:
            told = ", ".join(list(wanted)[:3]) + (" …" if len(wanted) > 3 else "")
            raise InputInvalid(f"{place}, {column}: found {cells[column]!r}; wanted {told}")
    rater = raters.setdefault(
        cells["rater"], Rater(cells["rater"], {}, {}, key["trials"], cells["device"], headphones)
    )
    if cells["phase"] != "practice":
        into = rater.first if cells["phase"] == "rated" else rater.again
        stimulus = key["stimuli"][cells["stimulus"]]
        if stimulus in into:
            raise InputInvalid(f"{place}, stimulus: found {cells['stimulus']} a second time")
        into[stimulus] = rating


def _number(cells: Mapping[str, str], column: str, low: int, high: int, place: str) -> int:
    text = cells[column]
    if not (text.isascii() and text.isdigit() and low <= int(text[:9]) <= high):
        raise InputInvalid(f"{place}, {column}: found {text!r}; wanted {low} to {high}")
    return int(text)


def read_all(files: Sequence[Path], key: Mapping[str, Any]) -> list[Rater]:
    """Read the raters of several files; each rater is in one of them only."""
    found: dict[str, Path] = {}
    raters = []
    for path in files:
        for rater in read(path.read_bytes(), str(path), key):
            if rater.name in found:
                raise InputInvalid(
                    f"{path}: found rater {rater.name}, who is in {found[rater.name]}"
                )
            found[rater.name] = path
            raters.append(rater)
    return raters


def objection(rater: Rater, key: Mapping[str, Any], headphones: bool = False) -> str:
    """Return why a rater is left out, or nothing."""
    import numpy as np

    left = set(key["stimuli"].values()) - set(rater.first)
    if left:
        return f"stopped early: {len(left)} clips are not rated"
    if headphones and rater.headphones < HEADPHONES:
        return f"heard {rater.headphones} of 6 tones right; wanted {HEADPHONES}"
    means = {
        name: np.mean([value for (system, _), value in rater.first.items() if system == name])
        for name in (REFERENCE, ANCHOR)
    }
    if means[REFERENCE] - means[ANCHOR] < APART:
        return (
            f"rated the anchor {means[ANCHOR]:.1f} and the real recording "
            f"{means[REFERENCE]:.1f}; wanted {APART:g} or more between them"
        )
    drift = [abs(value - rater.first[stimulus]) for stimulus, value in rater.again.items()]
    if drift and np.mean(drift) > DRIFT:
        return f"rated the same clips {np.mean(drift):.1f} apart; wanted {DRIFT:g} or less"
    return ""


def table_of(raters: Sequence[Rater]) -> tuple[np.ndarray, list[str]]:
    """Return ratings (raters, systems, items) and the systems' names, the reference first."""
    import numpy as np

    stimuli = raters[0].first
    systems = sorted(
        {system for system, _ in stimuli},
        key=lambda name: (name != REFERENCE, name == ANCHOR, name),
    )
    items = sorted({item for _, item in stimuli})
    ratings = [
        [[rater.first[system, item] for item in items] for system in systems] for rater in raters
    ]
    return np.array(ratings, float), systems


def intervals(ratings: np.ndarray, seed: int, draws: int = DRAWS) -> list[Interval]:
    """Return each system's mean, and its interval with raters and items both drawn again."""
    import numpy as np

    chance = np.random.default_rng(seed)
    raters, _, items = ratings.shape
    of_raters = chance.multinomial(raters, np.full(raters, 1 / raters), draws) / raters
    of_items = chance.multinomial(items, np.full(items, 1 / items), draws) / items
    means = np.einsum("dr,rsi,di->ds", of_raters, ratings, of_items, optimize=True)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return [
        Interval(*map(float, entry))
        for entry in zip(ratings.mean(axis=(0, 2)), low, high, strict=True)
    ]


def agreement(scores: np.ndarray) -> tuple[float, float]:
    """Return ICC(2,1) and ICC(2,k) of scores (targets, raters): of one rater, of their mean.

    Two-way random effects, absolute agreement (Shrout and Fleiss, cases 2,1 and 2,k).
    """
    import numpy as np

    targets, raters = scores.shape
    rows, columns, grand = scores.mean(axis=1), scores.mean(axis=0), scores.mean()
    between = raters * np.square(rows - grand).sum() / (targets - 1)
    judges = targets * np.square(columns - grand).sum() / (raters - 1)
    rest = scores - rows[:, None] - columns + grand
    error = np.square(rest).sum() / ((targets - 1) * (raters - 1))
    if between == error == 0:
        return float("nan"), float("nan")
    one = (between - error) / (between + (raters - 1) * error + raters * (judges - error) / targets)
    mean = (between - error) / (between + (judges - error) / targets)
    return float(one), float(mean)


def friedman(means: np.ndarray) -> float:
    """Return the p-value that raters (rows) rank systems (columns) by chance alone."""
    from scipy.stats import friedmanchisquare

    if means.shape[1] < 3 or (means == means[:, :1]).all():
        return float("nan")
    return float(friedmanchisquare(*means.T).pvalue)


def pairs(means: np.ndarray, systems: Sequence[str]) -> list[dict[str, Any]]:
    """Compare systems two by two over raters (rows of ``means``): Wilcoxon, corrected by Holm."""
    import numpy as np
    from scipy.stats import wilcoxon

    found = []
    for one, other in combinations(range(len(systems)), 2):
        apart = means[:, one] - means[:, other]
        value = float(wilcoxon(apart).pvalue) if np.any(apart) else 1.0
        found.append(
            {
                "pair": f"{systems[one]} - {systems[other]}",
                "difference": float(apart.mean()),
                "p": value,
            }
        )
    for entry, value in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p (Holm)"] = value
    return found


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    found, least = [0.0] * len(values), 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, values[at] * (len(values) - rank)))
        found[at] = least
    return found


def chart(
    ratings: np.ndarray, systems: Sequence[str], found: Sequence[Interval], ask: str
) -> Figure:
    """Draw each system's mean with its interval, and behind it the mean of each rater."""
    from matplotlib.figure import Figure

    order = sorted(range(len(systems)), key=lambda at: found[at].mean)
    tested = [at for at in order if systems[at] not in (REFERENCE, ANCHOR)]
    best, real = tested[-1], systems.index(REFERENCE)
    gap = found[real].mean - found[best].mean
    figure = Figure(figsize=(10, 1.9 + 0.8 * len(systems)), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(
        f"{systems[best]} is rated {found[best].mean:.1f}, {abs(gap):.1f} "
        f"{'below' if gap >= 0 else 'above'} the real recordings ({len(ratings)} raters)",
        fontsize=16,
        x=0.01,
        ha="left",
    )
    for place, at in enumerate(order):
        control = systems[at] in (REFERENCE, ANCHOR)
        own = ratings[:, at].mean(axis=1)
        axes.plot(own, [place + 0.2] * len(own), "|", color="#868e96", ms=14, mew=2)
        mean, low, high = found[at]
        axes.errorbar(
            mean,
            place,
            xerr=[[mean - low], [high - mean]],
            fmt="D" if control else "o",
            color="#495057" if control else "#1864ab",
            ms=10,
            lw=3,
            capsize=5,
        )
        axes.annotate(
            f"{mean:.2f}",
            (mean, place),
            (0, -20),
            textcoords="offset points",
            fontsize=13,
            ha="center",
        )
    axes.set_yticks(range(len(systems)), [systems[at] for at in order], fontsize=14)
    axes.set(xlim=(0.8, 5.2), ylim=(-0.7, len(systems) - 0.4), xticks=range(1, 6))
    axes.tick_params(axis="x", labelsize=13)
    axes.set_xlabel(
        f"mean opinion of {ask}, 1 bad to 5 excellent; bar: 95 % interval, strokes: single raters",
        fontsize=13,
    )
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
