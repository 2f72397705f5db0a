"""What an output is made of: a record beside each file of synthetic speech, sealed with the key.

The record says that a machine spoke, with which engine and weights, on whose consent and with
which watermark, and names the file by its hash. The seal is a keyed hash over all of it: with a
secret key nobody else can write a record that holds; with the job's public key everybody can.

Data:    the bytes of an output, the consent, the settings that made it.
Source:  IPTC digital source types; RFC 2104 (HMAC).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway.data import written
from slipway.errors import InputInvalid

from .consent import Consent

SUFFIX = ".provenance.json"
KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""How the press marks media that a trained model made."""


def record(
    output: bytes,
    key: bytes,
    *,
    engine: str,
    weights: str,
    consent: Consent | None,
    text: str = "",
    source: bytes = b"",
    settings: Mapping[str, Any] | None = None,
    created: datetime | None = None,
) -> dict[str, Any]:
    """Return the sealed record of an output file.

    ``consent`` is None for an engine's own voices. ``source`` is the recording that was converted,
    if one was; it and the text appear by their hashes only.
    """
    said = {
        "kind": KIND,
        "output_sha256": _hash(output),
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "engine": engine,
        "weights": weights,
        "text_sha256": _hash(text.encode()) if text else "",
        "source_sha256": _hash(source) if source else "",
        "consent": _consent(consent),
        "watermark": {"key": key_name(key), "message": message_of(consent)},
        "settings": dict(settings or {}),
        "image": os.environ.get("SLIPWAY_IMAGE", "unknown"),
    }
    return {**said, "seal": seal(said, key)}


def _consent(consent: Consent | None) -> dict[str, Any]:
    if consent is None:
        return {}
    return {
        "speaker": consent.speaker,
        "expiry": consent.expiry.isoformat(),
        "sha256": consent.digest,
        "references_sha256": list(consent.sha256),
    }


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def message_of(consent: Consent | None) -> int:
    """Return what a watermark says of a consent: a byte of its digest; 0 where there is none."""
    return int(consent.digest[:2], 16) if consent else 0


def key_name(key: bytes) -> str:
    """Return a name for a key that tells nothing else of it."""
    return hmac.new(key, b"name of the key", hashlib.sha256).hexdigest()[:8]


def seal(said: Mapping[str, Any], key: bytes) -> str:
    """Return the keyed hash of a record, its own seal aside."""
    entries = {name: entry for name, entry in said.items() if name != "seal"}
    content = json.dumps(entries, sort_keys=True, ensure_ascii=False).encode()
    return hmac.new(key, b"provenance\0" + content, hashlib.sha256).hexdigest()


def beside(output: Path) -> Path:
    """Return where the record of an output file is."""
    return output.with_name(output.name + SUFFIX)


def keep(output: Path, found: Mapping[str, Any]) -> Path:
    """Write a record beside its output."""
    path = beside(output)
    with written(path) as part:
        part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a record. Raises InputInvalid where it is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputInvalid(f"{path}: found no record that can be read ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("seal"), str):
        raise InputInvalid(f"{path}: found no seal; wanted a provenance record")
    return found


def objections(found: Mapping[str, Any], output: bytes, key: bytes) -> list[str]:
    """Return what speaks against a record: another file's, another key's, or changed since."""
    told = []
    if found.get("output_sha256") != _hash(output):
        told.append("the record is of another file, or the file has changed since")
    if not hmac.compare_digest(str(found.get("seal")).encode(), seal(found, key).encode()):
        told.append("the seal is not of this key, or the record has changed since")
    return told
