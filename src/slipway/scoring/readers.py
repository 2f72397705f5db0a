"""Read an input in chunks of whole rows, in constant memory, whatever is in it.

A chunk is what one process scores at a time: bytes, and the number of its first line. Nothing is
decoded here but what it takes to cut between rows; what is wrong with a row is told by `rows`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from slipway.errors import InputInvalid
from slipway.scoring.shards import Share
from slipway.scoring.stores import Entry, open_input

FORMATS = (".jsonl", ".csv", ".parquet")
LONGEST = 8 * 2**20
"""Bytes of a line, at most; a request of the scorer has the same limit unless a job sets more."""
SMALL, LARGE = 2**16, 2**20
PREFIX = 8 * 2**20
BOM = b"\xef\xbb\xbf"
ROWS = 8192
FILES = 64
"""Of a chunk, at most: the processes end at about one time."""
FIRST_ROWS = 1024
"""Of the first chunk and the first group of Parquet: whoever follows the output sees it begin."""


@dataclass
class Chunk:
    """Rows of one file. ``first`` is the number of the first line, ``wrong`` spoils it whole."""

    kind: str
    file: str
    first: int
    content: bytes
    header: list[str] = field(default_factory=list)
    wrong: str = ""
    done: int = 0


def format_of(name: str) -> str:
    """Return the format that a name ends in, packed or not, or nothing."""
    plain = name.removesuffix(".gz")
    found = next((suffix for suffix in FORMATS if plain.endswith(suffix)), "")
    return "" if found == ".parquet" and plain != name else found


def chunks(share: Share, columns: dict[str, bool], longest: int = LONGEST) -> Iterator[Chunk]:
    """Yield the chunks of a share. ``columns`` are the fields of a row, True where required.

    Raises InputInvalid where the file as a whole is not what its name says.
    """
    entry = share.entry
    kind = format_of(entry.name or entry.address)
    if kind == ".parquet":
        yield from _parquet(share, columns)
        return
    with open_input(entry.address) as file:
        try:
            if kind == ".csv":
                found = _csv(_unpacked(entry, file), share, columns, longest)
            elif entry.address.endswith(".gz"):
                found = _whole_lines(_unpacked(entry, file), share, longest)
            else:
                found = _lines_from(file, share, longest)
            yield from found
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputInvalid(f"{entry.address}: no gzip file ({error})") from None


def stream(longest: int = LONGEST) -> Iterator[Chunk]:
    """Yield the lines of stdin as they come."""
    number = 1
    for content, wrong, _ in _blocks(sys.stdin.buffer, LARGE, longest):
        yield Chunk(".jsonl", "", number, content, wrong=wrong)
        number += content.count(b"\n") or 1


def raw(files: list[Entry], longest: int = LONGEST) -> Iterator[Chunk]:
    """Yield files that are one row each."""
    held: list[tuple[str, bytes]] = []
    size = 0
    for number, entry in enumerate(files, start=1):
        with open_input(entry.address) as file:
            # No more at once than it holds: Python first finds room for all that is asked for.
            content = file.read(min(entry.size, longest) + 1)
            content += file.read(longest + 1 - len(content)) if len(content) > entry.size else b""
        large = len(content) > longest
        if held and (large or size > LARGE or len(held) >= FILES):
            yield Chunk("raw", "", 1, tied(held), done=number - 1)
            held, size = [], 0
        if large:
            wrong = f"over {longest} bytes; wanted no more"
            yield Chunk("raw", entry.name, 1, b"", wrong=wrong, done=number)
            continue
        held.append((entry.name, content))
        size += len(content)
    if held:
        yield Chunk("raw", "", 1, tied(held), done=len(files))


def tied(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Return named contents as bytes; pyarrow would take 0.2 s to import where none is needed."""
    head = json.dumps([(name, len(content)) for name, content in files]).encode()
    return b"".join([head, b"\n", *(content for _, content in files)])


def untied(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of what `tied` returned."""
    at = content.index(b"\n") + 1
    for name, length in json.loads(content[:at]):
        yield name, content[at : at + length]
        at += length


def packed(batch: Any) -> bytes:
    """Return a record batch as Arrow's stream of bytes."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write(batch)
    return bytes(sink.getvalue())


def _unpacked(entry: Entry, file: IO[bytes]) -> IO[bytes]:
    return gzip.open(file) if entry.address.endswith(".gz") else file  # type: ignore[return-value]


def _blocks(file: Any, size: int, longest: int) -> Iterator[tuple[bytes, str, int]]:
    """Yield whole lines, some at a time; of a line that is too long a piece, and what is wrong.

    The last value is how many bytes of the file that was.
    """
    read = getattr(file, "read1", file.read) if file is sys.stdin.buffer else file.read
    rest = b""
    while data := read(size):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        if cut:
            yield data[:cut], "", cut
        rest = data[cut:]
        if len(rest) > longest:
            begin = rest
            skipped, rest = _after_line(read, size)
            yield begin[:80], f"a line of over {longest} bytes", len(begin) + skipped
    if rest:
        yield rest, "", len(rest)


def _after_line(read: Any, size: int) -> tuple[int, bytes]:
    """Read to the end of a line; return how much that was, and what came of the next line."""
    skipped = 0
    while data := read(size):
        if cut := data.find(b"\n") + 1:
            return skipped + cut, data[cut:]
        skipped += len(data)
    return skipped, b""


def _lines_from(file: IO[bytes], share: Share, longest: int) -> Iterator[Chunk]:
    """Yield the lines that begin in the share, with the numbers that they have in the file."""
    number, offset, rest = 1, 0, b""
    if share.start:
        number += _count_lines(file, share.start - 1) + 1
        skipped, rest = _after_line(file.read, SMALL)
        offset = share.start - 1 + skipped
    for content, wrong, size in _blocks(_Limited(file, rest), SMALL, longest):
        if offset >= share.stop:
            return
        own = content.find(b"\n", max(share.stop - offset - 1, 0)) + 1
        piece = content[:own] if own and not wrong else content
        offset += size
        done = min(offset, share.stop) - share.start
        lines = piece.count(b"\n") or 1
        piece = piece.removeprefix(BOM) if number == 1 else piece
        yield Chunk(".jsonl", share.entry.name, number, piece, wrong=wrong, done=done)
        number += lines


class _Limited:
    """A file after some bytes that were read already; it reads more the longer it goes on."""

    def __init__(self, file: IO[bytes], rest: bytes) -> None:
        self.file, self.rest, self.size = file, rest, SMALL

    def read(self, _: int) -> bytes:
        if self.rest:
            found, self.rest = self.rest, b""
            return found
        size, self.size = self.size, min(2 * self.size, LARGE)
        return self.file.read(size)


def _count_lines(file: IO[bytes], stop: int) -> int:
    """Return how many lines end before a byte, and stand at it."""
    found = at = 0
    while at < stop and (data := file.read(min(PREFIX, stop - at))):
        found += data.count(b"\n")
        at += len(data)
    return found


def _mine(share: Share) -> Iterator[bool]:
    """Tell for one chunk after the other whether it belongs to the share."""
    turn, count = share.turn
    while True:
        for place in range(count):
            yield place == turn


def _chunk_size(share: Share) -> int:
    """Return a size that deals out even a small file; the same for all shards of a file."""
    return max(1, min(LARGE, share.entry.size // (8 * share.turn[1])))


def _whole_lines(file: IO[bytes], share: Share, longest: int) -> Iterator[Chunk]:
    number = 1
    size = _chunk_size(share) if share.turn[1] > 1 else LARGE
    for (content, wrong, _), mine in zip(_blocks(file, size, longest), _mine(share), strict=False):
        piece = content.removeprefix(BOM) if number == 1 else content
        if mine:
            yield Chunk(".jsonl", share.entry.name, number, piece, wrong=wrong)
        number += content.count(b"\n") or 1


def _csv(file: IO[bytes], share: Share, columns: dict[str, bool], longest: int) -> Iterator[Chunk]:
    """Yield records under a header; a quoted field may hold line breaks."""
    csv.field_size_limit(longest)
    entry, mine = share.entry, _mine(share)
    size = _chunk_size(share)
    header: list[str] | None = None
    number, done = 1, 0
    for content, wrong in _records(
        file if share.turn[1] > 1 else _Limited(file, b""), size, longest
    ):
        done += len(content)
        if header is None and not wrong:
            header, rest = _header(entry, content.removeprefix(BOM), columns)
            number += content.count(b"\n") - rest.count(b"\n")
            content = rest
        if not content:
            continue
        if next(mine):
            yield Chunk(".csv", entry.name, number, content, header or [], wrong, done)
        number += content.count(b"\n") or 1


def _records(file: Any, size: int, longest: int) -> Iterator[tuple[bytes, str]]:
    """Join blocks of lines until no quoted field is open at their end."""
    open_record = b""
    for content, wrong, _ in _blocks(file, size, longest):
        if wrong:
            if open_record:
                yield open_record, ""
            yield content, wrong
            open_record = b""
            continue
        content = open_record + content
        cut = _end_of_records(content) if b'"' in content else len(content)
        if cut:
            yield content[:cut], ""
        open_record = content[cut:]
    if open_record:
        yield open_record, ""


def csv_lines(content: bytes) -> list[str]:
    """Return lines with their ends; bytes that are no UTF-8 become lone surrogates."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _end_of_records(content: bytes) -> int:
    """Return where the last record ends that is whole."""
    lines = csv_lines(content)
    reader = csv.reader(lines, strict=True)
    whole = 0
    while True:
        try:
            next(reader)
        except StopIteration:
            return len(content)
        except csv.Error:
            if reader.line_num >= len(lines) and _is_open(lines[whole:]):
                return len("".join(lines[:whole]).encode("utf-8", "surrogateescape"))
        whole = reader.line_num


def _is_open(lines: list[str]) -> bool:
    """Tell whether a record's lines end within quotes."""
    try:
        list(csv.reader([*lines, '"'], strict=True))
    except csv.Error:
        return False
    return True


def _header(entry: Entry, content: bytes, columns: dict[str, bool]) -> tuple[list[str], bytes]:
    """Take the header off the first records."""
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    told = f"{entry.address}, line 1"
    reader = csv.reader(iter(text.readline, ""), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InputInvalid(f"{told}: no CSV header ({error})") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputInvalid(f"{told}: found column {twice[0]!r} twice; wanted it once")
    require_columns(told, header, columns)
    return header, text.read().encode("utf-8", "surrogateescape")


def require_columns(told: str, found: list[str], columns: dict[str, bool]) -> None:
    """Raise InputInvalid where a column is missing that every row needs."""
    missing = [name for name, required in columns.items() if required and name not in found]
    if missing:
        shown = ", ".join(map(repr, found[:20])) or "none"
        raise InputInvalid(f"{told}: no column {missing[0]!r}; found {shown}")


def _parquet(share: Share, columns: dict[str, bool]) -> Iterator[Chunk]:
    """Yield rows of the share; row groups that lie outside it are not read."""
    import pyarrow
    from pyarrow import parquet

    entry = share.entry
    at = 0
    try:
        with open_input(entry.address) as source:
            file = parquet.ParquetFile(source, pre_buffer=False, buffer_size=LARGE)
            total = file.metadata.num_rows
            at, stop = (total * place // max(entry.size, 1) for place in (share.start, share.stop))
            names = [name for name in file.schema_arrow.names if name in columns]
            require_columns(entry.address, file.schema_arrow.names, columns)
            for batch in _batches(file, names, at, stop):
                number, at = at + 1, at + batch.num_rows
                done = entry.size * at // max(total, 1)
                yield Chunk(".parquet", entry.name, number, packed(batch), done=done)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputInvalid(f"{entry.address}, after row {at}: no Parquet file ({error})") from None


def _batches(file: Any, names: list[str], start: int, stop: int) -> Iterator[Any]:
    """Yield the record batches of rows ``start`` to ``stop``, a small one first."""
    end, opening = 0, FIRST_ROWS
    for group in range(file.num_row_groups):
        described = file.metadata.row_group(group)
        begin, end = end, end + described.num_rows
        if end <= start or begin >= stop or begin == end:
            continue
        average = max(1, described.total_byte_size // described.num_rows)
        size = max(1, min(ROWS, LARGE // average))
        at = begin
        for batch in file.iter_batches(size, [group], names, use_threads=False):
            low, high = max(start - at, 0), min(stop - at, batch.num_rows)
            at += batch.num_rows
            piece = batch.slice(low, max(0, high - low))
            if opening and piece.num_rows > opening:
                yield piece.slice(0, opening)
                piece, opening = piece.slice(opening), 0
            if piece.num_rows:
                yield piece
            if at >= stop:
                break
