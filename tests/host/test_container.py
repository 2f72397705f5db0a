import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slipway.errors import DeviceAbsent, SlipwayError
from slipway.host import catalog, container
from tests.host.conftest import Engine

IMAGE = SimpleNamespace(id="sha256:1", tags=["slipway/example:latest"])


def create(root: Path, docker: Engine, **options: Any) -> Any:
    spec = catalog.find_job(root, "example")
    place = container.usual_place(root, spec)
    return container.create(docker, IMAGE, spec, place, ["run"], **options)


def test_a_container_has_no_more_rights_than_the_contract_gives(root: Path, docker: Engine) -> None:
    options = create(root, docker).options
    assert options["read_only"] is True
    assert options["cap_drop"] == ["ALL"]
    assert options["user"] == f"{os.getuid()}:{os.getgid()}"
    assert options["mem_limit"] == options["shm_size"] == "2g"
    assert options["nano_cpus"] == 2 * 10**9
    assert options["device_requests"] == []


def test_artifacts_and_cache_are_mounted_and_made_by_us(root: Path, docker: Engine) -> None:
    volumes = create(root, docker).options["volumes"]
    assert f"{root}/artifacts/example:/artifacts:rw" in volumes
    assert f"{container.data_cache()}:/data:rw" in volumes
    assert (root / "artifacts" / "example").is_dir()


def test_a_mirror_folder_is_mounted_read_only(
    root: Path, docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_MIRROR", str(tmp_path))
    options = create(root, docker).options
    assert f"{tmp_path}:/mirror:ro" in options["volumes"]
    assert options["environment"]["SLIPWAY_MIRROR"] == "/mirror"


def test_a_mirror_url_is_passed_on(
    root: Path, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_MIRROR", "https://mirror.test/data")
    assert create(root, docker).options["environment"]["SLIPWAY_MIRROR"].startswith("https://")


def test_variables_that_a_job_names_reach_its_containers_alone(
    root: Path, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_KEY", "secret")
    assert "EXAMPLE_KEY" not in create(root, docker).options["environment"]
    toml = root / "jobs" / "example" / "job.toml"
    toml.write_text('variables = ["EXAMPLE_KEY", "ABSENT"]\n' + toml.read_text("utf-8"), "utf-8")
    environ = create(root, docker).options["environment"]
    assert "secret" == environ["EXAMPLE_KEY"]
    assert "ABSENT" not in environ


def test_the_container_learns_its_image_and_our_name_of_its_artifacts(
    root: Path, docker: Engine
) -> None:
    environ = create(root, docker).options["environment"]
    assert environ["SLIPWAY_IMAGE"] == "slipway/example:latest@sha256:1"
    assert environ["SLIPWAY_HOST_OUT"] == "artifacts/example"


def test_gpus_are_asked_for_by_a_gpu_run(root: Path, docker: Engine) -> None:
    [request] = create(root, docker, gpu=True).options["device_requests"]
    assert request["Count"] == 1


def test_fewer_cpus_than_asked_are_told(
    root: Path, docker: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    docker.cpus = 1
    assert create(root, docker).options["nano_cpus"] == 10**9
    assert "the job asks for 2 CPUs; this engine has 1" in capsys.readouterr().err


def test_streams_and_exit_code_are_the_containers(
    root: Path, docker: Engine, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    docker.output = [(b"result\n", None), (None, b"progress\n")]
    docker.code = 3
    made = create(root, docker)
    assert container.attend(made) == 3
    assert capfdbinary.readouterr() == (b"result\n", b"progress\n")
    assert made.removed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_to_the_container(number: int, root: Path, docker: Engine) -> None:
    def interrupted() -> tuple[bytes, None]:
        os.kill(os.getpid(), number)
        return b"", None

    docker.output = [interrupted]
    before = signal.getsignal(number)
    made = create(root, docker)
    container.attend(made)
    assert made.signals == [number]
    assert signal.getsignal(number) == before


def test_running_out_of_memory_is_told_with_the_limit(root: Path, docker: Engine) -> None:
    docker.oom, docker.code = True, 137
    with pytest.raises(SlipwayError, match="more than the 2048 MiB"):
        container.attend(create(root, docker))


@pytest.mark.parametrize(
    ("refusal", "error", "told"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', DeviceAbsent, "no GPU"),
        (
            "Bind for 127.0.0.1:8080 failed: port is already allocated",
            SlipwayError,
            "port is taken",
        ),
        ("no space left on device", SlipwayError, "cannot start the container: no space"),
    ],
)
def test_a_refusal_of_the_engine_says_what_to_do(
    refusal: str, error: type[Exception], told: str, root: Path, docker: Engine
) -> None:
    docker.refusal = refusal
    made = create(root, docker)
    with pytest.raises(error, match=told):
        container.attend(made)
    assert made.removed
