"""A database beside a job: what is started, what the job is told, and what is gone afterwards."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import click
import pytest

from slipway.errors import InputInvalid, SlipwayError
from slipway.host import build, databases
from slipway.spec import JobSpec


class Started:
    """A container whose states come one after the other."""

    def __init__(self, states: list[dict[str, Any]], options: dict[str, Any]) -> None:
        self.states, self.options, self.ended = states, options, []
        self.attrs: dict[str, Any] = {}

    def start(self) -> None:
        self.ended.append("started")

    def reload(self) -> None:
        self.attrs = {"State": self.states.pop(0) if len(self.states) > 1 else self.states[0]}

    def logs(self, tail: int) -> bytes:
        return b"no space left"

    def stop(self, timeout: int) -> None:
        self.ended.append(f"stopped in {timeout}")

    def remove(self, force: bool, v: bool) -> None:
        self.ended.append(f"removed, volumes {v}")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An engine that starts what it is told; ``states`` is what a container goes through."""
    for kind in databases.KINDS.values():
        monkeypatch.delenv(kind.password, raising=False)
    monkeypatch.setattr(build, "build_service", lambda _client, _root, name: f"image of {name}")
    monkeypatch.setattr(databases, "PAUSE", 0)
    found = SimpleNamespace(
        made=[], gone=[], networks=SimpleNamespace(), containers=SimpleNamespace()
    )
    found.states = [{"Status": "running", "Health": {"Status": "starting"}},
                    {"Status": "running", "Health": {"Status": "healthy"}}]  # fmt: skip

    def network(name: str, **options: Any) -> Any:
        found.internal = options["internal"]
        return SimpleNamespace(name=name, remove=lambda: found.gone.append(name))

    def create(image: str, **options: Any) -> Started:
        found.made.append(Started(list(found.states), {"image": image, **options}))
        return found.made[-1]

    found.networks.create, found.containers.create = network, create
    return found


SPEC = JobSpec("shelf", None, "t", "q", services=("postgres", "mariadb"))  # type: ignore[arg-type]


def test_nothing_is_started_for_a_job_without_databases(engine: Any) -> None:
    with databases.beside(engine, None, SPEC, (), keep=False) as found:
        assert ({}, {}) == (found.options, dict(found.urls))
    assert [] == engine.made


def test_each_is_healthy_before_the_job_and_gone_after_it(engine: Any) -> None:
    with databases.beside(engine, None, SPEC, SPEC.services, keep=False) as found:
        assert engine.internal
        assert [] == engine.gone
        for name, made in zip(SPEC.services, engine.made, strict=True):
            host = made.options["name"]
            assert f"image of {name}" == made.options["image"]
            assert found.urls[name].endswith(f"@{host}:{databases.KINDS[name].port}/slipway")
            assert "volumes" not in made.options
            assert (True, ["ALL"]) == (made.options["read_only"], made.options["cap_drop"])
            assert found.options == {"network": made.options["network"]}
    assert [["started", "removed, volumes True"]] * 2 == [made.ended for made in engine.made]
    assert 1 == len(engine.gone)


def test_the_rows_of_a_run_stay_in_a_volume(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "p@ss/word")
    with databases.beside(engine, None, SPEC, ["postgres"], keep=True) as found:
        assert "postgresql://slipway:p%40ss%2Fword@" in found.urls["postgres"]
        assert not engine.internal
    (made,) = engine.made
    assert ["slipway-shelf-postgres:/var/lib/postgresql:rw"] == made.options["volumes"]
    assert ["started", "stopped in 25", "removed, volumes False"] == made.ended


def test_a_database_that_ends_is_told_with_its_log(engine: Any) -> None:
    engine.states = [{"Status": "exited"}]
    with (
        pytest.raises(SlipwayError, match=r"postgres does not answer; .* no space left"),
        databases.beside(engine, None, SPEC, ["postgres"], keep=False),
    ):
        pytest.fail("it was not healthy")
    assert "removed, volumes True" == engine.made[0].ended[-1]
    assert 1 == len(engine.gone)


def test_only_a_database_of_the_job_may_be_asked_for() -> None:
    databases.check(SPEC, "postgres")
    databases.check(SPEC, None)
    with pytest.raises(click.UsageError, match="shelf uses postgres, mariadb"):
        databases.check(SPEC, "oracle")
    with pytest.raises(click.UsageError, match="shelf uses none"):
        databases.check(replace(SPEC, services=()), "postgres")


def test_services_of_job_toml_are_a_list_of_names(root: Any) -> None:
    folder = root / "jobs" / "example"
    path = folder / "job.toml"
    plain = path.read_text("utf-8")
    path.write_text(f'services = ["postgres"]\n{plain}', "utf-8")
    assert ("postgres",) == JobSpec.read(folder).services
    for wrong in ('"postgres"', "[1]", '["../x"]'):
        path.write_text(f"services = {wrong}\n{plain}", "utf-8")
        with pytest.raises(InputInvalid, match="wanted a list of names"):
            JobSpec.read(folder)
