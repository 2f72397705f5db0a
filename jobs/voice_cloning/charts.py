"""Charts of the report: each title says what to see.

Data:    figures of `cloning`.
Source:  none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slipway.report import pyplot

from . import measure
from . import speech as sound
from .speech import Speech

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK = "#2166ac", "#e08214", "#7f7f7f", "#222222"
COLOURS = {"source": GREY, "clone": ORANGE, "real": BLUE}


def loss(trained: Sequence[float], checked: Sequence[float], best: int) -> Figure:
    """Draw the loss of each pass over the pairs, and on sentences left out of them."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 3.6))
    passes = range(1, len(trained) + 1)
    axes.plot(passes, trained, color=GREY, label="sentences to learn from")
    axes.plot(passes, checked, color=ORANGE, label="sentences to choose by")
    axes.axvline(best, color=INK, lw=0.8, ls=":")
    axes.annotate(f"pass {best} is kept ", (best, max(trained)), va="top", ha="right")
    axes.set(
        xlabel="pass over the paired frames",
        ylabel="squared error (variance = 1)",
        title=f"The mapping explains {1 - min(checked):.0%} of unseen sentences' variation",
    )
    axes.legend(frameon=False)
    return figure


def spectrograms(text: str, shown: Mapping[str, Speech]) -> Figure:
    """Draw what was said by each voice, one below the other, on one scale."""
    plt = pyplot()
    figure, rows = plt.subplots(len(shown), 1, figsize=(9, 2.1 * len(shown)), sharey=True,
                                squeeze=False, layout="constrained")  # fmt: skip
    longest = max(speech.seconds for speech in shown.values())
    for axes, (name, speech) in zip(rows[:, 0], shown.items(), strict=True):
        _spectrogram(axes, speech)
        axes.set(xlim=(0, longest), ylabel="kHz", title=name)
        axes.title.set(fontsize=10, ha="left", position=(0, 1))
    rows[-1, 0].set_xlabel("seconds")
    figure.suptitle(f"“{text}”", fontsize=11, wrap=True)
    return figure


def _spectrogram(axes: Axes, speech: Speech) -> None:
    import numpy as np
    from scipy.signal import stft

    samples = sound.resampled(speech, 16_000).samples
    hertz, times, bins = stft(samples, 16_000, nperseg=400, noverlap=300)
    decibels = 20 * np.log10(np.abs(bins) + 1e-7)
    top = decibels.max()
    axes.pcolormesh(times, hertz / 1000, decibels, vmin=top - 65, vmax=top, cmap="magma",
                    shading="auto", rasterized=True)  # fmt: skip


def pitches(text: str, shown: Mapping[str, Speech]) -> Figure:
    """Draw the pitch of each voice over time; time is stretched to the length of the last one."""
    import numpy as np

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 3.6))
    means = {}
    for name, speech in shown.items():
        hertz = measure.pitch(speech)
        hertz = np.where(hertz > 0, hertz, np.nan)
        means[name] = float(np.nanmedian(hertz))
        share = np.linspace(0, 100, len(hertz))
        colour = next((value for key, value in COLOURS.items() if key in name), INK)
        axes.plot(share, hertz, color=colour, label=f"{name}: {means[name]:.0f} Hz", lw=1.8)
    first, *_, last = means.values()
    axes.set(
        xlabel="share of the sentence (%)",
        ylabel="pitch (Hz)",
        title=f"The clone leaves the source's {first:.0f} Hz for the target's {last:.0f} Hz",
    )
    axes.set_yscale("log")
    axes.set_yticks([80, 120, 160, 200, 260, 340], [80, 120, 160, 200, 260, 340])
    axes.minorticks_off()
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)
    axes.legend(frameon=False, loc="upper right")
    return figure


def likeness(same: np.ndarray, different: np.ndarray, threshold: float,
             marks: Mapping[str, float]) -> Figure:  # fmt: skip
    """Draw the meter's scores of one speaker and of two, and where source and clone are."""
    import numpy as np

    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 3.8))
    bins = np.linspace(0.3, 1, 57)
    axes.set_xlim(0.3, 1.08)
    axes.hist(different, bins, density=True, color=GREY, alpha=0.7, label="two speakers")
    axes.hist(same, bins, density=True, color=BLUE, alpha=0.7, label="one speaker")
    axes.axvline(threshold, color=INK, lw=1, ls=":")
    top = axes.get_ylim()[1]
    for place, (name, value) in enumerate(marks.items()):
        axes.axvline(value, color=ORANGE, lw=2)
        axes.annotate(f" {name} {value:.2f}", (value, top * (0.97 - 0.1 * place)), va="top",
                      color=INK, fontsize=9)  # fmt: skip
    above = marks.get("clone", 0) >= threshold
    side = "taken for the target" if above else "still told from the target"
    axes.set(
        xlabel="similarity of two recordings (cosine)",
        ylabel="density",
        title=f"The clone is {side}: above {threshold:.2f} the meter says one speaker",
    )
    axes.legend(frameon=False, loc="upper left")
    return figure


def tradeoff(rows: Sequence[Mapping[str, Any]], meter: float) -> Figure:
    """Draw word errors against similarity of each way to map."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for row in rows:
        colour = ORANGE if row["chosen"] else GREY
        axes.plot(row["similarity"], row["words"] * 100, "o", ms=10, color=colour)
        axes.annotate(f"  {row['name']}", (row["similarity"], row["words"] * 100), va="center")
    axes.axvline(meter, color=INK, lw=0.8, ls=":")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.12 * (high - low))
    axes.set_ylim(bottom=0)
    axes.set(xlabel="similarity to the target's voice, new sentences",
             ylabel="words heard wrong (%)",
             title="Likeness is paid for with clarity: right is alike, low is clear")  # fmt: skip
    return figure
