"""Scorers with fields of every kind; runs in the demo image, beside the pages under test.

The first step of a path says which scorer is asked: `SCORERS`. Each answers with what it was
given, so that a test sees what the page sent. In ``form`` a town says how it is answered: Ulm at
once, Bonn with a refusal, Kiel only when asked a second time.
"""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageOps

Row = dict[str, Any]
LARGEST = 1_000_000
JSON = "application/json"
FORM = {
    "age": {"type": "integer", "minimum": 0, "maximum": 120, "title": "Age"},
    "income": {"type": "number", "default": 1.5, "title": "Income"},
    "town": {"enum": ["Ulm", "Bonn", "Kiel"], "title": "Town"},
    "member": {"type": "boolean", "default": True, "title": "Member"},
    "note": {"type": "string", "default": "", "title": "Note"},
    "picture": {"type": "string", "contentMediaType": "image/png", "title": "Picture"},
    "sound": {"type": "string", "contentMediaType": "audio/wav", "default": "", "title": "Sound"},
}
DIGIT = {
    "image": {
        "type": "string", "contentEncoding": "base64", "contentMediaType": "image/png",
        "accept": ["image/png", "image/jpeg"], "drawn": True, "title": "Digit",
        "description": "One of image/png, image/jpeg, as base64.",
    },
}  # fmt: skip
SOUND = {
    "recording": {
        "type": "string", "contentEncoding": "base64", "contentMediaType": "audio/wav",
        "title": "Recording", "description": "Someone who speaks.",
    },
}  # fmt: skip
FREE = {
    "columns": {
        "type": "object", "title": "Columns",
        "additionalProperties": {"anyOf": [{"type": t} for t in ("number", "string", "null")]},
    },
}  # fmt: skip
CELLS: Row = {"alcohol": 9.4, "colour": "red", "sulphates": 0.56}


def wide() -> tuple[Row, Row]:
    """Return the 40 columns of a row and an example: measures, choices, dates and what is spare."""
    measures = {
        f"measure_{n}": {"type": "number", "title": f"Measure {n}", "description": "In cm."}
        for n in range(1, 13)
    }
    rooms = {"type": "integer", "minimum": 1, "maximum": 20, "title": "Rooms"}
    heating = {"enum": ["gas", "oil", "district", None], "title": "Heating", "default": None}
    spare = {
        f"spare_{n}": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None}
        for n in range(1, 21)
    }
    lift = {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None, "title": "Lift"}
    named: Row = {
        "built": {"type": "string", "format": "date", "title": "Built"},
        "sold": {"type": "string", "format": "date-time", "title": "Sold"},
        "quarter": {"enum": ["north", "south", "east", "west"], "title": "Quarter"},
        "rooms": rooms,
        "cellar": {"type": "boolean", "title": "Cellar"},
        "lift": lift,
        "heating": heating,
        "remark": {"type": "string", "default": "", "maxLength": 100, "title": "Remark"},
    }
    example = {name: 1.5 for name in measures} | {"rooms": 4, "cellar": True, "quarter": "south"}
    example |= {"built": "1987-05-01", "sold": "2025-03-02T10:30:00"}
    return measures | named | spare, example


@dataclass(frozen=True)
class Scorer:
    """One scorer: the fields of its row, an example, its answer and what that is made by."""

    fields: Row
    example: Row
    answer: Row
    score: Callable[[Row], Row]
    raw: tuple[str, ...] = ()
    asked: list[Any] = field(default_factory=list)

    def document(self, title: str) -> Row:
        """Return the OpenAPI document, as a scorer's."""
        needed = [n for n in self.fields if "default" not in self.fields[n]]
        row = {"type": "object", "required": needed, "properties": self.fields}
        answer = {"type": "object", "properties": self.answer}
        content: Row = {JSON: {"schema": one_or_many(row), "example": self.example}}
        content |= {kind: {"schema": {"type": "string"}} for kind in self.raw}
        reply = {"content": {JSON: {"schema": one_or_many(answer)}}}
        post = {"requestBody": {"content": content}, "responses": {"200": reply}}
        return {
            "info": {"title": f"Stand-in: {title}", "description": "What was sent?"},
            "paths": {"/score": {"post": post}},
        }


def one_or_many(schema: Row) -> Row:
    """Return the schema of a row or a list of rows."""
    return {"oneOf": [schema, {"type": "array", "items": schema, "maxItems": 100}]}


def told(row: Row) -> Row:
    """Say of each field what came."""
    picture = base64.b64decode(row.pop("picture"))
    kind = "a PNG" if picture.startswith(b"\x89PNG") else f"{len(picture)} bytes"
    shares = {"drawn": 0.75, "blank": 0.25}
    return {"prediction": kind, "probabilities": shares, "came": json.dumps(row, sort_keys=True)}


def ink(row: Row) -> Row:
    """Say how much of a picture is dark, and give it back small and inverted."""
    content = row["image"] if isinstance(row["image"], bytes) else base64.b64decode(row["image"])
    with Image.open(io.BytesIO(content)) as picture:
        grey, kind = ImageOps.grayscale(picture), f"{picture.format} {picture.width} pixels wide"
    dark = sum(grey.histogram()[:128]) / (grey.width * grey.height)
    small, buffer = ImageOps.invert(grey.resize((28, 28))), io.BytesIO()
    small.save(buffer, "PNG")
    digit = 1 if dark < 0.05 else 8
    rest = (1 - 0.82) / 9
    shares = [0.82 if number == digit else rest for number in range(10)]
    seen = base64.b64encode(buffer.getvalue()).decode()
    sent = "as it is" if isinstance(row["image"], bytes) else "as base64"
    return {
        "digit": digit, "probabilities": shares, "seen": seen,
        "dark": round(100 * dark, 2), "kind": f"{kind}, {sent}",
    }  # fmt: skip


def heard(row: Row) -> Row:
    """Say how long a recording is, and give it back reversed."""
    content = row["recording"]
    content = content if isinstance(content, bytes) else base64.b64decode(content)
    buffer = io.BytesIO()
    with wave.open(io.BytesIO(content)) as sound, wave.open(buffer, "wb") as written:
        frames, seconds = sound.readframes(-1), sound.getnframes() / sound.getframerate()
        written.setparams(sound.getparams())
        written.writeframes(frames[::-1])
    backwards = base64.b64encode(buffer.getvalue()).decode()
    return {"label": "speech", "seconds": seconds, "backwards": backwards}


def priced(row: Row) -> Row:
    """Say what came, with a price."""
    return {"price": 183_250.5, "range": [171_000.0, 196_000.0], "came": json.dumps(row)}


DIGIT_ANSWER = {
    "digit": {"type": "integer"},
    "probabilities": {"type": "array", "description": "Of each digit."},
    "seen": {"contentMediaType": "image/png", "title": "What the model sees", "type": "string"},
    "dark": {"type": "number", "unit": "%", "title": "Ink", "description": "Dark pixels."},
}
SOUND_ANSWER = {
    "seconds": {"type": "number", "unit": "s", "description": "How long it lasts."},
    "backwards": {"contentMediaType": "audio/wav", "type": "string"},
}
PRICE_ANSWER = {
    "price": {"type": "number", "unit": "dollars", "description": "What such a house sells for."}
}
SCORERS: Mapping[str, Scorer] = {
    "form": Scorer(
        FORM, {"age": 40, "town": "Ulm", "income": 2.25, "note": "none"},
        {"prediction": {"type": "string"}}, told,
    ),
    "digit": Scorer(DIGIT, {}, DIGIT_ANSWER, ink, ("image/png", "image/jpeg")),
    "sound": Scorer(SOUND, {}, SOUND_ANSWER, heard, ("audio/wav",)),
    "table": Scorer(*wide(), PRICE_ANSWER, priced),
    "free": Scorer(FREE, {"columns": CELLS}, PRICE_ANSWER, priced),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """The routes that a page asks, below the name of a scorer."""

    def do_GET(self) -> None:
        """Answer the description and the version."""
        name, _, route = self.path.strip("/").partition("/")
        document = SCORERS[name].document(name) if name in SCORERS else {}
        known = {"openapi.json": document, "version": {"model": "abc", "tier": "sample"}}
        self.reply(200 if route in known else 404, known.get(route, {}))

    def do_POST(self) -> None:
        """Score, refuse or put off, by the size of the body and the town of the row."""
        scorer = SCORERS[self.path.strip("/").partition("/")[0]]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) > LARGEST:
            self.reply(413, {"error": f"the body has more than {LARGEST} bytes"})
            return
        if self.headers["Content-Type"] == JSON:
            found = json.loads(body)
        else:
            found = {next(iter(scorer.fields)): body}
        scorer.asked.append(found)
        self.answer(scorer, found)

    def answer(self, scorer: Scorer, found: Any) -> None:
        """Answer one row or a list of rows."""
        town = found.get("town") if isinstance(found, dict) else ""
        if town == "Bonn":
            wrong = {"path": "/town", "found": "'Bonn'", "wanted": "a town by the sea"}
            self.reply(422, {"error": "1 field is wrong", "fields": [wrong]})
        elif town == "Kiel" and scorer.asked.count(found) == 1:
            self.reply(503, {"error": "the model is not ready: loading"})
        elif isinstance(found, list):
            self.reply(200, [scorer.score(row) for row in found])
        else:
            self.reply(200, scorer.score(found))

    def reply(self, status: int, body: Any) -> None:
        """Send JSON."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
