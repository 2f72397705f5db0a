"""What the tests of this job share: databases of every kind, a trained model, a client.

SQLite is always there. PostgreSQL and MariaDB are where ``POSTGRES_URL`` and ``MARIADB_URL`` say,
which ``slipway test`` sets; a test that needs one is skipped by name without it. Every test gets an
empty database.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, delete, inspect, text

from jobs.sql_image_pipeline import database, sources
from jobs.sql_image_pipeline.job import job, prepare, train
from jobs.sql_image_pipeline.schema import Base
from slipway import store
from slipway.run import Options, Run
from slipway.scorer import create_app, load

URLS = {"postgres": "POSTGRES_URL", "mariadb": "MARIADB_URL"}
EPOCHS = 5


def a_run(out, verb, **options):
    return Run(job.spec, out, verb, Options(data="sample", epochs=EPOCHS, **options))


def emptied(engine):
    """Delete every row; where the schema is not the newest, every table."""
    catalogue = inspect(engine)
    wanted = {*Base.metadata.tables, "alembic_version"}
    if set(catalogue.get_table_names()) != wanted:
        dropped(engine)
        return
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(delete(table))


def dropped(engine):
    """Drop every table, whatever refers to it."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
            return
        connection.execute(text("SET FOREIGN_KEY_CHECKS = 0"))
        for name in inspect(connection).get_table_names():
            connection.execute(text(f"DROP TABLE `{name}`"))


@pytest.fixture(params=["sqlite", *URLS])
def kind(request):
    return request.param


@pytest.fixture
def out(kind, tmp_path, monkeypatch):
    """A folder for artifacts, beside an empty database of a kind that DATABASE_URL names."""
    if kind == "sqlite":
        monkeypatch.delenv(database.VARIABLE, raising=False)
        return tmp_path
    url = os.environ.get(URLS[kind])
    if not url:
        pytest.skip(f"{URLS[kind]} is not set; `slipway test` starts {kind} beside the tests")
    monkeypatch.setenv(database.VARIABLE, url)
    engine = create_engine(database.url_of(tmp_path))
    emptied(engine)
    engine.dispose()
    return tmp_path


@pytest.fixture
def engine(out):
    """An engine of an empty database with the newest schema."""
    found = database.opened(out)
    database.upgrade(found)
    yield found
    found.dispose()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Artifacts after prepare and train on the sample, on SQLite, without a server of MLflow."""
    place = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(database.VARIABLE, raising=False)
        run = a_run(place, "prepare")
        prepare(run, False, 0, "sample")
        run.finish()
        run = a_run(place, "train")
        store.save(train(run, None, False), place / "model")
        run.finish()
    return place


@pytest.fixture(scope="session")
def loaded(trained):
    """The trained model as a scorer loads it."""
    return load(job, trained / "model", "trained")


@pytest.fixture
def app(engine, out, loaded):
    """The scorer with the routes of the job, over the database of ``engine``."""
    return create_app(job, out, background=False, loaded=loaded)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="session")
def digits():
    """A hundred of scikit-learn's digits as files."""
    found = sources.digits(job.spec.folder / "sample" / "digits.toml")
    return [entry for _, entry in zip(range(100), found, strict=False)]


@pytest.fixture
def folder(tmp_path, digits):
    """Sixty digits as people keep pictures: a folder for each label."""
    place = tmp_path / "pictures"
    for entry in digits[:60]:
        path = place / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.content)
    return place


def noise(seed):
    """Return a PNG file of noise, another one for each seed."""
    return sources.png(np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8))


def told(answer):
    return json.loads(answer.get_data())


def rows_of(engine, query, **values):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def sample_folder():
    return Path(__file__).parent / "sample"
