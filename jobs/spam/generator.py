"""The sample: messages from a grammar in which the best possible filter is known.

Most messages are clearly one or the other; one in ten comes from a wording that both kinds
use, and is labelled by a coin of known chance. No filter can rank better than by that chance,
so a score on the sample is read beside the oracle's. Writes ``sample/messages.tsv``.

Data:    none, ``grammar.toml`` is the language.
Source:  the Bayes optimal ranking: order by P(spam | text).
"""

from __future__ import annotations

import random
import re
import string
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
MESSAGES, SPAM, AMBIGUOUS, TYPOS = 1200, 0.134, 0.10, 0.25


class Made(NamedTuple):
    """A message with its label and the chance, known to the generator only, that it is spam."""

    label: str
    text: str
    chance: float


def generate(seed: int = 0, number: int = MESSAGES) -> list[Made]:
    """Return ``number`` messages, no two of the same words."""
    grammar = tomllib.loads((FOLDER / "grammar.toml").read_text("utf-8"))
    dice = random.Random(seed)
    made: dict[str, Made] = {}
    while len(made) < number:
        wording, chance = draw_wording(grammar, dice)
        text = misspell(fill(wording, grammar["words"], dice), dice)
        label = "spam" if dice.random() < chance else "ham"
        made.setdefault(" ".join(text.lower().split()), Made(label, text, chance))
    return list(made.values())


def draw_wording(grammar: dict[str, Any], dice: random.Random) -> tuple[str, float]:
    """Draw a wording and its chance to be spam."""
    if dice.random() < AMBIGUOUS:
        return dice.choice(list(grammar["ambiguous"].items()))
    kind = "spam" if dice.random() < SPAM else "ham"
    intent = dice.choice(list(grammar[kind].values()))
    return dice.choice(intent), float(kind == "spam")


def fill(wording: str, words: dict[str, list[str]], dice: random.Random) -> str:
    """Fill the slots of a wording."""
    return re.sub(r"\{(\w+)\}", lambda slot: value(slot[1], words, dice), wording)


def value(slot: str, words: dict[str, list[str]], dice: random.Random) -> str:
    """Draw the content of one slot; its numbers and addresses belong to nobody."""
    letters = "".join(dice.choices(string.ascii_lowercase, k=6))
    drawn = {
        "phone": f"07700900{dice.randrange(1000):03}",
        "code": str(dice.randrange(80000, 90000)),
        "amount": f"£{dice.choice([5, 10, 20, 50, 100, 250, 500, 1000])}",
        "time": f"{dice.randrange(1, 13)}.{dice.choice(['00', '15', '30', '45'])}",
        "url": f"www.{letters}.example",
    }
    return drawn.get(slot) or dice.choice(words[slot])


def misspell(text: str, dice: random.Random) -> str:
    """Swap two neighbouring letters inside one word, in a quarter of the texts."""
    places = [found.start() + 1 for found in re.finditer(r"[a-z]{4,}", text)]
    if not places or dice.random() >= TYPOS:
        return text
    place = dice.choice(places)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def chances() -> dict[str, float]:
    """Return P(spam | text) of every message of the sample: what the oracle knows."""
    return {entry.text: entry.chance for entry in generate()}


if __name__ == "__main__":
    lines = [f"{entry.label}\t{entry.text}\n" for entry in generate()]
    (FOLDER / "sample" / "messages.tsv").write_text("".join(lines), "utf-8")
