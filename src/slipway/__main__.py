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
        return json.dumps(kept["show"], indent=1, sort_keys=True)
    if args and args[-1] == "--help" and len(args) <= 2:
        return kept["help"].get("".join(args[:-1]))  # type: ignore[no-any-return]
    return None


def main() -> None:
    """Find the job that ``SLIPWAY_JOB`` names and run its command line."""
    args = sys.argv[1:] or ["run"]
    if args[0] == "seal":
        os.environ.setdefault("SLIPWAY_JOB", args[1] if len(args) > 1 else "")
    folder = os.environ.get("SLIPWAY_JOB")
    if not folder:
        sys.exit("error: SLIPWAY_JOB is not set; it names the folder of a job (jobs/<name>)")
    answer = sealed_answer(Path(folder), args)
    if answer is not None:
        print(answer)
        return
    from slipway import verbs
    from slipway.errors import SlipwayError
    from slipway.job import load_job

    try:
        job = load_job(Path(folder))
    except SlipwayError as error:
        sys.exit(verbs.failed(str(error), error.exit_code))
    if args[0] == "seal":
        print(verbs.seal(job))
        compileall.compile_dir(folder, quiet=1)
        return
    verbs.main(job, args)


if __name__ == "__main__":
    main()
