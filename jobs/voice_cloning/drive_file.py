"""Take the listening test as raters would, from its first page to the CSV file that it saves.

`tests/demo` writes the page with `VERB` in the job's container, opens `FILE` and calls `drive`.
"""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path
from typing import Any

VERB = ["mos", "--raters", "2", "--repeats", "1"]
READ_BACK = ["mos-results", "--ratings", "/artifacts/saved"]
FILE = "listening/test.html"
RATINGS = {"reference": 5, "one": 4, "two": 2, "anchor": 1}
KEYS = {" ": ("Space", " "), "Enter": ("Enter", "\r")}


def prepare(out: Path) -> None:
    """Write clips of half a second for two systems and the reference."""
    for number, system in enumerate(("reference", "one", "two"), start=1):
        for item, pitch in (("first", 180), ("second", 230)):
            path = out / "clips" / system / f"{item}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes(_tone(number * pitch))


def _tone(pitch: float, count: int = 9_600) -> bytes:
    samples = (9000 * math.sin(2 * math.pi * pitch * at / 16_000) for at in range(count))
    return struct.pack(f"<{count}h", *map(int, samples))


def drive(page: Any, out: Path, pictures: Path) -> None:
    """Take the test as rater 1 with the keyboard alone, leaving the page once on the way."""
    page.picture(pictures / "welcome.png")
    _start(page, 1)
    _tones(page, _by_key)
    page.wait("!document.querySelector('#trial').hidden")
    assert page.text("#place") == "Practice 1 of 2"
    page.picture(pictures / "practice.png")
    _by_key(page, "5")
    page.wait("document.querySelector('#state').innerText === 'Listen to its end first.'")
    for _ in range(5):
        _rate(page, out, _by_key)
    page.navigate(page.evaluate("location.href"))  # closed, and opened again
    assert "Rater 1 has rated 5 of 11" in page.text("#whose")
    _start(page, 1)
    assert page.text("#place") == "4 of 9"
    _finish(page, out, _by_key, 6, pictures)
    assert "Saved as ratings-1.csv" in page.text("#kept")


def drive_phone(page: Any, out: Path, pictures: Path) -> None:
    """Take the test as rater 2 on a phone, by touching what is to be touched."""
    page.picture(pictures / "phone-welcome.png")
    _start(page, 2)
    page.picture(pictures / "phone-tones.png")
    _tones(page, _by_hand)
    _finish(page, out, _by_hand, 11, pictures, "phone-")


def _start(page: Any, rater: int) -> None:
    page.write("#rater", str(rater))
    page.click("input[name=device][value=headphones]")
    page.click("#start button")


def _by_key(page: Any, key: str) -> None:
    code, text = KEYS.get(key, (f"Digit{key}", key))
    for kind in ("keyDown", "keyUp"):
        typed = {"text": text} if kind == "keyDown" else {}
        page.tell("Input.dispatchKeyEvent", type=kind, key=key, code=code, **typed)


def _by_hand(page: Any, key: str) -> None:
    checking = page.evaluate("!document.querySelector('#check').hidden")
    name = "softest" if checking else "rating"
    page.click(
        {" ": "#tones" if checking else "#play", "Enter": "#next"}.get(
            key, f"input[name={name}][value='{key}']"
        )
    )


def _tones(page: Any, press: Any) -> None:
    for number in range(6):
        page.wait(f"document.querySelector('#checked').innerText === 'Tones {number + 1} of 6'")
        press(page, " ")
        page.wait("answering")
        press(page, str(page.evaluate("softest")))


def _rate(page: Any, out: Path, press: Any, picture: Path | None = None) -> None:
    """Hear a clip and rate it by the system that the key tells."""
    stimuli = json.loads((out / "listening" / "key.json").read_text("utf-8"))["stimuli"]
    name, before = page.evaluate("[order()[state.ratings.length], state.ratings.length]")
    assert page.evaluate("document.querySelector('#next').disabled")
    press(page, " ")
    page.wait("ended")
    press(page, str(RATINGS[stimuli[name]["system"]]))
    if picture:
        page.picture(picture)
    press(page, "Enter")
    page.wait(f"state.ratings.length === {before + 1}")


def _finish(page: Any, out: Path, press: Any, left: int, pictures: Path, prefix: str = "") -> None:
    for _ in range(left - 1):
        _rate(page, out, press)
    _rate(page, out, press, pictures / f"{prefix}rating.png")
    page.wait("!document.querySelector('#end').hidden")
    page.click("#save")
    page.wait("document.querySelector('#kept').innerText.startsWith('Saved')")
    page.picture(pictures / f"{prefix}end.png")
