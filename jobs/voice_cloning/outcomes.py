"""What a clone is worth: beside its source, beside the target itself, on unseen sentences.

Data:    the held-out sentences, which were said to the end of learning by no one, and new ones.
Source:  `measure`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from . import charts, cloning, corpus, listening, measure, page, preparing, releasing
from .engines import flite
from .speech import Speech

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from slipway import Run

    from .network import Converter
    from .preparing import Pair
    from .retrieval import Retriever

SHOWN = 4
"""Sentences of each kind on the page to listen on."""
NAMES = {"source": "source (flite)", "pitch": "source, pitch moved", "real": "target",
         "ridge": "ridge", "mlp": "network", "knn": "network + retrieval",
         "mix": "half network, half retrieval", "hubert": "retrieval by HuBERT"}  # fmt: skip


class Said(NamedTuple):
    """One sentence by one way, and its measures; NaN where there is nothing to compare with."""

    text: str
    way: str
    new: bool
    speech: Speech
    similarity: float
    distortion: float
    errors: measure.WordErrors
    factor: float
    """Seconds of computing for a second of speech."""


def collected(run: Run, model: Converter, held: Sequence[Pair], ways: Sequence[str],
              new: int, others: Mapping[str, Retriever] = {}) -> list[Said]:  # fmt: skip
    """Return each held-out sentence, and so many new ones, by each way.

    ``others`` are ways that are no part of the model: the source's sentence is given to them.
    """
    found, target = [], model.array("identity")
    makers = {way: partial(_made, model, way, others) for way in ways}
    for pair in run.progress(held, "held out"):
        found.append(said_by(pair.text, "real", lambda pair=pair: pair.real, target, pair.real))
        found += [said_by(pair.text, way, partial(make, pair.text), target, pair.real)
                  for way, make in makers.items()]  # fmt: skip
    for text in run.progress(preparing.new_sentences()[:new], "new"):
        found += [said_by(text, way, partial(make, text), target) for way, make in makers.items()]
    return found


def _made(model: Converter, way: str, others: Mapping[str, Retriever], text: str) -> Speech:
    """Make a sentence from its text alone, by one way."""
    if way != "source" and way not in others:
        return cloning.spoken(model, text, way)
    said = flite.Flite().synthesize(text, model.settings["source"])
    return others[way].converted(said) if way in others else said


def said_by(text: str, way: str, make: Callable[[], Speech], target: np.ndarray,
            real: Speech | None = None) -> Said:  # fmt: skip
    """Say a sentence by one way and measure it: beside a voice, and beside the real recording."""
    began = time.perf_counter()
    speech = make()
    factor = (time.perf_counter() - began) / speech.seconds
    likeness = measure.similarity(measure.embedding(speech), target)
    apart = 0.0 if speech is real else float("nan")
    if real is not None and speech is not real:
        apart = measure.distortion(speech, real)
    return Said(text, way, real is None, speech, likeness, apart,
                measure.word_errors(speech, text), factor)  # fmt: skip


def rate(said: Sequence[Said]) -> float:
    """Return the word errors of some sentences together: long ones weigh more."""
    return sum(one.errors.errors for one in said) / max(1, sum(one.errors.words for one in said))


def summary(said: Sequence[Said], ways: Sequence[str], chosen: str) -> list[dict[str, Any]]:
    """Return the means of each way; the real recording is the ceiling."""
    import numpy as np

    rows = []
    for way in ways:
        held = [one for one in said if one.way == way and not one.new]
        new = [one for one in said if one.way == way and one.new]
        factors = [one.factor for one in held + new]
        rows.append({
            "way": way, "chosen": way == chosen, "held": held, "new": new,
            "similarity": np.mean([one.similarity for one in held]),
            "similarity_new": np.mean([one.similarity for one in new]) if new else float("nan"),
            "distortion": np.mean([one.distortion for one in held]),
            "words": rate(held), "words_new": rate(new) if new else float("nan"),
            "factor": np.percentile(factors, 50), "slow": np.percentile(factors, 95),
        })  # fmt: skip
    return rows


def told(run: Run, model: Converter, said: Sequence[Said], ways: Sequence[str]) -> None:
    """Put figures, tables, charts and the page of a run into its report."""
    chosen = model.settings["method"]
    rows = summary(said, [*ways, "real"], chosen)
    by = {row["way"]: row for row in rows}
    meter = preparing.meter(run)
    run.log(**figures(by, chosen, meter))
    run.table("voices", [shown(row) for row in rows], "Each way to say the held-out and the new "
              "sentences. Similarity is to the mean of the clips learned from; distortion to the "
              "real recording of the same sentence; words are those that PocketSphinx hears "
              "wrong, which it does with the real reader, too. Real-time factor: median and "
              "95th percentile, from text to sound.")  # fmt: skip
    run.note(meter.told)
    _charts(run, by, chosen, meter)
    _prosody(run, by, chosen)
    _page(run, model, by, chosen, meter)
    for row in rows:
        folder = run.out / "clips" / (listening.REFERENCE if row["way"] == "real" else row["way"])
        for number, one in enumerate(row["held"], start=1):
            corpus.write(folder, f"sentence-{number:02d}", outgoing(one))


def outgoing(said: Said, recorded: Sequence[str] = ("real",)) -> Speech:
    """Return what may be listened to: all but what somebody really said is marked."""
    return said.speech if said.way in recorded else releasing.marked(said.speech)


def figures(by: dict[str, Any], chosen: str, meter: preparing.Meter) -> dict[str, float]:
    """Return what a way is judged by: beside its source, and beside the real recordings."""
    clone, source, real = by[chosen], by["source"], by["real"]
    return {
        "similarity": clone["similarity"], "similarity_new": clone["similarity_new"],
        "similarity_gain": clone["similarity"] - source["similarity"],
        "similarity_real": real["similarity"],
        "distortion": clone["distortion"],
        "distortion_gain": source["distortion"] - clone["distortion"],
        "word_errors_new": clone["words_new"], "word_errors_new_source": source["words_new"],
        "word_errors": clone["words"], "word_errors_real": real["words"],
        "equal_error_rate": meter.errors.rate, "threshold": meter.errors.threshold,
    }  # fmt: skip


def shown(row: dict[str, Any], names: Mapping[str, str] = NAMES) -> dict[str, str]:
    """Return a row of `summary` as the report has it."""

    def number(name: str, digits: int) -> str:
        value = row[name]
        return (
            ""
            if value != value or (row["way"] == "real" and name in HIDDEN)
            else f"{value:.{digits}f}"
        )

    return {"way": names[row["way"]] + (" (chosen)" if row["chosen"] else ""),
            "similarity": number("similarity", 3), "new: similarity": number("similarity_new", 3),
            "distortion (dB)": number("distortion", 2),
            "words wrong": number("words", 2), "new: words wrong": number("words_new", 2),
            "real-time factor": number("factor", 3), "p95": number("slow", 3)}  # fmt: skip


HIDDEN = ("distortion", "factor", "slow")


def _charts(run: Run, by: dict[str, Any], chosen: str, meter: preparing.Meter) -> None:
    clone, source, real = by[chosen], by["source"], by["real"]
    shown = {"source (flite)": source["held"][0].speech, "clone": clone["held"][0].speech,
             "target": real["held"][0].speech}  # fmt: skip
    text = clone["held"][0].text
    run.figure("spectrograms", charts.spectrograms(text, shown),
               "A held-out sentence: bright is loud, from 0 to 8 kHz.")  # fmt: skip
    run.figure("pitch", charts.pitches(text, shown),
               "Pitch over a held-out sentence by Praat. The clone's melody is flite's, moved and "
               "stretched: its ups and downs are not the reader's.")  # fmt: skip
    marks = {"source": source["similarity"], "clone": clone["similarity"],
             "target": real["similarity"]}  # fmt: skip
    figure = charts.likeness(meter.same, meter.different, meter.errors.threshold, marks)
    run.figure("likeness", figure, "Similarities of every two prepared recordings, and those of "
               "this run to the target's mean voice.")  # fmt: skip


def _prosody(run: Run, by: dict[str, Any], chosen: str) -> None:
    rows = []
    for way in ("source", chosen, "real"):
        heard = [measure.prosody(one.speech) for one in by[way]["held"]]
        words = sum(one.errors.words for one in by[way]["held"])
        seconds = sum(one.seconds for one in heard)
        mean = {name: sum(getattr(one, name) for one in heard) / len(heard)
                for name in ("pitch", "spread", "range", "voiced")}  # fmt: skip
        rows.append({"voice": NAMES[way], "pitch (Hz)": f"{mean['pitch']:.0f}",
                     "spread (semitones)": f"{mean['spread']:.2f}",
                     "5 to 95 % (semitones)": f"{mean['range']:.1f}",
                     "voiced": f"{mean['voiced']:.0%}", "seconds": f"{seconds:.1f}",
                     "words a second": f"{words / seconds:.2f}"})  # fmt: skip
    run.table("prosody", rows, "The melody of the held-out sentences, by Praat.")


def _page(run: Run, model: Converter, by: dict[str, Any], chosen: str,
          meter: preparing.Meter) -> None:  # fmt: skip
    sentences = []
    for kind, ways in (("held", ("source", chosen, "real")), ("new", ("source", chosen))):
        for place, first in list(enumerate(by[chosen][kind]))[:SHOWN]:
            one = {NAMES[way] if way != chosen else "clone": by[way][kind][place] for way in ways}
            voices = {name: outgoing(said) for name, said in one.items()}
            lines = {name: line(said) for name, said in one.items()}
            label = "held out: the target says it, too" if kind == "held" else "a new sentence"
            picture = page.png(charts.spectrograms(first.text, voices))
            sentences.append(page.Sentence(first.text, label, voices, lines, picture))
    notes = [f"Source: flite's voice {model.settings['source']}. "
             f"Target: {model.settings['target']}, "
             f"learned from {model.settings['trained']['clips']} clips of "
             f"{model.settings['trained']['seconds']:.0f} s. Data: {run.tier}.",
             f"Similarity 1 is the same voice; from {meter.errors.threshold:.2f} on the meter says "
             f"one speaker (equal-error rate {meter.errors.rate:.1%}). The clone is made by a "
             "vocoder and sounds so."]  # fmt: skip
    page.write(run.out / "listen.html", "A source voice, its clone and the target", notes,
               sentences)  # fmt: skip
    run.note(
        "listen.html beside this report plays source, clone and target; clips/ holds the "
        "held-out sentences for a listening test, by the verb mos."
    )


def line(said: Said) -> str:
    """Return what is told below a player."""
    errors = f"{said.errors.errors} of {said.errors.words} words heard wrong"
    return f"similarity {said.similarity:.2f}; {errors}: “{said.errors.heard}”"
