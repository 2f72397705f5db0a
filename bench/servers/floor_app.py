"""Flask that answers a constant: what our server's own parts cost without a model."""

from typing import Any

from flask import Flask, request

app = Flask("floor_app")


@app.post("/score")
def score() -> dict[str, Any]:
    """Read the row, which every scorer must, and answer the same for each."""
    request.get_json()
    return {"prediction": False, "propensity": 0.5}
