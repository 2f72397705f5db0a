from pathlib import Path

import pytest

from slipway.host.check import Machine, Tally, accept, containers


def test_without_an_engine_what_needs_one_is_named_and_nothing_fails(root: Path) -> None:
    machine, tally = Machine(root, Path("python"), None, "no engine"), Tally()

    containers(machine, tally, [])
    accept(machine, tally)

    assert tally.skipped["containers"] == "no engine"
    assert tally.skipped["accept"] == "no engine"
    assert 0 == tally.conclude()


def test_what_does_not_fit_into_the_minutes_is_named_and_the_rest_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quick", "chaos"):
        (root / "tests" / name).mkdir(parents=True)
    monkeypatch.setattr("slipway.host.check.subprocess.call", lambda *_, **__: 0)
    machine, tally = Machine(root, Path("python"), None, "no engine"), Tally(minutes=5)

    machine.tests(tally, "quick")
    machine.tests(tally, "chaos")

    assert ["quick"] == tally.passed
    assert {"chaos": "5 of SLIPWAY_TEST_MINUTES=5 are left, 12 needed"} == tally.skipped
