"""What a person says that a picture shows: one transaction over picture, predictions and sums.

Data:    one prediction's id and a label.
Source:  none.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from slipway.errors import InputInvalid

from .database import writing
from .questions import Name
from .recorder import add_to_days

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class Correction(BaseModel):
    """What the picture of a prediction truly shows; the predicted label confirms it."""

    model_config = ConfigDict(extra="forbid")
    prediction: int = Field(ge=1, le=2**63 - 1)
    label: Name


def correct(engine: Engine, correction: Correction) -> dict[str, Any]:
    """Keep a correction; the sums of every prediction of that picture follow.

    Only labels that exist are taken. Raises InputInvalid where prediction or label is not known.
    """
    from sqlalchemy import insert, select, update

    from . import schema

    with writing(engine) as connection:
        label = connection.scalar(
            select(schema.Label.id).where(schema.Label.name == correction.label)
        )
        if label is None:
            raise InputInvalid(f"label: found {correction.label!r}; wanted one of GET /labels")
        image = _locked(connection, correction.prediction)
        _move_sums(connection, image.id, image.label_id, label)
        connection.execute(
            update(schema.Image).where(schema.Image.id == image.id).values(label_id=label)
        )
        connection.execute(
            update(schema.Prediction)
            .where(schema.Prediction.image_id == image.id)
            .values(reviewed=True)
        )
        row = {"image_id": image.id, "before_id": image.label_id, "label_id": label}
        connection.execute(insert(schema.Correction), row | {"created_at": datetime.now(UTC)})
    return {"sha256": image.sha256, "label": correction.label}


def _locked(connection: Connection, prediction: int) -> Any:
    """Return the row of a prediction's picture, locked against whoever records more of it."""
    from sqlalchemy import select

    from .schema import Image, Prediction

    wanted = select(Prediction.image_id).where(Prediction.id == prediction)
    number = connection.scalar(wanted)
    if number is None:
        raise InputInvalid(f"prediction: found {prediction}; wanted the id of a prediction")
    asked = select(Image.id, Image.sha256, Image.label_id).where(Image.id == number)
    return connection.execute(asked.with_for_update()).one()


def _move_sums(connection: Connection, image: int, before: int | None, label: int) -> None:
    """Take what each prediction of the picture counted for, and count it by the new truth."""
    from sqlalchemy import select

    from .schema import Prediction

    asked = select(Prediction.created_at, Prediction.model_version_id, Prediction.label_id).where(
        Prediction.image_id == image
    )
    sums = {}
    for row in connection.execute(asked):
        labelled = int(before is None)
        correct = (row.label_id == label) - (row.label_id == before)
        if labelled or correct:
            key = (row.created_at.date(), row.model_version_id, row.label_id)
            sums[key] = (0, labelled, correct, 0.0, 0.0)
    add_to_days(connection, sums)
