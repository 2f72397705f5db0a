"""The database: schema and migrations, ingest, uploads, questions, corrections, on every kind."""

import base64
import hashlib
import json
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, select
from sqlalchemy.exc import DBAPIError

from jobs.sql_image_pipeline import database, diagram, questions, review, schema, sending, sources
from jobs.sql_image_pipeline.conftest import a_run, dropped, noise, rows_of, told
from jobs.sql_image_pipeline.ingest import checked, ingest, load
from jobs.sql_image_pipeline.job import ingest as ingest_verb
from jobs.sql_image_pipeline.job import upload as upload_verb
from jobs.sql_image_pipeline.recorder import Answer, Recorder, write
from jobs.sql_image_pipeline.statements import statement
from jobs.sql_image_pipeline.versions import registered
from slipway.errors import InputInvalid, NotReady, Retryable

SUMS = """SELECT day, model_version_id, label_id, predictions, labelled, correct,
    ROUND(confidence_sum * 1000), ROUND(confidence_squares * 1000)
    FROM daily_counts ORDER BY day, model_version_id, label_id"""
TABLES = ("labels", "images", "contents", "model_versions", "predictions", "corrections")


def upload(client, content, kind="image/png"):
    return client.post("/images", data=content, content_type=kind)


def dumped(engine):
    """Return every row of every table, sorted."""
    found = {}
    with engine.connect() as connection:
        for table in TABLES:
            known = schema.Base.metadata.tables[table]
            found[table] = sorted(map(repr, connection.execute(select(known))))
    return found


def is_whole(engine):
    """Assert that no row is an orphan or twice there, and that the sums are those of the rows."""
    for child, parent in (("images", "contents"), ("contents", "images")):
        lost = f"SELECT sha256 FROM {child} WHERE sha256 NOT IN (SELECT sha256 FROM {parent})"
        assert rows_of(engine, lost) == []
    twice = "SELECT sha256 FROM images GROUP BY sha256 HAVING COUNT(*) > 1"
    assert rows_of(engine, twice) == []
    before = rows_of(engine, SUMS)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM daily_counts")
        connection.exec_driver_sql(statement("recount"))
    after = rows_of(engine, SUMS)
    assert [row[:6] for row in before] == [row[:6] for row in after]
    for one, other in zip(before, after, strict=True):
        assert one[6:] == pytest.approx(other[6:], abs=1)
    return len(before)


# Schema


def test_the_migrations_make_what_the_models_say(engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.Base.metadata) == []


def test_down_and_up_again_keeps_every_row(engine, client, digits):
    ingest(engine, "some", digits[:20])
    for entry in digits[:12]:
        assert upload(client, entry.content).status_code == 201
    (first,) = rows_of(engine, "SELECT MIN(id) FROM predictions")[0]
    client.post("/corrections", json={"prediction": first, "label": "3"})
    before, sums = dumped(engine), rows_of(engine, SUMS)
    assert len(before["predictions"]) == 12
    assert len(before["corrections"]) == 1
    for revision in ("0002", "0001"):
        assert database.downgrade(engine, revision) == revision
        assert database.upgrade(engine) == "0003"
        assert dumped(engine) == before
        assert [row[:6] for row in rows_of(engine, SUMS)] == [row[:6] for row in sums]
    is_whole(engine)


def test_a_full_database_is_not_taken_down_to_nothing(engine, digits):
    ingest(engine, "some", digits[:2])
    with pytest.raises(InputInvalid, match="found 2 pictures"):
        database.downgrade(engine, "base")
    assert len(dumped(engine)["images"]) == 2


def test_an_empty_database_goes_all_the_way_down_and_up(engine):
    assert database.downgrade(engine, "base") == ""
    assert database.upgrade(engine) == "0003"
    with pytest.raises(InputInvalid, match="--to 9999"):
        database.upgrade(engine, "9999")


def at_once(call, given):
    """Return what a call returns of each, in threads at the same time; raise what one raised."""
    together = threading.Barrier(len(given))

    def run(one):
        together.wait()
        return call(one)

    with ThreadPoolExecutor(len(given)) as pool:
        return list(pool.map(run, given))


def test_two_processes_may_migrate_at_the_same_time(out, kind):
    if kind != "sqlite":
        first = database.opened(out)
        dropped(first)
        first.dispose()

    def run(_):
        with database.using(out) as engine:
            return database.upgrade(engine)

    assert len(set(at_once(run, range(3)))) == 1


def test_a_new_sqlite_file_may_be_opened_by_several_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv(database.VARIABLE, raising=False)

    def run(place):
        with database.using(place) as engine, database.writing(engine) as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS seen (it INTEGER)")

    for turn in range(100):
        place = tmp_path / str(turn)
        place.mkdir()
        at_once(run, [place] * 4)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"size_bytes": 0}, {"split": "other"}, {"sha256": "short"},
        {"label_id": 999}, {"sha256": None},
    ],
)  # fmt: skip
def test_the_database_itself_refuses_a_wrong_picture(engine, change):
    row = {
        "sha256": "a" * 64, "collection": "c", "split": "new", "media_type": "image/png",
        "width": 1, "height": 1, "size_bytes": 1, "created_at": datetime.now(UTC),
    }  # fmt: skip
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(insert(schema.Image), row | change)
    with engine.begin() as connection:
        connection.execute(insert(schema.Image), row)


def test_the_diagram_shows_each_table_and_reference_of_the_live_database(engine):
    found = diagram.described(engine)
    assert set(found) == set(schema.Base.metadata.tables)
    wanted = {
        (table.name, key.parent.name, key.column.table.name)
        for table in schema.Base.metadata.tables.values()
        for key in table.foreign_keys
    }
    drawn = {
        (name, own, other) for name, entry in found.items() for own, other, _ in entry.references
    }
    assert drawn == wanted
    texts = {text.get_text() for text in diagram.drawn(found).axes[0].texts}
    assert {"images", "sha256", "predictions", "PK FK"} <= texts


# Ingest


def test_a_folder_is_ingested_once(engine, out, folder):
    for _ in range(2):
        run = a_run(out, "ingest")
        ingest_verb(run, str(folder), "")
        assert (out / "ingest.jsonl").read_text("utf-8") == ""
        assert rows_of(engine, "SELECT COUNT(*) FROM images") == [(60,)]
        assert run.pieces[0]["rows"][0]["files"] == 60
    assert rows_of(engine, "SELECT DISTINCT collection FROM images") == [("pictures",)]
    assert {split for (split,) in rows_of(engine, "SELECT split FROM images")} == {"train", "test"}


def test_a_zip_is_ingested_like_its_folder_and_leads_nowhere(engine, tmp_path, digits):
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in digits[:9]:
            archive.writestr(entry.name, entry.content)
        archive.writestr("../../../etc/7/passwd.png", digits[9].content)
        archive.writestr("/absolute/8/one.png", digits[10].content)
        archive.writestr("C:\\windows\\9\\two.png", digits[11].content)
        archive.writestr("0/bomb.png", b"\x89PNG\r\n\x1a\n" + bytes(sources.MOST_BYTES))
    before = sorted(tmp_path.rglob("*"))
    report = ingest(engine, "some", sources.files_of(str(path)))
    assert (report.added, report.known) == (12, 0)
    assert [entry["reason"] for entry in report.rejected] == ["unreadable"]
    labels = rows_of(engine, "SELECT DISTINCT name FROM labels")
    assert {"7", "8", "9"} <= {name for (name,) in labels}
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path.name.partition(".sqlite")[0] for path in new} <= {"database"}


def test_corrupt_and_duplicate_files_go_to_the_report(engine, digits):
    whole = digits[0]
    files = [
        whole,
        sources.Found("train/0/again.png", whole.content, "0", "train"),
        sources.Found("train/0/torn.png", whole.content[: len(whole.content) // 2], "0", "train"),
        sources.Found("train/0/text.png", b"no picture", "0", "train"),
        sources.Found("train/0/empty.png", b"", "0", "train"),
        digits[1],
    ]
    report = ingest(engine, "some", files)
    assert report.added == 2
    reasons = {entry["file"].rpartition("/")[2]: entry["reason"] for entry in report.rejected}
    assert reasons == {
        "again.png": "duplicate", "torn.png": "corrupt", "text.png": "corrupt",
        "empty.png": "corrupt",
    }  # fmt: skip
    is_whole(engine)


def test_an_interrupted_ingest_goes_on(engine, digits):
    def torn():
        yield from digits[:35]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(engine, "some", torn(), 10)
    assert rows_of(engine, "SELECT COUNT(*) FROM images") == [(30,)]
    report = ingest(engine, "some", digits)
    assert (report.known, report.added) == (30, 70)
    is_whole(engine)


def test_two_ingests_at_once_write_each_picture_once(out, engine, digits):
    def run(_):
        with database.using(out) as one:
            return ingest(one, "some", digits, 20).added

    assert sum(at_once(run, range(3))) == 100
    assert rows_of(engine, "SELECT COUNT(*) FROM images") == [(100,)]
    is_whole(engine)


def test_the_address_of_a_store_is_read(engine, digits):
    import fsspec

    store = fsspec.filesystem("memory")
    for entry in digits[:5]:
        store.pipe(f"/bucket/{entry.name}", entry.content)
    report = ingest(engine, "some", sources.files_of("memory://bucket"))
    assert report.added == 5


# Uploads


def test_an_upload_is_answered_with_its_committed_row(engine, client, digits):
    answer = upload(client, digits[3].content)
    assert answer.status_code == 201
    row = told(answer)
    wanted = "SELECT p.id, l.name, i.sha256 FROM predictions p JOIN labels l ON l.id = p.label_id"
    wanted += " JOIN images i ON i.id = p.image_id"
    assert rows_of(engine, wanted) == [(row["id"], row["label"], row["sha256"])]
    scored = client.post("/score", data=digits[3].content, content_type="image/png")
    assert told(scored)["label"] == row["label"]
    back = client.get(f"/images/{row['sha256']}")
    assert (back.get_data(), back.mimetype) == (digits[3].content, "image/png")
    again = upload(client, digits[3].content)
    assert again.status_code == 200
    assert told(again) == row | {"known": True}
    assert is_whole(engine) == 1


def test_many_clients_at_once_lose_and_repeat_nothing(engine, app, digits):
    def send(offset):
        client = app.test_client()
        # each picture is sent by three clients
        sent = [digits[(offset // 3 * 12 + number) % 48].content for number in range(12)]
        return [upload(client, content) for content in sent]

    answers = [answer for some in at_once(send, range(12)) for answer in some]
    assert {answer.status_code for answer in answers} <= {200, 201}
    rows = rows_of(engine, "SELECT id FROM predictions")
    assert (len(answers), len(rows)) == (144, 48)
    assert {told(answer)["id"] for answer in answers} == {number for (number,) in rows}
    is_whole(engine)


def test_recorders_of_several_processes_do_not_count_twice(out, engine, digits):
    version = registered(engine, "some model")
    answers = [answer_of(entry, str(number % 10)) for number, entry in enumerate(digits[:40])]

    def record(_):
        with database.using(out) as one:
            for start in range(0, 40, 8):
                write(one, version, answers[start : start + 8])

    at_once(record, range(3))
    assert rows_of(engine, "SELECT COUNT(*) FROM predictions") == [(40,)]
    assert rows_of(engine, "SELECT SUM(predictions) FROM daily_counts") == [(40,)]
    is_whole(engine)


def test_an_upload_without_a_database_is_503_and_the_scorer_goes_on(
    out, loaded, digits, monkeypatch
):
    from jobs.sql_image_pipeline.job import job
    from slipway.scorer import create_app

    monkeypatch.setenv(database.VARIABLE, "postgresql://nobody:secret@127.0.0.1:9/none")
    client = create_app(job, out, background=False, loaded=loaded).test_client()
    answer = upload(client, digits[0].content)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "secret" not in told(answer)["error"]
    assert (
        client.post("/score", data=digits[0].content, content_type="image/png").status_code == 200
    )


def test_what_is_no_picture_leaves_no_row(engine, client):
    assert upload(client, b"\x89PNG\r\n\x1a\nno more").status_code == 422
    assert upload(client, b"GIF", "application/xml").status_code == 415
    assert rows_of(engine, "SELECT COUNT(*) FROM images") == [(0,)]


def record(recorder, pictures, ticket):
    """Return the rows that a recorder tells of, where the labels are there at once."""
    told = SimpleQueue()
    recorder.record(pictures, lambda done: done(ticket), lambda *found: told.put(found))
    rows, error = told.get(timeout=30)
    if error:
        raise error
    return rows


def recorded(recorder, answer):
    return record(recorder, [answer.picture], SimpleNamespace(error=None, answers=[answer]))


def test_a_recorder_tells_each_of_what_went_wrong_with_its_own(engine, digits):
    recorder = Recorder(engine, 12345)  # no such model version
    with pytest.raises(DBAPIError):
        recorded(recorder, answer_of(digits[0]))
    failed = SimpleNamespace(error=NotReady("no model"))
    with pytest.raises(NotReady, match="no model"):
        record(recorder, [answer_of(digits[0]).picture], failed)
    assert record(recorder, [], None) == []


def test_who_cannot_be_told_keeps_nobody_else_from_it(engine, digits, caplog):
    recorder = Recorder(engine, registered(engine, "some model"))
    first = new_of(digits[0])
    ticket = SimpleNamespace(error=None, answers=[first])
    recorder.record([first.picture], lambda done: done(ticket), lambda *_: 1 / 0)
    (row,) = recorded(recorder, new_of(digits[1]))
    assert (row.known, rows_of(engine, "SELECT COUNT(*) FROM images")) == (False, [(2,)])
    assert "what is committed was not told" in caplog.text


def test_an_upload_that_is_not_committed_in_time_is_503(client, digits, monkeypatch):
    monkeypatch.setattr("jobs.sql_image_pipeline.service.WAIT_SECONDS", 0.0)
    answer = upload(client, digits[0].content)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "nothing comes twice" in answer.json["error"]


def test_new_pictures_of_known_labels_are_one_statement_on_postgresql(engine, kind, digits):
    recorder = Recorder(engine, registered(engine, "some model"))
    recorded(recorder, new_of(digits[0]))  # makes the label
    asked = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for entry in digits[1:4]:
        (row,) = recorded(recorder, new_of(entry))
        assert not row.known
    assert bool(asked) == (kind != "postgres")  # the one statement goes to the driver itself
    (again,) = recorded(recorder, new_of(digits[3]))
    assert again == replace(row, known=True)
    assert rows_of(engine, "SELECT SUM(predictions) FROM daily_counts") == [(4,)]
    is_whole(engine)


def test_a_recorder_finds_its_way_back_to_a_database_that_cut_it_off(engine, kind, digits):
    recorder = Recorder(engine, registered(engine, "some model"))
    for entry in digits[:2]:
        recorded(recorder, new_of(entry))
    if kind == "postgres":
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    for entry in digits[2:4]:
        (row,) = recorded(recorder, new_of(entry))
        assert not row.known
    assert rows_of(engine, "SELECT COUNT(*) FROM predictions") == [(4,)]
    is_whole(engine)


def answer_of(entry, label="7"):
    digest = hashlib.sha256(entry.content).hexdigest()
    return Answer(checked(digest, entry, "upload"), label, 0.25)


def new_of(entry):
    """Return an answer about a picture as it comes over HTTP: nobody says what it shows."""
    found = answer_of(entry)
    return replace(found, picture=replace(found.picture, label=None, split="new"))


@pytest.fixture
def address(app):
    """The address of the scorer, over a real port."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_client_uploads_what_is_held_out_and_tells_how_well_it_is_labelled(engine, address, out):
    for known in (0, 24):
        run = a_run(out, "upload", limit=24)
        upload_verb(run, address, "", "test", 4)
        assert run.metrics["uploads"] == 24
        assert run.metrics["upload_accuracy"] > 0.8
        assert run.pieces[0]["text"].endswith(f"{known} were there before.")
    assert rows_of(engine, "SELECT COUNT(*) FROM predictions") == [(24,)]


def test_a_client_uploads_one_part_of_a_source(engine, address, out, folder):
    upload_verb(a_run(out, "upload"), address, str(folder), "train", 4)
    held_out = len([path for path in folder.rglob("*.png") if "test" in path.parts])
    assert 0 < held_out < 60
    assert rows_of(engine, "SELECT COUNT(*) FROM predictions") == [(60 - held_out,)]


def test_a_client_tells_what_a_scorer_refuses(address):
    with pytest.raises(Retryable, match="found 422"):
        sending.sent(address, "/images", [b"\x89PNG\r\n\x1a\nno more"], 1, 10)


def test_labels_alone_and_rows_are_measured_in_turns(engine, address, out, monkeypatch, digits):
    monkeypatch.setattr(sending, "TURNS", 2)
    run = a_run(out, "measure-uploads")
    sending.rates(run, address, 4, 0.5, [entry.content for entry in digits[:5]])
    rows = run.pieces[0]["rows"]
    assert [row["way"] for row in rows] == [sending.ROW, sending.LABEL, sending.LABEL, sending.ROW]
    assert rows_of(engine, "SELECT COUNT(*) FROM predictions")[0][0] > 5
    is_whole(engine)


# Questions

DAYS, EACH = 20, 30
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


@pytest.fixture
def history(engine):
    """Twenty days of predictions by two model versions; return them as rows."""
    from jobs.sql_image_pipeline.ingest import label_ids

    versions = [registered(engine, f"model {number}") for number in range(2)]
    with engine.begin() as connection:
        ids = label_ids(connection, [str(label) for label in range(10)])
        images = [
            {
                "sha256": f"{number:064x}", "collection": "c", "split": "new", "width": 8,
                "label_id": ids[str(number % 10)] if number % 3 else None, "height": 8,
                "media_type": "image/png", "size_bytes": 9, "created_at": NOW,
            }
            for number in range(DAYS * EACH)
        ]  # fmt: skip
        load(connection, schema.Image.__table__, images)
        asked = select(schema.Image.sha256, schema.Image.id)
        known = dict(connection.execute(asked).all())
        rows = [
            {
                "image_id": known[f"{number:064x}"], "model_version_id": version,
                "label_id": ids[str((number + (number % 7 == place)) % 10)],
                "confidence": ((number * 37) % 101) / 101, "reviewed": number % 5 == 0,
                "created_at": NOW - timedelta(days=number // EACH, minutes=number % 3),
            }
            for number in range(DAYS * EACH)
            for place, version in enumerate(versions)
        ]  # fmt: skip
        load(connection, schema.Prediction.__table__, rows)
        connection.exec_driver_sql(statement("recount"))
    names = {number: name for name, number in ids.items()}
    truth = {known[image["sha256"]]: image["label_id"] for image in images}
    return [
        row | {"label": names[row["label_id"]], "truth": truth[row["image_id"]]} for row in rows
    ]


def pages(engine, question, **values):
    """Return all rows of a question, page by page."""
    found, cursor = [], ""
    while cursor is not None:
        asked = question(cursor=cursor, **values)
        with engine.connect() as connection:
            rows = questions.answered(connection, asked, NOW)
        found += rows
        cursor = asked.next_page(rows)
    return found


@pytest.mark.parametrize("limit", [1, 7, 200])
def test_pages_of_the_recent_hold_each_row_once_newest_first(engine, history, limit):
    found = pages(engine, questions.Recent, label="4", hours=24 * 6, limit=limit)
    since = NOW - timedelta(days=6)
    wanted = [row for row in history if row["label"] == "4" and row["created_at"] >= since]
    assert len(found) == len(wanted) > 20
    keys = [(row.created_at, row.id) for row in found]
    assert keys == sorted(set(keys), reverse=True)
    assert {row.label for row in found} == {"4"}


@pytest.mark.parametrize("limit", [3, 200])
def test_pages_of_the_uncertain_hold_each_row_once_least_sure_first(engine, history, limit):
    found = pages(engine, questions.Uncertain, below=0.5, limit=limit)
    wanted = [row for row in history if not row["reviewed"] and row["confidence"] < 0.5]
    assert sorted(row.confidence for row in found) == sorted(row["confidence"] for row in wanted)
    keys = [(row.confidence, row.id) for row in found]
    assert keys == sorted(set(keys))


def test_counts_are_those_of_the_rows(engine, history):
    with engine.connect() as connection:
        found = questions.answered(connection, questions.Counts(days=5), NOW)
    first = NOW.date() - timedelta(days=4)
    labels = [row["label"] for row in history if row["created_at"].date() >= first]
    assert {row.label: row.predictions for row in found} == {
        label: labels.count(label) for label in set(labels)
    }
    assert sum(row.share for row in found) == pytest.approx(1)
    assert [row.place for row in found] == sorted(row.place for row in found)
    assert found[0].place == 1


def test_accuracy_by_day_and_version_is_that_of_the_labelled_rows(engine, history):
    with engine.connect() as connection:
        found = questions.answered(connection, questions.Accuracies(days=30), NOW)
    for answer in found:
        rows = [
            row for row in history
            if row["created_at"].date() == answer.day
            and row["model_version_id"] == answer.model_version and row["truth"] is not None
        ]  # fmt: skip
        right = [row["truth"] == row["label_id"] for row in rows]
        assert (answer.labelled, answer.accuracy) == (
            len(rows), pytest.approx(sum(right) / len(right))
        )  # fmt: skip
    assert len(found) == 2 * DAYS
    one = [row for row in found if row.model_version == found[0].model_version]
    week = one[3:10]
    mean = sum(row.accuracy * row.labelled for row in week) / sum(row.labelled for row in week)
    assert week[-1].accuracy_of_seven == pytest.approx(mean)


def test_drift_is_the_distance_from_the_first_week_in_standard_errors(engine, history):
    with engine.connect() as connection:
        found = questions.answered(connection, questions.Drifts(days=60), NOW)
    last = found[-1]
    rows = [row for row in history if row["model_version_id"] == last.model_version]
    first_days = sorted({row["created_at"].date() for row in rows})[:7]
    base = [row["confidence"] for row in rows if row["created_at"].date() in first_days]
    day = [row["confidence"] for row in rows if row["created_at"].date() == last.day]
    mean = sum(base) / len(base)
    spread = (sum(value * value for value in base) / len(base) - mean * mean) ** 0.5
    error = spread * (1 / len(day) + 1 / len(base)) ** 0.5
    assert last.baseline == pytest.approx(mean)
    assert last.confidence == pytest.approx(sum(day) / len(day))
    assert last.standard_errors == pytest.approx((last.confidence - mean) / error)
    assert found[0].since_day_before is None


def test_the_hardest_and_the_changed_are_found(engine, history):
    with engine.connect() as connection:
        start = NOW - timedelta(days=2)
        hardest = questions.asked(connection, "hardest", {"since": start, "limit": 2})
        changed = questions.asked(
            connection, "changed", {"label": "4", "since": start, "limit": 1000}
        )
    recent = [row for row in history if row["created_at"] >= start]
    least = min(row["confidence"] for row in recent if row["label"] == "4")
    assert next(row for row in hardest if row["label"] == "4")["confidence"] == least
    assert len(hardest) == 20
    assert changed
    assert all(row["label"] != row["label_before"] for row in changed)


def test_the_endpoints_answer_and_questions_are_kept(engine, client, digits):
    for entry in digits[:10]:
        upload(client, entry.content)
    for question in questions.QUESTIONS:
        query = {"label": "1"} if question is questions.Recent else {}
        answer = client.get(f"/queries/{question.name}", query_string=query)
        assert answer.status_code == 200, told(answer)
        assert "rows" in told(answer)
    upload(client, noise(1))  # its commit takes the notes with it
    upload(client, noise(2))
    kept = {name for (name,) in rows_of(engine, "SELECT name FROM user_queries")}
    assert {question.name for question in questions.QUESTIONS} <= kept
    described = told(client.get("/openapi.json"))["paths"]
    assert "/queries/recent" in described
    assert {entry["name"] for entry in described["/queries/recent"]["get"]["parameters"]} == {
        "label", "hours", "limit", "cursor"
    }  # fmt: skip


# Corrections


def test_a_correction_moves_the_truth_and_the_sums(engine, client, digits):
    rows = [told(upload(client, entry.content)) for entry in digits[:10]]
    wrong = next(label for label in "0123456789" if label != rows[0]["label"])
    known = told(client.get("/labels"))
    wrong = wrong if wrong in known else next(name for name in known if name != rows[0]["label"])
    for label in (wrong, rows[0]["label"], wrong):  # a person may change their mind
        answer = client.post("/corrections", json={"prediction": rows[0]["id"], "label": label})
        assert told(answer) == {"sha256": rows[0]["sha256"], "label": label}
        is_whole(engine)
    sums = rows_of(engine, "SELECT SUM(labelled), SUM(correct) FROM daily_counts")
    assert [tuple(map(int, row)) for row in sums] == [(1, 0)]
    listed = told(client.get("/queries/uncertain?below=1.01"))["rows"]
    assert rows[0]["id"] not in {row["id"] for row in listed}
    assert len(rows_of(engine, "SELECT id FROM corrections")) == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prediction": 1, "label": "no such label"}, 422),
        ({"prediction": 10**18, "label": "7"}, 422),
        ({"prediction": "1 OR 1=1", "label": "7"}, 422),
        ({"prediction": 1}, 422),
        ({"prediction": 1, "label": "7", "more": 1}, 422),
        ([], 422),
    ],
)
def test_a_wrong_correction_is_refused(engine, client, digits, body, code):
    upload(client, digits[7].content)
    assert client.post("/corrections", json=body).status_code == code
    assert rows_of(engine, "SELECT id FROM corrections") == []


def test_a_form_of_another_site_cannot_correct(client):
    answer = client.post("/corrections", data="prediction=1&label=7",
                         content_type="application/x-www-form-urlencoded")  # fmt: skip
    assert answer.status_code == 415


# Attacks, written anew after the classes of the OWASP testing guide

INJECTIONS = (
    "'", '"', "\\", "`", "';--", "' OR '1'='1", "' OR 1=1 --", '" OR ""="', "1; DROP TABLE images",
    "'); DELETE FROM predictions; --", "7' UNION SELECT sha256, content FROM contents --",
    "7' AND (SELECT COUNT(*) FROM images) > 0 --", "7' AND pg_sleep(5) --",
    "7' AND SLEEP(5) --", "7'||(SELECT version())||'", "%' OR name LIKE '%", "7/**/OR/**/1=1",
    "0x37 OR 1=1", "7' ; SELECT pg_sleep(5); --", "$$ OR 1=1 $$", ":label", "%(label)s", "{label}",
    "${7*7}", "{{7*7}}", "7\x00' OR 1=1", "\uff17' OR \uff11=\uff11",
    "7' LIMIT 1 OFFSET 1 --", "NULL", "\ud83d",
    "' OR EXISTS(SELECT 1 FROM sqlite_master) --", "'; COPY images TO PROGRAM 'id'; --",
    "'; ATTACH DATABASE '/tmp/x' AS x; --", "' INTO OUTFILE '/tmp/x' --", "1e309", "-1", "NaN",
)  # fmt: skip
PATHS = (
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "/etc/passwd", "%2fetc%2fpasswd", "..\\..\\windows\\win.ini", "%252e%252e%252fetc%252fpasswd",
    "%c0%ae%c0%ae/etc/passwd", "file:///etc/passwd", "database.sqlite", "../database.sqlite",
    "a" * 63 + "/", "A" * 64, "a" * 65, "%00" + "a" * 63, "a" * 64 + "%0a",
    "a" * 64 + ".png", ".", "..",
)  # fmt: skip


def test_injections_find_nothing_and_change_nothing(engine, client, digits):
    for entry in digits[:10]:
        upload(client, entry.content)
    before = dumped(engine)
    tried = 0
    for text in INJECTIONS:
        for place, names in {
            "recent": ("label", "hours", "limit", "cursor"),
            "uncertain": ("below", "limit", "cursor"),
            "counts": ("days", "label"),
        }.items():
            for name in names:
                query = ({"label": "1"} if place == "recent" else {}) | {name: safe(text)}
                answer = client.get(f"/queries/{place}", query_string=query)
                tried += 1
                assert answer.status_code in (200, 422), (text, name, told(answer))
                if answer.status_code == 200 and name == "label":
                    assert told(answer)["rows"] == []
        body = {"prediction": 1, "label": safe(text)}
        assert client.post("/corrections", json=body).status_code == 422
        assert upload_as(client, digits[50].content, safe(text)).status_code in (
            201,
            200,
            400,
            415,
            422,
        )
    assert tried > 300
    after = dumped(engine)
    assert after["labels"] == before["labels"] or len(after["labels"]) <= 10
    assert after["corrections"] == before["corrections"] == []
    assert len(after["predictions"]) == len(before["predictions"]) + 1
    is_whole(engine)


def safe(text):
    """Return a text that an HTTP client can send."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def upload_as(client, content, name):
    """Upload as a form does, with a file name that a stranger chose."""
    import io

    name = name.replace("\x00", "").replace("\r", "").replace("\n", "") or "x"
    return client.post("/images", data={"image": (io.BytesIO(content), name, "image/png")})


@pytest.mark.parametrize("path", PATHS)
def test_a_path_leads_nowhere(client, path):
    answer = client.get(f"/images/{path}")
    assert answer.status_code in (404, 405, 308), answer.get_data()[:80]
    assert b"root:" not in answer.get_data()


def test_injections_in_the_names_of_a_source_are_labels_and_nothing_else(engine, digits):
    labels = ["'; DROP TABLE images; --", '" OR 1=1', "Robert'); DROP TABLE labels;--", "naïve ☃"]
    files = [
        sources.named(f"train/{label.replace('/', '')}/one.png", entry.content)
        for label, entry in zip(labels, digits, strict=False)
    ]
    report = ingest(engine, "'; DROP TABLE images; --", files)
    assert report.added == 4
    assert {name for (name,) in rows_of(engine, "SELECT name FROM labels")} == set(labels)


# Cursors


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.text(max_size=60)
    | st.binary(max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
)
def test_any_cursor_is_a_place_or_invalid(cursor):
    for kind, start in ((float, (-1.0, 0)), (datetime, (questions.END_OF_TIME, 0))):
        try:
            value, number = questions.seen(cursor, kind, start)
        except InputInvalid:
            continue
        assert isinstance(value, kind | int)
        assert 0 <= number <= questions.LARGEST


@pytest.mark.parametrize(
    "content", ['["0001-01-01T00:00:00+14:00", 1]', '["9999-12-31T23:59:59-14:00", 1]',
                "[1e400, 1]",
                '["2026-01-01T00:00:00Z", -1]', f'["2026-01-01T00:00:00Z", {2**63}]', "[[[[1]]]]"]
)  # fmt: skip
def test_a_cursor_that_no_page_gave_is_refused(content):
    cursor = base64.urlsafe_b64encode(content.encode()).decode()
    with pytest.raises(InputInvalid, match="wanted one that a page gave"):
        questions.seen(cursor, datetime, (questions.END_OF_TIME, 0))


def test_a_cursor_is_what_the_page_before_ended_with():
    row = questions.Sighting(
        id=7,
        sha256="a",
        label="1",
        confidence=0.25,
        created_at=NOW,
        model_version=1,
        true_label=None,
    )
    cursor = questions.Uncertain(limit=1).next_page([row])
    assert questions.seen(cursor, float, (0.0, 0)) == (0.25, 7)
    assert questions.Uncertain(limit=2).next_page([row]) is None


def test_a_review_of_a_picture_that_is_not_there_is_refused(engine):
    with pytest.raises(InputInvalid):
        review.correct(engine, review.Correction(prediction=5, label="7"))


def test_statements_are_files_and_bind_what_they_are_given():
    assert json.loads(json.dumps(statement("recent"))).startswith("-- ")
    with pytest.raises(KeyError):
        statement("../schema")
