"""The report of a job: one HTML file that opens anywhere, and the model card.

Made of what the verbs recorded (``metrics.json``, ``run.json``, ``report.json`` and the
pictures), so that train and evaluate may run in different containers.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.data import written
from slipway.run import read_json
from slipway.spec import JobSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGES = Path(__file__).parent / "pages"
ORDER = {"evaluate": 0, "train": 1, "prepare": 2}
DOTS_PER_INCH = 110


def pyplot() -> Any:
    """Return matplotlib.pyplot, drawing to memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_figure(figure: Figure, path: Path, cropped: bool = True) -> None:
    """Write a figure as PNG, its empty border ``cropped``, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as part:
        box = "tight" if cropped else None
        figure.savefig(part, format="png", dpi=DOTS_PER_INCH, bbox_inches=box)
    pyplot().close(figure)


def judged(spec: JobSpec, out: Path) -> list[dict[str, Any]]:
    """Return the figures of `evaluate` with their bars: metric, value, bar, verdict.

    Real and mirrored data are the same bytes and share bars; the user's own file has none, and
    neither has a run with ``--limit`` in any of its stages. A figure that is absent is NaN, unless
    the run was of a ``part`` of the job.
    """
    records = read_json(out / "run.json")
    record = records.get("evaluate", {})
    figures = read_json(out / "metrics.json").get("evaluate", {})
    tier = {"mirror": "real"}.get(record.get("tier", ""), record.get("tier", ""))
    limited = any(
        records.get(verb, {}).get("options", {}).get("limit") is not None for verb in ORDER
    )
    bars = {} if limited else spec.accept.get(tier, {})
    if any(records.get(verb, {}).get("part") for verb in ORDER):
        bars = {metric: bar for metric, bar in bars.items() if metric in figures}
    rows = []
    for metric in dict.fromkeys([*bars, *figures]):
        value, bar = figures.get(metric), bars.get(metric)
        value = float("nan") if value is None else value
        verdict = "" if bar is None else "reached" if bar.holds(value) else "missed"
        rows.append({"metric": metric, "value": value, "bar": str(bar or ""), "verdict": verdict})
    return rows


def headline(spec: JobSpec, out: Path) -> dict[str, float]:
    """Return the figures that have a bar: what a page says of a model in one line."""
    rows = (row for row in judged(spec, out) if row["bar"] and math.isfinite(row["value"]))
    return {row["metric"]: row["value"] for row in rows}


def render(spec: JobSpec, out: Path) -> Path:
    """Write ``report.html`` from what the verbs have recorded so far."""
    pieces = read_json(out / "report.json")
    sections = [
        {"verb": verb, "pieces": [_with_picture(piece, out) for piece in pieces[verb]]}
        for verb in sorted(pieces, key=lambda verb: ORDER.get(verb, 3))
        if pieces[verb]
    ]
    page = _page("report.html").render(
        spec=spec, rows=judged(spec, out), sections=sections, records=read_json(out / "run.json")
    )
    with written(out / "report.html") as part:
        part.write_text(page, "utf-8")
    return out / "report.html"


def card_text(spec: JobSpec, out: Path) -> str:
    """Return the model card in Markdown; without a run it says that there are no figures."""
    records = read_json(out / "run.json")
    text = _page("card.md").render(spec=spec, rows=judged(spec, out), records=records)
    return str(text).strip()


def _page(name: str) -> Any:
    import jinja2

    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=name.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(name)


def _with_picture(piece: dict[str, Any], out: Path) -> dict[str, Any]:
    def picture(name: str) -> str:
        return base64.b64encode((out / "report" / f"{name}.png").read_bytes()).decode()

    if piece["kind"] == "series":
        return piece | {"pictures": [picture(name) for name in piece["names"]]}
    return piece | {"picture": picture(piece["name"])} if piece["kind"] == "figure" else piece
