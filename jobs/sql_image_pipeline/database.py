"""Which database, how it is reached, and its migrations.

``DATABASE_URL`` names it: PostgreSQL or MariaDB; without it a SQLite file lies beside the model.
The url may hold a password, so it is read from the environment and recorded nowhere.

Data:    none.
Source:  Alembic, alembic.sqlalchemy.org; SQLite's write-ahead log, sqlite.org/wal.html.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import DataUnavailable, InputInvalid, NotReady
from slipway.logs import say

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import URL, Connection, Engine

VARIABLE = "DATABASE_URL"
DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mariadb+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite",
}
FILE = "database.sqlite"
WAIT_SECONDS = 30
"""How long a writer waits for another one of SQLite."""
GONE = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""libpq's options, so that a server is given up after 11 s: one that went with its machine or its
container says no goodbye, and the kernel would send to it for a quarter of an hour."""
SILENCE_SECONDS = 120
"""MariaDB's driver has no such options: for one answer of the server, however long it computes."""
LOCK = 815_162_342
"""The number of the lock that one migration at a time holds."""
HERE = Path(__file__).parent


def url_of(out: Path) -> URL:
    """Return the address of the database. Raises InputInvalid for one that is not known."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return make_url(f"sqlite:///{out / FILE}")
    scheme = given.partition(":")[0].partition("+")[0]
    if scheme not in DRIVERS:
        wanted = ", ".join(sorted(DRIVERS))
        raise InputInvalid(f"{VARIABLE}: found a url of {scheme!r}; wanted one of {wanted}")
    try:
        return make_url(given).set(drivername=DRIVERS[scheme])
    except (ArgumentError, ValueError):
        raise InputInvalid(f"{VARIABLE}: found no url; wanted SCHEME://USER@HOST/NAME") from None


@contextmanager
def using(out: Path) -> Iterator[Engine]:
    """Give an engine of the database and let go of its connections."""
    engine = opened(out)
    try:
        yield engine
    finally:
        engine.dispose()


def opened(out: Path) -> Engine:
    """Return an engine of the database; connections are made when they are needed."""
    from sqlalchemy import create_engine, event

    url = url_of(out)
    settings: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 8, "max_overflow": 16}
    if url.get_backend_name() == "postgresql":
        settings["connect_args"] = {"options": "-c timezone=UTC", "connect_timeout": 10} | GONE
    elif url.get_backend_name() == "mariadb":
        zone = "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'"
        settings["connect_args"] = {
            "charset": "utf8mb4",
            "init_command": zone,
            "connect_timeout": 10,
            "read_timeout": SILENCE_SECONDS,
            "write_timeout": SILENCE_SECONDS,
        }
        settings["isolation_level"] = "READ COMMITTED"
    else:
        settings["connect_args"] = {"timeout": WAIT_SECONDS}
    engine = create_engine(url, **settings)
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Let readers read while one writes, and lose nothing that was committed, power cuts too."""
    connection.isolation_level = None  # we say when a transaction begins
    _write_ahead(connection)
    for setting in ("synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")


def _write_ahead(connection: Any) -> None:
    """Set the journal; SQLite refuses at once, whatever its timeout, while another sets it too."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """Take the writers' place at once: one that is asked for in the middle may be refused."""
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reached(engine: Engine) -> Iterator[None]:
    """Turn a database that does not answer into NotReady: 503 over HTTP, exit code 33."""
    from sqlalchemy.exc import InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        told = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        place = engine.url.render_as_string(hide_password=True)
        raise NotReady(f"the database {place} does not answer: {told}") from None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a transaction that writes: whole, or nothing of it."""
    with reached(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that reads and holds up no writer."""
    with reached(engine), engine.connect() as raw:
        connection = raw.execution_options(writes=False)
        with connection.begin():
            yield connection


def upgrade(engine: Engine, revision: str = "head") -> str:
    """Bring the schema up to a revision and return which it has; one process at a time does."""
    return _migrated(engine, "upgrade", revision)


def downgrade(engine: Engine, revision: str) -> str:
    """Bring the schema down to a revision; rows that a person made are kept aside for the way up.

    Raises InputInvalid for ``base`` while there are pictures: that would delete them.
    """
    from sqlalchemy import func, inspect, select

    from .schema import Image

    if revision == "base" and inspect(engine).has_table(Image.__tablename__):
        with reading(engine) as connection:
            kept = connection.scalar(select(func.count()).select_from(Image)) or 0
        if kept:
            raise InputInvalid(f"--to base: found {kept} pictures; wanted an empty database")
    return _migrated(engine, "downgrade", revision)


def _migrated(engine: Engine, way: str, revision: str) -> str:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command
    from alembic.util.exc import CommandError

    if engine.url.get_backend_name() == "sqlite":
        _check_folder(Path(str(engine.url.database)))
    settings = _settings()
    with reached(engine), engine.begin() as connection, _alone(connection):
        before = _revision(connection)
        settings.attributes["connection"] = connection
        try:
            getattr(command, way)(settings, revision)
        except CommandError as error:
            raise InputInvalid(f"--to {revision}: {error}") from None
        after = _revision(connection)
    if before != after:
        say(f"database: schema {before or 'base'} -> {after or 'base'}")
    return after


def _check_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataUnavailable(f"{path}: cannot be written ({error.strerror})") from None


def _settings() -> Config:
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(HERE / "migrations").replace("%", "%%"))
    found.set_main_option("path_separator", "os")
    return found


def _revision(connection: Connection) -> str:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision() or ""


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the lock of migrations; SQLite's transaction is one already."""
    from sqlalchemy import text

    name = connection.dialect.name
    if name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    if name != "mariadb":
        yield
        return
    connection.execute(text("SELECT GET_LOCK(:lock, 120)"), {"lock": f"slipway-{LOCK}"})
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:lock)"), {"lock": f"slipway-{LOCK}"})
