"""A scorer with a field of every kind; runs in the demo image, beside the page under test.

It answers with what it was given, so that a test sees what the page sent. A town says how it
answers: Ulm at once, Bonn with a refusal, Kiel only when asked a second time.
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOUND = {"type": "string", "contentMediaType": "audio/wav", "default": "", "title": "Sound"}
ROW = {
    "type": "object",
    "required": ["age", "town", "picture"],
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120, "title": "Age"},
        "income": {"type": "number", "default": 1.5, "title": "Income"},
        "town": {"enum": ["Ulm", "Bonn", "Kiel"], "title": "Town"},
        "member": {"type": "boolean", "default": True, "title": "Member"},
        "note": {"type": "string", "default": "", "title": "Note"},
        "picture": {"type": "string", "contentMediaType": "image/png", "title": "Picture"},
        "sound": SOUND,
    },
}
ANSWER = {"type": "object", "properties": {"prediction": {"type": "string"}}}
EXAMPLE = {"age": 40, "town": "Ulm", "income": 2.25, "note": "none"}
ASKED: list[Any] = []


def document() -> dict[str, Any]:
    """Return the OpenAPI document, as a scorer's."""

    def one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
        return {"oneOf": [schema, {"type": "array", "items": schema, "maxItems": 100}]}

    content = {"application/json": {"schema": one_or_many(ROW), "example": EXAMPLE}}
    reply = {"content": {"application/json": {"schema": one_or_many(ANSWER)}}}
    post = {"requestBody": {"content": content}, "responses": {"200": reply}}
    return {
        "info": {"title": "Stand-in", "description": "What was sent?"},
        "paths": {"/score": {"post": post}},
    }


def answer(row: dict[str, Any]) -> dict[str, Any]:
    """Say of each field what came."""
    picture = base64.b64decode(row.pop("picture"))
    kind = "a PNG" if picture.startswith(b"\x89PNG") else f"{len(picture)} bytes"
    shares = {"drawn": 0.75, "blank": 0.25}
    return {"prediction": kind, "probabilities": shares, "came": json.dumps(row, sort_keys=True)}


class Handler(BaseHTTPRequestHandler):
    """The routes that the page asks."""

    def do_GET(self) -> None:
        """Answer the description and the version."""
        known = {"/openapi.json": document(), "/version": {"model": "abc", "tier": "sample"}}
        self.reply(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self) -> None:
        """Score, refuse or put off, by the town of the first row."""
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ASKED.append(rows)
        if rows[0]["town"] == "Bonn":
            wrong = {"path": "/0/town", "found": "'Bonn'", "wanted": "a town by the sea"}
            self.reply(422, {"error": "1 field is wrong", "fields": [wrong]})
        elif rows[0]["town"] == "Kiel" and ASKED.count(rows) == 1:
            self.reply(503, {"error": "the model is not ready: loading"})
        else:
            self.reply(200, [answer(row) for row in rows])

    def reply(self, status: int, body: Any) -> None:
        """Send JSON."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
