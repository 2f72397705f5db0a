"""Which jobs there are: every folder of ``jobs/`` with a job.toml. No list is kept by hand."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from slipway.errors import SlipwayError
from slipway.spec import JobSpec


class UnknownJob(SlipwayError):
    """No folder of ``jobs/`` has that name."""

    exit_code = 2


def project_root() -> Path:
    """Return the checkout this package runs from; raise SlipwayError where it is none."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "jobs").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise SlipwayError("slipway's host commands run from a checkout with a jobs/ folder")


def job_names(root: Path) -> list[str]:
    """Return the names of all jobs, sorted."""
    return sorted(path.parent.name for path in root.glob("jobs/*/job.toml"))


def find_job(root: Path, name: str) -> JobSpec:
    """Read one job's declaration; raise UnknownJob with the nearest names."""
    names = job_names(root)
    if name in names:
        return JobSpec.read(root / "jobs" / name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
    raise UnknownJob(f"no job {name!r} in {root / 'jobs'}; {hint}")


def read_jobs(root: Path, names: Iterable[str] = ()) -> list[JobSpec]:
    """Read the named jobs, or every job where none is named."""
    return [find_job(root, name) for name in names or job_names(root)]


def tiers(spec: JobSpec) -> str:
    """Say what the job can run on: ``real`` when a dataset has a url, ``sample`` always."""
    return "real, sample" if spec.data else "sample"


def rows(specs: Iterable[JobSpec]) -> list[tuple[str, str, str, str]]:
    """Return name, question, base and data tiers of each job."""
    return [(spec.name, spec.question, spec.base, tiers(spec)) for spec in specs]


OPENING, CLOSING = "<!-- jobs: made by `slipway list --readme` -->", "<!-- /jobs -->"
HEADER = ("job", "question it answers", "base", "data")


def text_table(cells: list[tuple[str, ...]]) -> str:
    """Align columns with two spaces between them."""
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "\n".join(lines)


def write_readme(root: Path) -> Path:
    """Put the table of jobs between the README's two markers and return its path."""
    path = root / "README.md"
    before, opening, rest = path.read_text("utf-8").partition(OPENING)
    _, closing, after = rest.partition(CLOSING)
    if not (opening and closing):
        raise SlipwayError(f"{path}: wanted the lines {OPENING} and {CLOSING}")
    table = markdown_table(read_jobs(root))
    path.write_text(f"{before}{opening}\n{table}\n{closing}{after}", "utf-8")
    return path


def markdown_table(specs: Iterable[JobSpec]) -> str:
    """Return the README's table of jobs, each name a link to its folder."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---|---|---|"]
    for name, question, base, data in rows(specs):
        lines.append(f"| [`{name}`](jobs/{name}) | {question} | {base} | {data} |")
    return "\n".join(lines)
