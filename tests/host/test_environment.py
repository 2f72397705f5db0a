from pathlib import Path

import pytest

from slipway.errors import DataUnavailable
from slipway.host import environment


@pytest.fixture
def calls(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Return what uv was asked to do; it makes the environment's Python."""
    seen: list[tuple[str, ...]] = []

    def uv(*arguments: str) -> None:
        seen.append(arguments)
        (root / ".venv-base" / "bin").mkdir(parents=True, exist_ok=True)
        (root / ".venv-base" / "bin" / "python").touch()

    monkeypatch.setattr(environment, "_uv", uv)
    return seen


def test_an_environment_is_made_once_for_each_lock(
    root: Path, calls: list[tuple[str, ...]]
) -> None:
    for _ in range(2):
        environment.make(root, "base", ["base"])
    assert [call[0] for call in calls] == ["venv", "pip"]
    (root / "images" / "base.txt").write_text("changed")
    environment.make(root, "base", ["base"])
    assert [call[0] for call in calls] == ["venv", "pip"] * 2


def test_every_package_is_checked_against_its_hash(
    root: Path, calls: list[tuple[str, ...]]
) -> None:
    environment.make(root, "base", ["base"])
    assert "--require-hashes" in calls[1]


def test_a_package_that_another_replaces_is_left_out(
    root: Path, calls: list[tuple[str, ...]]
) -> None:
    (root / "images" / "base.txt").write_text(
        "# locked\nonnx==1\nonnxruntime==2 \\\n    --hash=sha256:a\n    # via slipway\nscipy==3\n"
    )
    environment.make(root, "base", ["base"], without=["onnxruntime"])
    left = Path(calls[1][-1]).read_text()
    assert left == "# locked\nonnx==1\nscipy==3\n"


def test_the_wheelhouse_is_looked_into_when_it_holds_wheels(root: Path) -> None:
    assert environment.find_links(root) == []
    (root / "wheelhouse").mkdir()
    (root / "wheelhouse" / "a.whl").touch()
    assert environment.find_links(root) == ["--find-links", str(root / "wheelhouse")]


def test_a_missing_lock_is_told(root: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"nothing\.txt is missing; `make locks`"):
        environment.make(root, "nothing", ["nothing"])


def test_a_failure_of_uv_is_told_with_its_words(root: Path) -> None:
    (root / "images" / "base.txt").write_text("no-such-package==1\n")
    with pytest.raises(DataUnavailable, match="uv pip sync failed"):
        environment.make(root, "base", ["base"])
