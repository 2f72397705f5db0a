"""What every test of a page needs: a browser, and where its job runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import running
from tests.demo import chromium


@pytest.fixture(scope="session", autouse=True)
def chromium_is_there() -> None:
    if not chromium.program():
        pytest.skip(f"no Chromium on this machine; looked for {', '.join(chromium.PROGRAMS)}")


@pytest.fixture(scope="module")
def run_verb(client: Any, root: Path) -> Callable[..., str]:
    """Return what runs a verb of a job in its image, on artifacts of its own."""

    return partial(running.run_verb, client, root)
