"""Which errors come again and again, what sets those digits apart, and what may help.

A pattern is a digit that is often taken for one other. Its digits are compared with those of the
same label that were called right, trait by trait; the trait that differs most names the remedy.

Data:    images (n, 28, 28) uint8, labels and calls (n,).
Source:  traits by moments: Hu, IRE Transactions on Information Theory 1962; exact test of two
         classifiers on one set: McNemar, Psychometrika 1947.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

REMEDIES = {
    "slant": "straighten the digits first, or train on sheared copies",
    "stroke width": "train on copies with thinner and thicker strokes",
    "off the middle": "train on shifted copies",
    "breadth": "train on copies stretched across and up",
    "loops": "train on elastic copies that open and close gaps",
}


def found(
    images: np.ndarray, labels: np.ndarray, called: np.ndarray, number: int = 3
) -> list[dict[str, Any]]:
    """Return the commonest confusions, each with its digits' outstanding trait and the remedy."""
    import numpy as np

    cells = confusions(labels, called)
    measured = {name: values for name, values in traits(images).items()}
    rows = []
    for label, other, count in cells[:number]:
        wrong = (labels == label) & (called == other)
        right = (labels == label) & (called == label)
        apart = {
            name: (values[wrong].mean() - values[right].mean()) / (values[right].std() or 1.0)
            for name, values in measured.items()
            if right.any()
        }
        trait = max(apart, key=lambda name: abs(apart[name]), default="slant")
        rows.append(
            {
                "pattern": f"{label} taken for {other}",
                "label": label,
                "called": other,
                "count": count,
                "share of the label": round(float(np.mean(called[labels == label] == other)), 4),
                "differs most in": f"{trait} ({apart.get(trait, 0):+.1f} standard deviations)",
                "remedy": REMEDIES[trait],
            }
        )
    return rows


def confusions(labels: np.ndarray, called: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (label, called, count) of every pair that was mistaken, commonest first."""
    import numpy as np

    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, called), 1)
    np.fill_diagonal(counts, 0)
    cells = [(row, column, int(counts[row, column])) for row, column in np.argwhere(counts)]
    return [(int(row), int(column), count) for row, column, count in sorted(cells, key=_commonest)]


def _commonest(cell: tuple[int, int, int]) -> tuple[int, int, int]:
    return -cell[2], cell[0], cell[1]


def traits(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each image slant, width of strokes, offset, breadth and loops, each (n,)."""
    import numpy as np

    measured = np.array([traits_of(image / 255) for image in images])
    return dict(zip(REMEDIES, measured.T, strict=True))


def traits_of(ink: np.ndarray) -> tuple[float, ...]:
    """Return the five traits of one digit (28, 28) in [0, 1], lengths in pixels."""
    import numpy as np
    from scipy import ndimage

    mask = ink > 0.5
    if not mask.any():
        return (0.0,) * len(REMEDIES)
    rows, columns = mask.nonzero()
    up, across = rows - rows.mean(), columns - columns.mean()
    slant = -float((up * across).sum() / max((up**2).sum(), 1e-9))
    edge = mask.sum() - ndimage.binary_erosion(mask).sum()
    box = [(axis.min() + axis.max()) / 2 - (length - 1) / 2
           for axis, length in zip((rows, columns), mask.shape, strict=True)]  # fmt: skip
    breadth = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
    _, blanks = ndimage.label(~np.pad(mask, 1))
    return slant, 2 * mask.sum() / max(edge, 1), float(np.hypot(*box)), breadth, blanks - 1


def better(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Return errors before and after, and the chance of such a gain if nothing had changed."""
    from scipy.stats import binomtest

    mended = int(((before != labels) & (after == labels)).sum())
    broken = int(((before == labels) & (after != labels)).sum())
    chance = binomtest(mended, mended + broken).pvalue if mended + broken else 1.0
    return {
        "pattern": "all digits",
        "errors before": int((before != labels).sum()),
        "errors after": int((after != labels).sum()),
        "mended": mended,
        "newly wrong": broken,
        "p (McNemar)": f"{chance:.1g}",
    }
