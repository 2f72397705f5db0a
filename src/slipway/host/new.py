"""Write a new job's folder: whole, small and passing every check, to be changed step by step."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from string import Template

from slipway.errors import SlipwayError
from slipway.spec import NAME, JobSpec

SKELETON = Path(__file__).parent / "skeleton"
ENDING = ".template"


def create(root: Path, name: str, base: str) -> list[Path]:
    """Write ``jobs/NAME`` and return its files; raise SlipwayError when it cannot be."""
    if not NAME.fullmatch(name):
        raise SlipwayError(f"{name!r} is no job name; wanted snake_case like house_price")
    folder = root / "jobs" / name
    if folder.exists():
        raise SlipwayError(f"{folder} exists already")
    values = placeholders(name, base)
    for path in sorted(SKELETON.rglob("*")):
        if path.is_file():
            _write(path, folder / path.relative_to(SKELETON), values)
    JobSpec.read(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def placeholders(name: str, base: str) -> dict[str, str]:
    """Return what stands for each ``$word`` of the templates."""
    sample = (SKELETON / "sample" / "rows.csv").read_bytes()
    title = name.replace("_", " ").capitalize()
    return {
        "name": name,
        "title": title,
        "question": "Which of two kinds is this thing, by its length and width?",
        "base": base,
        "sha256": hashlib.sha256(sample).hexdigest(),
        "bytes": str(len(sample)),
    }


def _write(source: Path, target: Path, values: dict[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ENDING:
        text = Template(source.read_text("utf-8")).substitute(values)
        target.with_suffix("").write_text(text, "utf-8")
    else:
        shutil.copyfile(source, target)
