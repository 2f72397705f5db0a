"""The figures of the report; each title says what is to be seen, from the figures drawn.

Data:    pictures, rows of the named statements, what was measured.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

INK, FLAME, STONE, SKY = "#1d3557", "#d95f02", "#8d99ae", "#3a86c8"
STYLES = ((INK, "o", "-"), (FLAME, "s", "--"), (SKY, "^", "-."), (STONE, "D", ":"))


def canvas(title: str, across: str, up: str, width: float = 9.0, height: float = 5.2) -> Any:
    """Return a figure and its axes, named."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(width, height), layout="constrained")
    plot = page.subplots()
    plot.set_title(title, loc="left", fontsize=16)
    plot.set_xlabel(across, fontsize=14)
    plot.set_ylabel(up, fontsize=14)
    plot.tick_params(labelsize=12)
    plot.spines[["top", "right"]].set_visible(False)
    return page, plot


def gallery(
    title: str, pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int = 10
) -> Figure:
    """Draw pictures beside each other, each under what it is called."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    page = Figure(figsize=(max(6.5, 1.15 * columns), 0.5 + 1.45 * rows), layout="constrained")
    page.suptitle(title, fontsize=16, x=0.01, ha="left")
    plots = page.subplots(rows, columns, squeeze=False).ravel()
    for plot in plots:
        plot.axis("off")
    for plot, picture, caption in zip(plots, pictures, captions, strict=False):
        grey = picture.ndim == 2
        plot.imshow(picture, cmap="gray" if grey else None, vmin=0, vmax=255)
        plot.set_title(caption.replace(", ", ",\n"), fontsize=11)
    return page


def curve(epochs: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss and accuracy after each epoch."""
    last = epochs[-1]["validation_accuracy"]
    page, plot = canvas(
        f"{last:.1%} of the validation pictures are right after the last pass",
        "passes over the training pictures", "validation accuracy",
    )  # fmt: skip
    number = range(1, len(epochs) + 1)
    plot.plot(number, [row["validation_accuracy"] for row in epochs], "o-", color=INK, lw=2)
    plot.set_xticks(list(number))
    other = plot.twinx()
    other.plot(number, [row["training_loss"] for row in epochs], "s--", color=FLAME, lw=2)
    other.set_ylabel("training loss (nats), dashed", fontsize=14, color=FLAME)
    other.tick_params(labelsize=12)
    other.spines["top"].set_visible(False)
    return page


def calibration(sure: np.ndarray, right: np.ndarray, bins: int = 8) -> Figure:
    """Draw how often the model is right where it is so sure."""
    import numpy as np

    parts = [part for part in np.array_split(np.argsort(sure), bins) if len(part)]
    told = [float(sure[part].mean()) for part in parts]
    true = [float(right[part].mean()) for part in parts]
    gap = float(np.average(np.abs(np.subtract(told, true)), weights=list(map(len, parts))))
    page, plot = canvas(
        f"How sure the model is lies {gap * 100:.1f} percentage points off",
        "confidence, mean of a bin", "share of right labels", 7, 5.6,
    )  # fmt: skip
    low = min(*told, *true) - 0.02
    plot.plot([low, 1], [low, 1], ls=":", color=STONE, lw=2)
    plot.annotate("as sure as right", (low + (1 - low) * 0.55, low + (1 - low) * 0.5),
                  fontsize=12, color=STONE)  # fmt: skip
    plot.plot(told, true, "o-", color=INK, lw=2)
    return page


def counts(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how often each label was predicted."""
    first, last = rows[0], rows[-1]
    ratio = first["predictions"] / max(1, last["predictions"])
    page, plot = canvas(
        f"{first['label']} is predicted {ratio:.2f} times as often as {last['label']}",
        "predictions", "label", 9, 1.5 + 0.4 * len(rows),
    )  # fmt: skip
    shown = list(reversed(rows))
    drawn = plot.barh([row["label"] for row in shown], [int(row["predictions"]) for row in shown],
                      color=INK)  # fmt: skip
    plot.bar_label(drawn, [f"{row['share']:.1%}" for row in shown], padding=4, fontsize=12)
    plot.margins(x=0.1)
    return page


def by_version(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Return rows of each model version."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model_version"], []).append(row)
    return found


def drift(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the mean confidence of each day beside that of the first seven days."""
    farthest = max(rows, key=lambda row: abs(row["standard_errors"] or 0))
    page, plot = canvas(
        f"Farthest from its first week: {farthest['day']}, by "
        f"{abs(farthest['standard_errors'] or 0):.0f} standard errors",
        "day", "mean confidence",
    )  # fmt: skip
    for (version, days), (colour, mark, line) in zip(
        by_version(rows).items(), STYLES, strict=False
    ):
        plot.plot([row["day"] for row in days], [row["confidence"] for row in days], line,
                  marker=mark, ms=4, color=colour, label=f"model version {version}")  # fmt: skip
        plot.axhline(days[0]["baseline"], color=colour, ls=":", lw=1)
    page.legend(fontsize=12, frameon=False, title="dotted: the mean of its first seven days",
                loc="outside lower center", ncols=3)  # fmt: skip
    page.autofmt_xdate()
    return page


def days(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the accuracy of each day and the mean of seven."""
    worst = min(rows, key=lambda row: row["accuracy_of_seven"])
    page, plot = canvas(
        f"The worst week ends on {worst['day']} with {worst['accuracy_of_seven']:.1%}",
        "day", "share of right labels",
    )  # fmt: skip
    for (version, found), (colour, mark, line) in zip(
        by_version(rows).items(), STYLES, strict=False
    ):
        at = [row["day"] for row in found]
        plot.plot(at, [row["accuracy"] for row in found], mark, ms=4, color=colour, alpha=0.45)
        plot.plot(at, [row["accuracy_of_seven"] for row in found], line, lw=2, color=colour,
                  label=f"model version {version}, seven days")  # fmt: skip
    page.legend(fontsize=12, frameon=False, loc="outside lower center", ncols=3)
    page.autofmt_xdate()
    return page


def rates(rows: Sequence[Mapping[str, Any]], title: str, unit: str) -> Figure:
    """Draw what was measured as bars, the fastest above."""
    page, plot = canvas(title, unit, "", 9, 1.6 + 0.55 * len(rows))
    shown = sorted(rows, key=lambda row: row["rate"])
    colours = [FLAME if row["way"].startswith("this job") else STONE for row in shown]
    drawn = plot.barh([row["way"] for row in shown], [row["rate"] for row in shown], color=colours)
    plot.bar_label(drawn, [f"{row['rate']:,.0f}" for row in shown], padding=4, fontsize=12)
    plot.margins(x=0.15)
    plot.xaxis.set_major_formatter("{x:,.0f}")
    return page


def times(rows: Sequence[Mapping[str, Any]], predictions: int, bar: float) -> Figure:
    """Draw half and 95 of 100 answers of each question, in milliseconds."""
    slowest = max(rows, key=lambda row: row["p95 ms"])
    page, plot = canvas(
        f"Of {predictions:,} predictions the slowest question, {slowest['question']}, takes "
        f"{slowest['p95 ms']:.1f} ms",
        "milliseconds; a bar ends at the 95th of 100 answers, a tick is the median",
        "question", 11, 1.8 + 0.5 * len(rows),
    )  # fmt: skip
    names = [row["question"] for row in rows]
    plot.barh(names, [row["p95 ms"] for row in rows], color=INK)
    plot.plot([row["p50 ms"] for row in rows], names, "|", color=FLAME, ms=22, mew=3)
    plot.axvline(bar, color=STONE, ls="--")
    plot.set_ylim(-0.6, len(rows) - 0.1)
    place = (bar, len(rows) - 0.35)
    plot.annotate(f"wanted: {bar:g} ms at most ", place, fontsize=12, ha="right", va="center")
    return page
