"""The demo page in a real browser, in front of a scorer that says what it was sent."""

from __future__ import annotations

import contextlib
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build, engine
from tests.demo import chromium

STRICT = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "256m",
}
PATIENCE = 120


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """The page's address, with a stand-in for a scorer behind it."""
    if not chromium.program():
        pytest.skip(f"no Chromium on this machine; looked for {', '.join(chromium.PROGRAMS)}")
    try:
        client = engine.connect()
    except engine.EngineAbsent as error:
        pytest.skip(str(error))
    image = build.build_service(client, root, "demo")
    name = f"slipway-test-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        network = client.networks.create(name)
        stack.callback(network.remove)
        script = Path(__file__).with_name("stand_in.py")
        scorer = client.containers.create(
            image.id, ["/stand_in.py"], entrypoint=["python"], name=f"{name}-scorer",
            network=name, volumes=[f"{script}:/stand_in.py:ro"], **STRICT,
        )  # fmt: skip
        stack.callback(scorer.remove, force=True)
        page = client.containers.create(
            image.id, name=f"{name}-page", network=name, ports={"8080/tcp": ("127.0.0.1", None)},
            environment={"SCORER_URL": f"http://{name}-scorer:8080"}, **STRICT,
        )  # fmt: skip
        stack.callback(page.remove, force=True)
        scorer.start()
        page.start()
        page.reload()
        yield wait(f"http://127.0.0.1:{page.ports['8080/tcp'][0]['HostPort']}", page)


def wait(url: str, page: Any) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz"):
            return url
        time.sleep(0.1)
    return pytest.fail(f"the page does not answer: {page.logs().decode()}")


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[chromium.Browser]:
    with chromium.browsing() as found:
        yield found


@pytest.fixture
def page(browser: chromium.Browser, address: str) -> chromium.Page:
    found = browser.open(f"{address}/")
    found.wait("document.querySelector('#field-picture canvas')")
    return found


def draw(page: chromium.Page) -> None:
    """Draw a stroke with the mouse over the middle of the sheet."""
    page.click("#field-picture [aria-label='Brush']")
    box = page.place("#field-picture canvas")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse("mousePressed", x - 30, y)
    for step in range(-30, 31, 6):
        page.mouse("mouseMoved", x + step, y + step / 2)
    page.mouse("mouseReleased", x + 30, y)


def choose(page: chromium.Page, town: str) -> None:
    page.click("#field-town input")
    page.wait("document.querySelector('#field-town ul [role=option], ul[role=listbox] li')")
    page.evaluate(
        "[...document.querySelectorAll('ul[role=listbox] li')]"
        f".find(one => one.innerText.trim().endsWith('{town}'))"
        ".dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))"
    )


def test_a_drawing_and_a_form_are_scored(page: chromium.Page) -> None:
    draw(page)
    page.click("#score")
    page.wait("document.querySelector('#result .verdict')")
    told = page.text("#result")
    assert told.startswith("a PNG")
    assert "75.0 %" in told
    for sent in ('"age": 40', '"income": 2.25', '"member": true', '"note": "none"'):
        assert sent in told
    assert "sound" not in told
    assert "Model abc, trained on the small sample." in page.text("#model")


def test_nothing_is_asked_of_anybody_else(page: chromium.Page) -> None:
    hosts = {urllib.parse.urlsplit(url).hostname for url in page.addresses()}
    assert hosts <= {"127.0.0.1", None}  # data: and blob: lead nowhere
    assert page.complaints() == []


def test_a_refusal_is_told_in_words(page: chromium.Page) -> None:
    draw(page)
    choose(page, "Bonn")
    page.click("#score")
    page.wait("document.querySelector('#result .wrong')")
    assert "town: found 'Bonn'; wanted: a town by the sea" in page.text("#result")


def test_a_scorer_that_warms_up_is_waited_for(page: chromium.Page) -> None:
    draw(page)
    choose(page, "Kiel")
    page.click("#score")
    page.wait("document.querySelector('#result .waiting')")
    assert "The model is warming up; asking again in 1 s" in page.text("#result")
    page.wait("document.querySelector('#result .verdict')")


def test_the_page_fits_a_phone(browser: chromium.Browser, address: str) -> None:
    page = browser.open(f"{address}/", 390, 844, phone=True)
    page.wait("document.querySelector('#field-picture canvas')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
