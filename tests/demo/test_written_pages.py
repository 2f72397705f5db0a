"""The pages that a verb of a job writes as a file, each opened in a real browser.

A job with such a page has ``drive_file.py`` in its folder: ``prepare(out)`` writes what the verb
``VERB`` needs, ``FILE`` is the page below the artifacts, ``drive(page, out, pictures)`` and
``drive_phone`` use it and save a file each, and ``READ_BACK`` is the verb that reads these files.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slipway.spec import JobSpec
from tests.demo import chromium

PATIENCE = 20


@pytest.fixture(scope="module")
def writing(
    folder: Path, run_verb: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, Any]:
    """The module that drives the page, the artifacts, and what runs a verb on them."""
    if not (folder / "drive_file.py").is_file():
        pytest.skip(f"{folder.name} writes no page of its own")
    module = importlib.import_module(f"jobs.{folder.name}.drive_file")
    spec, out = JobSpec.read(folder), tmp_path_factory.mktemp(folder.name)
    out.chmod(0o777)
    module.prepare(out)
    run_verb(spec, out, module.VERB)
    return module, out, partial(run_verb, spec, out)


def saved(page: chromium.Page, folder: Path) -> None:
    """Let the browser save files of this page in a folder."""
    context = page.tell("Target.getTargetInfo")["targetInfo"]["browserContextId"]
    page.browser.tell(
        "Browser.setDownloadBehavior",
        behavior="allow",
        downloadPath=str(folder),
        browserContextId=context,
    )


def test_a_page_is_used_to_its_end_and_what_it_saves_is_read(
    writing: tuple[Any, Path, Any], tmp_path: Path
) -> None:
    module, out, verb = writing
    folder = out / "saved"
    folder.mkdir(mode=0o777)
    with chromium.browsing() as browser:
        for number, (drive, size) in enumerate(
            ((module.drive, (1200, 900)), (module.drive_phone, (390, 844))), start=1
        ):
            url = (out / module.FILE).as_uri()
            page = browser.open(url, *size, phone=size[0] < 500)
            saved(page, folder)
            drive(page, out, tmp_path)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.complaints() == []
            assert {asked.split(":")[0] for asked in page.addresses()} <= {"file", "data", "blob"}
            end = time.monotonic() + PATIENCE
            while len([path for path in folder.iterdir() if path.suffix == ".csv"]) < number:
                assert time.monotonic() < end, f"nothing was saved in {folder}"
                time.sleep(0.1)
    assert verb(module.READ_BACK)
