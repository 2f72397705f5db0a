"""Sources as text and syntax trees, each read once; nothing of a job is imported."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Import = tuple[int, str]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports_of(node: ast.AST) -> Iterator[Import]:
    """Yield (line, dotted module) of every import below a node; ``.x`` for a sibling."""
    for found in ast.walk(node):
        if isinstance(found, ast.Import):
            yield from ((found.lineno, alias.name) for alias in found.names)
        elif isinstance(found, ast.ImportFrom):
            module = "." * found.level + (found.module or "")
            yield found.lineno, module
            dot = "" if module.endswith(".") else "."
            yield from ((found.lineno, f"{module}{dot}{alias.name}") for alias in found.names)


def sources_below(*folders: Path) -> list[Path]:
    """Return the Python files below folders, sorted."""
    found = (path for folder in folders for path in folder.rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


@functools.cache
def tracked_below(root: Path) -> tuple[Path, ...]:
    """Return the files under version control, or in an unpacked archive all of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    names = done.stdout.split("\0") if done.returncode == 0 else root.rglob("*")
    found = (root / name for name in names if name)
    return tuple(path for path in found if path.is_file())


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], ast.Module]:
    return tree_of


@pytest.fixture(scope="session")
def imports() -> Callable[[ast.AST], Iterator[Import]]:
    return imports_of


@pytest.fixture(scope="session")
def sources() -> Callable[..., list[Path]]:
    return sources_below


@pytest.fixture(scope="session")
def tracked(root: Path) -> tuple[Path, ...]:
    return tracked_below(root)


@pytest.fixture(scope="session")
def at(root: Path) -> Callable[..., str]:
    """Return how to name a place: ``jobs/x/job.py:7``."""
    return lambda path, line=1: f"{path.relative_to(root)}:{line}"
