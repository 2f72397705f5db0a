"""FastAPI: the handler is ``async def``, the faster of its two ways for a short call."""

from typing import Any

from fastapi import FastAPI

from bench import work

subject = work.load()
app = FastAPI()
Row = subject.job.row


@app.post("/score", response_model=None)
async def score(row: Row) -> dict[str, Any]:  # type: ignore[valid-type]
    """Answer one row."""
    return subject.answer_checked([row])[0]
