"""The SQL of this job, by name: each statement is a file of ``sql/``, its values bound by name.

Data:    none.
Source:  none.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "sql"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.sql")))


@cache
def statement(name: str) -> str:
    """Return the text of ``sql/NAME.sql``; only names of files that are there are known."""
    if name not in NAMES:
        raise KeyError(f"{name}: no statement; there are {', '.join(NAMES)}")
    return (FOLDER / f"{name}.sql").read_text("utf-8")
