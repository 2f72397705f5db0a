"""Versions of a job's split files: a git and DVC repository of its own in ``versions/<job>``.

A version is a tag there; DVC keeps the files' contents, and pushes them to a folder or to an
S3-like store. DVC is only ever run as a command, from ``.venv-data``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import DataUnavailable, InputInvalid, SlipwayError
from slipway.host import environment
from slipway.spec import JobSpec

LABELS = ("label", "target", "class")
REMOTE = "store"
Row = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One split file: its rows and how many there are of each class."""

    rows: tuple[Row, ...]
    classes: Mapping[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.classes.items()))
        return f"{len(self.rows)} rows" + (f" ({counts})" if counts else "")


@dataclass(frozen=True)
class Versions:
    """The repository of one job's versions. ``data`` is where the job wrote its split files."""

    folder: Path
    data: Path
    dvc: Path

    @classmethod
    def of(cls, root: Path, spec: JobSpec) -> Versions:
        """Open the job's repository, made on first use."""
        dvc = environment.make(root, "data", ["data"]).with_name("dvc")
        found = cls(root / "versions" / spec.name, root / "artifacts" / spec.name / "data", dvc)
        if not (found.folder / ".dvc").is_dir():
            found.folder.mkdir(parents=True, exist_ok=True)
            found.git("init", "--quiet", "--initial-branch", "main")
            found.run_dvc("init", "--quiet")
            found.run_dvc("config", "core.analytics", "false")
            found.git("add", "--all")
            found.git("commit", "--quiet", "--message", "Start the versions of the split files")
        return found

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return what it prints."""
        identity = ["-c", "user.name=slipway", "-c", "user.email=slipway@localhost"]
        return self._command("git", *identity, *arguments)

    def run_dvc(self, *arguments: str) -> str:
        """Run DVC in the repository and return what it prints."""
        return self._command(str(self.dvc), *arguments)

    def _command(self, *command: str) -> str:
        # A git hook sets GIT_DIR and more; here it would mean the project's own repository.
        environ = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**environ, "DVC_NO_ANALYTICS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            name = Path(command[0]).name
            raise DataUnavailable(f"{name} failed in {self.folder}:\n{done.stderr.strip()}")
        return done.stdout

    def names(self) -> list[str]:
        """Return the names of all versions, oldest first."""
        return self.git("tag", "--sort=creatordate").split()

    def described(self) -> list[tuple[str, str]]:
        """Return name and message of each version, oldest first."""
        form = "--format=%(refname:strip=2)%09%(contents:subject)"
        lines = self.git("for-each-ref", "--sort=creatordate", form, "refs/tags").splitlines()
        return [(name, text) for name, _, text in (line.partition("\t") for line in lines)]

    def set_remote(self, address: str) -> None:
        """Use a folder or ``s3://bucket/prefix`` as the store; AWS_ENDPOINT_URL for another S3."""
        url = address if "://" in address else str(Path(address).resolve())
        self.run_dvc("remote", "add", "--local", "--default", "--force", REMOTE, url)
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if url.startswith("s3://") and endpoint:
            self.run_dvc("remote", "modify", "--local", REMOTE, "endpointurl", endpoint)

    def has_remote(self) -> bool:
        """Tell whether a store is set."""
        return bool(self.run_dvc("remote", "list").strip())

    def snapshot(self, name: str = "", seed: str = "") -> tuple[str, str]:
        """Keep the split files as a version and push it; return its name and message."""
        parts = read_parts(self.data)
        name = name or self._next_name()
        if name in self.names():
            raise SlipwayError(f"version {name} exists already; choose another --name")
        replace_files(self.data, self.folder / "data")
        self.run_dvc("add", "--quiet", "data")
        known = self._version_of((self.folder / "data.dvc").read_text("utf-8"))
        if known:
            self.git("checkout", "--quiet", "HEAD", "--", "data.dvc")
            raise SlipwayError(f"these files are version {known} already; no new version")
        self.git("add", "--all")
        told = [f"seed {seed or 'unknown'}", *(f"{file}: {part}" for file, part in parts.items())]
        message = "; ".join(told)
        self.git("commit", "--quiet", "--message", f"{name}: {message}")
        self.git("tag", "--annotate", "--message", message, name)
        if self.has_remote():
            self.run_dvc("push", "--quiet", "--all-tags")
        return name, message

    def _version_of(self, pointer: str) -> str:
        """Return the version with this DVC pointer, which holds the files' digest, or nothing."""
        same = (name for name in self.names() if self.git("show", f"{name}:data.dvc") == pointer)
        return next(same, "")

    def _next_name(self) -> str:
        numbers = [int(name[1:]) for name in self.names() if name[0] == "v" and name[1:].isdigit()]
        return f"v{max(numbers, default=0) + 1}"

    def fetch(self, name: str) -> Path:
        """Put a version's files into the repository's folder, from the store where needed."""
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise DataUnavailable(f"no version {name!r}; there is {known}")
        self.git("checkout", "--quiet", name, "--", "data.dvc")
        try:
            self.run_dvc("checkout", "--quiet", "--force", "data.dvc")
        except DataUnavailable:
            if not self.has_remote():
                raise
            self.run_dvc("pull", "--quiet", "--force", "data.dvc")
        finally:
            self.git("checkout", "--quiet", "HEAD", "--", "data.dvc")
        return self.folder / "data"

    def checkout(self, name: str) -> dict[str, Part]:
        """Put a version's files back where the job reads them and return their parts."""
        replace_files(self.fetch(name), self.data)
        return read_parts(self.data)

    def diff(self, one: str, other: str) -> list[str]:
        """Say how rows and class counts changed between two versions, and what moved."""
        before, after = read_parts(self.fetch(one)), read_parts(self.fetch(other))
        return compare(before, after)


def replace_files(source: Path, target: Path) -> None:
    """Make ``target`` hold the files of ``source`` and no others."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)


def read_parts(folder: Path) -> dict[str, Part]:
    """Read the CSV, TSV and JSON-lines files of a folder; DataUnavailable where there are none."""
    label = label_column(folder)
    readers = {".csv": read_delimited, ".tsv": read_delimited, ".jsonl": read_json_lines}
    paths = sorted(path for path in folder.glob("*") if path.suffix in readers)
    if not paths:
        raise DataUnavailable(f"{folder}: no split files; run the job's prepare first")
    return {path.name: part_of(readers[path.suffix](path), label, path) for path in paths}


def label_column(folder: Path) -> str:
    """Return the label column that ``dataset.json`` beside the splits names, else nothing."""
    path = folder / "dataset.json"
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text("utf-8"))["label"])
    except (ValueError, KeyError, TypeError):
        raise InputInvalid(f'{path}: wanted {{"label": "COLUMN"}}') from None


def read_delimited(path: Path) -> list[dict[str, str]]:
    """Read a CSV or TSV file with a header."""
    csv.field_size_limit(2**30)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def read_json_lines(path: Path) -> list[dict[str, str]]:
    """Read one object a line, every value as text."""
    lines = path.read_text("utf-8").splitlines()
    return [{key: str(value) for key, value in json.loads(line).items()} for line in lines]


def part_of(records: Sequence[Mapping[str, str]], label: str, path: Path) -> Part:
    """Count classes by the label column: the named one, or the first usual name there is."""
    columns = list(records[0]) if records else []
    if label and records and label not in columns:
        raise InputInvalid(f"{path}: no column {label!r}; there is {', '.join(columns)}")
    column = label or next((name for name in LABELS if name in columns), "")
    classes = Counter(record[column] for record in records) if column else Counter[str]()
    rows = tuple(tuple(map(str, record.values())) for record in records)
    return Part(rows, classes)


def compare(before: Mapping[str, Part], after: Mapping[str, Part]) -> list[str]:
    """Return a line a file and a last one: how many rows moved, came and went."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, Part((), {})), after.get(name, Part((), {}))
        left, entered = Counter(old.rows) - Counter(new.rows), Counter(new.rows) - Counter(old.rows)
        lines.append(f"{name}: {old} -> {new}; {left.total()} left, {entered.total()} entered")
    moved, gone, come = membership(before, after)
    return [*lines, f"{moved} rows changed their file, {gone} went, {come} came"]


def membership(before: Mapping[str, Part], after: Mapping[str, Part]) -> tuple[int, int, int]:
    """Count the rows that are in another file, in no file any more, and new."""
    old = Counter((name, row) for name, part in before.items() for row in part.rows)
    new = Counter((name, row) for name, part in after.items() for row in part.rows)
    left = Counter(row for _, row in (old - new).elements())
    entered = Counter(row for _, row in (new - old).elements())
    moved = (left & entered).total()
    return moved, left.total() - moved, entered.total() - moved


def seed_of(artifacts: Path) -> str:
    """Return the seed that made the split files, where the record of prepare is of these files."""
    path = artifacts / "run.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text("utf-8")).get("prepare", {})
    files = sorted(path for path in (artifacts / "data").glob("*") if path.is_file())
    found = {path.name: sha256_of(path) for path in files}
    return str(record["options"]["seed"]) if record.get("prepared") == found else ""


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
