"""How the databases mean to find the rows of each statement: by an index, never by reading all.

On PostgreSQL at a hundred thousand predictions, with what each statement may touch written down
here; SQLite tells its own plan. Tables of a few rows are read whole, and that is right.
"""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from jobs.sql_image_pipeline import questions
from jobs.sql_image_pipeline.measuring import fill_history
from jobs.sql_image_pipeline.statements import NAMES, statement

MANY = 100_000
LARGE = {"predictions", "images", "contents", "corrections", "user_queries"}
NOW = datetime.now(UTC)
VALUES = {
    "recent": questions.Recent(label="4").values(NOW),
    "uncertain": questions.Uncertain().values(NOW),
    "counts": questions.Counts().values(NOW),
    "accuracy": questions.Accuracies().values(NOW),
    "drift": questions.Drifts(days=90).values(NOW),
    "hardest": {"since": NOW - timedelta(hours=6), "limit": 3},
    "changed": {"label": "4", "since": NOW - timedelta(hours=1), "limit": 50},
}
INDEXES = {
    "recent": {"ix_predictions_recent", "pk_images"},
    "uncertain": {"ix_predictions_uncertain", "pk_images"},
    "counts": set(),
    "accuracy": set(),
    "drift": set(),
    "hardest": {"ix_predictions_created_at", "pk_images"},
    "changed": {"ix_predictions_recent", "uq_predictions_image_id_model_version_id", "pk_images"},
}
"""The indexes of large tables that each statement uses on PostgreSQL."""


@pytest.fixture
def kind():
    return "postgres"


@pytest.fixture
def full(engine):
    """A hundred thousand predictions over ninety days."""
    fill_history(engine, MANY, seed=0)
    return engine


def nodes(plan):
    """Yield each node of a plan of PostgreSQL."""
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def explained(connection, words, name, **values):
    """Return what a database answers to words like EXPLAIN before a statement."""
    clause = questions.bound(name, VALUES[name] | values).element
    asked = text(f"{words} {clause.text}").bindparams(*clause._bindparams.values())
    return connection.execute(asked).all()


def plan_of(connection, name, words="EXPLAIN (FORMAT JSON)", **values):
    ((found,),) = explained(connection, words, name, **values)
    return (found if isinstance(found, list) else json.loads(found))[0]["Plan"]


def test_every_statement_has_its_plan():
    asked = set(NAMES) - {"recount", "record"}  # one is to read all, in a migration; one writes
    assert asked == set(VALUES) == set(INDEXES)


def test_no_statement_reads_a_large_table_whole(full):
    with full.connect() as connection:
        for name in VALUES:
            found = list(nodes(plan_of(connection, name)))
            whole = {node.get("Relation Name") for node in found if node["Node Type"] == "Seq Scan"}
            assert not whole & LARGE, f"{name}: reads {whole & LARGE} whole"
            used = {node["Index Name"] for node in found if "Index Name" in node}
            small = re.compile(
                r"(pk|uq|ix)_(labels|model_versions|daily_counts)|labels_|daily_counts_"
            )
            large = {index.replace("images_pkey", "pk_images") for index in used}
            large = {index for index in large if not small.match(index)}
            assert large == INDEXES[name], f"{name}: uses {sorted(large)}"


def test_a_page_reads_no_more_rows_than_it_shows(full):
    """Keyset pages cost the same wherever they are: no row is read and thrown away."""
    with full.connect() as connection:
        for name in ("recent", "uncertain"):
            plan = plan_of(connection, name, "EXPLAIN (ANALYZE, FORMAT JSON)", limit=20)
            read = [
                node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                for node in nodes(plan)
                if node.get("Relation Name") == "predictions"
            ]
            assert read == [20], f"{name}: reads {read} predictions for 20 rows"


@pytest.mark.parametrize("name", sorted(VALUES))
def test_sqlite_searches_large_tables_by_an_index(name, tmp_path, monkeypatch):
    from jobs.sql_image_pipeline import database

    monkeypatch.delenv(database.VARIABLE, raising=False)
    engine = database.opened(tmp_path)
    database.upgrade(engine)
    with engine.connect() as connection:
        told = [row[3] for row in explained(connection, "EXPLAIN QUERY PLAN", name)]
    engine.dispose()
    scans = [line for line in told if re.match(rf"SCAN ({'|'.join(LARGE)}|recent|every)\b", line)]
    assert scans == [], f"{name}: {scans}"
    assert statement(name).startswith("-- ")
