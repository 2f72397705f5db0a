"""The model versions of the database: one row a model, known by the digest of its files.

Data:    none.
Source:  none.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .database import writing

if TYPE_CHECKING:
    from sqlalchemy import Engine

UNKNOWN = "unknown"


def registered(
    engine: Engine, digest: str, architecture: str = UNKNOWN, accuracy: float | None = None
) -> int:
    """Return the id of a model version, made where it is new; what is told of it is kept."""
    from sqlalchemy import insert, select, update
    from sqlalchemy.exc import IntegrityError

    from .schema import ModelVersion

    asked = select(ModelVersion.id).where(ModelVersion.digest == digest)
    told = {
        name: value
        for name, value in (("architecture", architecture), ("accuracy", accuracy))
        if value not in (None, UNKNOWN)
    }
    for _ in range(2):  # another worker may have been quicker
        try:
            with writing(engine) as connection:
                number = connection.scalar(asked)
                if number is None:
                    row = {"digest": digest, "architecture": architecture, "accuracy": accuracy}
                    now = {"created_at": datetime.now(UTC)}
                    connection.execute(insert(ModelVersion), row | now)
                    number = connection.scalar(asked)
                elif told:
                    changed = update(ModelVersion).where(ModelVersion.id == number)
                    connection.execute(changed.values(told))
                return int(number or 0)
        except IntegrityError:
            continue
    raise RuntimeError(f"model version {digest} was not registered")
