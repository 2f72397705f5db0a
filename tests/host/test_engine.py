from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from slipway.host import engine


def put_client(folder: Path, version: str, buildx: bool) -> None:
    folder.mkdir()
    client = folder / "docker"
    answer = "exit 0" if buildx else "exit 1"
    client.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && echo "Docker version {version}, build 1" && exit 0\n'
        f'[ "$1" = buildx ] && echo buildx && {answer}\n'
    )
    client.chmod(0o755)


def test_nothing_answering_is_told_with_place_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_env() -> None:
        cause = FileNotFoundError(2, "No such file or directory")
        raise DockerException(f"Error while fetching server API version: ('Aborted', {cause!r})")

    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.setattr(docker, "from_env", from_env)
    with pytest.raises(engine.EngineAbsent, match=r"at unix:///nowhere.sock \(No such file"):
        engine.connect()


@pytest.mark.parametrize(("version", "buildx"), [("28.2.2", True), ("20.10.24", False)])
def test_a_client_that_can_build_is_taken(
    version: str, buildx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_client(tmp_path / "bin", version, buildx)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert engine.docker_command() == str(tmp_path / "bin" / "docker")


def test_a_new_client_without_buildx_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_client(tmp_path / "bin", "28.2.2", buildx=False)
    put_client(tmp_path / "other", "20.10.24", buildx=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(engine, "SYSTEM_CLIENT", str(tmp_path / "other" / "docker"))
    assert engine.docker_command() == str(tmp_path / "other" / "docker")


def test_no_client_at_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "SYSTEM_CLIENT", str(tmp_path / "docker"))
    with pytest.raises(engine.EngineAbsent, match="install docker-buildx"):
        engine.docker_command()
