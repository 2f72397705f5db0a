"""Deleting a job's folder leaves no trace; no file knows the machine it was written on."""

import re

import pytest

from slipway.host import catalog

# Where a job's name may stand beside its folder: prose for people, and what is made from job.toml.
PLACES = (
    "src",
    "bench",
    "images",
    "hooks",
    "tests/conformance",
    "tests/containers",
    ".github",
    ".ci",
)
# The job that `slipway new` is tried with, and deleted: an English word, which code may hold.
TRIED = "example"
FILES = ("Makefile", "compose.yaml", "Dockerfile.base", "Dockerfile.cuda", "pyproject.toml")
REGISTRIES = (
    r"pypi\.org|pythonhosted\.org|(?:deb|security|ftp|snapshot)\.debian\.org|archive\.ubuntu\.com"
    r"|registry\.npmjs\.org|registry-1\.docker\.io|proxy\.golang\.org"
)
MACHINE = r"(?<![\w.~-])/(?:work|farm|opt/wheels|tmp/wt|tmp/brief)/"


def lines_of(path):
    try:
        return list(enumerate(path.read_text("utf-8").splitlines(), start=1))
    except UnicodeDecodeError:
        return []


def places(root, tracked):
    """Return the tracked files that build, run or test jobs in general."""
    folders = [root / name for name in PLACES]
    return [
        path
        for path in tracked
        if any(folder in path.parents for folder in folders)
        or path.relative_to(root).as_posix() in FILES
    ]


def test_no_job_is_named_outside_its_folder(root, every_job, tracked, at):
    known = [path.name for path in every_job if path.name != TRIED]
    names = re.compile(rf"(?<![\w-])(?:{'|'.join(known) or '(?!)'})(?![\w-])")
    for path in places(root, tracked):
        for number, line in lines_of(path):
            found = names.search(line)
            assert not found, f"{at(path, number)}: names the job {found[0]!r}: {line.strip()}"


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE], ids=["registry", "machine"])
def test_no_file_names_a_registry_or_the_machine(pattern, root, tracked, at):
    wrong = re.compile(pattern)
    for path in tracked:
        for number, line in lines_of(path):
            found = wrong.search(line)
            assert not found, f"{at(path, number)}: names {found[0]!r}"


def test_the_readmes_table_is_the_one_made_from_job_toml(root, at):
    path = root / "README.md"
    if not path.is_file():
        pytest.skip("there is no README.md")
    wanted = catalog.markdown_table(catalog.read_jobs(root)).splitlines()
    lines = path.read_text("utf-8").splitlines()
    assert wanted[0] in lines, f"{at(path)}: wanted the table that `slipway list --readme` writes"
    start = lines.index(wanted[0])
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append(line)
    assert wanted == found, (
        f"{at(path, start + 1)}: differs from what `slipway list --readme` writes"
    )
