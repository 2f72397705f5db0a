"""Pictures of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.tables import batch_figures, medians

OURS, THEIRS, FLOOR = "#2b6cb0", "#a0aec0", "#e2e8f0"


def draw(suite: str, result: dict[str, Any], path: Path) -> None:
    """Write one suite's picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = {"serving": serving, "batch": batch, "soak": soak}[suite](pyplot, result)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def bars(axis: Any, values: dict[str, float], colours: list[str], title: str) -> None:
    """Draw named horizontal bars, the largest on top, each with its value."""
    order = sorted(range(len(values)), key=lambda place: list(values.values())[place])
    names, numbers = list(values), list(values.values())
    axis.barh(
        [names[i] for i in order], [numbers[i] for i in order], color=[colours[i] for i in order]
    )
    axis.bar_label(
        axis.containers[0],
        [f" {numbers[i]:,.3g}" if numbers[i] < 100 else f" {numbers[i]:,.0f}" for i in order],
        fontsize=8,
    )
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_xticks([])
    axis.margins(x=0.15)


def serving(pyplot: Any, result: dict[str, Any]) -> Any:
    """Draw throughput, CPU time and memory of each server."""
    found, titles = medians(result["runs"]), result["titles"]
    colours = [
        OURS if titles[n].startswith("Slipway") else FLOOR if n == "floor" else THEIRS
        for n in found
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 0.4 * len(found) + 1), sharey=False)
    shown = (("closed-32 rps", "requests a second, 32 connections"),
             ("closed-32 cpu_us", "CPU us a request, 32 connections"),
             ("memory pss_mib", "memory, MiB"))  # fmt: skip
    for axis, (name, title) in zip(axes, shown, strict=True):
        bars(
            axis, {titles[n]: figures.get(name, 0) for n, figures in found.items()}, colours, title
        )
    figure.tight_layout()
    return figure


def batch(pyplot: Any, result: dict[str, Any]) -> Any:
    """Draw wall time and memory of each contestant, and how ours grows."""
    found = batch_figures(result["runs"])
    names = {n: f"{result['titles'][n.split()[0]]}, {n.split()[1]}" for n in found}
    colours = [OURS if n.startswith("ours") else THEIRS for n in found]
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 0.35 * len(found) + 1.5))
    for axis, name, title in zip(
        axes, ("wall", "peak_mb"), ("wall time, s", "peak memory, MB"), strict=False
    ):
        bars(
            axis,
            {names[n]: f[name] for n, f in found.items()},
            colours,
            f"{title}, {result['rows']:,} rows",
        )
    growth = result["growth"]
    axes[2].loglog([g["rows"] for g in growth], [g["cpu"] for g in growth], "o-", color=OURS)
    axes[2].set_title("ours: CPU seconds by rows", fontsize=10, loc="left")
    axes[2].grid(alpha=0.3)
    figure.tight_layout()
    return figure


def soak(pyplot: Any, result: dict[str, Any]) -> Any:
    """Draw memory and latency over time."""
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(10, 6), sharex=True)
    lived = [entry for entry in result["memory"] if entry[1]]  # its client is there for longer
    above.plot(*zip(*lived, strict=True), color=OURS)
    above.set_ylabel("memory, MiB")
    above.set_ylim(bottom=0)
    seconds = [row["second"] for row in result["by_second"]]
    for name, colour in (("p50_ms", THEIRS), ("p99_ms", OURS)):
        below.plot(
            seconds, [row[name] for row in result["by_second"]], color=colour, label=name[:3]
        )
    below.set_yscale("log")
    below.set_ylabel("latency of good requests, ms")
    below.set_xlabel("seconds")
    below.legend(frameon=False)
    for axis in (above, below):
        axis.grid(alpha=0.3)
    return figure
