"""LitServe, one row a call or batches of up to 16 that wait at most 2 ms."""

import sys
from typing import Any

import litserve

from bench import work

BATCH, WAIT = 16, 0.002


class One(litserve.LitAPI):
    """Scores row by row."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.subject = work.load()

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the row."""
        return request

    def predict(self, row: Any) -> Any:
        """Score one row."""
        return self.subject.answer([row])[0]

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the answer."""
        return answer


class Batched(One):
    """Scores batches: decode and encode are for one row, `predict` for many."""

    def predict(self, rows: Any) -> Any:
        """Score a batch."""
        return self.subject.answer(list(rows))


if __name__ == "__main__":
    port, kind = int(sys.argv[1]), sys.argv[2]
    api = Batched(max_batch_size=BATCH, batch_timeout=WAIT) if kind == "batched" else One()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=work.WORKERS, timeout=30)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=work.WORKERS,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
