"""``python -m slipway VERB``: the entry point of every job's image.

Help and ``show`` answer from ``sealed.json``, which the image's build wrote, before anything
heavy is imported: under 100 ms instead of a second.
"""

import compileall
import json
import os
import sys
from pathlib import Path


def sealed_answer(folder: Path, args: list[str]) -> str | None:
    """Return the help text or description that these arguments ask for, when it is sealed."""
    path = folder / "sealed.json"
    if not path.is_file():
        return None
    kept = json.loads(path.read_text("utf-8"))
    if args == ["show"]:
        return json.dumps(kept["show"], indent=1)
    if args and args[-1] == "--help" and len(args) <= 2:
        return kept["help"].get("".join(args[:-1]))  # type: ignore[no-any-return]
    return None


def main() -> None:
    """Find the job that ``SLIPWAY_JOB`` names and run its command line."""
    args = sys.argv[1:]
    if not args or (args[0].startswith("-") and args[0] != "--help"):
        args = ["run", *args]
    if args[0] == "seal" and len(args) > 1:
        os.environ["SLIPWAY_JOB"] = args[1]
    folder = os.environ.get("SLIPWAY_JOB")
    if not folder:
        sys.exit("error: SLIPWAY_JOB is not set; it names the folder of a job (jobs/<name>)")
    answer = sealed_answer(Path(folder), args)
    if answer is not None:
        print(answer)
        return
    from slipway import verbs
    from slipway.job import load_job

    if args[0] == "seal":
        verbs.at_the_edge(lambda: seal(Path(folder)))
        return
    verbs.at_the_edge(lambda: verbs.invoke(load_job(Path(folder)), args))


def seal(folder: Path) -> None:
    """Write ``sealed.json`` into a job's folder and byte-compile its code."""
    from slipway import verbs
    from slipway.job import load_job

    print(verbs.seal(load_job(folder)))
    compileall.compile_dir(folder, quiet=1)


if __name__ == "__main__":
    main()
