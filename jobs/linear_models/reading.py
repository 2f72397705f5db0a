"""Read any CSV into cells of text, or tell file, line, what was found and what was wanted.

Separator and encoding are found, nothing is guessed about the cells: `columns` does that.

Data:    a file with one header line and one row a line.
Source:  RFC 4180.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import DataUnavailable, InputInvalid

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LARGEST = 256 * 2**20
LONGEST_CELL = 1 << 20
LOOKED_AT = 200
NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Sheet:
    """The cells of a file: ``rows[i]`` stands on line ``lines[i]``, with a cell for each name."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    separator: str
    encoding: str

    def column(self, name: str) -> list[str]:
        """Return the cells of one column."""
        place = self.names.index(name)
        return [row[place] for row in self.rows]

    @property
    def told(self) -> str:
        """How the file was understood."""
        return (
            f"{len(self.rows)} rows of {len(self.names)} columns, separated by "
            f"{SEPARATORS[self.separator]}, {self.encoding}"
        )


def read(path: Path) -> Sheet:
    """Read a CSV file, packed by gzip or not; InputInvalid names the file and the line."""
    text, encoding = decoded(path, content_of(path))
    separator = separator_of(path, text)
    rows, lines = records(path, text, separator)
    if not rows:
        raise InputInvalid(f"{path}: found separators alone; wanted a header line and rows")
    names = header(path, rows[0], lines[0])
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(names):
            raise InputInvalid(
                f"{path}, line {line}: found {len(row)} cells; wanted {len(names)}, as many as the "
                f"header on line {lines[0]} has"
            )
    if len(rows) == 1:
        raise InputInvalid(f"{path}: found a header and no row below it; wanted rows")
    return Sheet(path, names, rows[1:], lines[1:], separator, encoding)


def content_of(path: Path) -> bytes:
    """Return the bytes of a file, unpacked, within `LARGEST`."""
    if not path.is_file():
        raise DataUnavailable(f"{path}: no such file; wanted a CSV file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputInvalid(f"{path}: found damaged gzip ({error}); wanted CSV") from None
    if len(content) > LARGEST:
        raise InputInvalid(f"{path}: found over {LARGEST >> 20} MiB; wanted a smaller table")
    return content


def decoded(path: Path, content: bytes) -> tuple[str, str]:
    """Return the text and its encoding: UTF-8, UTF-16 with a mark, else Windows-1252."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return _text(path, content.decode("utf-16")), "UTF-16"
        except UnicodeDecodeError as error:
            raise InputInvalid(f"{path}: found broken UTF-16 ({error.reason})") from None
    try:
        return _text(path, content.decode("utf-8-sig")), "UTF-8"
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        text = content.decode("cp1252", errors="replace")
        return _text(path, text), f"Windows-1252 (line {line} is no UTF-8)"


def _text(path: Path, text: str) -> str:
    """Return the text where it is one; an empty or binary file is none."""
    if not text.strip():
        raise InputInvalid(f"{path}: found an empty file; wanted a header line and rows")
    odd = Counter(char for char in text if ord(char) < 32 and char not in "\t\r\n\x0b\x0c")
    undecoded = text.count("\ufffd")
    if "\0" in odd or odd.total() + undecoded > len(text) / 100:
        told = f"{odd.total() + undecoded} control characters in {len(text)}"
        raise InputInvalid(f"{path}: found binary content ({told}); wanted the text of a CSV file")
    return text


def separator_of(path: Path, text: str) -> str:
    """Return the separator that cuts the first rows in most cells, equally many in each."""

    def fit(separator: str) -> tuple[float, int]:
        cut = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        widths = []
        try:
            for row in cut:
                widths += [len(row)] if row else []
                if len(widths) == LOOKED_AT:
                    break
        except csv.Error:
            pass
        if not widths or widths[0] < 2:
            return 0.0, 0
        return round(widths.count(widths[0]) / len(widths), 2), widths[0]

    best = max(SEPARATORS, key=fit)
    if fit(best) == (0.0, 0):
        found = text.strip().splitlines()[0][:60]
        raise InputInvalid(
            f"{path}, line 1: found one column in {found!r}; wanted columns separated by "
            f"{', '.join(SEPARATORS.values())}"
        )
    return best


def records(path: Path, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """Return the records that are not empty, cells stripped, and the line where each begins."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines, begins = [], [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                lines.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        wanted = f"cells separated by {SEPARATORS[separator]}"
        raise InputInvalid(f"{path}, line {begins}: found {error}; wanted {wanted}") from None
    return rows, lines


def header(path: Path, cells: list[str], line: int) -> list[str]:
    """Return the names of the columns; one without a name is called by its place."""
    numbers = [cell for cell in cells if cell and NUMBER.fullmatch(cell)]
    if len(numbers) > len(cells) / 2:
        told = ", ".join(numbers[:3])
        raise InputInvalid(
            f"{path}, line {line}: found the numbers {told}; wanted names of columns"
        )
    names = [cell or f"column {place}" for place, cell in enumerate(cells, start=1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputInvalid(
            f"{path}, line {line}: found the column {' and '.join(map(repr, twice))} more than "
            "once; wanted each name once"
        )
    return names
