"""Flask as its documentation has it served: the plain call in a view, behind gunicorn."""

from typing import Any

from flask import Flask, request

from bench import work

subject = work.load()
app = Flask("flask_app")


@app.post("/score")
def score() -> dict[str, Any]:
    """Answer one row."""
    return subject.answer([request.get_json()])[0]
