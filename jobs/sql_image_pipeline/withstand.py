"""What must hold of this job's uploads and ingest, whatever is killed; ``tests/chaos`` kills.

Data:    pictures of noise, each another one, written without any library.
Source:  PNG, W3C recommendation, 2003.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import Any

DATABASE = "postgres"
SENT_TO, KIND = "/images", "image/png"
INGEST = ("ingest", "--source", "/pictures", "--batch", "20")
"""Small transactions, so that most of the kills fall between two of them."""
INGESTED = "SELECT COUNT(*) FROM images WHERE collection = 'pictures'"
KEPT = "SELECT p.id || ' ' || i.sha256 FROM predictions p JOIN images i ON i.id = p.image_id"
"""All that may be acknowledged, as `acknowledged` tells it."""
WRONG = {
    "pictures without bytes": """SELECT COUNT(*) FROM images
        WHERE sha256 NOT IN (SELECT sha256 FROM contents)""",
    "bytes without a picture": """SELECT COUNT(*) FROM contents
        WHERE sha256 NOT IN (SELECT sha256 FROM images)""",
    "bytes of another picture": """SELECT COUNT(*) FROM contents
        WHERE encode(sha256(content), 'hex') <> sha256""",
    "uploads without a prediction": """SELECT COUNT(*) FROM images
        WHERE collection = 'upload' AND id NOT IN (SELECT image_id FROM predictions)""",
    "pictures twice there": """SELECT COUNT(*) FROM (
        SELECT content FROM contents GROUP BY content HAVING COUNT(*) > 1) AS twice""",
    "predictions twice there": """SELECT COUNT(*) FROM (SELECT image_id FROM predictions
        GROUP BY image_id, model_version_id HAVING COUNT(*) > 1) AS twice""",
    "sums that are not those of the rows": """SELECT COUNT(*) FROM daily_counts
        FULL JOIN (SELECT DATE(created_at) AS day, model_version_id, label_id,
            COUNT(*) AS predictions, SUM(confidence) AS confidence_sum
            FROM predictions GROUP BY 1, 2, 3) AS counted
        USING (day, model_version_id, label_id)
        WHERE daily_counts.predictions IS DISTINCT FROM counted.predictions
        OR ABS(daily_counts.confidence_sum - counted.confidence_sum) > 0.001""",
}
"""What may never be there: each statement counts it."""


def picture(number: int) -> bytes:
    """Return a grey PNG file of 8 x 8 pixels, another one for each number."""
    draw = random.Random(number)
    lines = b"".join(b"\0" + draw.randbytes(8) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def acknowledged(row: dict[str, Any]) -> str:
    """Return what an answer promises to be kept."""
    return f"{row['id']} {row['sha256']}"
