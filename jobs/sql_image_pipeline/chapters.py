"""The chapters of the report: the held-out pictures, what the database says, how it is built.

Data:    the tables of `schema`.
Source:  Guo, Pleiss, Sun and Weinberger, ICML 2017 (calibration).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from slipway import Run, store
from slipway.errors import InputInvalid

from . import charts, collection, diagram, pixels, recorder
from .database import reading
from .ingest import batches, checked
from .questions import asked
from .sources import Found
from .versions import registered

if TYPE_CHECKING:
    from sqlalchemy import Engine

AT_ONCE = 256
SPAN = timedelta(days=365)


def held_out(run: Run, engine: Engine, model: Any, entries: collection.Entries) -> None:
    """Label the held-out pictures as uploads are labelled, and keep what was said."""
    import numpy as np

    from .job import Picture, score

    if not entries:
        raise InputInvalid("found no held-out picture; take a larger --limit, or a folder test")
    version = registered(engine, store.identity(run.out / "model"), type(model).__name__)
    right: list[bool] = []
    sure: list[float] = []
    wrong: list[tuple[Any, str, str]] = []
    for batch in batches(run.progress(entries, "held-out pictures"), AT_ONCE):
        files = collection.contents(engine, batch)
        found = score(model, [Picture(image=content) for content in files])
        answers = []
        for (digest, label), content, verdict in zip(batch, files, found, strict=True):
            picture = checked(digest, Found(digest, content, label, "test"), "test")
            answers.append(recorder.Answer(picture, verdict.label, verdict.confidence))
            right.append(verdict.label == label)
            sure.append(verdict.confidence)
            if verdict.label != label and len(wrong) < 20:
                wrong.append((pixels.opened(content).pixels, label, verdict.label))
        recorder.write(engine, version, answers)
    accuracy = float(np.mean(right))
    registered(engine, store.identity(run.out / "model"), accuracy=accuracy)
    run.log(test_accuracy=accuracy, test_confidence=float(np.mean(sure)))
    run.figure("confidence", charts.calibration(np.array(sure), np.array(right)),
               "Held-out pictures in bins of equal numbers.")  # fmt: skip
    if wrong:
        title = f"{right.count(False)} of {len(right):,} held-out pictures get a wrong label"
        run.figure("errors", charts.gallery(title, [image for image, _, _ in wrong],
                   [f"{label}, called {called}" for _, label, called in wrong]),
                   "Each with its true label and what it is called; 20 at most.")  # fmt: skip


def questions(run: Run, engine: Engine) -> None:
    """Put what the named statements give into the report."""
    now = datetime.now(UTC)
    since = (now - SPAN).date()
    with reading(engine) as connection:
        counts = asked(connection, "counts", {"since_day": since})
        days = asked(connection, "accuracy", {"since_day": since})
        drift = asked(connection, "drift", {"since_day": since})
        hardest = asked(connection, "hardest", {"since": now - SPAN, "limit": 1})
    run.figure("counts", charts.counts(counts), "All predictions of the last year, by label.")
    if len({row["day"] for row in drift}) > 1:
        run.figure("drift", charts.drift(drift), "A point is a day of a model version.")
        run.figure("days", charts.days(days), "A point is a day of a model version.")
    run.table("accuracy", days[-10:], "Accuracy by day and model version (accuracy.sql), last days")
    told = [{**row, "sha256": row["sha256"][:12]} for row in hardest]
    run.table("hardest", told[:20], "The least sure prediction of each label (hardest.sql)")


def schema(run: Run, engine: Engine) -> None:
    """Draw the tables as the database itself describes them."""
    found = diagram.described(engine)
    told = engine.dialect.name
    run.figure(
        "schema", diagram.drawn(found), f"Drawn from the catalogue of the live database ({told})."
    )
