"""Folders that are a row each: a patient's volumes, the two pictures of a pair.

A file fills the field that its name, before the first dot, is or ends in after a ``_`` or ``-``:
``a_flair.nii.gz`` is ``flair``, ``prompt.txt`` is ``prompt``. Files of no field are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slipway.scoring.readers import LONGEST, Chunk, tied
from slipway.scoring.stores import Entry, open_input
from slipway.types import media_fields

if TYPE_CHECKING:
    from slipway.job import Job


def are_rows(job: Job, files: Sequence[Entry]) -> bool:
    """Tell whether files are those of rows: each in a folder, for a type with fields of bytes."""
    return bool(media_fields(job.row)) and all("/" in entry.name for entry in files)


def as_entries(files: Sequence[Entry]) -> list[Entry]:
    """Return an entry for each folder that holds a file, by name."""
    found: dict[str, list[Entry]] = {}
    for entry in files:
        found.setdefault(entry.name.rpartition("/")[0], []).append(entry)
    return [
        Entry(some[0].address.rpartition("/")[0], name, sum(entry.size for entry in some), "")
        for name, some in sorted(found.items())
    ]


def chunks(
    folders: Sequence[Entry], files: Sequence[Entry], job: Job, longest: int = LONGEST
) -> Iterator[Chunk]:
    """Yield the content of each folder; one with more than ``longest`` bytes is a bad row."""
    for number, folder in enumerate(folders, start=1):
        mine = [entry for entry in files if entry.name.rpartition("/")[0] == folder.name]
        named = [(entry, field) for entry in mine if (field := field_of(entry.name, job.row))]
        if sum(entry.size for entry, _ in named) > longest:
            wrong = f"over {longest} bytes; wanted no more"
            yield Chunk("folder", folder.name, 1, b"", wrong=wrong, done=number)
            continue
        held = []
        for entry, field in named:
            with open_input(entry.address) as file:
                held.append((field, file.read()))
        yield Chunk("folder", folder.name, 1, tied(held), done=number)


def field_of(name: str, kind: Any) -> str:
    """Return the field that a file fills, or nothing."""
    stem = name.rpartition("/")[2].partition(".")[0]
    wanted = re.split(r"[_-]", stem)[-1].lower()
    return next((field for field in kind.model_fields if field in (wanted, stem)), "")


def row_of(parts: Iterable[tuple[str, bytes]], kind: Any) -> dict[str, Any]:
    """Return the values of a row, of fields and contents: bytes where it holds a file, else text.

    Raises ValueError where two files fill one field, or a text is no UTF-8.
    """
    media, found = media_fields(kind), dict[str, Any]()
    for name, content in parts:
        if name in found:
            raise ValueError(f"two files for {name}")
        try:
            found[name] = content if name in media else content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: bytes that are no UTF-8 ({error.reason})") from None
    return found
