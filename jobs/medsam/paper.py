"""The paper in one page: what is new, what was published, and how the parts hang together.

Data:    figures as their sources print them; none was measured here.
Source:  Zhu, Hamdi, Qi, Jin and Wu, Medical SAM 2: Segment medical images as video via Segment
         Anything Model 2, arXiv 2408.00874v2; the others are named row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUMMARY = (
    "The idea. SAM segments one picture from one prompt. SAM 2 also tracks what was prompted "
    "through a video: each frame looks at memories of earlier frames. MedSAM-2 treats a volume as "
    "such a video, so one prompt on one slice does for all slices. Neighbouring slices show the "
    "same tissue a little moved and reshaped, which is what tracking is good at.",
    "What is new. SAM 2 remembers the last six frames, good or bad. MedSAM-2's self-sorting bank "
    "takes a slice in only if its predicted IoU is high enough (a confidence gate), keeps the K "
    "memories that differ most from each other, and, for the slice at hand, draws from them in "
    "proportion to their likeness to it. Order in time plays no part, so unordered pictures work.",
    "What the authors found. On BTCV (abdominal CT) a mean Dice of 0.890 over 12 organs, against "
    "0.860 for SAM 2; taking the parts of the bank away costs 2 to 6 points each on BTCV's aorta.",
    "What they left open. K, the threshold, and which feature is compared are not in the paper. "
    "The released code has the bank for single images only, and tracks volumes with stock SAM 2. "
    "For brain tumours there is one sentence and no table, and BraTS 2021 was trained on. The bank "
    "of this job follows the equations 2 to 5 of the paper; `fifo` is what was released.",
)

PUBLISHED = (
    ("MedSAM-2", "BTCV, 12 organs", "mean Dice 0.890", "arXiv 2408.00874v2, table 1"),
    ("SAM 2, as in the same table", "BTCV, 12 organs", "mean Dice 0.860", "the same"),
    ("nnU-Net, as in the same table", "BTCV, 12 organs", "mean Dice 0.802", "the same"),
    ("MedSAM-2", "BTCV, aorta: fifo, + gate, + dissimilar, + resampled",
     "Dice 0.835, 0.862, 0.884, 0.896", "the same, table 3"),
    ("MedSAM-2", "11 kinds of image never seen", "mean Dice 0.768; SAM 2 0.576",
     "the same, table 2"),
    ("SAM and SAM 2, a near-perfect box on each slice", "BraTS 2023", "Dice 0.894 and 0.893",
     "AI-Driven MRI-based Brain Tumour Segmentation Benchmarking, 2025"),
    ("Two-stage U-Net, supervised", "BraTS 2019, test",
     "WT 0.888, TC 0.837, ET 0.833", "Jiang et al., 10.1007/978-3-030-46640-4_22"),
    ("nnU-Net, supervised", "BraTS 2020, test", "WT 0.890, TC 0.851, ET 0.820",
     "Isensee et al., arXiv 2011.00848"),
)  # fmt: skip
"""Model, data, figure, source."""

BOXES = {
    "slice": (0.1, 3.0, "slice t", "3 modalities"),
    "encoder": (2.6, 3.0, "image encoder", "Hiera, once a slice"),
    "attention": (5.2, 3.0, "memory attention", "slice looks at memories"),
    "decoder": (7.85, 3.0, "mask decoder", "mask and predicted IoU"),
    "answer": (10.45, 3.0, "mask of slice t", "and its confidence"),
    "prompt": (7.85, 4.7, "prompt encoder", "one slice only"),
    "memory": (7.85, 1.3, "memory encoder", "slice and mask"),
    "bank": (4.5, 1.3, "self-sorting bank", "gate, unlike ones, resampled"),
}
ARROWS = (("slice", "encoder"), ("encoder", "attention"), ("attention", "decoder"),
          ("decoder", "answer"), ("prompt", "decoder"), ("answer", "memory"), ("memory", "bank"),
          ("bank", "attention"))  # fmt: skip
WIDTH, HEIGHT = 2.1, 0.95
NEW, SAME, LINE = "#ffe8cc", "#e7f5ff", "#495057"


def published() -> list[dict[str, str]]:
    """Return the published figures as rows of a table."""
    return [dict(zip(("model", "data", "figure", "source"), row, strict=True)) for row in PUBLISHED]


def architecture() -> Figure:
    """Draw how a slice becomes a mask; what MedSAM-2 adds to SAM 2 is orange."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title("MedSAM-2 is SAM 2 with another memory bank (orange)", fontsize=17, loc="left")
    axes.set(xlim=(0, 12.7), ylim=(0.9, 5.9))
    axes.axis("off")
    for name, (left, low, title, what) in BOXES.items():
        drawn(axes, left, low, title, what, NEW if name == "bank" else SAME)
    for start, end in ARROWS:
        arrow(axes, start, end)
    axes.text(4.7, 0.95, "SAM 2 keeps the last six slices here", fontsize=12, color=LINE)
    return figure


def drawn(axes: Axes, left: float, low: float, title: str, what: str, colour: str) -> None:
    """Draw one part with its name and what it does."""
    from matplotlib.patches import FancyBboxPatch

    width = WIDTH + 0.6 * (colour == NEW)
    axes.add_patch(
        FancyBboxPatch((left, low), width, HEIGHT, boxstyle="round,pad=0.06", fc=colour, ec=LINE)
    )
    axes.text(left + width / 2, low + 0.62, title, ha="center", fontsize=14)
    axes.text(left + width / 2, low + 0.24, what, ha="center", fontsize=11, color=LINE)


def arrow(axes: Axes, start: str, end: str) -> None:
    """Draw an arrow from the edge of one part to that of another."""
    (x, y), (u, v) = (
        (BOXES[name][0] + (WIDTH + 0.6 * (name == "bank")) / 2, BOXES[name][1] + HEIGHT / 2)
        for name in (start, end)
    )
    style = {"arrowstyle": "-|>", "color": LINE, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    side = (WIDTH + 0.12) / 2
    if start == "answer":  # down and back
        axes.annotate("", (u + side, v), (x, y - HEIGHT / 2 - 0.06),
                      arrowprops=style | {"connectionstyle": "angle,angleB=0"})  # fmt: skip
    elif abs(y - v) < 0.1:
        way = 1 if u > x else -1
        ends = [side + 0.3 * (name == "bank") for name in (start, end)]
        axes.annotate("", (u - way * ends[1], v), (x + way * ends[0], y), arrowprops=style)
    else:
        way = 1 if v > y else -1
        high = HEIGHT / 2 + 0.06
        axes.annotate("", (u if start == "prompt" else x, v - way * high), (x, y + way * high),
                      arrowprops=style)  # fmt: skip
