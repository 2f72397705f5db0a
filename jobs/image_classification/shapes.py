"""The sample: ten shapes on a restless ground, some partly and a few wholly covered.

The best that any classifier can reach is known: it tells every shape that can be seen, and of
those wholly covered it guesses one in ten.

Data:    drawn here, by the numbers in ``sample/shapes.toml``.
Source:  none.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from .data import TEST, TRAIN, Source, Split

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

SIDE, FINE = 32, 3
"""Pixels of a picture, and how much finer it is drawn."""
Points = list[tuple[float, float]]


def around(corners: int, inner: float = 1.0) -> Points:
    """Return corners on a circle, with ``inner`` every second one nearer to the middle."""
    number = corners if inner == 1 else 2 * corners
    found = []
    for place in range(number):
        far = inner if place % 2 and inner != 1 else 1.0
        angle = 2 * math.pi * place / number - math.pi / 2
        found.append((far * math.cos(angle), far * math.sin(angle)))
    return found


def heart() -> Points:
    """Return the outline of a heart."""
    turns = [2 * math.pi * step / 40 for step in range(40)]
    return [(math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)
             - math.cos(4 * t)) / 16) for t in turns]  # fmt: skip


def moon() -> Points:
    """Return the outline of a crescent."""
    outer = [(math.cos(t), math.sin(t))
             for t in (math.pi * (0.3 + 1.4 * k / 24) for k in range(25))]  # fmt: skip
    inner = [(0.35 + 0.75 * math.cos(t), 0.8 * math.sin(t))
             for t in (math.pi * (1.65 - 1.3 * k / 24) for k in range(25))]  # fmt: skip
    return outer + inner


ARM = 0.33
OUTLINES: dict[str, Points] = {
    "arrow": [(0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)],
    "bow tie": [(-1, -0.8), (0, -0.12), (1, -0.8), (1, 0.8), (0, 0.12), (-1, 0.8)],
    "circle": around(40),
    "crescent": moon(),
    "cross": [(-ARM, -1), (ARM, -1), (ARM, -ARM), (1, -ARM), (1, ARM), (ARM, ARM), (ARM, 1),
              (-ARM, 1), (-ARM, ARM), (-1, ARM), (-1, -ARM), (-ARM, -ARM)],
    "heart": heart(),
    "ring": around(40),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "star": around(5, 0.42),
    "triangle": around(3),
}  # fmt: skip


def source(described: Path) -> tuple[Source, float]:
    """Return the sample, and the best accuracy that its held-out pictures allow on average."""
    import numpy as np

    table = tomllib.loads(described.read_text("utf-8"))
    draw = np.random.default_rng(table["seed"])
    parts, hidden = {}, 0
    for part, number in ((TRAIN, table["train"]), (TEST, table["test"])):
        labels = np.arange(number) % len(OUTLINES)
        covered = draw.random(number) < table["hidden"]
        pairs = zip(labels, covered, strict=True)
        images = np.stack([picture(int(label), bool(whole), draw) for label, whole in pairs])
        files = [f"{part}/{list(OUTLINES)[label]}/{at:04}.png" for at, label in enumerate(labels)]
        parts[part] = Split(images, labels.astype(np.int64), files)
        hidden = int(covered.sum())
    number = table["test"]
    best = (number - hidden + hidden / len(OUTLINES)) / number
    return Source(parts, list(OUTLINES), []), best


def picture(label: int, covered: bool, draw: np.random.Generator) -> np.ndarray:
    """Return one picture (32, 32, 3) uint8; ``covered`` wholly, else by a small bar at most."""
    import numpy as np
    from PIL import Image, ImageDraw

    size = SIDE * FINE
    ground, ink = colours(draw)
    canvas = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(canvas)
    for _ in range(draw.integers(2, 7)):  # clutter: lines and specks of any colour
        ends = [tuple(point) for point in draw.integers(0, size, (2, 2)).tolist()]
        pen.line(ends, fill=any_colour(draw), width=int(draw.integers(1, FINE + 1)))
    radius = draw.uniform(0.3, 0.42) * size
    middle = size / 2 + draw.uniform(-0.1, 0.1, 2) * size
    shape = placed(list(OUTLINES.values())[label], middle, radius, draw.uniform(-0.35, 0.35))
    pen.polygon(shape, fill=ink)
    if list(OUTLINES)[label] == "ring":
        pen.polygon(placed(around(40), middle, 0.55 * radius, 0), fill=ground)
    if covered:
        far = 1.1 * radius
        pen.rectangle([*(middle - far), *(middle + far)], fill=any_colour(draw))
    elif draw.random() < 0.4:
        bar(canvas, middle, radius, draw)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    noisy = np.asarray(small, np.float64) + draw.normal(0, draw.uniform(2, 10), (SIDE, SIDE, 3))
    return noisy.round().clip(0, 255).astype(np.uint8)


def placed(outline: Points, middle: np.ndarray, radius: float, turn: float) -> Points:
    """Return an outline turned, scaled and moved."""
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    return [(middle[0] + cos * x - sin * y, middle[1] + sin * x + cos * y) for x, y in outline]


def bar(canvas: Image, middle: np.ndarray, radius: float, draw: np.random.Generator) -> None:
    """Lay a bar across a part of the shape; what is left tells which it is."""
    from PIL import ImageDraw

    angle = draw.uniform(0, 2 * math.pi)
    near = draw.uniform(0.45, 0.9) * radius
    foot = middle[0] + near * math.cos(angle), middle[1] + near * math.sin(angle)
    along = -math.sin(angle) * canvas.width, math.cos(angle) * canvas.width
    ends = [(foot[0] - along[0], foot[1] - along[1]), (foot[0] + along[0], foot[1] + along[1])]
    ImageDraw.Draw(canvas).line(ends, fill=any_colour(draw), width=int(0.3 * radius))


def any_colour(draw: np.random.Generator) -> tuple[int, int, int]:
    """Return a colour."""
    red, green, blue = draw.integers(0, 256, 3).tolist()
    return red, green, blue


def colours(draw: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the colours of ground and shape: the brighter is the shape's, which says no more."""
    while True:
        ground, ink = sorted((any_colour(draw), any_colour(draw)), key=brightness)
        if brightness(ink) - brightness(ground) > 50:
            return ground, ink


def brightness(colour: tuple[int, int, int]) -> float:
    """Return how bright a colour is, of 0 to 255 (ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue
