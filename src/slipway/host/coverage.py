"""``coverage.txt``: one row a file, sorted, without dates, so that two branches' rows merge.

Data comes from test runs on this machine and from inside containers, whose paths
``[tool.coverage.paths]`` maps back. A file that was not measured this time keeps its row.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

DATA = ".coverage"
REPORT = "coverage.txt"


def data_file(root: Path, name: str) -> Path:
    """Return where one run of tests puts its data; what an earlier run left is removed."""
    path = root / f"{DATA}.{name}"
    path.unlink(missing_ok=True)
    return path


def write_report(root: Path, python: Path, data: list[Path]) -> Path:
    """Merge data files into ``coverage.txt`` and return its path."""
    rows = _rows(root / REPORT) | _measured(root, python, [path for path in data if path.is_file()])
    kept = {name: percent for name, percent in rows.items() if (root / name).is_file()}
    width = max(map(len, kept), default=0)
    lines = [f"{name:{width}} {kept[name]:4d}%" for name in sorted(kept)]
    (root / REPORT).write_text("\n".join(lines) + "\n", "utf-8")
    return root / REPORT


def _rows(report: Path) -> dict[str, int]:
    if not report.is_file():
        return {}
    pairs = (line.rsplit(maxsplit=1) for line in report.read_text("utf-8").splitlines() if line)
    return {name: int(percent.rstrip("%")) for name, percent in pairs}


def _measured(root: Path, python: Path, data: list[Path]) -> dict[str, int]:
    """Return the percentage of lines and branches of each file that the data speaks of."""
    if not data:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        copies = [shutil.copy(path, Path(folder) / f"part.{n}") for n, path in enumerate(data)]
        merged, report = Path(folder) / "merged", Path(folder) / "report.json"
        command = [str(python), "-m", "coverage"]
        chosen = [f"--data-file={merged}"]
        for step in (["combine", *chosen, *copies], ["json", *chosen, "-q", "-o", str(report)]):
            subprocess.run([*command, *step], cwd=root, check=True, stdout=subprocess.DEVNULL)
        files = json.loads(report.read_text("utf-8"))["files"]
    return {
        name: int(entry["summary"]["percent_covered"])
        for name, entry in files.items()
        if not Path(name).name.startswith("test_")
    }
