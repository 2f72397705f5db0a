"""Where files are: this machine, or a store behind ``s3://``, ``gs://``, ``az://``.

S3 is reached by s3fs, Google's and Azure's stores by what is compiled into pyarrow, any other
scheme by what fsspec finds. An output is staged on this machine and put in place whole: renamed
here, uploaded there.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import glob
import io
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from slipway.errors import DataUnavailable, Retryable

REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "NO_SUCH_BUCKET", "403", "404")
FULL = (errno.ENOSPC, errno.EDQUOT)
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "asyncio")
"""Libraries whose errors are a store's: theirs are no OSError."""
ATTEMPTS = 3
"""Of one request to S3, by its client; an upload has many requests."""
PAUSES = (0.2, 1.0, 5.0, 15.0)
"""Between tries of the whole action."""
PATIENCE = 90.0
"""Seconds after the first failure in which a further try may begin."""
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 30}
PIECE = 16 * 2**20
LOOKAHEAD = 2**20

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """One file of an input: its name below the folder, its size, and what changes with it."""

    address: str
    name: str
    size: int
    stamp: str


def is_local(address: str) -> bool:
    """Tell a path of this machine from an address."""
    return "://" not in address


def join(folder: str, name: str) -> str:
    """Return the address of a name in a folder."""
    return str(Path(folder) / name) if is_local(folder) else f"{folder.rstrip('/')}/{name}"


def entries(address: str) -> list[Entry]:
    """Return the files that a path, a folder, a pattern or an address means, sorted by name.

    Names that begin with a dot or an underscore are passed over. Raises DataUnavailable where
    there is none.
    """
    found = _local_entries(address) if is_local(address) else _remote_entries(address)
    if not found:
        raise DataUnavailable(f"{address}: no such file")
    return sorted(found, key=lambda entry: entry.name)


def _local_entries(address: str) -> list[Entry]:
    path = Path(address)
    if path.is_dir():
        try:
            return [_local_entry(*found) for found in _below(str(path), "")]
        except OSError as error:
            raise DataUnavailable(f"{error.filename}: {error.strerror}") from None
    if path.exists():
        paths = [("", address)]
    else:
        root = _fixed(address)
        matched = glob.glob(address, recursive=True)  # noqa: PTH207 (the pattern may be absolute)
        paths = [(name[len(root) :], name) for name in matched]
    return [_local_entry(name, str(Path(found)), Path(found).stat())
            for name, found in paths if Path(found).is_file()]  # fmt: skip


def _below(folder: str, before: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield name, path and status of the files below a folder; links to folders are passed over.

    A path is made of no part of it: with a million files that is most of the time.
    """
    with os.scandir(folder) as children:
        for child in children:
            if child.name.startswith((".", "_")):
                continue
            if child.is_dir(follow_symlinks=False):
                yield from _below(child.path, f"{before}{child.name}/")
            elif child.is_file():
                yield f"{before}{child.name}", child.path, child.stat()


def _local_entry(name: str, path: str, status: os.stat_result) -> Entry:
    return Entry(path, name, status.st_size, str(status.st_mtime_ns))


def _fixed(pattern: str) -> str:
    """Return the folders of a pattern that hold no wildcard, with the last slash."""
    first = next((place for place, sign in enumerate(pattern) if sign in "*?["), len(pattern))
    return pattern[: pattern.rfind("/", 0, first) + 1]


def _remote_entries(address: str) -> list[Entry]:
    from pyarrow import fs

    store, path = _store(address)
    scheme = address.partition("://")[0]
    info = _insisted(address, lambda: store.get_file_info(path))
    if info.type == fs.FileType.File:
        return [_entry(scheme, info, "")]
    if info.type == fs.FileType.NotFound and not any(sign in path for sign in "*?["):
        return []
    found = info.type == fs.FileType.Directory
    root, wanted = (path.rstrip("/") + "/", "*") if found else (_fixed(path), path)
    selector = fs.FileSelector(root.rstrip("/"), allow_not_found=True, recursive=True)
    return [
        _entry(scheme, child, child.path[len(root) :])
        for child in _insisted(address, lambda: store.get_file_info(selector))
        if child.type == fs.FileType.File
        and fnmatch.fnmatchcase(child.path, wanted)
        and _shown(child.path[len(root) :].split("/"))
    ]


def _shown(steps: Sequence[str]) -> bool:
    """Tell data from what tools leave beside it, like ``.part`` files and ``_SUCCESS``."""
    return not any(step.startswith((".", "_")) for step in steps)


def _entry(scheme: str, info: Any, name: str) -> Entry:
    return Entry(f"{scheme}://{info.path}", name, int(info.size or 0), str(info.mtime_ns))


def open_input(address: str) -> IO[bytes]:
    """Open a file for reading, seekable; the caller closes it."""
    if is_local(address):
        try:
            return open(address, "rb")  # noqa: PTH123 (a path is made of it for each small file)
        except FileNotFoundError:
            raise DataUnavailable(f"{address}: no such file") from None
    store, path = _store(address)
    file = _insisted(address, lambda: store.open_input_file(path))
    return io.BufferedReader(_Remote(address, file), LOOKAHEAD)


class _Remote(io.RawIOBase):
    """An open file of a store; its errors are those of `slipway.errors`, after some tries."""

    def __init__(self, address: str, file: Any) -> None:
        self._address, self._file = address, file
        self._at, self._size = 0, file.size()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self._at = place + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        found = _insisted(self._address, lambda: self._file.read_at(wanted, self._at))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def _insisted(address: str, action: Callable[[], Result]) -> Result:
    """Do again what failed for a reason that may pass; the store's own client has tried before.

    A store that answers nothing costs ATTEMPTS times a limit of TIMEOUTS a try: 5 minutes in all.
    """
    failed = float("inf")
    for pause in PAUSES:
        try:
            with _told(address):
                return action()
        except Retryable:
            failed = min(failed, time.monotonic())
            if time.monotonic() - failed > PATIENCE:
                raise
        time.sleep(pause)
    with _told(address):
        return action()


def read_bytes(address: str) -> bytes | None:
    """Return what a small file holds, or None where there is none."""
    try:
        with open_input(address) as file:
            return file.read()
    except DataUnavailable as error:
        if "no such file" in str(error):
            return None
        raise


def size_of(address: str) -> int | None:
    """Return the bytes of a file, or None where there is none."""
    if is_local(address):
        return Path(address).stat().st_size if Path(address).is_file() else None
    store, path = _store(address)
    info = _insisted(address, lambda: store.get_file_info(path))
    return info.size if info.is_file else None


def remove(address: str) -> None:
    """Delete a file; nothing happens where there is none."""
    if is_local(address):
        Path(address).unlink(missing_ok=True)
        return
    store, path = _store(address)
    if size_of(address) is not None:
        _insisted(address, lambda: store.delete_file(path))


class Staged:
    """A file in the making. `publish` puts it in place whole; `discard` leaves no trace of it.

    The unfinished file is locked while its maker lives, so that what a killed process left can
    be told from the work of another one.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.part: Path | None = None
        if not is_local(address):
            self.file: IO[bytes] = tempfile.NamedTemporaryFile()  # noqa: SIM115
            return
        path = Path(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        self.part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self.file = self.part.open("w+b", buffering=0)
        with suppress(OSError):
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, content: bytes) -> None:
        """Append; a full disk is Retryable."""
        try:
            view = memoryview(content)
            while view:
                view = view[self.file.write(view) :]
        except OSError as error:
            if error.errno in FULL:
                raise Retryable(f"{self.address}: no space left; nothing was written") from None
            raise

    def publish(self) -> None:
        """Make all that was written appear under its name, in one step."""
        self.file.flush()
        if self.part is None:
            _upload(self.address, self.file)
        else:
            try:
                os.fsync(self.file.fileno())
            except OSError as error:
                if error.errno in FULL:
                    raise Retryable(f"{self.address}: no space left; nothing was written") from None
                raise
            self.part.replace(self.address)
            folder = os.open(Path(self.address).parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.file.close()

    def discard(self) -> None:
        """Drop what is not published."""
        self.file.close()
        if self.part:
            self.part.unlink(missing_ok=True)


@contextmanager
def staged(address: str) -> Iterator[Staged]:
    """Give a file that takes its place only when the block succeeds."""
    file = Staged(address)
    try:
        yield file
        file.publish()
    finally:
        file.discard()


def _sweep(path: Path) -> None:
    """Delete the unfinished files of makers that are no more.

    A lock of this kind is the process's own: its children do not keep it alive.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        with suppress(OSError), left.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink(missing_ok=True)


def _upload(address: str, file: IO[bytes]) -> None:
    """Copy a file into a store: whole, or not at all."""
    store, path = _store(address)
    if hasattr(store, "handler"):
        _insisted(address, lambda: store.handler.fs.put_file(file.name, path, chunksize=PIECE))
        return
    thread = _Upload(address, file, store, path)
    thread.start()
    try:
        thread.join()
    except SystemExit as left:
        os._exit(int(left.code or 0))
    except KeyboardInterrupt:
        os._exit(130)
    if thread.failure:
        raise thread.failure


class _Upload(threading.Thread):
    """An upload by pyarrow, which completes it when its stream is closed or dropped.

    So the upload has its own thread, and a process that is told to leave meanwhile ends at once.
    """

    abandoned: ClassVar[list[Any]] = []
    """Streams of failed uploads: dropping one would complete its upload."""

    def __init__(self, address: str, file: IO[bytes], store: Any, path: str) -> None:
        super().__init__(daemon=True)
        self.address, self.file, self.store, self.path = address, file, store, path
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Try it, some times."""
        try:
            _insisted(self.address, self._once)
        except BaseException as error:
            self.failure = error

    def _once(self) -> None:
        stream = self.store.open_output_stream(self.path)
        try:
            self.file.seek(0)
            while piece := self.file.read(PIECE):
                stream.write(piece)
            stream.close()
        except BaseException:
            self.abandoned.append(stream)
            raise


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn a store's error into the type of its exit code."""
    try:
        yield
    except FileNotFoundError:
        raise DataUnavailable(f"{address}: no such file") from None
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in CLIENTS:
            raise
        text = str(error) or type(error).__name__
        refused = isinstance(error, PermissionError) or any(word in text for word in REFUSALS)
        kind = DataUnavailable if refused else Retryable
        raise kind(f"{address}: {text}") from None


def _store(address: str) -> tuple[Any, str]:
    """Return the store of an address and the path in it."""
    scheme, _, path = address.partition("://")
    if scheme in ("s3", "s3a"):
        return _s3(), path
    if scheme in ("gs", "gcs"):
        return _gcs(), path
    if scheme in ("az", "abfs", "abfss"):
        return _azure(), path
    return _by_fsspec(scheme), path


@cache
def _s3() -> Any:
    """Return S3 with the usual AWS variables, and a limit of time for every request."""
    import s3fs
    from pyarrow import fs

    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    try:
        found = s3fs.S3FileSystem(
            config_kwargs=TIMEOUTS | {"retries": retries},
            use_listings_cache=False, skip_instance_cache=True,
        )  # fmt: skip
    except ValueError as error:
        raise DataUnavailable(f"s3://: {error}") from None
    found.retries = 1  # else it multiplies its client's tries, and ours both
    return fs.PyFileSystem(fs.FSSpecHandler(found))


@cache
def _gcs() -> Any:
    from pyarrow import fs

    split = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST", ""))
    return fs.GcsFileSystem(
        anonymous=bool(split.netloc),
        scheme=split.scheme or None,
        endpoint_override=split.netloc or None,
        retry_time_limit=timedelta(seconds=60),
    )


@cache
def _azure() -> Any:
    from pyarrow import fs

    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    if not account:
        raise DataUnavailable("az://: AZURE_STORAGE_ACCOUNT_NAME is not set")
    sas = os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    return fs.AzureFileSystem(
        account,
        account_key=None if sas else os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"),
        sas_token=sas,
    )


@cache
def _by_fsspec(scheme: str) -> Any:
    import fsspec
    from pyarrow import fs

    try:
        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except (ValueError, ImportError) as error:
        raise DataUnavailable(f"{scheme}://: {error}") from None
