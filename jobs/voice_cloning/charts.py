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

    from slipway.spec import Bar

    from .learning import Pass

BLUE, ORANGE, GREY, INK = "#2166ac", "#e08214", "#7f7f7f", "#222222"
COLOURS = {"source": GREY, "clone": ORANGE, "target": BLUE}


def loss(curve: Sequence[Pass], best: int, linear: float) -> Figure:
    """Draw loss and distortion after each pass, the pass that is kept, and the linear map's."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    passes = range(1, len(curve) + 1)
    left.plot(passes, [one.train_loss for one in curve], color=GREY, marker=".",
              label="sentences to learn from")  # fmt: skip
    left.plot(passes, [one.choose_loss for one in curve], color=ORANGE, marker=".",
              label="sentences to choose by")  # fmt: skip
    left.set(ylabel="squared error (variance = 1)", title="Loss")
    right.plot(passes, [one.distortion for one in curve], color=ORANGE, marker=".",
               label="network, sentences to choose by")  # fmt: skip
    right.axhline(linear, color=BLUE, lw=1.5, ls="--", label="linear map")
    right.set(ylabel="mel-cepstral distortion (dB)", title="Distortion")
    for axes in (left, right):
        axes.axvline(best + 1, color=INK, lw=0.8, ls=":", label=f"pass {best + 1} is kept")
        axes.set_xlabel("pass over the paired frames")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    kept, first = curve[best], curve[0]
    figure.suptitle(f"The network explains {1 - kept.choose_loss:.0%} of unseen sentences' "
                    f"variation; distortion goes from {first.distortion:.2f} to "
                    f"{kept.distortion:.2f} dB")  # fmt: skip
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


def folds(rows: Sequence[Mapping[str, float]], names: Mapping[str, tuple[str, int]],
          bars: Mapping[str, Bar]) -> Figure:  # fmt: skip
    """Draw each figure of each fold, its mean, and its bar where it has one."""
    plt = pyplot()
    drawn = [name for name in names if name in bars and len({row[name] for row in rows}) > 1]
    figure, every = plt.subplots(1, len(drawn), figsize=(2.2 * len(drawn), 3.8), squeeze=False,
                                 layout="constrained")  # fmt: skip
    reached = 0
    for axes, name in zip(every[0], drawn, strict=True):
        values = [row[name] for row in rows]
        mean = sum(values) / len(values)
        reached += bars[name].holds(mean)
        axes.plot(range(len(values)), values, "o", color=ORANGE, ms=9)
        axes.axhline(mean, color=INK, lw=2)
        axes.axhline(bars[name].limit, color=BLUE, lw=2, ls="--")
        axes.set(title=f"{names[name][0]}\nmean {mean:.{names[name][1]}f}, bar {bars[name]}",
                 xlabel="fold", xticks=range(len(values)))  # fmt: skip
        axes.title.set_fontsize(10)
        axes.margins(x=0.2, y=0.2)
    whole = "every bar" if reached == len(drawn) else f"{reached} of {len(drawn)} bars"
    figure.suptitle(f"Means over {len(rows)} folds reach {whole}")
    return figure


def moves(rows: Sequence[Mapping[str, Any]], threshold: float) -> Figure:
    """Draw how far each voice came from its source to its target, and where the meter decides."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.32 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        one, other = row["source: similarity"], row["similarity"]
        axes.annotate("", (other, place), (one, place),
                      arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.5})  # fmt: skip
        axes.plot(one, place, "o", color=GREY, ms=8)
        axes.plot(other, place, "o", color=ORANGE, ms=9)
    axes.set_yticks(range(len(rows)), [f"{row['from']} to {row['to']}" for row in reversed(rows)])
    axes.axvline(threshold, color=INK, lw=1, ls=":")
    axes.annotate(f"{threshold:.2f}: one speaker\nto the right ", (threshold, len(rows) + 0.3),
                  va="top", ha="right", fontsize=9)  # fmt: skip
    axes.set_ylim(-0.6, len(rows) + 0.4)
    passed = sum(row["similarity"] >= threshold for row in rows)
    mean = [sum(row[name] for row in rows) / len(rows)
            for name in ("source: similarity", "similarity")]  # fmt: skip
    axes.set_xlabel("similarity to the target (cosine)")
    axes.set_title(f"Similarity rises from {mean[0]:.2f} to {mean[1]:.2f}; {passed} of {len(rows)} "
                   "are taken for the target")  # fmt: skip
    return figure
