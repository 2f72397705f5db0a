import io
import tarfile
from pathlib import Path

from slipway.host import catalog, sources


def test_a_change_of_the_runtime_changes_base_and_job_but_not_the_installer(root: Path) -> None:
    spec = catalog.find_job(root, "example")
    before = [sources.base_source(root, base) for base in ("base", "build", "libraries")]
    job = sources.job_source(root, spec, "base")
    (root / "src" / "slipway" / "run.py").write_text("changed")
    after = [sources.base_source(root, base) for base in ("base", "build", "libraries")]
    assert before[0] != after[0]
    assert before[1:] == after[1:]
    assert job != sources.job_source(root, spec, "base")


def test_a_change_of_the_host_changes_no_image(root: Path) -> None:
    before = sources.base_source(root, "base")
    (root / "src" / "slipway" / "host" / "cli.py").write_text("changed")
    assert before == sources.base_source(root, "base")


def test_caches_change_no_image(root: Path) -> None:
    spec = catalog.find_job(root, "example")
    before = sources.job_source(root, spec, "base")
    (spec.folder / "__pycache__").mkdir()
    (spec.folder / "__pycache__" / "job.pyc").write_text("")
    assert before == sources.job_source(root, spec, "base")


def test_a_job_context_is_its_folder_and_build_json_with_equal_bytes(root: Path) -> None:
    spec = catalog.find_job(root, "example")
    context = sources.job_context(spec, {"commit": "abc"})
    with tarfile.open(fileobj=io.BytesIO(context)) as archive:
        names = archive.getnames()
    assert {"Dockerfile", "job.py", "job.toml", "sample/rows.csv", "build.json"} <= set(names)
    assert context == sources.job_context(spec, {"commit": "abc"})


def test_outside_git_there_is_no_commit(root: Path) -> None:
    assert sources.commit_of(root) == ("", False)
