"""The pages that a job's own routes serve, each in a real browser.

A job with such pages has ``drive.py`` in its folder: ``PAGE`` is the path, and ``drive(page)`` uses
the page as a person would and asserts what that person sees. The scorer is the job's, trained on
its sample.
"""

from __future__ import annotations

import importlib
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build, container, demo, engine
from slipway.spec import JobSpec
from tests.demo import chromium
from tests.demo.test_own_pages import MACHINES_OWN, free_port

PATIENCE = 180


@pytest.fixture(scope="module")
def served(
    folder: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    """The address of a scorer, and the module that drives its page."""
    if not (folder / "drive.py").is_file():
        pytest.skip(f"{folder.name} serves no page of its own")
    if not chromium.program():
        pytest.skip(f"no Chromium on this machine; looked for {', '.join(chromium.PROGRAMS)}")
    try:
        client = engine.connect()
    except engine.EngineAbsent as error:
        pytest.skip(str(error))
    spec, port = JobSpec.read(folder), free_port()
    out = tmp_path_factory.mktemp(folder.name)
    place = container.Place({out: ("/artifacts", "rw")}, {}, ("127.0.0.1", port))
    image = build.build_job(client, root, spec)
    trained = container.Place(place.mounts, {})
    run = container.create(
        client, image, spec, trained, ["run", "--data", "sample"], network_mode="none"
    )
    run.start()
    assert run.wait()["StatusCode"] == 0, run.logs().decode()
    run.remove()
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
        client.close()


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
    assert [told for told in page.complaints() if MACHINES_OWN not in told] == []


def test_the_served_page_fits_a_phone(browser: chromium.Browser, served: tuple[str, Any]) -> None:
    url, module = served
    page = browser.open(f"{url}{module.PAGE}", 390, 844, phone=True)
    page.wait("document.body.innerText.length > 100")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
