import io
import json
import tarfile
from pathlib import Path

import pytest

from slipway.errors import DataUnavailable
from slipway.host import build, catalog
from tests.host.conftest import Engine, put_docker_command


def example(root: Path) -> catalog.JobSpec:
    return catalog.find_job(root, "example")


def test_a_base_is_built_before_the_job_that_stands_on_it(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root))
    assert docker.built() == ["slipway/base", "slipway/example"]


def test_nothing_is_built_twice(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root))
    build.build_job(docker, root, example(root))
    assert docker.built() == ["slipway/base", "slipway/example"]


def test_a_changed_job_is_built_again_without_its_base(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root))
    (root / "jobs" / "example" / "README.md").write_text("changed")
    build.build_job(docker, root, example(root))
    assert docker.built() == ["slipway/base", "slipway/example", "slipway/example"]


def test_the_context_tells_the_image_what_it_was_built_from(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root))
    call = docker.builds()[-1]
    with tarfile.open(fileobj=io.BytesIO(bytes.fromhex(call["stdin"]))) as archive:
        told = json.load(archive.extractfile("build.json"))
    assert told["built_from"] == "slipway/base@sha256:slipway/base"
    assert told["source"] == call["labels"][build.SOURCE]
    assert "BASE=slipway/base" in call["given"]


def test_labels_repeat_job_toml(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root))
    labels = docker.builds()[-1]["labels"]
    assert labels["org.opencontainers.image.title"] == "Example"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["dev.slipway.memory"] == "2g"
    assert labels["dev.slipway.minutes"] == "5"


def test_a_gpu_build_stands_on_cuda_and_has_a_tag_of_its_own(root: Path, docker: Engine) -> None:
    build.build_job(docker, root, example(root), gpu=True)
    assert docker.built() == [
        "slipway/libraries",
        "slipway/base",
        "slipway/build",
        "slipway/cuda",
        "slipway/example:cuda",
    ]
    assert "BASE=slipway/cuda" in docker.builds()[-1]["given"]


def test_requirements_of_a_job_bring_the_installer(root: Path, docker: Engine) -> None:
    (root / "jobs" / "example" / "requirements.txt").write_text("")
    build.build_job(docker, root, example(root))
    assert docker.built() == ["slipway/base", "slipway/build", "slipway/example"]


def test_a_test_image_stands_on_the_job(root: Path, docker: Engine) -> None:
    build.build_test(docker, root, example(root))
    assert docker.built()[-1] == "slipway/example-test"
    assert "IMAGE=slipway/example" in docker.builds()[-1]["given"]


def test_a_test_image_of_a_gpu_build_stands_on_it(root: Path, docker: Engine) -> None:
    build.build_test(docker, root, example(root), gpu=True)
    assert docker.built()[-2:] == ["slipway/example:cuda", "slipway/example-test:cuda"]
    assert "IMAGE=slipway/example:cuda" in docker.builds()[-1]["given"]


def test_the_prefix_of_images_can_be_chosen(
    root: Path, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_IMAGES", "registry.test/team")
    build.build_job(docker, root, example(root))
    assert docker.built() == ["registry.test/team/base", "registry.test/team/example"]


def test_a_company_certificate_goes_in_as_a_secret(
    root: Path, docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("")
    monkeypatch.setenv("SLIPWAY_CA", str(bundle))
    build.build_job(docker, root, example(root))
    assert all(f"id=ca,src={bundle}" in call["given"] for call in docker.builds())


def test_a_failed_build_is_told_with_its_image(
    root: Path, docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_docker_command(monkeypatch, tmp_path, docker.log, code=7)
    with pytest.raises(build.BuildFailed, match="docker build of slipway/base ended with 7"):
        build.build_job(docker, root, example(root))


def test_debian_is_pulled_where_a_registry_answers(root: Path, docker: Engine) -> None:
    docker.present.clear()
    build.ensure_debian(docker, root)
    assert build.DEBIAN in docker.present


@pytest.mark.parametrize("code", [0, 1])
def test_debian_is_made_aloud_where_no_registry_answers(
    code: int, root: Path, docker: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    docker.present.clear()
    docker.registry = False
    script = root / "images" / "debian" / "build"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho made by hand\nexit {code}\n")
    script.chmod(0o755)
    if code:
        with pytest.raises(DataUnavailable, match="neither a registry nor images/debian/build"):
            build.ensure_debian(docker, root)
    else:
        build.ensure_debian(docker, root)
    said = capfd.readouterr().err
    assert "cannot pull debian:bookworm-slim: no such host" in said
    assert "made by hand" in said


def test_a_torch_wheel_in_the_wheelhouse_is_enough(root: Path, docker: Engine) -> None:
    (root / "wheelhouse").mkdir()
    (root / "wheelhouse" / "torch-2.13.0+cpu-cp311.whl").write_text("")
    build.build_base(docker, root, "torch")
    assert docker.built() == ["slipway/torch"]


def test_sizes_are_told_with_their_budget() -> None:
    assert build.size_line("slipway/base", 739 * 10**6) == "slipway/base: 739 MB of 800 MB"
    assert build.size_line("slipway/base", 801 * 10**6).endswith("OVER BUDGET")
    assert build.size_line("slipway/spam", 741 * 10**6) == "slipway/spam: 741 MB"


def test_sizes_are_recorded_without_their_prefix(root: Path) -> None:
    build.record_sizes({"slipway/base": 739_400_000}, root / "sizes.json")
    assert json.loads((root / "sizes.json").read_text()) == {"base": 739}
