"""Whose voice it is, and whether that person has agreed: read before any recording is used.

A consent file names the speaker, what the speaker agreed to, from when until when, and the very
recordings, by hash, that may be used. It is a record of an agreement, not the agreement itself:
the program can tell that a file is missing, out of date or about another recording, not that the
person named in it has signed.

Data:    ``consent.json``: speaker, purpose, date, expiry, sha256, and if wanted a statement.
Source:  none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from slipway.errors import InputInvalid

FILE = "consent.json"
PURPOSES = ("clone", "train", "convert")
REQUIRED = ("speaker", "purpose", "date", "expiry", "sha256")
OPTIONAL = ("statement",)
DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 1 << 20
"""Bytes of a consent file."""


class Consent(NamedTuple):
    """What a speaker has agreed to."""

    speaker: str
    purpose: tuple[str, ...]
    date: date
    expiry: date
    sha256: tuple[str, ...]
    statement: str = ""

    @property
    def digest(self) -> str:
        """The hash of what was agreed to; the same for files that differ in layout only."""
        return hashlib.sha256(text_of(self).encode()).hexdigest()


def check(place: Path, reference: bytes, purpose: str, today: date) -> Consent:
    """Return the consent in a file, or in the ``consent.json`` of a folder.

    Raises InputInvalid where there is none, and where it does not cover this recording (the
    content of its file), this purpose (one of `PURPOSES`) or this day.
    """
    path = place / FILE if place.is_dir() else place
    return _covering(read(path), str(path), reference, purpose, today)


def granted(given: str | Path, reference: bytes, purpose: str, today: date) -> Consent:
    """Return the consent in a file, or in a text as a request holds it; see `check`."""
    if isinstance(given, Path):
        return check(given, reference, purpose, today)
    if not given:
        raise InputInvalid(f"consent: found none; wanted the speaker's consent to {purpose}")
    return _covering(_read(given.encode(), "consent"), "consent", reference, purpose, today)


def _covering(found: Consent, name: str, reference: bytes, purpose: str, today: date) -> Consent:
    """Return a consent that covers a use; InputInvalid tells what it does not cover."""
    if purpose not in found.purpose:
        raise InputInvalid(
            f"{name}: purpose: found {', '.join(found.purpose)}; wanted one that names {purpose}"
        )
    if today > found.expiry:
        raise InputInvalid(
            f"{name}: expiry: found {found.expiry}, which has passed; wanted {today} or later"
        )
    if today < found.date:
        raise InputInvalid(
            f"{name}: date: found {found.date}, which is yet to come; wanted {today} or earlier"
        )
    digest = hashlib.sha256(reference).hexdigest()
    if digest not in found.sha256:
        raise InputInvalid(
            f"{name}: sha256: found {_few(found.sha256)}; wanted {digest}, which is the recording's"
        )
    return found


def _few(digests: Sequence[str]) -> str:
    more = f" and {len(digests) - 2} more" if len(digests) > 2 else ""
    return ", ".join(digests[:2]) + more


def read(path: Path) -> Consent:
    """Read a consent file. Raises InputInvalid with its name, what was found and wanted."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputInvalid(
            f"{path}: found no consent; wanted the file that the verb consent writes from a "
            "reference, filled in for its speaker"
        ) from None
    except OSError as error:
        raise InputInvalid(f"{path}: cannot be read ({error.strerror})") from None
    return _read(content, str(path))


def _read(content: bytes, name: str) -> Consent:
    if len(content) > LARGEST:
        raise InputInvalid(f"{name}: found more than {LARGEST:,} bytes; wanted a consent file")
    try:
        return parsed(json.loads(content.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        raise InputInvalid(f"{name}: {error}") from None


def parsed(entries: Any) -> Consent:
    """Return the consent that the entries of a file mean; ValueError says what is wrong."""
    if not isinstance(entries, dict):
        raise ValueError(f"found {type(entries).__name__}; wanted an object")
    missing = [name for name in REQUIRED if entries.get(name) in (None, "", [])]
    if missing:
        raise ValueError(f"found no {', '.join(missing)}; wanted {', '.join(REQUIRED)}")
    if unknown := sorted(entries.keys() - {*REQUIRED, *OPTIONAL}):
        raise ValueError(f"found the key {unknown[0]!r}; wanted {', '.join(REQUIRED + OPTIONAL)}")
    consent = Consent(
        _text(entries, "speaker"),
        _several(entries, "purpose", PURPOSES),
        _day(entries, "date"),
        _day(entries, "expiry"),
        _several(entries, "sha256"),
        _text(entries, "statement") if "statement" in entries else "",
    )
    if consent.expiry < consent.date:
        raise ValueError(f"expiry: found {consent.expiry}; wanted {consent.date} or later")
    return consent


def _text(entries: dict[str, Any], name: str) -> str:
    found = entries[name]
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"{name}: found {found!r}; wanted words")
    return found.strip()


def _several(entries: dict[str, Any], name: str, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return one text or a list of them; each is one of ``known``, or else a hash."""
    given = entries[name] if isinstance(entries[name], list) else [entries[name]]
    wanted = f"one or more of {', '.join(known)}" if known else "64 digits of 0-9 a-f"
    for found in given:
        fits = isinstance(found, str) and (found in known if known else DIGEST.fullmatch(found))
        if not fits:
            raise ValueError(f"{name}: found {found!r}; wanted {wanted}")
    return tuple(dict.fromkeys(given))


def _day(entries: dict[str, Any], name: str) -> date:
    found = entries[name]
    try:
        return date.fromisoformat(found)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: found {found!r}; wanted a day like 2026-01-31") from None


def template(
    references: Sequence[bytes], speaker: str, purpose: Sequence[str], day: date, expiry: date
) -> str:
    """Return the text of a consent file for recordings; an empty speaker is left to be filled."""
    digests = dict.fromkeys(hashlib.sha256(content).hexdigest() for content in references)
    return text_of(Consent(speaker, tuple(purpose), day, expiry, tuple(digests)))


def text_of(consent: Consent) -> str:
    """Return a consent as its file holds it."""
    entries = {
        "speaker": consent.speaker,
        "purpose": list(consent.purpose),
        "date": consent.date.isoformat(),
        "expiry": consent.expiry.isoformat(),
        "sha256": list(consent.sha256),
        "statement": consent.statement,
    }
    if not consent.statement:
        del entries["statement"]
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
