from pathlib import Path

from slipway.host.check import Machine, Tally, accept, containers


def test_without_an_engine_what_needs_one_is_named_and_nothing_fails(root: Path) -> None:
    machine, tally = Machine(root, Path("python"), None, "no engine"), Tally()

    containers(machine, tally, [])
    accept(machine, tally)

    assert tally.skipped["containers"] == "no engine"
    assert tally.skipped["accept"] == "no engine"
    assert 0 == tally.conclude()
