"""From measured rows to medians, ratios against the bars, and a table; standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = dict[str, dict[str, float]]
MUCH = 0.2  # cores that others took, above which a figure is marked
MARK = "†"
NOTE = f"{MARK}: others took more than {MUCH} cores meanwhile."


@dataclass(frozen=True)
class Bar:
    """A ratio of two figures that must be reached, or one figure where there is no other."""

    says: str
    over: tuple[str, str]
    under: tuple[str, str] | None
    wanted: float
    most: bool = False  # the bar is an upper one
    instead: tuple[str, str] | None = None  # or this near a floor: see `FLOOR`


FLOOR = 0.9  # of the floor's throughput counts as being at it
THROUGHPUT, CPU = "closed-32 rps", "closed-32 cpu_us"
SERVING = [
    Bar("throughput over FastAPI's", ("trained", THROUGHPUT), ("fastapi", THROUGHPUT), 1.8),
    Bar("throughput over LitServe's with batches", ("trained", THROUGHPUT),
        ("litserve-batched", THROUGHPUT), 2.5),
    Bar("throughput over BentoML's with batches", ("trained", THROUGHPUT),
        ("bentoml-batched", THROUGHPUT), 3.5),
    Bar("mlflow's CPU per request over ours", ("mlflow", CPU), ("trained", CPU), 4.0),
    Bar("p50 at one connection, batching on over off", ("trained", "closed-1 p50_ms"),
        ("unbatched", "closed-1 p50_ms"), 1.15, most=True),
    Bar("throughput, exported over trained model, or the floor's", ("exported", THROUGHPUT),
        ("trained", THROUGHPUT), 3.5, instead=("floor", THROUGHPUT)),
    Bar("memory, exported over trained model", ("exported", "memory pss_mib"),
        ("trained", "memory pss_mib"), 0.6, most=True),
    Bar("seconds from start to the first answer, exported model", ("exported", "start seconds"),
        None, 0.6, most=True),
]  # fmt: skip
BATCH = [
    *(
        Bar(f"time of {title} over ours, {kind}", (f"{name} {kind}", "wall"),
            (f"ours {kind}", "wall"), wanted)
        for kind in ("jsonl", "parquet")
        for name, title, wanted in (
            ("pandas", "chunked pandas", 1.5), ("joblib", "joblib", 1.2),
            ("ray", "Ray Data", 3.0), ("spark", "PySpark", 2.5))
    ),
    Bar("peak memory in MB, jsonl", ("ours jsonl", "peak_mb"), None, 600, most=True),
    Bar("peak memory in MB, parquet", ("ours parquet", "peak_mb"), None, 600, most=True),
    Bar("seconds to the first result, jsonl", ("ours jsonl", "first"), None, 2.0, most=True),
    Bar("seconds to the first result, parquet", ("ours parquet", "first"), None, 2.0, most=True),
]  # fmt: skip
SOAK = [
    Bar("5xx but 503", ("soak", "faults"), None, 0, most=True),
    Bar("memory of the last minute over the second's, distance from 1", ("soak", "drift"), None,
        0.05, most=True),
    Bar("p99 of good requests at 80 % over 10 % load", ("soak", "p99"), ("soak", "p99_calm"), 5.0,
        most=True),
    Bar("good requests without any answer", ("soak", "unanswered"), None, 0, most=True),
    Bar("answers lost at SIGTERM", ("soak", "lost"), None, 0, most=True),
]  # fmt: skip


def medians(rows: Iterable[Mapping[str, Any]]) -> Figures:
    """Return for each contestant the median of each ``PHASE FIGURE`` over the repeats."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and name != "repeat":
                figures = found.setdefault(row["contestant"], {})
                figures.setdefault(f"{row['phase']} {name}".strip(), []).append(value)
    return {
        contestant: {name: statistics.median(values) for name, values in figures.items()}
        for contestant, figures in found.items()
    }


def judged(bars: Iterable[Bar], figures: Figures) -> list[list[str]]:
    """Return a line for each bar: what, found, wanted, and reached, missed or not measured."""
    return [[bar.says, *_verdict(bar, figures)] for bar in bars]


def _verdict(bar: Bar, figures: Figures) -> list[str]:
    sign = "<=" if bar.most else ">="
    wanted = f"{sign} {bar.wanted:g}"
    over = _figure(figures, bar.over)
    under = 1.0 if bar.under is None else _figure(figures, bar.under)
    if over is None or not under:
        return ["", wanted, "not measured"]
    found = over / under
    reached = found <= bar.wanted if bar.most else found >= bar.wanted
    floor = _figure(figures, bar.instead) if bar.instead else None
    at_floor = floor is not None and over >= FLOOR * floor
    told = "reached" if reached else "at the floor" if at_floor else "missed"
    return [_short(found), wanted, told]


def _figure(figures: Figures, place: tuple[str, str]) -> float | None:
    return figures.get(place[0], {}).get(place[1])


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    shown = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


SERVING_COLUMNS = [
    ("requests/s, 1", "closed-1 rps"),
    ("p50 ms, 1", "closed-1 p50_ms"),
    ("p99 ms, 1", "closed-1 p99_ms"),
    ("requests/s, 4", "closed-4 rps"),
    ("p99 ms, 4", "closed-4 p99_ms"),
    ("requests/s, 32", "closed-32 rps"),
    ("p50 ms, 32", "closed-32 p50_ms"),
    ("p99 ms, 32", "closed-32 p99_ms"),
    ("CPU us/request, 32", "closed-32 cpu_us"),
    ("memory MiB", "memory pss_mib"),
    ("first answer s", "start seconds"),
]
OPEN_COLUMNS = [
    ("requests/s", "rate"),
    ("success %", "success"),
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("CPU us/request", "cpu_us"),
]


def serving_text(result: Mapping[str, Any]) -> str:
    """Return the tables of the serving suite."""
    found, titles = medians(result["runs"]), result["titles"]
    lines = [
        [_title(titles[name], figures, "closed-"), *(_cell(figures, c) for _, c in SERVING_COLUMNS)]
        for name, figures in found.items()
    ]
    parts = [
        told_machine(result),
        markdown(["server", *(title for title, _ in SERVING_COLUMNS)], lines),
        _success(result),
        "Constant rates. Latency counts from when a request was due.",
        _open_table(found, titles, "open-common", "half of what ours did with 32 connections"),
        _open_table(found, titles, "open-own", "80 % of its own"),
        _cold_table(result),
        markdown(["bar", "found", "wanted", ""], judged(SERVING, found)),
        *(f"Failed: {titles[name]}, {why}" for name, why in result["failed"].items()),
        NOTE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def told_machine(result: Mapping[str, Any], how: str = "") -> str:
    """Say on what and how it was measured; usually by medians of runs."""
    about, model = result["machine"], result["model"]
    how = how or f"medians of {result['repeats']} interleaved runs of {result['seconds']:g} s each"
    return (
        f"Job {result['job']}, tier {model['tier']}, model {model['id']}, form: {model['form']}, "
        f"device {model['device']}, on {about['cpus']} cores of {about['processor']}, Linux "
        f"{about['kernel']}, {result['date']}, commit {result['commit']}: {how}. "
        f"{', '.join(f'{name} {version}' for name, version in result['versions'].items())}."
    )


def _success(result: Mapping[str, Any]) -> str:
    """Say where a request of the closed loop failed, or that none did."""
    worst: dict[str, float] = {}
    for row in result["runs"]:
        if row["phase"].startswith("closed"):
            name = row["contestant"]
            worst[name] = min(worst.get(name, 1.0), row["success"])
    wrong = [f"{result['titles'][name]} {share:.2%}" for name, share in worst.items() if share < 1]
    return (
        "Success below 100 % in a run: " + ", ".join(wrong) if wrong else "All requests succeeded."
    )


def _title(title: str, figures: Mapping[str, float], phases: str) -> str:
    much = any(
        value > MUCH
        for name, value in figures.items()
        if name.startswith(phases) and name.endswith("foreign")
    )
    return f"{title} {MARK}" if much else title


def _cell(figures: Mapping[str, float], name: str) -> str:
    if name not in figures:
        return ""
    value = figures[name] * (100 if name.endswith("success") else 1)
    return f"{value:.1f}" if name.endswith("success") else _short(value)


def _open_table(found: Figures, titles: Mapping[str, str], phase: str, what: str) -> str:
    lines = [
        [
            _title(titles[name], figures, phase),
            *(_cell(figures, f"{phase} {c}") for _, c in OPEN_COLUMNS),
        ]
        for name, figures in found.items()
        if f"{phase} rate" in figures
    ]
    return markdown([f"at {what}", *(title for title, _ in OPEN_COLUMNS)], lines) if lines else ""


COLD = ("container", "import", "load", "answer", "total")


def _cold_table(result: Mapping[str, Any]) -> str:
    """Return the cold starts; they were measured by the host, each in a container of its own."""
    found = medians(result.get("cold", []))
    lines = [
        [result["titles"][name], *(_cell(figures, f"cold {phase}") for phase in COLD)]
        for name, figures in found.items()
    ]
    header = ["cold start, s", "container", "imports", "model", "first 200", "in all"]
    return markdown(header, lines) if lines else ""


def batch_text(result: Mapping[str, Any]) -> str:
    """Return the tables of the batch suite."""
    found = {f"{r['contestant']} {r['phase']}" for r in result["runs"]}
    figures = batch_figures(result["runs"])
    columns = [("wall s", "wall"), ("rows/s", "rate"), ("CPU s", "cpu"), ("peak MB", "peak_mb"),
               ("first result s", "first"), ("largest difference", "apart")]  # fmt: skip
    lines = [
        [_batch_title(name, result["titles"], figures[name]),
         *(_cell(figures[name], column) for _, column in columns)]
        for name in sorted(found, key=lambda name: (name.split()[1], figures[name]["wall"]))
    ]  # fmt: skip
    growth = [
        [f"{row['rows']:,}", _short(row["wall"]), _short(row["rows"] / row["wall"]),
         _short(row["cpu"]), f"{row['cpu'] / row['rows'] * 1e6:.2f}", _short(row["peak_mb"])]
        for row in result["growth"]
    ]  # fmt: skip
    parts = [
        told_machine(result),
        markdown([f"{result['rows']:,} rows", *(title for title, _ in columns)], lines),
        markdown(["ours, rows", "wall s", "rows/s", "CPU s", "CPU us a row", "peak MB"], growth)
        if growth else "",
        markdown(["bar", "found", "wanted", ""], judged(BATCH, figures)),
        *(f"Failed: {result['titles'][name.split()[0]]} ({name.split()[1]}), {why}"
          for name, why in result["failed"].items()),
        NOTE,
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def batch_figures(rows: Iterable[Mapping[str, Any]]) -> Figures:
    """Return medians under ``CONTESTANT FORMAT``."""
    return medians([
        {**row, "contestant": f"{row['contestant']} {row['phase']}", "phase": ""} for row in rows
    ])  # fmt: skip


def _batch_title(name: str, titles: Mapping[str, str], figures: Mapping[str, float]) -> str:
    contestant, kind = name.split()
    mark = f" {MARK}" if figures["foreign"] > MUCH else ""
    return f"{titles[contestant]}, {kind}{mark}"


def soak_text(result: Mapping[str, Any]) -> str:
    """Return the tables of the soak suite."""
    figures = {"soak": result["soak"]}
    counts = [[kind, *(f"{status}: {number:,}" for status, number in sorted(ended.items()))]
              for kind, ended in result["ended"].items()]  # fmt: skip
    lines = [[line[0], ", ".join(line[1:])] for line in counts]
    shown = [[name, _short(value)] for name, value in result["soak"].items()]
    parts = [
        told_machine(result, "one run, its p99 the median of its seconds'"),
        markdown(["requests", "how they ended"], lines),
        markdown(["figure", "value"], shown),
        markdown(["bar", "found", "wanted", ""], judged(SOAK, figures)),
    ]
    return "\n\n".join(parts) + "\n"
