"""The demo page in a real browser, in front of a scorer that says what it was sent."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slipway.host import build
from tests.demo import chromium

STRICT = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "shm_size": "256m",
}
PATIENCE = 120
# Whether a sound has come to the server and from there into its player.
UPLOADED = """performance.getEntriesByType('resource').some((one) => one.responseEnd
  && one.name.includes('/file=') && /[.]wav/.test(one.name))"""


@dataclass
class Pages:
    """Pages by the name of the scorer behind them, each started when it is first asked for."""

    start: Callable[[str], str]
    browser: chromium.Browser
    known: dict[str, str] = field(default_factory=dict)

    def open(self, name: str, width: int = 1200, phone: bool = False) -> chromium.Page:
        """Open the page of a scorer in a window of its own, ready to be used."""
        if name not in self.known:
            self.known[name] = self.start(name)
        page = self.browser.open(f"{self.known[name]}/", width, 900, phone)
        page.wait("document.querySelector('#score')")
        return page


@pytest.fixture(scope="module")
def pages(client: Any, root: Path) -> Iterator[Pages]:
    """Pages with a stand-in for scorers behind them, on a network of their own."""
    image = build.build_service(client, root, "demo")
    name = f"slipway-test-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        network = client.networks.create(name)
        stack.callback(network.remove)
        script = Path(__file__).with_name("stand_in.py")
        scorer = client.containers.create(
            image.id, ["/stand_in.py"], entrypoint=["python"], name=f"{name}-scorer",
            network=name, volumes=[f"{script}:/stand_in.py:ro"], **STRICT,
        )  # fmt: skip
        stack.callback(scorer.remove, force=True)
        scorer.start()

        def start(which: str) -> str:
            page = client.containers.create(
                image.id, network=name, ports={"8080/tcp": ("127.0.0.1", None)},
                environment={"SCORER_URL": f"http://{name}-scorer:8080/{which}"}, **STRICT,
            )  # fmt: skip
            stack.callback(page.remove, force=True)
            page.start()
            page.reload()
            return wait(f"http://127.0.0.1:{page.ports['8080/tcp'][0]['HostPort']}", page)

        yield Pages(start, stack.enter_context(chromium.browsing()))


def wait(url: str, page: Any) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz"):
            return url
        time.sleep(0.1)
    return pytest.fail(f"the page does not answer: {page.logs().decode()}")


def draw(page: chromium.Page) -> None:
    """Draw a stroke with the mouse over the middle of the sheet."""
    page.click("#field-image [aria-label='Brush']")
    box = page.place("#field-image canvas")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse("mousePressed", x, y - 60)
    for step in range(-60, 61, 6):
        page.mouse("mouseMoved", x + step / 4, y + step)
    page.mouse("mouseReleased", x + 15, y + 60)


def choose(page: chromium.Page, town: str) -> None:
    page.click("#field-town input")
    page.wait("document.querySelector('#field-town ul [role=option], ul[role=listbox] li')")
    page.evaluate(
        "[...document.querySelectorAll('ul[role=listbox] li')]"
        f".find(one => one.innerText.trim().endsWith('{town}'))"
        ".dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))"
    )


def score(page: chromium.Page, sign: str = ".answer") -> str:
    """Press the button and return what the page says as soon as ``sign`` is there."""
    page.click("#score")
    page.wait(f"document.querySelector('#result {sign}')")
    return page.text("#result")


def told_at(page: chromium.Page, name: str) -> str:
    """Return what a person reads at a field that is wrong."""
    box = f"document.getElementById('field-{name}')"
    page.wait(f"{box}.dataset.wrong")
    shown = f"getComputedStyle({box}, '::after').content"
    return str(page.evaluate(shown)).strip('"')


def picture(folder: Path, kind: str, noise: bool = False) -> Path:
    """Write a picture of 600 by 600 pixels: a dark square on white, or what nothing compresses."""
    shape = Image.new("RGB", (600, 600), "white")
    shape.paste((0, 0, 0), (150, 150, 450, 450))
    if noise:
        shape = Image.frombytes("RGB", (600, 600), secrets.token_bytes(600 * 600 * 3))
    path = folder / f"picture.{kind}"
    shape.save(path)
    return path


def put(page: chromium.Page, name: str, path: Path) -> None:
    """Choose a picture in an image field and wait until it is shown."""
    page.upload(f"#field-{name} input[type=file]", path)
    page.wait(f"document.querySelector('#field-{name} img')?.naturalWidth")


def test_a_drawing_is_scored_and_the_answer_is_shown_with_its_pictures(pages: Pages) -> None:
    page = pages.open("digit")
    draw(page)
    told = score(page)
    assert told.startswith("1 82.0 %")  # little ink, so the stand-in says 1
    classes = page.evaluate("[...document.querySelectorAll('.bar .name')].map(e => e.innerText)")
    assert classes == [str(digit) for digit in range(10)]
    assert page.text(".bar.best .name") == "1"
    assert page.evaluate("document.querySelector('#result img').naturalWidth") == 28
    assert "What the model sees" in told
    assert "PNG 400 pixels wide, as it is" in told
    assert 1 < float(re.search(r"([\d.]+) %\s*Kind", told)[1]) < 10  # type: ignore[index]


def test_a_sheet_on_which_nobody_drew_is_told_at_the_sheet(pages: Pages) -> None:
    page = pages.open("digit")
    assert "image: found nothing" in score(page, ".wrong")
    assert told_at(page, "image") == "found nothing; wanted: a drawing or a picture"


def test_a_picture_is_put_on_the_sheet(pages: Pages, tmp_path: Path) -> None:
    page = pages.open("digit")
    page.click("#field-image [aria-label='Image']")
    page.wait("document.querySelector('#field-image input[type=file]')")
    before = page.text("#field-image")
    page.upload("#field-image input[type=file]", picture(tmp_path, "png"))
    # the sheet takes the picture's size, and so another zoom
    page.wait(f"document.querySelector('#field-image').innerText != {json.dumps(before)}")
    assert score(page).startswith("8 82.0 %")  # a quarter is dark


def test_a_form_and_an_uploaded_picture_are_scored(pages: Pages, tmp_path: Path) -> None:
    page = pages.open("form")
    put(page, "picture", picture(tmp_path, "jpeg"))
    told = score(page)
    assert told.startswith("a PNG")  # which the scorer takes; a JPEG was given
    assert "75.0 %" in told
    for sent in ('"age": 40', '"income": 2.25', '"member": true', '"note": "none"'):
        assert sent in told
    assert "sound" not in told
    assert "Model abc (trained form), trained on the small sample." in page.text("#model")


def test_nothing_is_asked_of_anybody_else(pages: Pages) -> None:
    page = pages.open("form")
    hosts = {urllib.parse.urlsplit(url).hostname for url in page.addresses()}
    assert hosts <= {"127.0.0.1", None}  # data: and blob: lead nowhere
    assert page.complaints() == []


def test_a_refusal_is_told_in_words_and_at_the_field(pages: Pages, tmp_path: Path) -> None:
    page = pages.open("form")
    put(page, "picture", picture(tmp_path, "png"))
    choose(page, "Bonn")
    assert "town: found 'Bonn'; wanted: a town by the sea" in score(page, ".wrong")
    assert told_at(page, "town") == "found 'Bonn'; wanted: a town by the sea"
    choose(page, "Ulm")
    score(page)
    page.wait("!document.querySelector('[data-wrong]')")


def test_a_file_that_is_too_large_is_told_with_its_size(pages: Pages, tmp_path: Path) -> None:
    page = pages.open("form")
    put(page, "picture", picture(tmp_path, "png", noise=True))
    assert "more than the scorer takes" in score(page, ".wrong")
    assert told_at(page, "picture") == "found 1.1 MB; wanted: a smaller file"


def test_a_scorer_that_warms_up_is_waited_for(pages: Pages, tmp_path: Path) -> None:
    page = pages.open("form")
    put(page, "picture", picture(tmp_path, "png"))
    choose(page, "Kiel")
    assert "The model is warming up; asking again in 1 s" in score(page, ".waiting")
    page.wait("document.querySelector('#result .verdict')")


def test_a_sound_file_is_scored_and_its_answer_can_be_heard(pages: Pages, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 8000))
    page = pages.open("sound")
    page.click("#field-recording [aria-label='Upload file']")
    page.wait("document.querySelector('#field-recording input[type=file]')")
    page.upload("#field-recording input[type=file]", path)
    page.wait(UPLOADED)
    told = score(page)
    assert told.startswith("speech")
    assert "1 s" in told
    page.wait("document.querySelector('#result audio').duration == 1")


def test_a_recording_is_scored(pages: Pages) -> None:
    page = pages.open("sound")
    page.click("#field-recording .record-button")
    page.wait("/0:0[1-9]/.test(document.querySelector('#field-recording').innerText)")
    page.click("#field-recording .stop-button")
    page.wait(UPLOADED)
    told = score(page)
    assert told.startswith("speech")
    assert float(re.search(r"([\d.]+) s\b", told)[1]) > 0.5  # type: ignore[index]


def test_a_long_form_has_its_examples_and_sends_nothing_for_what_is_empty(pages: Pages) -> None:
    page = pages.open("table")
    page.evaluate("document.querySelector('#more button').click()")  # what need not be given
    page.wait("document.querySelector('#field-spare_20 input')")
    told = score(page)
    assert told.startswith("183,250 dollars")
    assert '"built": "1987-05-01", "sold": "2025-03-02T10:30:00", "quarter": "south"' in told
    assert "spare" not in told
    assert "lift" not in told


def test_each_field_of_a_form_that_is_wrong_is_told(pages: Pages) -> None:
    page = pages.open("table")
    page.write("#field-built input", "soon")
    page.write("#field-measure_3 input", "")
    score(page, ".wrong")
    assert told_at(page, "built") == "found 'soon'; wanted: a date like 2026-01-31"
    assert told_at(page, "measure_3") == "found nothing; wanted: a number"


def test_columns_without_a_schema_are_written_as_a_table(pages: Pages) -> None:
    page = pages.open("free")
    assert '{"columns": {"alcohol": 9.4, "colour": "red", "sulphates": 0.56}}' in score(page)
    page.write("#field-columns textarea", "alcohol,colour\n9")
    score(page, ".wrong")
    wanted = "wanted: a JSON object, or a line of CSV below its header"
    assert told_at(page, "columns").endswith(wanted)


@pytest.mark.parametrize("name", ["digit", "table"])
def test_the_page_fits_a_phone(name: str, pages: Pages) -> None:
    page = pages.open(name, 390, phone=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
