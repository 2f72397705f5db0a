"""Serve the page: ``SCORER_URL`` says where the scorer is, ``PORT`` where to listen (8080)."""

from __future__ import annotations

import os
import sys

import uvicorn

from .fields import Description, NotAValue, described
from .scorer import Refused, Scorer, Waiting

START_PATIENCE = 300


def wait(scorer: Scorer) -> Description:
    """Return what the scorer says of itself, as soon as it answers."""
    for step in Scorer(scorer.url, START_PATIENCE).described():
        if isinstance(step, Waiting):
            print(step.told, file=sys.stderr, flush=True)
        else:
            return described(step)
    raise Refused(f"No scorer answers at {scorer.url}")


def main() -> int:
    """Run until stopped; return 1 where no scorer can be had."""
    scorer = Scorer(os.environ.get("SCORER_URL", "http://scorer:8080"))
    port = int(os.environ.get("PORT", "8080"))
    try:
        description = wait(scorer)
    except (Refused, NotAValue) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    from .page import make_app

    print(f"a page for {scorer.url} on port {port}", file=sys.stderr, flush=True)
    app = make_app(scorer, description)
    uvicorn.run(app, host="0.0.0.0", port=port, log_level="warning", timeout_graceful_shutdown=5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
