"""The charts of the report; each title is made of what the chart shows.

Data:    what `studies` and `models` found.
Source:  colours: Okabe and Ito, Color Universal Design, 2008.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INKS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C8C8C")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKS = "osD^vP*X"
SIZES = {"font.size": 14, "axes.titlesize": 16, "axes.labelsize": 15, "legend.fontsize": 12.5,
         "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.5,
         "axes.titlelocation": "left"}  # fmt: skip


def panels(title: str, count: int = 1, width: float = 9.5, height: float = 5.6) -> Any:
    """Return a figure with a title and its axes in a row."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SIZES):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, count, squeeze=False)[0]
        figure.suptitle(title, fontsize=18, x=0.01, ha="left")
    return figure, list(axes)


def named(axes: Axes, across: str, up: str, title: str = "") -> Axes:
    """Name the axes and the panel, in sizes that can be read across a desk."""
    axes.set_xlabel(across, fontsize=15)
    axes.set_ylabel(up, fontsize=15)
    axes.set_title(title, fontsize=15, loc="left")
    axes.tick_params(labelsize=13)
    return axes


def descents(found: Mapping[str, Any]) -> Figure:
    """Draw the distance to the optimum by epoch, by size of a batch and by schedule."""
    ends = {name: trace.distance[-1] for name, trace in found["schedules"].items()}
    nearest = min(ends, key=lambda name: ends[name])
    title = (
        f"One row a step ends {ends['constant'] / ends[nearest]:.0f} times nearer to the optimum "
        f"with the schedule '{nearest}'"
    )
    if nearest == "constant":
        title = "One row a step: no schedule ends nearer to the optimum than a constant step"
    figure, (left, right) = panels(title, 2, 15, 6)
    runs = (found["modes"], found["schedules"])
    for axes, traces, told in zip(
        (left, right), runs, ("Rows a step", "Schedules of the step, one row a step"), strict=True
    ):
        named(
            axes, "epochs (passes over the rows)", "distance of the weights\nto the optimum", told
        )
        for number, (name, trace) in enumerate(traces.items()):
            axes.plot(trace.distance, ls=DASHES[number], color=INKS[number], lw=2.5, label=name)
        axes.set_yscale("log")
        axes.legend(fontsize=13)
    return figure


def blown_up(found: Mapping[str, Any]) -> Figure:
    """Draw the loss of a step beside the largest that converges, and of one past it."""
    bad, good = found["too far"], found["modes"]["batch: all rows a step"]
    figure, (axes,) = panels(f"A step of 2.1 / L: {bad.ended.partition(':')[0]}; 1 / L converges")
    named(axes, "epochs", "loss (half the mean squared error)")
    axes.plot(bad.loss, ls="--", color=INKS[5], label="step 2.1 / L")
    axes.plot(good.loss, color=INKS[0], label="step 1 / L")
    axes.set_yscale("log")
    axes.legend(fontsize=14)
    return figure


def overfit(found: Mapping[str, Any], unit: str) -> Figure:
    """Draw RMSE on fitted rows and on rows left out over the degree."""
    import numpy as np

    plain = found["least squares"]
    best = int(np.argmin(plain[:, 1]))
    ratio = plain[-1, 1] / plain[-1, 0]
    title = (
        f"Degree {best + 1} is best for least squares; at degree 6 new rows err "
        f"{ratio:{',.0f' if ratio >= 10 else '.2g'}} times its own"
    )
    figure, (axes,) = panels(title, width=12)
    up = f"RMSE ({unit})"
    named(axes, f"degree of the polynomial in {', '.join(found['names'])}", up)
    for place, name in enumerate(("least squares", "ridge")):
        axes.plot(found["degrees"], found[name][:, 0], "--", marker="o", color=INKS[place],
                  label=f"{name}, fitted rows")  # fmt: skip
        axes.plot(found["degrees"], found[name][:, 1], "-", marker="s", color=INKS[place],
                  label=f"{name}, rows left out")  # fmt: skip
    if plain.max() > 5 * plain.min():
        axes.set_yscale("log")
    axes.legend(fontsize=13)
    return figure


def shrinkage(found: Mapping[str, Any], unit: str) -> Figure:
    """Draw weights over the penalty, and below them the error on rows left out."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3, sharex="col", sharey="row", height_ratios=(3, 2))
    loudest = np.argsort(-np.abs(found["ridge"][1][0]))[:6]
    zero = {name: int((np.abs(found[name][1][found[name][2].argmin()]) < 1e-9).sum())
            for name in ("ridge", "lasso", "elastic net")}  # fmt: skip
    title = f"At its best penalty the lasso drops {zero['lasso']} of {len(found['names'])} features"
    if not zero["lasso"]:
        title = f"Shrinkage hardly pays: the best lasso keeps all {len(found['names'])} features"
    figure.suptitle(title, fontsize=18, x=0.01, ha="left")
    for column, name in enumerate(zero):
        penalties, weights, errors = found[name]
        top = named(axes[0, column], "", "weight" if not column else "", name)
        for place in range(weights.shape[1]):
            shown = place in loudest
            ink = INKS[list(loudest).index(place)] if shown else "#c8c8c8"
            top.plot(
                penalties,
                weights[:, place],
                color=ink,
                lw=2.5 if shown else 1,
                zorder=3 if shown else 1,
                label=found["names"][place] if shown else None,
            )
        low = named(axes[1, column], "penalty", f"RMSE, rows left out\n({unit})" * (not column))
        low.plot(penalties, errors, "o-", color=INKS[0], lw=2.5)
        for part in (top, low):
            part.axvline(penalties[errors.argmin()], color="#555555", ls=":", lw=2)
        low.set_xscale("log")
    axes[0, 2].legend(fontsize=12, title="largest weights", title_fontsize=12)
    return figure


def learned(found: Mapping[str, Any], unit: str) -> Figure:
    """Draw the loss of each model on rows left out over the number of fitted rows."""
    sizes = found["sizes"]
    kinds = [name for name in found if name != "sizes"]
    last = {name: found[name][-1, 1] for name in kinds}
    best = min(last, key=lambda name: last[name])
    gain = 1 - found[best][-1, 1] / found[best][-2, 1]
    more = "more rows would still help" if gain > 0.02 else "more rows would hardly help"
    figure, (axes,) = panels(f"With {sizes[-1]} rows '{best}' errs least, and {more}", width=11)
    named(axes, "rows that the model was fitted on", unit)
    for number, name in enumerate(kinds):
        style = {"color": INKS[number], "marker": MARKS[number]}
        axes.plot(sizes, found[name][:, 1], "-", label=name, **style)
        axes.plot(sizes, found[name][:, 0], ":", lw=1.5, **style)
    axes.plot([], [], ":", color="#555555", label="the same on its fitted rows")
    seen = sorted(float(value) for name in kinds for value in found[name][:, 1])
    least = min(float(found[name].min()) for name in kinds)
    axes.set_ylim(0.85 * least, min(seen[-1], 3 * seen[len(seen) // 2]) * 1.05)
    axes.legend(fontsize=12.5)
    return figure


def parts_of_error(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw bias with noise, and variance, of each model as one bar."""
    rows = sorted(rows, key=lambda row: -row["error"])
    best, restless = rows[-1], max(rows, key=lambda row: row["variance"])
    title = f"'{best['model']}' errs least; '{restless['model']}' varies most from sample to sample"
    figure, (axes,) = panels(title, width=12)
    named(axes, "mean squared error on rows left out (variance of the target = 1)", "")
    names = [row["model"] for row in rows]
    most = 3 * sorted(row["error"] for row in rows)[len(rows) // 2]
    steady = [row["bias_and_noise"] for row in rows]
    axes.barh(names, steady, color=INKS[0], label="bias² and noise")
    axes.barh(names, [row["variance"] for row in rows], left=steady, color=INKS[1],
              hatch="//", edgecolor="white", label="variance")  # fmt: skip
    for place, row in enumerate(rows):
        axes.text(min(row["error"], most), place, f" {row['error']:.3g}", va="center", fontsize=13)
    axes.set_xlim(0, min(max(row["error"] for row in rows), most) * 1.12)
    axes.legend(fontsize=13, loc="upper right")
    return figure


def stopped(found: Any, accuracy: float) -> Figure:
    """Draw the losses of softmax regression by epoch, and where it was stopped."""
    last = len(found.train) - 1
    early = found.kept < last
    title = f"Stopped: rows left out are foretold best after epoch {found.kept} of {last}"
    figure, (axes,) = panels(title if early else f"All {last} epochs still helped", width=11)
    named(axes, "epochs of gradient descent", "cross-entropy (nats)")
    axes.plot(found.train, "--", color=INKS[7], lw=2.5, label="fitted rows")
    axes.plot(found.validation, color=INKS[0], lw=2.5, label="rows left out")
    axes.axvline(found.kept, color=INKS[5], ls=":", lw=2.5,
                 label=f"weights kept: accuracy {accuracy:.3f} on further rows")  # fmt: skip
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(0, None)
    axes.legend(fontsize=14)
    return figure


def reliability(rows: Sequence[Mapping[str, Any]], curves: Mapping[str, Any]) -> Figure:
    """Draw how often a model is right over how sure it says it is."""
    import numpy as np

    gaps = {row["model"]: row["calibration_error"] for row in rows}
    best, worst = min(gaps, key=lambda n: gaps[n]), max(gaps, key=lambda n: gaps[n])
    title = f"'{best}' is off by {gaps[best]:.3f} on average, '{worst}' by {gaps[worst]:.3f}"
    figure, (axes,) = panels(title, width=10, height=6.4)
    named(axes, "how sure the model is of the class it calls", "share of calls that are right")
    axes.plot([0, 1], [0, 1], color="#777777", ls=":", label="sure as often as right")
    lowest = 1.0
    for number, (name, (surest, right)) in enumerate(curves.items()):
        parts = np.array_split(np.argsort(surest, kind="stable"), max(2, min(8, len(surest) // 20)))
        means = [(surest[part].mean(), right[part].mean()) for part in parts]
        lowest = min([lowest, *(min(pair) for pair in means)])
        axes.plot(
            *zip(*means, strict=True), color=INKS[number], marker=MARKS[number], ms=9,
            ls=DASHES[number], label=f"{name} ({gaps[name]:.3f})",
        )  # fmt: skip
    axes.set(xlim=(lowest - 0.03, 1.02), ylim=(lowest - 0.03, 1.02))
    axes.legend(fontsize=13, title="model (calibration error)", title_fontsize=13)
    return figure


def regions(found: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """Draw the classes that models call over the two strongest features."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    scores = {name: right for name, (_, right) in found["called"].items()}
    best = max(scores, key=lambda name: scores[name])
    title = f"Two features give {scores[best]:.3f} accuracy on rows left out, by '{best}'"
    figure, axes = panels(title, len(scores), 16, 6)
    order = np.random.default_rng(0).permutation(len(found["labels"]))
    for axis, (name, (called, right)) in zip(axes, found["called"].items(), strict=True):
        named(axis, found["names"][0], found["names"][1] if axis is axes[0] else "",
              f"{name}: {right:.3f}")  # fmt: skip
        axis.pcolormesh(found["across"], found["up"], called, alpha=0.3, vmin=-0.5,
                        vmax=len(classes) - 0.5, cmap=ListedColormap(INKS[: len(classes)]),
                        rasterized=True, linewidth=0)  # fmt: skip
        for number, label in enumerate(classes[: len(MARKS)]):
            chosen = order[found["labels"][order] == number][:120]
            axis.scatter(*found["points"][chosen].T, s=30, color=INKS[number], label=label,
                         marker=MARKS[number], edgecolor="white", linewidth=0.6)  # fmt: skip
        axis.set(xlim=found["across"][[0, -1]], ylim=found["up"][[0, -1]])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(classes), fontsize=14)  # fmt: skip
    return figure


def compared(rows: Sequence[Mapping[str, Any]], metric: str, told: str, best: str) -> Figure:
    """Draw one figure of every model on the held-out rows; ``best`` is the model in use."""
    rows = sorted(rows, key=lambda row: (row[metric], row["model"] == best))
    ahead = rows[-1][metric] - next(row[metric] for row in rows if row["model"] == best)
    title = f"'{best}', chosen by cross-validation, is not beaten on held-out rows"
    if ahead > 0:
        title = f"'{rows[-1]['model']}' is {ahead:.3f} ahead of '{best}', the one in use"
    figure, (axes,) = panels(title, width=12)
    inks = [INKS[0] if row["model"] == best else "#b9c6d2" for row in rows]
    named(axes, told, "")
    axes.barh([row["model"] for row in rows], [row[metric] for row in rows], color=inks)
    for place, row in enumerate(rows):
        axes.text(max(row[metric], 0), place, f" {row[metric]:.3f}", va="center", fontsize=13)
    axes.set_xlim(min(0, *(row[metric] for row in rows)), max(row[metric] for row in rows) * 1.12)
    return figure


def against_truth(target: np.ndarray, called: np.ndarray, name: str) -> Figure:
    """Draw predictions over true values."""
    import numpy as np

    off = float(np.median(np.abs(called - target)))
    figure, (axes,) = panels(f"Half of the predictions are within {off:.3g} of the truth",
                             width=8.5, height=7)  # fmt: skip
    named(axes, f"true {name}", f"predicted {name}")
    axes.scatter(
        target, called, s=22, alpha=0.7 if len(target) < 500 else 0.3, color=INKS[0], linewidth=0
    )
    ends = [min(target.min(), called.min()), max(target.max(), np.quantile(called, 0.999))]
    axes.plot(ends, ends, color="#444444", ls="--", lw=2, label="as it was")
    axes.set(xlim=ends, ylim=ends)
    axes.legend(fontsize=14)
    return figure


def confusion(target: np.ndarray, called: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the counts of true class against the class that was called."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(target.astype(str), called.astype(str), labels=list(classes))
    wrong = int(counts.sum() - counts.trace())
    figure, (axes,) = panels(f"{wrong} of {counts.sum()} held-out rows are called wrong", width=9,
                             height=7)  # fmt: skip
    named(axes, "called", "true class")
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, count, ha="center", va="center", color=ink,
                      fontsize=22 if len(classes) < 8 else 11)  # fmt: skip
    turned = {"rotation": 45, "ha": "right"} if len(classes) > 4 else {}
    axes.set_xticks(range(len(classes)), classes, fontsize=14, **turned)
    axes.set_yticks(range(len(classes)), classes, fontsize=14)
    return figure


def influence(weights: Sequence[tuple[str, float]], told: str) -> Figure:
    """Draw the largest weights of a model, signed where there is one of each feature."""
    shown = list(weights)[:15][::-1]
    name, size = shown[-1]
    signed = any(value < 0 for _, value in weights)
    way = ("raises", "lowers")[size < 0] if signed else "weighs most in"
    title = f"{name[:30]} {way} {told}" + (" most, other features held" if signed else "")
    figure, (axes,) = panels(title, width=11, height=1.6 + 0.36 * len(shown))
    named(
        axes,
        "weight of a standardised feature" + ("" if signed else " (mean size over classes)"),
        "",
    )
    inks = [INKS[0] if value >= 0 else INKS[1] for _, value in shown]
    axes.barh([label[:40] for label, _ in shown], [value for _, value in shown], color=inks)
    axes.axvline(0, color="#444444", lw=1)
    return figure
