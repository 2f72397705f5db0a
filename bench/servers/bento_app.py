"""BentoML, one row a call or with adaptive batching; ``Plain`` and ``Batched`` are the services."""

from typing import Any

import bentoml

from bench import work

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=work.WORKERS, logging=QUIET, traffic={"timeout": 30})
class Plain:
    """Scores row by row."""

    def __init__(self) -> None:
        self.subject = work.load()

    @bentoml.api
    def score(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer one row."""
        return self.subject.answer([row])[0]


@bentoml.service(workers=work.WORKERS, logging=QUIET, traffic={"timeout": 30})
class Batched:
    """Scores what waits together; a client sends and gets lists."""

    def __init__(self) -> None:
        self.subject = work.load()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def score(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return self.subject.answer(rows)
