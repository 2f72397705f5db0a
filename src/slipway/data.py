"""Find a dataset's file: the cache, the mirror, the official address, or the job's sample.

The tier says what a figure was measured on. `real` and `mirror` are the same bytes (one
checksum), `sample` ships with the job, `own` is the user's file. Tiers never mix in one run.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from slipway import places
from slipway.errors import ContentWrong, DataUnavailable
from slipway.logs import say
from slipway.spec import TIERS, Dataset, JobSpec

CHUNK = 1 << 20
CONNECT_SECONDS = 10
UNREACHABLE = (urllib.error.URLError, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class Source:
    """A file that is there and right: its path, tier and sha256."""

    path: Path
    tier: str
    sha256: str


def cache_folder() -> Path:
    """Return the folder of downloaded files: ``SLIPWAY_DATA``, else ``/data``."""
    return Path(os.environ.get("SLIPWAY_DATA", "/data"))


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(spec: JobSpec, name: str, wish: str = "auto") -> Source:
    """Return dataset ``name`` from the tier that ``wish`` names, or its best tier (``auto``).

    ``wish`` may also be a file of the user's own, as ``PATH`` or ``NAME=PATH``. Raises
    DataUnavailable when no tier has it, a checksum differs, or the wished tier is absent.
    """
    if name not in spec.data:
        known = ", ".join(spec.data) or "none"
        raise DataUnavailable(f"{spec.folder / 'job.toml'}: no [data.{name}]; there is {known}")
    dataset = spec.data[name]
    if wish not in TIERS:
        return _own(name, wish)
    if wish == "sample":
        return _sample(spec, name, dataset)
    given = places.dataset(spec, name) if wish == "auto" else None
    if given:
        return _given(name, dataset, *given)
    reasons = []
    for tier in ("mirror", "real") if wish == "auto" else (wish,):
        try:
            return _cached(dataset, tier) or _fetched(dataset, tier)
        except ContentWrong:
            raise
        except DataUnavailable as error:
            reasons.append(f"{tier}: {error}")
    if wish == "auto" and dataset.sample:
        say(f"data: {name} comes from the sample ({'; '.join(reasons)})")
        return _sample(spec, name, dataset)
    raise DataUnavailable(f"dataset {name}: {'; '.join(reasons)}")


def fetch(dataset: Dataset) -> Path:
    """Return a file that is published at an address, from the cache or brought into it.

    Raises DataUnavailable where the address does not answer, and ContentWrong where the file is
    not the one of the checksum.
    """
    found = _cached(dataset, "real") or _download(dataset, dataset.url, "real", dataset.member)
    return found.path


def _given(name: str, dataset: Dataset, path: Path, origin: str) -> Source:
    """Return what a platform gives as a dataset; the declared bytes are no other tier there."""
    say(f"data: {name} comes from {path} ({origin})")
    source = _own(name, str(path))
    return replace(source, tier="mirror") if source.sha256 == dataset.sha256 else source


def _own(name: str, wish: str) -> Source:
    given, _, path = wish.rpartition("=")
    if given and given != name:
        raise DataUnavailable(f"--data {wish}: this job's dataset is {name}")
    file = Path(path)
    if not file.exists():
        raise DataUnavailable(
            f"--data {wish}: no such file; wanted one of {', '.join(TIERS)} or a path"
        )
    return Source(file, "own", sha256_of(file) if file.is_file() else "")


def _sample(spec: JobSpec, name: str, dataset: Dataset) -> Source:
    if not dataset.sample:
        raise DataUnavailable(f"dataset {name} has no sample; try --data real")
    path = spec.folder / dataset.sample
    if not path.is_file():
        raise DataUnavailable(f"{path}: no such file; job.toml names it as the sample of {name}")
    return Source(path, "sample", sha256_of(path))


def _cached(dataset: Dataset, tier: str) -> Source | None:
    """Return the cached file when it came by this tier; a file put there by hand is real."""
    path = cache_folder() / dataset.file
    if not path.is_file():
        return None
    note = path.with_name(path.name + ".tier")
    brought = note.read_text("utf-8").strip() if note.is_file() else "real"
    return Source(path, brought, _checked(path, dataset)) if brought == tier else None


def _fetched(dataset: Dataset, tier: str) -> Source:
    if tier == "real" and not dataset.url:
        raise DataUnavailable("published at no address; a mirror brings it")
    if tier == "real":
        return _download(dataset, dataset.url, "real", dataset.member)
    mirror = os.environ.get("SLIPWAY_MIRROR", "")
    if not mirror:
        raise DataUnavailable("SLIPWAY_MIRROR is not set")
    if "://" in mirror:
        return _download(dataset, f"{mirror.rstrip('/')}/{dataset.file}", "mirror", "")
    path = Path(mirror) / dataset.file
    if not path.is_file():
        raise DataUnavailable(f"{path}: no such file")
    return Source(path, "mirror", _checked(path, dataset))


def _checked(path: Path, dataset: Dataset) -> str:
    found = sha256_of(path)
    if found != dataset.sha256:
        raise ContentWrong(f"{path}: sha256 is {found}; wanted {dataset.sha256}")
    return found


def _download(dataset: Dataset, url: str, tier: str, member: str) -> Source:
    """Bring a file into the cache: whole and with the right checksum, or not at all."""
    target = cache_folder() / dataset.file
    size = f" ({dataset.bytes / 1e6:.1f} MB)" if dataset.bytes else ""
    say(f"data: fetching {url}{size}\ndata: licence {dataset.licence}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            fetched = _retrieve(url, Path(folder) / "download")
            if member:
                fetched = _extract(fetched, member, Path(folder) / "member", dataset.bytes)
            digest = _checked(fetched, dataset)
            with written(target.with_name(target.name + ".tier")) as note:
                note.write_text(tier, "utf-8")
            fetched.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, UNREACHABLE):
            told = f"{target}: cannot be written ({error.strerror or error})"
            raise DataUnavailable(told) from None
        raise DataUnavailable(f"{url}: {getattr(error, 'reason', error)}") from None
    return Source(target, tier, digest)


def _retrieve(url: str, path: Path) -> Path:
    with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file, CHUNK)
        wanted = answer.headers.get("Content-Length")
        if wanted and file.tell() != int(wanted):
            raise ConnectionError(f"the connection broke after {file.tell()} of {wanted} bytes")
    return path


def _extract(archive: Path, member: str, path: Path, size: int) -> Path:
    """Take one named member of a zip file; its declared size must be the dataset's."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entry = opened.getinfo(member)
            if entry.file_size != size:
                raise ContentWrong(
                    f"{archive.name}: {member} has {entry.file_size} bytes; wanted {size}"
                )
            with opened.open(entry) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ContentWrong(f"{archive.name}: no zip archive with {member} ({error})") from None
    return path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place only when the block succeeds.

    Its name is random: on a shared folder every container's process has the number 1.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
