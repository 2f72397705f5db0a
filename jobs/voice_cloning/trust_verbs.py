"""The verbs about trust: consent, finding the mark, measuring it, and the listening test.

Data:    recordings, outputs and ratings of the user.
Source:  see `consent`, `watermark`, `robustness`, `listening` and `ratings`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from slipway import Run
from slipway.data import written
from slipway.errors import DataUnavailable, InputInvalid
from slipway.run import read_json

from . import consent as agreements
from . import listening, provenance, ratings, releasing, robustness, watermark
from . import speech as recordings

PLACE = click.Path(path_type=Path)
MEASURED = "watermark.json"


@click.option(
    "--reference",
    "references",
    type=PLACE,
    multiple=True,
    required=True,
    help="A recording, a zip or folder of them; repeatable.",
)
@click.option("--speaker", default="", help="Whose voice it is; empty: to be filled in.")
@click.option(
    "--purpose",
    "purposes",
    multiple=True,
    type=click.Choice(agreements.PURPOSES),
    default=["clone"],
    show_default=True,
    help="Agreed to; repeatable.",
)
@click.option(
    "--expiry",
    type=click.DateTime(["%Y-%m-%d"]),
    default=None,
    help="Last day; default: a year from today.",
)
@click.option("--to", type=PLACE, default=None, help="Default: consent.json in the artifacts.")
def consent(
    run: Run,
    references: tuple[Path, ...],
    speaker: str,
    purposes: tuple[str, ...],
    expiry: datetime | None,
    to: Path | None,
) -> None:
    """Write a consent file for recordings, to be filled in and agreed to by their speaker."""
    today = datetime.now(UTC).date()
    last = expiry.date() if expiry else today + timedelta(days=365)
    place = to or run.out / agreements.FILE
    files = [file for path in references for file in releasing.agreed_on(path)]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents, strict=True):
        if file.suffix.lower() in recordings.FORMATS:
            recordings.heard(content, str(file))
    if place.exists():
        raise InputInvalid(f"{place}: found a file there; wanted a new one, by --to")
    with written(place) as part:
        part.write_text(agreements.template(contents, speaker, purposes, today, last), "utf-8")
    run.note(
        f"{place}: consent for recordings ({len(files)}) until {last}. Let the speaker read and "
        f"sign what it says{'' if speaker else '; fill in who that is'}."
    )


@click.option("--audio", type=PLACE, required=True, help="A recording, or a folder of them.")
@click.option(
    "--keys",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Other keys to try on each: how often is one found that is not there?",
)
def detect(run: Run, audio: Path, keys: int, seed: int) -> None:
    """Tell which recordings bear the watermark of this machine's key, and how sure that is."""
    key, secret = watermark.key_of()
    files = run.progress(releasing.recordings_in(audio), "listening")
    rows = [_detected(path, key, keys, seed) for path in files]
    run.table(
        "detected",
        rows,
        f"Score of the key {provenance.key_name(key)} against its threshold. The last columns "
        f"are {keys} other keys on the same recording: their best score, and how many pass.",
    )
    if not secret:
        run.note(
            f"The key is the job's public one, which anybody can mark with or remove: set "
            f"{watermark.KEY_NAME} to a secret of your own."
        )
    run.note(
        _told_of_false_positives(
            run.out / MEASURED, len(rows) * keys, sum(row["other keys found"] for row in rows)
        )
    )


def _detected(path: Path, key: bytes, keys: int, seed: int) -> dict[str, Any]:
    content = path.read_bytes()
    parts = watermark.evidence(recordings.read(content, str(path)))
    found = watermark.matched(parts, key)
    others = [
        watermark.matched(parts, robustness.key_number(number, seed)) for number in range(keys)
    ]
    return {
        "file": path.name,
        "marked": "yes" if found.present else "no",
        "score": round(found.score, 2),
        "threshold": round(found.threshold, 2),
        "message": "" if found.message is None else found.message,
        "record": _record_of(path, content, key, found.message),
        "best other key": round(max((other.score for other in others), default=0.0), 2),
        "other keys found": sum(other.present for other in others),
    }


def _record_of(path: Path, content: bytes, key: bytes, message: int | None) -> str:
    """Return in words whether the record beside a file is about that file and this mark."""
    place = provenance.beside(path)
    if not place.is_file():
        return "none"
    record = provenance.read(place)
    told = provenance.objections(record, content, key)
    mark = record.get("watermark")
    said = mark.get("message") if isinstance(mark, dict) else None
    if message is not None and said != message:
        told.append(f"the record says message {said}")
    return "; ".join(told) or "holds"


def _told_of_false_positives(place: Path, tries: int, found: int) -> str:
    """Return how often a key was found that was not there: here, and when it was measured.

    ``place`` is what `measure_watermark` wrote; what comes with the job stands in for it.
    """
    told = (
        f"By its derivation a threshold is passed by chance at most once in "
        f"{1 / watermark.FALSE_POSITIVES:,.0f} recordings. Here other keys passed {found} of "
        f"{tries:,} times."
    )
    for path in (place, Path(__file__).with_name(MEASURED)):
        kept = read_json(path)
        if kept.get("settings") == watermark.settings():
            return (
                f"{told} Measured on {kept['clips']:,} clips without a mark ({kept['audio']}): "
                f"{kept['passed']:,} of {kept['tries']:,} tries passed, so at most "
                f"{kept['rate_high']:.3%} do (95 %)."
            )
    return f"{told} The verb measure-watermark measures it on clips without a mark."


@click.option(
    "--audio",
    type=PLACE,
    multiple=True,
    required=True,
    help="Recordings of speech: a folder or a zip; repeatable.",
)
@click.option(
    "--marked",
    type=click.IntRange(100),
    default=400,
    show_default=True,
    help="Clips to mark and to put through changes.",
)
@click.option(
    "--unmarked",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Clips without a mark.",
)
@click.option(
    "--keys",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Keys to try on each clip without a mark.",
)
def measure_watermark(
    run: Run, audio: tuple[Path, ...], marked: int, unmarked: int, keys: int, seed: int
) -> None:
    """Measure how often the mark is found after what, and how often where there is none."""
    clips = [clip for place in audio for clip in robustness.recordings_in(place)]
    chosen = robustness.cut(clips, marked, seed)
    made = robustness.marks(chosen, seed)
    changes = run.progress(robustness.found_after(made), "changes", len(robustness.CHANGES))
    after = list(changes)
    run.table(
        "found",
        [_found_row(found) for found in after],
        f"Marks found in {marked} clips of 2 to 5 s from {len(clips)} recordings.",
    )
    bare = robustness.falsely(robustness.cut(clips, unmarked, seed + 1), seed + 1, keys)
    other = robustness.falsely(chosen, seed + 2, keys, b"another key")
    _tell_costs(run, made)
    _keep_false_positives(run, bare, other, ", ".join(place.stem for place in audio))
    run.log(**{f"found_{_plain(found.name)}": _share(found) for found in after})
    run.figure(
        "scores",
        robustness.chart(bare, after[0].answers),
        "Clips of 2 to 5 s. The threshold is derived, not fitted to them.",
    )


def _share(after: robustness.After) -> float:
    return sum(answer.present for answer in after.answers) / len(after.answers)


def _found_row(after: robustness.After) -> dict[str, Any]:
    found = sum(answer.present for answer in after.answers)
    low, high = robustness.interval(found, len(after.answers))
    return {
        "after": after.name,
        "found": f"{_share(after):.1%}",
        "95 % interval": f"{low:.1%} to {high:.1%}",
        "message right": f"{after.right / len(after.answers):.1%}",
        "least score": round(min(answer.score for answer in after.answers), 1),
    }


def _plain(text: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in text.lower())


def _tell_costs(run: Run, made: Sequence[robustness.Mark]) -> None:
    """Record what marks cost in sound and in time."""
    import numpy as np

    costs = [robustness.cost(mark.bare, mark.marked) for mark in made]
    low, middle = float(np.min(costs)), float(np.median(costs))
    run.log(snr_median_db=middle, snr_least_db=low)
    marking, finding = robustness.speed([mark.bare for mark in made[:50]])
    run.note(
        f"A mark is {middle:.1f} dB below the speech (median; {low:.1f} dB in the worst clip). "
        f"Seconds of processor time for a second of speech: {marking:.4f} to mark, "
        f"{finding:.4f} to look."
    )


def _keep_false_positives(run: Run, bare: Any, other: Any, audio: str) -> None:
    """Record how often a key was found that was not there."""
    passed, tries = int((bare > 0).sum()), bare.size
    high = robustness.interval(passed, tries)[1]
    kept = {
        "settings": watermark.settings(),
        "audio": audio,
        "clips": len(bare),
        "tries": tries,
        "passed": passed,
        "rate_high": high,
        "other_key_tries": other.size,
        "other_key_passed": int((other > 0).sum()),
    }
    with written(run.out / MEASURED) as part:
        part.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    run.log(false_positives=passed / tries, false_positives_high=high)
    run.note(
        f"Without a mark {passed} of {tries:,} tries on {len(bare):,} clips passed the "
        f"threshold, so at most {high:.3%} do (95 %); of clips with the mark of another key "
        f"{kept['other_key_passed']} of {other.size:,}."
    )


@click.option(
    "--clips",
    type=PLACE,
    default=None,
    help="A folder a system, with the real recordings in reference/; default: clips/ "
    "in the artifacts.",
)
@click.option(
    "--ask",
    type=click.Choice([*listening.SCALES]),
    default="naturalness",
    show_default=True,
    help="What is rated.",
)
@click.option(
    "--voice",
    type=PLACE,
    default=None,
    help="A recording of the target voice to compare with, for similarity.",
)
@click.option(
    "--raters", type=click.IntRange(1, 1000), default=24, show_default=True, help="Orders to plan."
)
@click.option(
    "--repeats",
    type=click.IntRange(0, 50),
    default=4,
    show_default=True,
    help="Clips that come again.",
)
@click.option(
    "--anchor",
    type=click.Choice(["noise", "low-pass"]),
    default="noise",
    show_default=True,
    help="What the bad clips suffer from.",
)
@click.option("--name", default="voices", show_default=True, help="Of the test.")
def mos(
    run: Run,
    clips: Path | None,
    ask: str,
    voice: Path | None,
    raters: int,
    repeats: int,
    anchor: str,
    name: str,
    seed: int,
) -> None:
    """Write a listening test: one page for raters, and the key that stays here."""
    if (ask == "similarity") != (voice is not None):
        raise click.UsageError("--voice and --ask similarity go together; found one of them")
    target = recordings.read(voice.read_bytes(), str(voice)) if voice else None
    heard = listening.with_anchor(listening.clips_in(clips or run.out / "clips", ask), anchor, seed)
    items = sorted(heard[listening.REFERENCE])
    plan = listening.planned(list(heard), items, raters, repeats, seed)
    folder = run.out / "listening"
    text = listening.page(plan, heard, name, ask, target)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (
        ("test.html", text),
        ("key.json", json.dumps(listening.key_of(plan, name, ask), indent=1)),
    ):
        with written(folder / file) as part:
            part.write_text(content, "utf-8")
    run.note(
        f"{folder / 'test.html'}: {len(plan.orders[0])} clips a rater ({len(heard)} systems with "
        f"the anchor, {len(items)} sentences). Send it to raters 1 to {raters}, collect their "
        f"CSV files, and keep key.json for yourself."
    )


@click.option(
    "--ratings",
    "place",
    type=PLACE,
    required=True,
    help="A CSV file of the page, or a folder of them.",
)
@click.option(
    "--key",
    "key_path",
    type=PLACE,
    default=None,
    help="Default: listening/key.json in the artifacts.",
)
@click.option("--headphones", is_flag=True, help="Leave out who did not pass the headphone check.")
def mos_results(run: Run, place: Path, key_path: Path | None, headphones: bool, seed: int) -> None:
    """Tell what raters heard: means with intervals, their agreement, and what differs."""
    key = ratings.key_in(key_path or run.out / "listening" / "key.json")
    files = sorted(place.glob("*.csv")) if place.is_dir() else [place]
    if not files or not all(path.is_file() for path in files):
        raise DataUnavailable(f"{place}: found no CSV file; wanted those that the page saves")
    raters = ratings.read_all(files, key)
    against = {rater.name: ratings.objection(rater, key, headphones) for rater in raters}
    kept = [rater for rater in raters if not against[rater.name]]
    run.table(
        "raters",
        [_rater_row(rater, against[rater.name]) for rater in raters],
        f"Left out: who rates the real recordings less than {ratings.APART:g} above the anchor, "
        f"clips that come again more than {ratings.DRIFT:g} apart, or not all clips.",
    )
    if len(kept) < 2:
        raise InputInvalid(
            f"{place}: found {len(kept)} raters who can be counted of {len(raters)}; "
            "wanted two or more"
        )
    _tell_results(run, kept, key["ask"], seed)


def _rater_row(rater: ratings.Rater, against: str) -> dict[str, Any]:
    return {
        "rater": rater.name,
        "clips": len(rater.first),
        "listened with": rater.device,
        "tones heard right": f"{rater.headphones} of 6",
        "left out": against,
    }


def _tell_results(run: Run, kept: Sequence[ratings.Rater], ask: str, seed: int) -> None:
    scores, systems = ratings.table_of(kept)
    found = ratings.intervals(scores, seed)
    rows = [
        {
            "system": name,
            "mean": round(one.mean, 2),
            "low": round(one.low, 2),
            "high": round(one.high, 2),
        }
        for name, one in zip(systems, found, strict=True)
    ]
    run.table(
        "opinions",
        rows,
        f"Mean opinion of {ask} by {scores.shape[0]} raters on "
        f"{scores.shape[2]} sentences; 95 % intervals with raters and sentences drawn again.",
    )
    run.figure(
        "opinions",
        ratings.chart(scores, systems, found, ask),
        "Grey diamonds are the hidden reference and the anchor.",
    )
    one, mean = ratings.agreement(scores.reshape(len(scores), -1).T)
    means, tested = (
        scores.mean(axis=2),
        [at for at, name in enumerate(systems) if name != listening.ANCHOR],
    )
    chance = ratings.friedman(means)
    run.note(
        f"Agreement: ICC(2,1) {one:.2f} for one rater, ICC(2,k) {mean:.2f} for their mean. "
        f"Friedman's test over raters: p = {chance:.2g}."
    )
    pairs = ratings.pairs(means[:, tested], [systems[at] for at in tested])
    run.table(
        "pairs",
        [
            {
                name: entry if isinstance(entry, str) else float(f"{entry:.2g}")
                for name, entry in row.items()
            }
            for row in pairs
        ],
        "Differences of raters' means; Wilcoxon's signed-rank test, corrected by Holm.",
    )
    run.log(
        raters=len(kept),
        icc_of_mean=mean,
        **{f"mos_{_plain(name)}": entry.mean for name, entry in zip(systems, found, strict=True)},
    )


VERBS: list[Callable[..., None]] = [consent, detect, measure_watermark, mos, mos_results]
