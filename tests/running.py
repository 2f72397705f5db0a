"""What tests of containers share: a verb that is run to its end, and patience."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from slipway.host import build, container
from slipway.spec import JobSpec

PATIENCE = 120
FUSE = threading.Event()  # never set: waiting on it is how a poll pauses


def wait_until(
    condition: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.02, what: str = ""
) -> Any:
    """Poll until the condition holds and return what it gave; fail after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        FUSE.wait(pause)
    return pytest.fail(f"not so after {seconds} s: {what or condition}")


def gateway(client: Any, network: str = "bridge") -> str:
    """Return the address at which containers of a network reach this machine.

    An engine that was started for the first time does not name its bridge's: it is the first one.
    """
    config = client.networks.get(network).attrs["IPAM"]["Config"][0]
    return config.get("Gateway") or str(ipaddress.ip_network(config["Subnet"])[1])


def run_verb(
    client: Any,
    root: Path,
    spec: JobSpec,
    out: Path,
    arguments: Sequence[str],
    allowed: Sequence[int] = (0,),
) -> str:
    """Run a verb of a job in its image, offline, on artifacts of its own; return what it said."""
    image = build.build_job(client, root, spec)
    place = container.Place({out: ("/artifacts", "rw")}, {})
    made = container.create(client, image, spec, place, arguments, network_mode="none")
    try:
        made.start()
        status, said = made.wait()["StatusCode"], made.logs().decode()
    finally:
        made.remove(force=True)
    assert status in allowed, said
    return said
