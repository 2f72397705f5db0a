"""``job.toml``: what a job declares about itself, readable without running its code.

The host reads nothing else of a job, and the image carries the same file, so this module
imports the standard library only. An unknown key is an error: a misspelt bar must not pass.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from slipway.errors import InputInvalid

Base = Literal["base", "torch", "cuda"]
Spec = TypeVar("Spec")

TIERS = ("auto", "real", "mirror", "sample")
"""What ``--data`` takes beside a path."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
BAR = re.compile(r"(>=|<=) (-?\d+(?:\.\d+)?(?:e-?\d+)?)")
ACCEPT = ("real", "sample", "mean")
MEMORY = re.compile(r"\d+(\.\d+)?[mg]")


@dataclass(frozen=True)
class Bar:
    """The least (``>=``) or greatest (``<=``) value a metric may have."""

    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Bar:
        """Read ``">= 0.985"``; raise ValueError for anything else."""
        found = BAR.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is no bar; wanted '>= NUMBER' or '<= NUMBER'")
        return cls(found[1], float(found[2]))

    def holds(self, value: float) -> bool:
        """Tell whether ``value`` reaches the bar; NaN never does."""
        return value >= self.limit if self.sign == ">=" else value <= self.limit

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True)
class Resources:
    """What a container of the job asks of its machine.

    ``minutes`` is the wall time of one ``run`` on the real data on such a machine, rounded up.
    """

    memory: str = "2g"
    cpus: float = 2
    gpus: float = 0
    minutes: float = 10


@dataclass(frozen=True)
class Dataset:
    """One data file: where it comes from and how to know that it is the right one.

    ``file`` is its path below the cache and below ``SLIPWAY_MIRROR`` (``<dataset>/<file>``).
    ``sha256`` and ``bytes`` are of that file; where ``url`` is an archive, ``member`` names it.
    An empty ``url`` says that the file is published nowhere: only a mirror brings it.
    ``sample`` is a path inside the job's folder.
    """

    url: str
    file: str
    sha256: str
    bytes: int
    licence: str
    citation: str
    member: str = ""
    sample: str = ""


@dataclass(frozen=True)
class JobSpec:
    """The whole of a ``job.toml``; ``name`` is the folder's, ``folder`` its path.

    ``services`` are databases that the job can use, by their folders of ``images/``; ``variables``
    are those of the machine that its containers get, such as a secret of the user's.
    ``accept`` holds what one run must reach on ``real`` and on ``sample`` data, and what the
    ``mean`` over the seeds 0 to 4 must reach on real data.
    """

    name: str
    folder: Path
    title: str
    question: str
    base: Base = "base"
    services: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    resources: Resources = Resources()
    data: Mapping[str, Dataset] = field(default_factory=dict)
    accept: Mapping[str, Mapping[str, Bar]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Read ``folder/job.toml``; raise InputInvalid with the file and key that is wrong."""
        path = folder / "job.toml"
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InputInvalid(f"{path}: no such file; a job's folder holds job.toml") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputInvalid(f"{path}: {error}") from None
        except OSError as error:
            raise InputInvalid(f"{path}: cannot be read ({error.strerror})") from None
        try:
            return cls._of(folder, table)
        except ValueError as error:
            raise InputInvalid(f"{path}: {error}") from None

    @property
    def code(self) -> list[Path]:
        """The job's Python files, also those in folders, without its tests."""
        found = sorted(self.folder.rglob("*.py"))
        return [path for path in found if not path.name.startswith(("test_", "conftest"))]

    @classmethod
    def _of(cls, folder: Path, table: dict[str, Any]) -> JobSpec:
        name = folder.resolve().name
        for key in {"name", "folder"} & table.keys():
            raise ValueError(f"unknown key {key}; the folder gives the job its name")
        if not NAME.fullmatch(name):
            raise ValueError(f"folder {name!r} is no snake_case name")
        base = table.get("base", "base")
        if base not in get_args(Base):
            raise ValueError(f"base = {base!r}; wanted one of {', '.join(get_args(Base))}")
        table["services"] = _names(table, "services", NAME, "postgres")
        table["variables"] = _names(table, "variables", VARIABLE, "SLIPWAY_KEY")
        table["resources"] = _build(Resources, table.get("resources", {}), "resources")
        if not MEMORY.fullmatch(table["resources"].memory):
            memory = table["resources"].memory
            raise ValueError(f"resources.memory = {memory!r}; wanted a size like '512m' or '2g'")
        datasets = _tables(table, "data").items()
        table["data"] = {key: _build(Dataset, entry, f"data.{key}") for key, entry in datasets}
        table["accept"] = {
            tier: _bars(tier, bars) for tier, bars in _tables(table, "accept").items()
        }
        return _build(cls, {"name": name, "folder": folder, **table}, "")


def _names(table: dict[str, Any], key: str, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(
        isinstance(entry, str) and form.fullmatch(entry) for entry in found
    ):
        raise ValueError(f"{key} = {found!r}; wanted a list of names like {example!r}")
    return tuple(found)


def _tables(table: dict[str, Any], key: str) -> dict[str, Any]:
    found = table.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise ValueError(f"{key} = {found!r}; wanted tables like [{key}.name]")
    return found


def _bars(tier: str, table: Mapping[str, Any]) -> dict[str, Bar]:
    if tier not in ACCEPT:
        raise ValueError(f"[accept.{tier}]; wanted {', '.join(f'[accept.{t}]' for t in ACCEPT)}")
    bars = {}
    for metric, text in table.items():
        try:
            bars[metric] = Bar.parse(str(text))
        except ValueError as error:
            raise ValueError(f"accept.{tier}.{metric}: {error}") from None
    return bars


def _build(kind: type[Spec], table: Mapping[str, Any], place: str) -> Spec:
    """Make a dataclass of a table whose keys and types must be exactly its fields."""
    dot = f"{place}." if place else ""
    if not isinstance(table, dict):
        raise ValueError(f"{place} = {table!r}; wanted a table [{place}]")
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key {dot}{key}; known are {', '.join(sorted(known))}")
    for key, item in known.items():
        wanted = item.default is MISSING and item.default_factory is MISSING
        if wanted and key not in table:
            raise ValueError(f"{dot}{key} is missing")
        checks: dict[str, tuple[type, ...]]
        checks = {"str": (str,), "int": (int,), "float": (int, float)}
        check = checks.get(str(item.type))
        value = table.get(key)
        if key in table and check and (not isinstance(value, check) or isinstance(value, bool)):
            raise ValueError(f"{dot}{key} = {value!r}; wanted {item.type}")
    return kind(**table)
