"""Voices that were never trained on: turned into each other, or borrowed from one recording.

Between two speakers a mapping is learned from the other sentences that both have read, a quarter
of a minute; what is converted was held out. A borrowed voice is known from one recording alone:
its mean sound and its pitch. Both are measured like the clone, beside the meter's own errors.

Data:    VCTK and LibriSpeech, subsets (job.toml); flite's voices for the sample.
Source:  Toda, Black and Tokuda, IEEE TASLP 2007, for parallel data; `cloning` for tones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from slipway.errors import InputInvalid

from . import charts, cloning, corpus, measure, page, preparing, releasing
from .engines import flite

if TYPE_CHECKING:
    import numpy as np

    from slipway import Run

    from .corpus import Clip
    from .learning import Seen
    from .outcomes import Said
    from .preparing import Meter
    from .speech import Speech

LEAST_SHARED = 4
"""Sentences that two speakers must share: one held out, one to choose by, two to learn from."""
NEAREST = "nearest"
BETWEEN = {"source": "source, as recorded", "tone": "mean sound and pitch moved",
           "ridge": "mapping learned from pairs", "real": "target"}  # fmt: skip
WHOSE = ("speaker", "reference (s)", "source")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CONSENT = click.option("--consent", type=FILE, default=None,
                       help="The speakers', for recordings of your own.")  # fmt: skip


class Case(NamedTuple):
    """A held-out sentence of one speaker in the voice of another, by one way."""

    source: str
    target: str
    said: Said


@click.option("--held", type=click.IntRange(1), default=2, show_default=True,
              help="Sentences of every two speakers to convert, each held out.")  # fmt: skip
@CONSENT
def between(run: Run, held: int, consent: Path | None) -> None:
    """Convert between every two speakers of VCTK, and measure it like the clone."""
    meter = preparing.meter(run)
    voices = {speaker: [heard(clip) for clip in run.progress(clips, speaker)]
              for speaker, clips in _spoken(run, "vctk", consent, "convert").items()}  # fmt: skip
    cases = []
    for one, other in run.progress(list(permutations(voices, 2)), "pairs of speakers"):
        found = conversions(voices[one], voices[other], held)
        cases += [Case(one, other, said) for said in found]
    if not cases:
        raise InputInvalid(f"vctk: found no two speakers who share {LEAST_SHARED} sentences")
    _told_between(run, cases, meter)


def _spoken(run: Run, name: str, consent: Path | None, purpose: str) -> dict[str, list[Clip]]:
    path = run.data(name)
    if run.tier == "own" and not preparing.is_recipe(path):
        releasing.permitted_all(path, consent or "", purpose)
    return preparing.speakers(run, name)


def heard(clip: Clip) -> Seen:
    """Return a recording as `learning` sees a pair: beside itself. Its phones are not known."""
    from . import learning

    said = flite.Spoken(clip.speech, ())
    return learning.seen(preparing.Pair(clip.name, clip.text, "train", clip.speech, said,
                                        clip.speaker, clip.speaker))  # fmt: skip


def conversions(one: Sequence[Seen], other: Sequence[Seen], held: int) -> Iterator[Said]:
    """Yield sentences that two speakers share by each way, with all others to learn from."""
    own, theirs = ({corpus.text_key(clip.pair.text): clip for clip in clips}
                   for clips in (one, other))  # fmt: skip
    shared = [key for key in own if key in theirs]
    if len(shared) < LEAST_SHARED:
        return
    seen = [_paired(own[key], theirs[key]) for key in shared]
    for place in range(min(held, len(seen))):
        yield from _held_out(seen, place)


def _paired(own: Seen, theirs: Seen) -> Seen:
    """Return one speaker's recording of a sentence beside another's."""
    pair = theirs.pair._replace(source=own.pair.source, voice=own.pair.voice)
    return theirs._replace(pair=pair, source=own.source, phones=own.phones,
                           source_pitch=own.source_pitch)  # fmt: skip


def _held_out(seen: Sequence[Seen], place: int) -> list[Said]:
    """Return one sentence by each way, all others learned from, the next one to choose by."""
    from . import learning, outcomes

    rest = [clip for number, clip in enumerate(seen) if number != place]
    chosen = place % len(rest)
    rest = [clip._replace(pair=clip.pair._replace(part="choose" if number == chosen else "train"))
            for number, clip in enumerate(rest)]  # fmt: skip
    model = learning.learned(rest, "ridge", 0, 0).model
    sound = cloning.tone([clip.target for clip in rest], [clip.target_pitch for clip in rest])
    voice, pair = model.array("identity"), seen[place].pair
    makers = {"source": lambda: pair.source.speech,
              "tone": lambda: cloning.toned(pair.source.speech, sound),
              "ridge": lambda: cloning.recast(model, pair.source),
              "real": lambda: pair.real}  # fmt: skip
    return [outcomes.said_by(pair.text, way, make, voice, pair.real)
            for way, make in makers.items()]  # fmt: skip


def _told_between(run: Run, cases: Sequence[Case], meter: Meter) -> None:
    from . import outcomes

    said = [case.said for case in cases]
    rows = outcomes.summary(said, list(BETWEEN), "ridge")
    found = outcomes.figures({row["way"]: row for row in rows}, "ridge", meter)
    names = ("similarity", "similarity_gain", "similarity_real", "distortion", "distortion_gain",
             "word_errors", "word_errors_real", "equal_error_rate")  # fmt: skip
    run.log(**{f"between_{name}": found[name] for name in names},
            between_tone_similarity=rows[1]["similarity"])  # fmt: skip
    pairs = len({(case.source, case.target) for case in cases})
    count = sum(case.said.way == "real" for case in cases)
    run.table("between", [_without_new(outcomes.shown(row, BETWEEN)) for row in rows],
              f"{count} held-out sentences of {pairs} ordered pairs of speakers. Similarity is to "
              "the mean of the target's sentences learned from; distortion to the target's own "
              "reading. "
              f"{meter.told}")  # fmt: skip
    moves = _moves(cases)
    run.table("pairs of speakers", moves, "The mapping learned from pairs, for each two speakers.")
    run.figure("between", charts.moves(moves, meter.errors.threshold),
               "Means over held-out sentences. From grey, the recording as it is, to orange, the "
               "same sentence converted.")  # fmt: skip
    _page(run, cases, meter)


def _without_new(row: Mapping[str, str]) -> dict[str, str]:
    return {name: entry for name, entry in row.items() if not name.startswith("new")}


def _moves(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return for each two speakers what source and conversion are like."""
    from . import outcomes

    rows = []
    for source, target in dict.fromkeys((case.source, case.target) for case in cases):
        said = [case.said for case in cases if (case.source, case.target) == (source, target)]
        one, other = outcomes.summary(said, ["source", "ridge"], "ridge")
        rows.append({"from": source, "to": target,
                     "source: similarity": round(float(one["similarity"]), 3),
                     "similarity": round(float(other["similarity"]), 3),
                     "source: distortion (dB)": round(float(one["distortion"]), 2),
                     "distortion (dB)": round(float(other["distortion"]), 2),
                     "source: words wrong": round(one["words"], 2),
                     "words wrong": round(other["words"], 2)})  # fmt: skip
    return rows


def _page(run: Run, cases: Sequence[Case], meter: Meter) -> None:
    """Write a page that plays for each target a sentence of the speaker before it."""
    from . import outcomes

    targets = list(dict.fromkeys(case.target for case in cases))
    sentences = []
    for place, target in enumerate(targets):
        source = targets[place - 1]
        own = [case.said for case in cases if (case.source, case.target) == (source, target)]
        found = {BETWEEN[said.way]: said for said in own[: len(BETWEEN)]}
        if found:
            voices = {name: outcomes.outgoing(said, ("real", "source"))
                      for name, said in found.items()}  # fmt: skip
            lines = {name: outcomes.line(said) for name, said in found.items()}
            text = own[0].text
            picture = page.png(charts.spectrograms(text, voices))
            label = f"{source} in the voice of {target}; held out"
            sentences.append(page.Sentence(text, label, voices, lines, picture))
    page.write(run.out / "between.html", "One speaker in the voice of another",
               [f"Data: {run.tier}. {meter.told}"], sentences)  # fmt: skip
    run.note("between.html beside this report plays a sentence for each target.")


@click.option("--sentences", type=click.IntRange(1, 12), default=3, show_default=True,
              help="New sentences to say in each voice.")  # fmt: skip
@click.option("--source", type=click.Choice([*flite.VOICES, NEAREST]), default=preparing.SOURCE,
              show_default=True, help="The voice that is moved: one of flite's, as a request moves "
              "slt, or for each recording the one that is most like it.")  # fmt: skip
@CONSENT
def borrow(run: Run, sentences: int, source: str, consent: Path | None) -> None:
    """Measure how like a voice is that is borrowed from one recording, as a request does."""
    meter = preparing.meter(run)
    voices = {speaker: clips for name in ("vctk", "librispeech")
              for speaker, clips in _spoken(run, name, consent, "clone").items()
              if speaker != source}  # fmt: skip
    lent = {speaker: found for speaker, clips in voices.items() if (found := _lent(clips))}
    if len(lent) < 2:
        raise InputInvalid(f"found {len(lent)} speakers with a recording of {cloning.ENOUGH} s and "
                           "another to compare with; wanted two or more")  # fmt: skip
    found = [_borrowed(lent, speaker, source, preparing.new_sentences()[:sentences])
             for speaker in run.progress(list(lent), "speakers")]  # fmt: skip
    _told_borrowed(run, found, meter)


class Lent(NamedTuple):
    """A recording whose voice is borrowed, and the mean voice of the same speaker's others."""

    reference: Clip
    voice: np.ndarray


def _lent(clips: Sequence[Clip]) -> Lent | None:
    """Return the first recording that is long enough, and the voice of all others."""
    first = next((clip for clip in clips if clip.speech.seconds >= cloning.ENOUGH), None)
    others = [clip for clip in clips if clip is not first]
    if first is None or not others:
        return None
    return Lent(first, measure.mean_voice([measure.embedding(clip.speech) for clip in others]))


def _borrowed(lent: Mapping[str, Lent], speaker: str, moved: str,
              texts: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """Return how like a speaker is what was said in the voice of one recording of theirs."""
    from . import outcomes

    engine, (reference, own) = flite.Flite(), lent[speaker]
    voice = cloning.source_for(reference.speech) if moved == NEAREST else moved
    said, source = [], []
    for text in texts:
        plain = engine.synthesize(text, voice)
        source.append(outcomes.said_by(text, "source", lambda plain=plain: plain, own))
        said.append(outcomes.said_by(
            text, "borrowed", lambda plain=plain: cloning.borrowed(plain, reference.speech), own
        ))  # fmt: skip
    names = [_nearest(one.speech, lent) for one in said]
    others = [measure.similarity(measure.embedding(reference.speech), other.voice)
              for name, other in lent.items() if name != speaker]  # fmt: skip
    return {
        "speaker": speaker, "reference (s)": round(reference.speech.seconds, 1), "source": voice,
        "source: similarity": fmean(one.similarity for one in source),
        "similarity": fmean(one.similarity for one in said),
        "the recording itself": measure.similarity(measure.embedding(reference.speech), own),
        "other speakers": fmean(others),
        "nearest to the right one": fmean(float(name == speaker) for name in names),
        "source: words wrong": outcomes.rate(source), "words wrong": outcomes.rate(said),
    }  # fmt: skip


def _nearest(speech: Speech, lent: Mapping[str, Lent]) -> str:
    heard = measure.embedding(speech)
    return max(lent, key=lambda name: measure.similarity(heard, lent[name].voice))


def _told_borrowed(run: Run, rows: Sequence[Mapping[str, Any]], meter: Meter) -> None:
    mean = {name: fmean(row[name] for row in rows) for name in rows[0] if name not in WHOSE}
    run.log(borrow_similarity=mean["similarity"], borrow_speakers=len(rows),
            borrow_similarity_gain=mean["similarity"] - mean["source: similarity"],
            borrow_similarity_real=mean["the recording itself"],
            borrow_nearest=mean["nearest to the right one"],
            borrow_word_errors=mean["words wrong"],
            borrow_equal_error_rate=meter.errors.rate)  # fmt: skip
    seconds = fmean(row["reference (s)"] for row in rows)
    shown = [*rows, {"speaker": "mean", "reference (s)": seconds, "source": ""} | mean]
    run.table("borrowed", [{name: round(entry, 3) if isinstance(entry, float) else entry
                            for name, entry in row.items()} for row in shown],
              "New sentences in the voice of one recording. Similarity is to the mean of the "
              "speaker's other recordings, where the recording itself and other speakers are, "
              f"too. By chance 1 in {len(rows)} is nearest to the right speaker. "
              f"{meter.told}")  # fmt: skip
    moves = [{"from": f"flite ({row['source']})", "to": row["speaker"],
              "source: similarity": row["source: similarity"],
              "similarity": row["similarity"]} for row in rows]  # fmt: skip
    run.figure("borrowed", charts.moves(moves, meter.errors.threshold),
               "Means over new sentences. From grey, flite, to orange, the same with the mean "
               "sound and the pitch of one recording.")  # fmt: skip


VERBS = [between, borrow]
