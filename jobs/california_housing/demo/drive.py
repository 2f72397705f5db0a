"""Use the page as a person would; `tests/demo` opens it in Chromium and calls `drive`."""

from __future__ import annotations

from typing import Any

PRICE = ".st-key-answer [data-testid=stMetricValue]"
SHOWN = f"document.querySelector('{PRICE}')?.innerText"
MAP = ".st-key-map .vega-embed canvas, .st-key-map .vega-embed svg.marks"
INCOME = ".st-key-median_income input"
PATIENCE = 90


def drive(page: Any) -> None:
    """Read the first price, lower and raise the income, then click a place far inland."""
    page.wait(f"{SHOWN}?.startsWith('$')", PATIENCE)
    assert "9 of 10 prices lie within" in page.text(".st-key-answer")
    poor = priced_at(page, "1", page.text(PRICE))
    rich = priced_at(page, "9", poor)
    assert dollars(rich) > 1.2 * dollars(poor)

    before = page.evaluate("document.querySelector('.st-key-longitude input').value")
    box = page.place(MAP)
    x, y = box["x"] + 0.55 * box["width"], box["y"] + 0.75 * box["height"]
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.mouse(kind, x, y)
    page.wait(f"document.querySelector('.st-key-longitude input').value != {before!r}", PATIENCE)
    page.wait(f"{SHOWN} && {SHOWN} != {rich!r}", PATIENCE)
    assert "Most is due to the" in page.text()


def priced_at(page: Any, income: str, before: str) -> str:
    """Write an income and return the price that comes in the place of the one before."""
    page.write(INCOME, income)
    page.evaluate(f"document.querySelector({INCOME!r}).blur()")
    page.wait(f"{SHOWN} && {SHOWN} != {before!r}", PATIENCE)
    return str(page.text(PRICE))


def dollars(shown: str) -> float:
    """Return the number of a price as the page writes it."""
    return float(shown.strip("$").replace(",", ""))
