"""The pages that a job's own routes serve, each in a real browser.

A job with such pages has ``drive.py`` in its folder: ``PAGE`` is the path, and ``drive(page)`` uses
the page as a person would and asserts what that person sees. The scorer is the job's, trained on
its sample.
"""

from __future__ import annotations

import importlib
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build, container, demo
from slipway.spec import JobSpec
from tests.demo import chromium
from tests.demo.test_own_pages import free_port

PATIENCE = 180


@pytest.fixture(scope="module")
def served(
    folder: Path,
    root: Path,
    client: Any,
    run_verb: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Any]]:
    """The address of a scorer, and the module that drives its page."""
    if not (folder / "drive.py").is_file():
        pytest.skip(f"{folder.name} serves no page of its own")
    spec, port = JobSpec.read(folder), free_port()
    out = tmp_path_factory.mktemp(folder.name)
    place = container.Place({out: ("/artifacts", "rw")}, {}, ("127.0.0.1", port))
    run_verb(spec, out, ["run", "--data", "sample"])
    image = build.build_job(client, root, spec)
    scorer = container.create(client, image, spec, place, ["serve"])
    try:
        container.start(scorer)
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while not demo.answers(f"{url}/readyz"):
            assert time.monotonic() < end, f"no scorer answers at {url}"
            time.sleep(0.2)
        yield url, importlib.import_module(f"jobs.{folder.name}.drive")
    finally:
        scorer.remove(force=True)


@pytest.fixture(scope="module")
def browser(served: tuple[str, Any]) -> Iterator[chromium.Browser]:
    with chromium.browsing() as found:
        yield found


def test_a_person_can_use_the_served_page(
    browser: chromium.Browser, served: tuple[str, Any]
) -> None:
    url, module = served
    page = browser.open(f"{url}{module.PAGE}", 1280, 1000)
    module.drive(page)
    hosts = {urllib.parse.urlsplit(asked).hostname for asked in page.addresses()}
    assert hosts <= {"127.0.0.1", None}
    assert page.complaints() == []


def test_the_served_page_fits_a_phone(browser: chromium.Browser, served: tuple[str, Any]) -> None:
    url, module = served
    page = browser.open(f"{url}{module.PAGE}", 390, 844, phone=True)
    page.wait("document.body.innerText.length > 100")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
