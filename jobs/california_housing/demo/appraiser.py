"""The scorer as the page asks it: prices of places, one appraisal, and what it comes from."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Row = dict[str, Any]

TIMEOUT, TRIES, PAUSE = 60, 90, 1.0
LATER = (429, 503)
OTHERS = 30
"""Districts elsewhere that one is compared with, a part of its columns at a time."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "place": ("longitude", "latitude", "ocean_proximity"),
    "income": ("median_income",),
    "age of houses": ("housing_median_age",),
    "homes and people": ("total_rooms", "total_bedrooms", "population", "households"),
}


class Refused(Exception):
    """The scorer gave no prices; the text says why."""


def ask(path: str, body: Any = None) -> Any:
    """Return what the scorer answers, asked again while it warms up; raises Refused."""
    url = os.environ["SCORER_URL"].rstrip("/") + path
    content = None if body is None else json.dumps(body, allow_nan=False).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    told = ""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            told = words(error)
            if error.code not in LATER:
                break
        except OSError as error:
            told = f"no scorer answers at {url} ({error})"
        time.sleep(PAUSE)
    raise Refused(told)


def words(error: urllib.error.HTTPError) -> str:
    """Tell a refusal field by field where the scorer does."""
    text = error.read().decode("utf-8", "replace")
    try:
        body = json.loads(text)
        fields = body.get("fields") or []
    except (ValueError, AttributeError):
        return f"HTTP {error.code}: {text[:200]}"
    told = [
        f"{entry['path']}: found {entry['found']}; wanted {entry['wanted']}" for entry in fields
    ]
    return "; ".join(told) or str(body.get("error", f"HTTP {error.code}"))


def priced(places: pd.DataFrame) -> pd.DataFrame:
    """Return places with the price of the typical district of each."""
    answers = ask("/score", places.to_dict("records"))
    return places.assign(price=[answer["price"] for answer in answers])


def appraised(row: Row, places: pd.DataFrame) -> tuple[Row, pd.DataFrame]:
    """Return the answer for one district, and what each part of it adds to the price.

    A part adds the price less the mean price of the same district with that part taken from
    districts elsewhere, evenly picked from the map.
    """
    others = places.iloc[:: max(1, len(places) // OTHERS)].to_dict("records")
    rows = [row]
    for names in PARTS.values():
        rows += [row | {name: other[name] for name in names} for other in others]
    answer, *rest = ask("/score", rows)
    added = [answer["price"] - mean_price(part) for part in in_parts(rest, len(others))]
    return answer, pd.DataFrame({"part": list(PARTS), "added": added})


def in_parts(answers: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Cut answers into runs of equal length."""
    return [answers[start : start + size] for start in range(0, len(answers), size)]


def mean_price(answers: Sequence[Row]) -> float:
    """Return the mean of the prices."""
    return sum(answer["price"] for answer in answers) / len(answers)
