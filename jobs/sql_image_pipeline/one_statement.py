"""New pictures into PostgreSQL by one statement: a group commit that is one way there and back.

Most uploads are pictures that nobody has sent before. For them ``record.sql`` is the whole
transaction, on a connection that is kept, so BEGIN, COMMIT and a question whether the connection
still stands are no messages of their own. What it leaves out, a picture that is there or a label
that is new, and all of it where it fails, is for `recorder.write`, which looks closer.

Data:    answers of the scorer.
Source:  data-modifying WITH, postgresql.org/docs/15/queries-with.html.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .statements import statement

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from .recorder import Answer, Recorded

log = logging.getLogger("slipway.sql_image_pipeline")

COLUMNS = ("sha256", "content", "media_type", "width", "height")


class OneStatement:
    """The statement, its connection and a model version; one thread at a time uses it."""

    def __init__(self, engine: Engine, version: int) -> None:
        self.engine, self.version = engine, version
        self.able = engine.dialect.name == "postgresql"
        self.connection: Connection | None = None

    @cached_property
    def words(self) -> str:
        """The statement as the driver takes it: going through SQLAlchemy each time costs more.

        Values go as bytes (``%(name)b``): as text a picture is twice as long, and arrays of it took
        a third of the time of the statement to write and to read.
        """
        from sqlalchemy import text

        words = str(text(statement("record")).compile(dialect=self.engine.dialect))
        return re.sub(r"%\((\w+)\)s", r"%(\1)b", words)

    def write(self, answers: Sequence[Answer]) -> dict[str, Recorded]:
        """Return the committed row of each picture that was new, by its sha256.

        Whether a transaction is committed that ended with its connection is not known here: who
        writes its pictures again, by their hashes, finds out.
        """
        fresh = {one.picture.sha256: one for one in answers if one.picture.label is None}
        places = {(one.picture.collection, one.picture.split) for one in fresh.values()}
        if not self.able or len(places) != 1:
            return {}
        from psycopg import Error
        from sqlalchemy.exc import SQLAlchemyError

        now = datetime.now(UTC)
        try:
            found = self._cursor().execute(self.words, self._values(fresh, now), prepare=True)
            return {digest: _recorded(number, fresh[digest], now) for digest, number in found}
        except (Error, SQLAlchemyError) as error:
            log.info("not in one statement: %s", str(error).partition("\n")[0])
            self.close()
            return {}

    def _values(self, fresh: dict[str, Answer], now: datetime) -> dict[str, Any]:
        pictures = [answer.picture for answer in fresh.values()]
        return {name: [getattr(picture, name) for picture in pictures] for name in COLUMNS} | {
            "label": [answer.label for answer in fresh.values()],
            "confidence": [answer.confidence for answer in fresh.values()],
            "collection": pictures[0].collection,
            "split": pictures[0].split,
            "version": self.version,
            "now": now,
            "day": now.date(),
        }

    def _cursor(self) -> Any:
        if self.connection is None:
            self.connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return self.connection.connection.cursor()

    def close(self) -> None:
        """Let go of the connection; the next write makes another one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _recorded(number: int, answer: Answer, now: datetime) -> Recorded:
    from .recorder import Recorded

    digest = answer.picture.sha256
    return Recorded(number, digest, answer.label, answer.confidence, now, False)
