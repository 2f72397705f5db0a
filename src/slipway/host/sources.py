"""What an image is made from, as one digest, so that an unchanged image is not built again."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from slipway.spec import JobSpec

# What each image of our own is built from, beside the runtime: files below the project's root.
BUILD = ["Dockerfile.base", "images/build.txt", "images/install"]
BASE = [*BUILD, "images/base.txt", "images/bake_fonts.py"]
PARTS = {
    "build": BUILD,
    "base": BASE,
    "libraries": BASE,
    "torch": [*BASE, "images/torch.txt"],
    "cuda": [*BASE, "Dockerfile.cuda", "images/cuda.txt"],
    "service": BUILD,
}
# The helper services of compose.yaml: what each is built from, beside its folder of images/.
SERVICES = {
    "demo": [*BUILD, "images/demo.txt"],
    "mlflow": [*BUILD, "images/mlflow.txt"],
    "postgres": [],
    "prometheus": [],
}
# Databases that a job is run and tested beside.
DATABASES: dict[str, list[str]] = {"postgres": [], "mariadb": []}
# The folder of a job's own demo page: an image of its own, no part of the job's.
PAGE = "demo"
WITHOUT_RUNTIME = ("build", "libraries", "service")
CACHES = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis"}


def files_below(folder: Path) -> list[Path]:
    """Return the files that belong to a folder, sorted, without what tools left there."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sorted(path for path in found if not CACHES & set(path.relative_to(folder).parts))


def runtime_files(root: Path) -> list[Path]:
    """Return the files of the runtime: the package without its host half."""
    package = root / "src" / "slipway"
    return [path for path in files_below(package) if package / "host" not in path.parents]


def digest(root: Path, paths: Iterable[Path], *more: str) -> str:
    """Return the sha256 over names, modes and contents of files, and over further texts."""
    total = hashlib.sha256()
    for path in paths:
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root)}\0{executable}\0{content}\n".encode())
    for text in more:
        total.update(f"{text}\n".encode())
    return total.hexdigest()


def base_source(root: Path, base: str) -> str:
    """Return the digest of a base image."""
    parts = [root / part for part in PARTS[base]]
    return digest(root, parts if base in WITHOUT_RUNTIME else [*parts, *runtime_files(root)])


def service_source(root: Path, service: str) -> str:
    """Return the digest of a helper service's image."""
    parts = [root / part for part in (SERVICES | DATABASES)[service]]
    return digest(root, [*parts, *files_below(root / "images" / service)])


def job_files(spec: JobSpec) -> list[Path]:
    """Return what a job's image is made from: its folder, without the page of its own."""
    return [path for path in files_below(spec.folder) if spec.folder / PAGE not in path.parents]


def job_source(root: Path, spec: JobSpec, base: str) -> str:
    """Return the digest of a job's image on ``base``."""
    return digest(root, job_files(spec), base_source(root, base))


def page_source(root: Path, spec: JobSpec, parent: str) -> str:
    """Return the digest of the page that a job brings, standing on the image ``parent``."""
    return digest(root, files_below(spec.folder / PAGE), parent)


def commit_of(root: Path) -> tuple[str, bool]:
    """Return the checkout's git commit ("" outside git) and whether it has changes."""
    commit = _git(root, "rev-parse", "HEAD")
    return commit, bool(commit and _git(root, "status", "--porcelain", "--untracked-files=no"))


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def job_context(spec: JobSpec, build: dict[str, object]) -> bytes:
    """Return the build context of a job as a tar: its files and ``build.json``."""
    told = json.dumps(build, indent=1, sort_keys=True).encode()
    return _context(spec.folder, job_files(spec), {"build.json": told})


def page_context(spec: JobSpec) -> bytes:
    """Return the build context of a job's own page as a tar: its folder alone."""
    return _context(spec.folder / PAGE, files_below(spec.folder / PAGE), {})


def _context(folder: Path, files: Iterable[Path], more: Mapping[str, bytes]) -> bytes:
    """Return files as a tar; without owner and times, so that equal files give equal layers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in files:
            executable = bool(path.stat().st_mode & 0o100)
            _add(archive, str(path.relative_to(folder)), path.read_bytes(), executable)
        for name, content in more.items():
            _add(archive, name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, executable: bool = False) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o755 if executable else 0o644
    archive.addfile(entry, io.BytesIO(content))
