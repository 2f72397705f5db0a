"""A listening test in one page: people rate clips without knowing which system spoke.

Each rater hears every sentence from every system once, in an order of their own. The real
recording is among the clips without being named, and so is an anchor that is plainly bad: who does
not tell them apart was not listening. Some clips come twice: who rates them differently was
guessing. The page holds clips under meaningless names; which is which stays in a second file.

Data:    a folder for each system with a clip for each sentence, of one name in all folders; the
         folder ``reference`` holds the real recordings.
Source:  ITU-T P.800 (absolute category rating), P.810 (modulated noise); Williams, Aust. J. Sci.
         Res. 1949 (orders balanced for what came before); Woods et al., Atten. Percept. Psychophys.
         2017 (headphones heard by a tone in anti-phase).
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slipway.errors import DataUnavailable, InputInvalid

from . import speech as recordings
from .speech import Speech

REFERENCE, ANCHOR = "reference", "anchor"
SCALES = {
    "naturalness": (
        "How natural does this recording sound?",
        ("Bad: not like a person at all", "Poor", "Fair", "Good", "Excellent: like a real person"),
    ),
    "similarity": (
        "Is this the same voice as the target voice?",
        (
            "Surely another voice",
            "Probably another",
            "Cannot tell",
            "Probably the same",
            "Surely the same voice",
        ),
    ),
}
LEVEL = -26.0
"""dB of full scale that the spoken parts of every clip are brought to (ITU-T P.56's usual)."""
SPOKEN = -30.0
"""dB below the loudest tenth of a second: what counts as spoken."""
NOISE_DB = 5.0
LOW_PASS = 3500.0
PRACTICE = 2
LARGEST = 200 << 20
"""Bytes of a page that a browser still opens without trouble."""

Clips = Mapping[str, Mapping[str, Speech]]


class Plan(NamedTuple):
    """Who hears what when; a stimulus is ``(system, item)``."""

    names: dict[str, tuple[str, str]]
    """Stimuli by the meaningless names that the page knows."""
    orders: list[list[str]]
    """Names in the order of each rater; the first `PRACTICE` are practice."""


def clips_in(folder: Path, ask: str = "naturalness") -> dict[str, dict[str, Speech]]:
    """Read the clips of each system. Raises InputInvalid where a system lacks a sentence.

    What is bad at being natural is made of the reference (`with_anchor`); what is bad at being like
    the target, another person, must be there.
    """
    if not folder.is_dir():
        raise DataUnavailable(f"{folder}: no such folder; wanted one with a folder a system")
    systems = sorted(path for path in folder.iterdir() if path.is_dir())
    names = {path.name for path in systems}
    needed = {REFERENCE, ANCHOR} if ask == "similarity" else {REFERENCE}
    if names & {REFERENCE, ANCHOR} != needed or len(names) <= len(needed):
        about = (
            "and anchor, another person," if ask == "similarity" else "(the anchor is made of it)"
        )
        raise InputInvalid(
            f"{folder}: found folders {', '.join(sorted(names)) or 'none'}; wanted {REFERENCE} "
            f"{about} and one or more systems"
        )
    files = {
        path.name: {
            file.stem: file
            for file in sorted(path.iterdir())
            if file.suffix.lower() in recordings.FORMATS
        }
        for path in systems
    }
    wanted = set(files[REFERENCE])
    for name, own in files.items():
        if set(own) != wanted or not wanted:
            raise InputInvalid(
                f"{folder / name}: found clips {_told(own)}; wanted {_told(wanted)} as in "
                f"{REFERENCE}"
            )
    return {
        name: {item: recordings.read(file.read_bytes(), str(file)) for item, file in own.items()}
        for name, own in files.items()
    }


def _told(names: Any) -> str:
    listed = sorted(names)
    return (", ".join(listed[:5]) + (" …" if len(listed) > 5 else "")) or "none"


def levelled(speech: Speech) -> Speech:
    """Bring the spoken parts to `LEVEL`, so that no system is preferred for being louder."""
    import numpy as np

    size = speech.rate // 10
    blocks = np.pad(speech.samples, (0, -len(speech.samples) % size)).reshape(-1, size)
    power = np.mean(np.square(blocks, dtype="float64"), axis=1)
    loud = power[power > power.max() * 10 ** (SPOKEN / 10)]
    gain = 10 ** (LEVEL / 20) / np.sqrt(loud.mean()) if loud.size else 1.0
    peak = float(np.abs(speech.samples).max()) * gain
    return Speech((speech.samples * (gain / max(peak, 1))).astype("float32"), speech.rate)


def anchor(speech: Speech, kind: str, seed: int) -> Speech:
    """Return a plainly bad version: ``noise`` that follows the speech at 5 dB, or ``low-pass``."""
    import numpy as np
    from scipy.signal import butter, sosfiltfilt

    if kind == "low-pass":
        edge = min(LOW_PASS / (speech.rate / 2), 0.95)
        samples = sosfiltfilt(butter(10, edge, output="sos"), speech.samples)
    else:
        noise = np.random.default_rng(seed).standard_normal(len(speech.samples))
        samples = speech.samples * (1 + 10 ** (-NOISE_DB / 20) * noise)
    return Speech(samples.astype("float32"), speech.rate)


def with_anchor(clips: Clips, kind: str, seed: int) -> dict[str, dict[str, Speech]]:
    """Add the anchor, where it is not there, and bring all clips to one level."""
    bad = {item: anchor(clip, kind, seed) for item, clip in clips[REFERENCE].items()}
    return {
        system: {item: levelled(clip) for item, clip in own.items()}
        for system, own in {ANCHOR: bad, **clips}.items()
    }


def williams(count: int) -> list[list[int]]:
    """Return orders of ``count`` things: each equally often in each place and before each other.

    There are ``count`` orders where it is even, and twice as many where it is odd.
    """
    first = [0]
    for step in range(1, count):
        first.append((step + 1) // 2 if step % 2 else count - step // 2)
    square = [[(entry + row) % count for entry in first] for row in range(count)]
    return square if count % 2 == 0 else square + [order[::-1] for order in square]


def planned(
    systems: Sequence[str], items: Sequence[str], raters: int, repeats: int, seed: int
) -> Plan:
    """Plan the orders of raters 1 to ``raters``.

    Sentence by sentence a rater goes through the systems in an order of `williams`, one system in
    each round through all sentences. ``repeats`` clips of the first rounds come again at the end.
    """
    import numpy as np

    token = {(system, item): _token(seed, system, item) for system in systems for item in items}
    square, orders = williams(len(systems)), []
    for rater in range(raters):
        chance = np.random.default_rng([seed, rater])
        own = list(chance.permutation(len(items)))
        rounds = [
            [
                (systems[square[(rater + place) % len(square)][turn]], items[item])
                for place, item in enumerate(own)
            ]
            for turn in range(len(systems))
        ]
        trials = [stimulus for heard in rounds for stimulus in heard]
        early = trials[: max(len(trials) - len(items), 1)]
        again = [early[at] for at in chance.permutation(len(early))[:repeats]]
        practice = [(REFERENCE, items[own[-1]]), (ANCHOR, items[own[-1]])]
        orders.append([token[stimulus] for stimulus in practice + trials + again])
    return Plan(
        {name: stimulus for stimulus, name in sorted(token.items(), key=lambda e: e[1])}, orders
    )


def _token(seed: int, system: str, item: str) -> str:
    return hashlib.sha256(f"{seed}\0{system}\0{item}".encode()).hexdigest()[:10]


def page(plan: Plan, clips: Clips, name: str, ask: str, voice: Speech | None) -> str:
    """Return the page: clips as FLAC inside it, nothing outside of it.

    Raises InputInvalid where that is more than a browser opens.
    """
    question, labels = SCALES[ask]
    test = {
        "name": name,
        "question": question,
        "labels": labels,
        "practice": PRACTICE,
        "orders": plan.orders,
        "clips": {
            token: _address(clips[system][item]) for token, (system, item) in plan.names.items()
        },
        "voice": _address(levelled(voice)) if voice else "",
    }
    text = Path(__file__).with_name("listening.html").read_text("utf-8")
    content = json.dumps(test).replace("<", "\\u003c")  # cannot end the script it stands in
    made = text.replace("NAME OF THE TEST", html.escape(name)).replace("{/* TEST */}", content)
    if len(made) > LARGEST:
        raise InputInvalid(
            f"found a page of {len(made) >> 20} MB; wanted {LARGEST >> 20} MB or less: take fewer "
            "or shorter clips"
        )
    return made


def _address(speech: Speech) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, speech.samples.clip(-1, 1), speech.rate, "PCM_16", format="FLAC")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()


def key_of(plan: Plan, name: str, ask: str) -> dict[str, Any]:
    """Return what the page does not say: the system and sentence behind each name."""
    stimuli = {
        token: {"system": system, "item": item} for token, (system, item) in plan.names.items()
    }
    return {
        "test": name,
        "ask": ask,
        "practice": PRACTICE,
        "stimuli": stimuli,
        "trials": len(plan.orders[0]),
    }
