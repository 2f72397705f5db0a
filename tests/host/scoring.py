"""Stands in for an image: `score --shard` and `merge` as in the contract, with a constant score.

It imports the standard library only and takes no time, so that a test of an engine measures the
engine. What goes wrong is chosen by a test: `FAULTS` is a folder in which a file named for a shard
holds the exit codes of its next attempts, one a line; `PAUSE` is seconds before a part is written.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def score(source: str, folder: str, shard: str) -> int:
    """Write one part and its record, or do what a test asked for."""
    index, _, count = shard.partition("/")
    index = index or os.environ.get("JOB_COMPLETION_INDEX", "")
    code = fault(index)
    if code < 0:
        os.kill(os.getpid(), -code)
    if code:
        print(f"the fault that was asked for: {code}", file=sys.stderr)
        return code
    stem = f"part-{int(index):05d}-of-{int(count):05d}"
    part, record = Path(folder, f"{stem}.jsonl"), Path(folder, f"{stem}.json")
    if record.exists():
        print("finished; skipped", file=sys.stderr)
        return 0
    time.sleep(float(os.environ.get("PAUSE", "0")))
    lines = Path(source).read_text().splitlines()[int(index) :: int(count)]
    rows = [json.dumps({"line": json.loads(line)["id"], "score": 0.5}) for line in lines]
    try:
        write(part, "".join(f"{row}\n" for row in rows))
        write(record, json.dumps({"rows": len(rows), "bad": 0, "seconds": 0.0}))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 33
    return 0


def fault(index: str) -> int:
    """Take the exit code of this attempt from the shard's file; a negative one is a signal."""
    path = Path(os.environ.get("FAULTS", "/nowhere"), index)
    if not path.is_file():
        return 0
    first, *rest = path.read_text().split()
    path.write_text("\n".join(rest)) if rest else path.unlink()
    return int(first)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def merge(folder: str, source: str, result: str) -> int:
    """Make one file of the parts where each row of the input is in them once."""
    parts = sorted(Path(folder).glob("part-*.jsonl"))
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    wanted = [json.loads(line)["id"] for line in Path(source).read_text().splitlines()]
    found = sorted(row["line"] for row in rows)
    if found != sorted(wanted):
        print(f"error: {len(found)} rows in the parts; wanted {len(wanted)}", file=sys.stderr)
        return 6
    write(Path(result), "".join(f"{json.dumps(row)}\n" for row in rows))
    return 0


def main(verb: str, *given: str) -> int:
    """Run one verb and return its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if verb == "score":
        source, folder, _, shard = given
        return score(source, folder, shard)
    return merge(*given)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
