"""The messages: reading, checking and splitting them.

One rule holds throughout: copies of a message (the same words, whatever case and spacing) stay
in one split. The collection holds 415 of them, and a copy in train makes the test split easy.

Data:    ``label<TAB>text`` lines without a header, quotes are literal (job.toml).
Source:  Almeida, Gómez Hidalgo and Yamakami, DocEng 2011.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from slipway.errors import InputInvalid

LABELS = ("ham", "spam")
LONGEST = 10_000
FEWEST = 10
"""Distinct messages of each label that a split into three needs."""

SPLITS = {"train": 0.70, "validation": 0.15, "test": 0.15}


class Row(NamedTuple):
    """One labelled message."""

    label: str
    text: str


def read_raw(path: Path) -> list[Row]:
    """Read a raw file; raise InputInvalid at the first line that is wrong."""
    rows = []
    for number, line in enumerate(path.read_bytes().rstrip(b"\n").split(b"\n"), start=1):
        try:
            label, tab, text = line.decode("utf-8").rstrip("\r").partition("\t")
        except UnicodeDecodeError as error:
            raise InputInvalid(f"{path}, line {number}: {error}; wanted UTF-8") from None
        place = f"{path}, line {number}: found "
        if not tab or label not in LABELS:
            raise InputInvalid(f"{place}{line[:60]!r}; wanted 'ham' or 'spam', a tab and a text")
        if not text.strip() or len(text) > LONGEST:
            raise InputInvalid(f"{place}{len(text)} characters of text; wanted 1 to {LONGEST}")
        rows.append(Row(label, text))
    return rows


def read_split(path: Path) -> list[Row]:
    """Read a split file that `write_split` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(row["label"], row["text"]) for row in csv.DictReader(file)]


def write_split(path: Path, rows: list[Row]) -> None:
    """Write a CSV file with the columns label and text."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def copies(rows: list[Row]) -> dict[str, list[int]]:
    """Group the positions of messages that differ in case and spacing only."""
    groups = defaultdict(list)
    for place, row in enumerate(rows):
        groups[" ".join(row.text.lower().split())].append(place)
    return groups


def split(rows: list[Row], seed: int) -> dict[str, list[Row]]:
    """Split 70/15/15, stratified by label, copies together; raise InputInvalid on too few."""
    from sklearn.model_selection import train_test_split

    groups = list(copies(rows).values())
    labels = [rows[group[0]].label for group in groups]
    for label in LABELS:
        if labels.count(label) < FEWEST:
            found = f"found {labels.count(label)} distinct messages labelled {label}"
            raise InputInvalid(f"{found}; wanted at least {FEWEST} to split them")
    numbers = range(len(groups))
    rest = 1 - SPLITS["train"]
    train, rest = train_test_split(numbers, test_size=rest, stratify=labels, random_state=seed)
    half = {"test_size": 0.5, "stratify": [labels[number] for number in rest]}
    validation, test = train_test_split(rest, random_state=seed, **half)
    parts = zip(SPLITS, (train, validation, test), strict=True)
    return {
        name: [rows[place] for place in sorted(place for n in part for place in groups[n])]
        for name, part in parts
    }


def profile(rows: list[Row]) -> list[dict[str, object]]:
    """Describe each label: how many, how long, and the shares that carry the key signs."""
    table = []
    for label in LABELS:
        texts = [row.text for row in rows if row.label == label]
        signs = {
            "a number of 5+ digits": r"\d{5,}",
            "a currency": "[£$€]",
            "an address": r"www|http",
        }
        shares = {
            f"with {sign}": f"{sum(bool(re.search(key, text)) for text in texts) / len(texts):.1%}"
            for sign, key in signs.items()
        }
        lengths = sorted(map(len, texts))
        size = {"shortest": lengths[0], "median length": statistics.median(lengths)}
        table.append(
            {"label": label, "messages": len(texts)} | size | {"longest": lengths[-1]} | shares
        )
    return table


def tests(rows: list[Row], parts: dict[str, list[Row]]) -> list[dict[str, object]]:
    """Check what training relies on; a row that is not ok is for a person to look at."""
    groups = copies(rows)
    share = sum(row.label == "spam" for row in rows) / len(rows)
    mixed = sum(len({rows[place].label for place in group}) > 1 for group in groups.values())
    seen = [set(copies(part)) for part in parts.values()]
    shared = sum(len(seen[i] & seen[j]) for i in range(3) for j in range(i))
    long = sum(len(row.text) > 1000 for row in rows)
    spam = [sum(row.label == "spam" for row in part) / len(part) for part in parts.values()]
    checks = [
        ("share of spam", f"{share:.1%}", "5 % to 50 %", 0.05 <= share <= 0.5),
        ("spread of that share over the splits", f"{max(spam) - min(spam):.1%}", "at most 3 %",
         max(spam) - min(spam) <= 0.03),
        ("texts over 1,000 characters", long, "0", long == 0),
        ("copies of an earlier message", len(rows) - len(groups), "any: kept in one split", True),
        ("equal messages with both labels", mixed, "0", mixed == 0),
        ("messages in two splits", shared, "0", shared == 0),
    ]  # fmt: skip
    return [
        {"test": name, "found": found, "wanted": wanted, "verdict": "ok" if ok else "look"}
        for name, found, wanted, ok in checks
    ]
