"""Use the review page as a person would; `tests/demo` opens it in Chromium and calls `drive`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = "/review"
CARDS = "document.querySelectorAll('#cards .card').length"
ANSWERED = "/shown|nothing/.test(document.querySelector('#told').innerText)"
FIRST = "#cards .card:first-child"


def drive(page: Any) -> None:
    """Upload a picture, see it among the least sure ones, correct it, and confirm another."""
    page.wait(ANSWERED)
    page.upload("#picture", Path(__file__).parent / "sample" / "seven.png")
    page.wait("document.querySelector('#uploaded').innerText.startsWith('called')")
    page.write("#below", "1.01")
    page.click("#show")
    page.wait(f"{ANSWERED} && {CARDS} > 0")
    page.wait(f"document.querySelector('{FIRST} img').naturalWidth > 0")
    assert "sure to" in page.text(FIRST)

    called = page.text(f"{FIRST} strong")
    choice = f"document.querySelector('{FIRST} select')"
    other = page.evaluate(f"[...{choice}.options].map(o => o.value).find(v => v != {called!r})")
    page.evaluate(f"{choice}.value = {other!r}")
    page.evaluate(f"{choice}.dispatchEvent(new Event('change'))")
    assert page.text(f"{FIRST} .confirm") == "Correct"
    page.click(f"{FIRST} .confirm")
    page.wait(f"document.querySelector('{FIRST} .told').innerText == 'corrected to ' + {other!r}")
    corrected = page.evaluate(f"document.querySelector('{FIRST}').dataset.id")

    second = "#cards .card:nth-child(2)"
    if page.evaluate(f"{CARDS} > 1"):
        page.click(f"{second} .confirm")
        page.wait(f"document.querySelector('{second} .told').innerText == 'confirmed'")
    page.click("#show")
    page.wait(ANSWERED)
    page.wait(f"!document.querySelector('#cards .card[data-id=\"{corrected}\"]')")
