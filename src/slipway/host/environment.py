"""Virtual environments made from the images' own locks, for work outside a container."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from slipway.errors import DataUnavailable

STAMP = "slipway-lock"


def make(root: Path, name: str, locks: Sequence[str], without: Sequence[str] = ()) -> Path:
    """Return the Python of ``.venv-NAME``, made when absent or when a lock changed.

    ``locks`` name files of ``images/`` without their ending, ``without`` packages of them that are
    left out. Every package is checked against its hash. Raise DataUnavailable where uv is absent
    or cannot install.
    """
    folder = root / f".venv-{name}"
    python = folder / "bin" / "python"
    files = [root / "images" / f"{lock}.txt" for lock in locks]
    stamp = folder / STAMP
    wanted = _digest(files)
    if not (python.exists() and stamp.exists() and stamp.read_text("utf-8") == wanted):
        click.echo(f"making {folder.name} from {' and '.join(map(str, files))}", err=True)
        _uv("venv", "--quiet", "--clear", "--no-project", str(folder))
        chosen = folder / "lock.txt"
        texts = [leave_out(path.read_text("utf-8"), without) for path in files]
        chosen.write_text("".join(texts), "utf-8")
        _uv("pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode",
            *find_links(root), "--python", str(python), str(chosen))  # fmt: skip
        stamp.write_text(wanted, "utf-8")
    return python


def leave_out(lock: str, packages: Sequence[str]) -> str:
    """Return a lock without the entries of ``packages``: a line each, and those indented below."""
    for package in packages:
        lock = re.sub(rf"^{package}==.*\n(?:[ ].*\n)*", "", lock, flags=re.M)
    return lock


def find_links(root: Path) -> list[str]:
    """Return the options that let uv or pip look into ``wheelhouse/`` first."""
    house = root / "wheelhouse"
    return ["--find-links", str(house)] if any(house.glob("*.whl")) else []


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(platform.python_version().encode())
    for path in files:
        if not path.is_file():
            raise DataUnavailable(f"{path} is missing; `make locks` writes it")
        digest.update(path.read_bytes())
    return digest.hexdigest()


def uv_command() -> str:
    """Return the uv of our own environment, else the one on PATH."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if not found:
        raise DataUnavailable("uv is not installed; `make` puts it into .venv")
    return found


def _uv(*arguments: str) -> None:
    """Run uv below the interpreter that runs us; raise DataUnavailable with what it said."""
    # PYTHONDONTWRITEBYTECODE would make --compile-bytecode fail.
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [uv_command(), *arguments], env=environ, text=True, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        raise DataUnavailable(f"uv {' '.join(arguments[:2])} failed:\n{done.stderr.strip()}")
