"""The pages that jobs bring themselves, each in a real browser before its own scorer.

A page's folder ``jobs/<job>/demo`` holds ``drive.py``: ``drive(page)`` uses the page as a person
would and asserts what that person sees. The scorer is the job's, trained on its sample.
"""

from __future__ import annotations

import importlib
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slipway.host import container, demo
from slipway.spec import JobSpec
from tests.demo import chromium

PATIENCE = 180


@pytest.fixture(scope="module")
def address(
    folder: Path,
    root: Path,
    client: Any,
    run_verb: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Path]]:
    """The address of a job's own page, opened as `make demo` opens it, and its folder."""
    if not (folder / "demo" / "Dockerfile").is_file():
        pytest.skip(f"{folder.name} has no page of its own")
    spec = JobSpec.read(folder)
    out = tmp_path_factory.mktemp(folder.name)
    place = container.Place({out: ("/artifacts", "rw")}, {})
    run_verb(spec, out, ["run", "--data", "sample"])
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "usual_place", lambda *_: place)
        with demo.beside(client, root, spec, port):
            yield wait(f"http://127.0.0.1:{port}/"), folder / "demo"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(url: str) -> str:
    end = time.monotonic() + PATIENCE
    while not demo.answers(url):
        assert time.monotonic() < end, f"no page answers at {url}"
        time.sleep(0.2)
    return url


@pytest.fixture(scope="module")
def browser(address: tuple[str, Path]) -> Iterator[chromium.Browser]:
    with chromium.browsing() as found:
        yield found


def test_a_person_can_use_the_page(browser: chromium.Browser, address: tuple[str, Path]) -> None:
    url, page_folder = address
    module = importlib.import_module(f"jobs.{page_folder.parent.name}.demo.drive")
    page = browser.open(url, 1280, 1150)
    module.drive(page)
    hosts = {urllib.parse.urlsplit(asked).hostname for asked in page.addresses()}
    assert hosts <= {"127.0.0.1", None}  # data: and blob: lead nowhere
    assert page.complaints() == []


def test_the_page_fits_a_phone(browser: chromium.Browser, address: tuple[str, Path]) -> None:
    page = browser.open(address[0], 390, 844, phone=True)
    page.wait("document.body.innerText.length > 100", PATIENCE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
