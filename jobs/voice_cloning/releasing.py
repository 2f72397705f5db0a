"""What comes in and what goes out: no recording without consent, no speech without the mark.

Data:    recordings of the user, and their consent files.
Source:  see `consent`, `watermark` and `provenance`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from slipway.errors import DataUnavailable, InputInvalid

from . import consent as agreements
from . import provenance, watermark
from .speech import FORMATS, Speech, written


def recordings_in(place: Path) -> list[Path]:
    """Return the recordings of a folder, or the one file."""
    if not place.exists():
        raise DataUnavailable(f"{place}: no such file; wanted a recording or a folder of them")
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = [path for path in files if path.suffix.lower() in FORMATS]
    if not found:
        known = ", ".join(FORMATS)
        raise InputInvalid(f"{place}: found no recording; wanted files that end in {known}")
    return found


def agreed_on(place: Path) -> list[Path]:
    """Return the files that a consent names: a recording or zip as it is, those of a folder."""
    return [place] if place.is_file() else recordings_in(place)


def permitted(reference: bytes, given: str | Path, purpose: str) -> agreements.Consent:
    """Return the consent to a purpose for this very recording; InputInvalid where there is none.

    ``given`` is the path of a consent file, or its text, as a request holds it.
    """
    return agreements.granted(given, reference, purpose, datetime.now(UTC).date())


def permitted_all(place: Path, given: str | Path, purpose: str) -> None:
    """Ask for consent to the use of each file that `agreed_on` tells."""
    for path in agreed_on(place):
        try:
            permitted(path.read_bytes(), given, purpose)
        except InputInvalid as error:
            raise InputInvalid(f"{path}: {error}") from None


def marked(speech: Speech, agreed: agreements.Consent | None = None, began: float = 0.0) -> Speech:
    """Return speech with the mark that every output of this job bears.

    ``began`` is how many seconds of the same output came before.
    """
    key, _ = watermark.key_of()
    return watermark.marked(speech, key, provenance.message_of(agreed), began)


def kept(
    path: Path, speech: Speech, engine: str, weights: str,
    agreed: agreements.Consent | None = None, text: str = "", source: bytes = b"",
) -> None:  # fmt: skip
    """Write speech as a marked WAV file, and beside it the record of what it is made of."""
    content = written(marked(speech, agreed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    key, _ = watermark.key_of()
    found = provenance.record(
        content, key, engine=engine, weights=weights, consent=agreed, text=text, source=source
    )
    provenance.keep(path, found)
