"""The reader on bad files, the maths against numbers worked by hand, and the job on its sample."""

import gzip
import json
import math
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.linear_models import columns, descent, lessons, models, reading, studies, tables
from jobs.linear_models.job import evaluate, job, prepare, rows_of, score, train
from slipway import store
from slipway.errors import DataUnavailable, InputInvalid, Stopped
from slipway.run import Options, Run

ASKED = {"preset": (), "csv": None, "target": "", "task": "auto", "drop": (), "category": ()}


def a_run(out: Path, verb: str, **more) -> Run:
    return Run(job.spec, out, verb, Options(**{"data": "sample", **more}))


def prepared(out: Path, **asked) -> Run:
    run = a_run(out, "prepare")
    prepare(run, **(ASKED | asked))
    run.finish()
    return run


def trained(out: Path):
    run = a_run(out, "train")
    model = train(run)
    store.save(model, out / "model")
    run.finish()
    return model


@pytest.fixture(scope="module")
def small_grids():
    with pytest.MonkeyPatch.context() as patch:
        for task, grids in models.GRIDS.items():
            few = {name: {key: values[:1] for key, values in grid.items()}
                   for name, grid in grids.items()}  # fmt: skip
            patch.setitem(models.GRIDS, task, few)
        yield


def houses(number: int = 120) -> str:
    """A table with a category, a date, gaps, an id, a constant, and a price made of them."""
    chance = np.random.default_rng(0)
    lines = ["id;sold;area;town;rooms;country;note;price"]
    for place in range(number):
        area, town = chance.integers(40, 160), chance.choice(["Bern", "Köln", "Wien"])
        year, month = 2019 + place % 4, 1 + place % 12
        price = 2000 * area + 30_000 * (town == "Wien") + 5000 * year + chance.normal(0, 4000)
        rooms = "" if place % 9 == 0 else str(1 + area // 30)
        lines.append(
            f"{place + 1};{5 + place % 20:02}.{month:02}.{year};{area},5;{town};{rooms};EU;"
            f"text {place};{price:.0f}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def own_csv(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "houses.csv"
    path.write_text(houses(), "cp1252")
    return path


@pytest.fixture(scope="module")
def finished(small_grids, own_csv, tmp_path_factory) -> Path:
    """Artifacts of prepare, train and evaluate on a user's CSV."""
    out = tmp_path_factory.mktemp("houses")
    prepared(out, csv=own_csv, target="price")
    model = trained(out)
    run = a_run(out, "evaluate")
    evaluate(run, model)
    run.finish()
    return out


@pytest.fixture(scope="module")
def model(finished):
    return store.load(finished / "model", job.trusted)


def cells_of(finished: Path) -> list[dict]:
    table = tables.all_of(a_run(finished, "evaluate"))[0]
    return [{name: cell for name, cell in row.items() if name != "price"}
            for row in table.test.to_dict("records")]  # fmt: skip


# the reader


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separator_and_encoding_are_found(tmp_path, separator, encoding):
    path = tmp_path / "t.csv"
    text = f'name{separator}size\n"Kö{separator}ln"{separator}3\nBern{separator}4\n'
    path.write_bytes(text.encode(encoding))
    sheet = reading.read(path)
    assert sheet.names == ["name", "size"]
    assert sheet.rows == [[f"Kö{separator}ln", "3"], ["Bern", "4"]]


def test_a_packed_file_is_read(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert reading.read(path).rows == [["1", "2"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty file"),
        (b" \n\n", "empty file"),
        (b"a,b\n", "no row below it"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: found 3 cells; wanted 2"),
        (b"a,b,a\n1,2,3\n", "line 1: found the column 'a' more than once"),
        (b"1,2\n3,4\n", "line 1: found the numbers 1, 2; wanted names"),
        (b"one\ntwo\n", "found one column in 'one'"),
        (b'a,b\n1,"2\n3,4\n', "line 2"),
        (bytes(range(256)) * 20, "binary"),
        (b"\x1f\x8b\x08\x00damaged", "gzip"),
        (b"\xff\xfea", "UTF-16"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, content, told):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(InputInvalid, match=told) as caught:
        reading.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataUnavailable, match="no such file"):
        reading.read(tmp_path / "none.csv")


@settings(max_examples=150, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=400), st.text('ab1,;\t|"\n\r.-é\0', max_size=200)))
def test_any_content_is_a_sheet_or_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        sheet = reading.read(path)
    except InputInvalid as error:
        told = str(error)
    else:
        told = str(path)
        assert all(len(row) == len(sheet.names) for row in sheet.rows)
    assert str(path) in told


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.lists(st.sampled_from(
    ["", "1", "2.5", "x", "2020-02-30", "2020-01-01", "1e999", "NA", "-", "inf", "$3", "9,5"]),
    min_size=3, max_size=3), min_size=25, max_size=40))  # fmt: skip
def test_any_cells_are_split_or_a_clear_error(tmp_path_factory, rows):
    out = tmp_path_factory.mktemp("fuzz")
    path = out / "t.csv"
    path.write_text("\n".join(map(";".join, [["a", "b", "price"], *rows])), "utf-8")
    try:
        prepared(out, csv=path, target="price")
    except InputInvalid as error:
        told = str(error)
    else:
        told = str(path)
        table = tables.all_of(a_run(out, "train"))[0]
        assert len(table.expanded["test"]) == len(table.targets("test")) > 0
    assert str(path) in told


# columns


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [("3", ".", 3), ("-3.5e2", ".", -350), ("$1,200.50", ".", 1200.5), ("12 %", ".", 12),
     ("1,234", ".", 1234), ("1.234,5", ",", 1234.5), ("3,5", ",", 3.5), (4, ",", 4)],
)  # fmt: skip
def test_a_number_is_read(cell, decimal, value):
    assert columns.number(cell, decimal) == value


@pytest.mark.parametrize("cell", ["x", "1_000", "0x1F", "nan", "inf", "1e999", "3-4", "BPM110"])
def test_what_is_no_number_is_none(cell):
    assert math.isnan(columns.number(cell))


def test_columns_are_found_and_useless_ones_dropped_with_a_reason(own_csv):
    sheet = reading.read(own_csv)
    plan = {column["name"]: column for column in columns.found(sheet, "price")}
    kinds = {name: column["kind"] for name, column in plan.items() if not column["dropped"]}
    assert kinds == {"sold": "date", "area": "number", "town": "category", "rooms": "number"}
    assert "id" in plan["id"]["dropped"]
    assert "EU" in plan["country"]["dropped"]
    assert "names or text" in plan["note"]["dropped"]
    assert plan["sold"]["format"] == "%d.%m.%Y"
    assert plan["area"]["decimal"] == ","
    assert plan["rooms"]["missing"] == 14


def test_december_is_beside_january_and_the_trend_counts_years():
    column = {"format": "%Y-%m-%d", "first": "2020-01-01"}
    when = columns.dates(["2020-01-01", "2020-12-31", "2020-07-01", None], "%Y-%m-%d")
    found = columns.date_features("d", when, column)
    points = list(zip(found["d month sin"], found["d month cos"], strict=True))
    near, far = math.dist(points[0], points[1]), math.dist(points[0], points[2])
    assert near < 0.03 < 1.9 < far
    assert found["d trend"][1] == pytest.approx(365 / 365.25)
    # 1 January 2020 is a Wednesday: two sevenths of a turn
    assert found["d weekday sin"][0] == pytest.approx(math.sin(2 * math.pi * 2 / 7))
    assert math.isnan(found["d trend"][3])


def test_a_row_of_json_has_the_features_of_the_same_row_of_a_file():
    column = {"missing": 0, "example": "1", "decimal": ".", "low": -9, "high": 9}
    plan = [
        {"name": "hr", "kind": "category", **column},
        {"name": "day", "kind": "number", **column},
    ]
    kind = columns.row_type(plan)
    file = columns.expanded(pd.DataFrame([{"hr": "7", "day": "1"}]), plan, [["hr", "day"]])
    row = kind(hr=7, day=1.0).model_dump()
    assert columns.expanded(pd.DataFrame([row]), plan, [["hr", "day"]]).equals(file)
    assert file["hr x day"].tolist() == ["7 1"]


@pytest.mark.parametrize(
    ("cells", "task"),
    [(["no", "yes"] * 9, "classification"), (["0", "1", "2"] * 9, "classification"),
     (["3", "4", "5", "8"] * 9, "regression"), (["1.5", "2.5", "3.5"] * 9, "regression")],
)  # fmt: skip
def test_the_task_follows_from_the_target(cells, task):
    assert columns.task_of(cells, columns.numbers(cells))[0] == task


def a_sheet(target: list[str]) -> reading.Sheet:
    rows = [[str(n * n % 17), cell] for n, cell in enumerate(target)]
    lines = list(range(2, len(rows) + 2))
    return reading.Sheet(Path("t.csv"), ["size", "price"], rows, lines, ",", "UTF-8")


@pytest.mark.parametrize(
    ("target", "task", "told"),
    [
        ([""] * 30, "auto", "found no value in any of 30 rows"),
        (["a"] * 30, "auto", "1 class with 5 rows or more"),
        (["a"] * 30 + ["b"], "auto", "1 class with 5 rows or more"),
        (["5"] * 30, "regression", "the value 5 in every row"),
        (["1", "2"] * 5, "auto", "10 rows with a value"),
        (["a", "b", "3"] * 10, "regression", "line 2: found 'a'"),
    ],
)
def test_a_target_without_anything_to_learn_is_told(target, task, told):
    with pytest.raises(InputInvalid, match=told):
        columns.target_of(a_sheet(target), "price", task)


def test_a_target_that_is_no_column_is_told_with_the_nearest():
    with pytest.raises(InputInvalid, match=r"no column 'prise'; did you mean 'price'\?"):
        columns.target_of(a_sheet(["1", "2"]), "prise", "auto")


def test_columns_that_give_the_target_away_are_told(tmp_path):
    chance = np.random.default_rng(0)
    parts = chance.integers(0, 50, (60, 2))
    text = "\n".join(f"{a},{b},{c:.3f},{a + b}" for (a, b), c in zip(parts, chance.random(60),
                                                                     strict=True))  # fmt: skip
    path = tmp_path / "t.csv"
    path.write_text(f"casual,registered,wind,count\n{text}\n", "utf-8")
    run = prepared(tmp_path, csv=path, target="count")
    warnings = [piece["text"] for piece in run.pieces if "leak" in piece.get("text", "")]
    assert len(warnings) == 1
    assert "casual + registered together give count" in warnings[0]


def test_a_copy_of_the_target_is_told():
    values = pd.Series(np.arange(50.0) ** 3)
    assert tables.foretold(values, np.arange(50.0), "regression") == pytest.approx(1)
    mixed = pd.Series(np.tile([1.0, 2.0], 25))
    assert tables.foretold(mixed, np.arange(50.0), "regression") < 0.1


# the maths


def test_the_normal_equation_finds_the_line_through_its_points():
    features = np.array([[1.0, 0], [1, 1], [1, 2]])
    assert descent.normal_equation(features, np.array([1.0, 3, 5])) == pytest.approx([1, 2])


def test_of_dependent_columns_the_shortest_solution_is_taken():
    features = np.array([[1.0, 1], [2, 2], [3, 3]])
    assert descent.normal_equation(features, np.array([2.0, 4, 6])) == pytest.approx([1, 1])
    assert descent.independent(np.column_stack([features, [1.0, 0, 0]])) == [0, 2]


def test_one_step_of_descent_by_hand():
    # gradient at 0: -(1 * 1 + 2 * 2) / 2 = -2.5; one step of 0.1 gives 0.25
    trace = descent.descend(np.array([[1.0], [2]]), np.array([1.0, 2]), rate=0.1, epochs=1)
    assert trace.weights == pytest.approx([0.25])
    assert trace.loss[0] == pytest.approx((1 + 4) / 4)
    assert trace.gradient[0] == pytest.approx(2.5)


def test_a_step_past_two_over_the_curvature_diverges_and_says_so():
    features, target = np.ones((4, 1)), np.full(4, 3.0)
    assert descent.curvature(features) == (1, 1)
    assert descent.descend(features, target, rate=2.1, epochs=400).diverged
    assert descent.descend(features, target, rate=1.9, epochs=400).weights == pytest.approx([3])


@pytest.mark.parametrize(
    ("name", "half"), [("constant", 1), ("inverse time", 1 / 26), ("cosine", 0.5),
                       ("halved in steps", 2**-5)],
)  # fmt: skip
def test_schedules_at_the_start_and_half_way(name, half):
    assert descent.SCHEDULES[name](0, 100) == 1
    assert descent.SCHEDULES[name](50, 100) == pytest.approx(half)


@pytest.mark.parametrize("batch", [None, 8, 1])
def test_descent_meets_the_normal_equation(batch):
    chance = np.random.default_rng(1)
    features = np.column_stack([np.ones(60), chance.normal(size=(60, 3))])
    target = features @ [1, 2, 3, 4] + chance.normal(0, 0.1, 60) * (batch is None)
    best = descent.normal_equation(features, target)
    rate = 0.5 if batch is None else 0.05
    trace = descent.descend(features, target, rate=rate, epochs=500, batch=batch, optimum=best)
    assert np.abs(trace.weights - best).max() < 1e-6
    assert trace.distance[-1] < trace.distance[0]


def test_softmax_and_cross_entropy_by_hand():
    chances = descent.softmax(np.array([[0, math.log(3)], [1000, 1000]]))
    assert chances == pytest.approx(np.array([[0.25, 0.75], [0.5, 0.5]]))
    found = descent.cross_entropy(chances, np.array([1, 0]))
    assert found == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)


def test_softmax_regression_is_that_of_the_library():
    from sklearn.linear_model import LogisticRegression

    chance = np.random.default_rng(2)
    plain = chance.normal(size=(90, 2))
    labels = (plain @ [1, -1] + chance.normal(0, 1, 90) > 0).astype(int) + (plain[:, 0] > 1)
    features = np.column_stack([np.ones(90), plain])
    ours = descent.fit_softmax(features, labels, (features, labels), penalty=0.05, epochs=5000,
                               patience=5000)  # fmt: skip
    library = LogisticRegression(C=1 / (0.05 * 90), tol=1e-8).fit(plain, labels)
    assert ours.probabilities(features) == pytest.approx(library.predict_proba(plain), abs=2e-3)
    assert np.diff(ours.train).max() < 1e-12


def test_early_stopping_keeps_the_best_weights():
    chance = np.random.default_rng(3)
    features = np.column_stack([np.ones(40), chance.normal(size=(40, 15))])
    labels = chance.integers(0, 2, 40)
    found = descent.fit_softmax(
        features[:20], labels[:20], (features[20:], labels[20:]), patience=9
    )
    assert found.kept == int(np.argmin(found.validation))
    assert len(found.validation) == found.kept + 10


def test_standard_errors_by_hand():
    # y = 0, 1, 3 at x = 0, 1, 2: slope 3/2, intercept -1/6, residuals 1/6, -1/3, 1/6, so s^2 = 1/6
    features = np.array([[1.0, 0], [1, 1], [1, 2]])
    found = descent.inference(features, np.array([0.0, 1, 3]))
    assert found["weight"] == pytest.approx([-1 / 6, 1.5])
    assert found["error"][1] == pytest.approx(math.sqrt(1 / 6 / 2))
    assert found["p"][1] == pytest.approx(1 - 2 * math.atan(found["t"][1]) / math.pi)


def test_calibration_error_by_hand():
    # two calls at 0.95, one right: |1.9 - 1|; two at 0.55, both right: |1.1 - 2|; over 4 rows
    found = studies.calibration_error(np.array([0.95, 0.95, 0.55, 0.55]),
                                      np.array([True, False, True, True]))  # fmt: skip
    assert found == pytest.approx((0.9 + 0.9) / 4)


# the job


def test_a_csv_of_ones_own_is_learned_without_a_line_of_code(finished):
    figures = json.loads((finished / "metrics.json").read_text("utf-8"))["evaluate"]
    assert figures["houses_r2"] > 0.95
    assert figures["descent_gap"] <= 1e-6
    assert json.loads((finished / "run.json").read_text("utf-8"))["evaluate"]["tier"] == "own"
    pieces = json.loads((finished / "report.json").read_text("utf-8"))["evaluate"]
    shown = {piece["name"] for piece in pieces if piece["kind"] == "figure"}
    assert {f"evaluate-{name}-houses" for name in
            ("descent", "degree", "paths", "learning", "bias", "models")} <= shown  # fmt: skip


def test_scores_keep_their_order_and_are_the_same_alone(model, finished):
    kind = rows_of(model)
    rows = [kind(**row) for row in cells_of(finished)]
    together = score(model, rows)
    alone = [score(model, [row])[0] for row in rows]
    assert together == alone
    assert len({one.prediction for one in together}) > 10


def test_a_row_names_its_missing_unknown_and_wrong_columns(model, finished):
    row = cells_of(finished)[0]
    wrong = {**row, "colour": "red", "area": "large", "sold": "soon"}
    del wrong["town"]
    with pytest.raises(ValidationError) as caught:
        rows_of(model)(**wrong)
    assert {entry["loc"][0] for entry in caught.value.errors()} == {
        "colour",
        "area",
        "sold",
        "town",
    }


def test_a_gap_in_a_column_that_had_gaps_is_filled(model, finished):
    row = cells_of(finished)[0]
    for gap in ({"rooms": None}, {"rooms": ""}, {"rooms": "n/a"}):
        answer = score(model, [rows_of(model)(**(row | gap))])[0]
        assert math.isfinite(answer.prediction)
    del row["rooms"]
    assert math.isfinite(score(model, [rows_of(model)(**row)])[0].prediction)


@pytest.mark.parametrize("area", [1e300, -1e300, 5000])
def test_a_number_far_outside_of_the_training_rows_is_refused(model, finished, area):
    with pytest.raises(ValidationError, match=r"less|greater"):
        rows_of(model)(**(cells_of(finished)[0] | {"area": area}))


def test_an_extreme_row_has_a_finite_answer(model, finished):
    plan = {column["name"]: column for column in models.plan_of(model)}
    row = cells_of(finished)[0] | {"sold": "31.12.2999", "area": plan["area"]["low"]}
    assert math.isfinite(score(model, [rows_of(model)(**row)])[0].prediction)
    assert np.isfinite(columns.unlogged(columns.logged(np.array([-5, 0, 1e300])))).all()
    assert np.isfinite(columns.unlogged(np.array([1e6]))).all()


def test_a_town_that_was_never_seen_is_no_error(model, finished):
    row = rows_of(model)(**(cells_of(finished)[0] | {"town": "Atlantis"}))
    assert math.isfinite(score(model, [row])[0].prediction)


def test_the_job_takes_the_rows_of_its_model(finished):
    job.load(finished / "model")
    try:
        assert set(job.row.model_fields) == {"sold", "area", "town", "rooms"}
        assert job.row.model_json_schema()["required"] == ["sold", "area", "town"]
    finally:
        job.row_of_model = None


def test_classes_come_with_their_chances(small_grids, tmp_path):
    prepared(tmp_path, preset=("wine",))
    fitted = trained(tmp_path)
    run = a_run(tmp_path, "evaluate")
    evaluate(run, fitted)
    assert run.metrics["wine_cv_accuracy"] > 0.95
    assert run.metrics["wine_accuracy"] > 0.9
    table = tables.all_of(run)[0]
    kind = rows_of(fitted)
    cells = table.test.drop(columns="cultivar").to_dict("records")
    for answer in score(fitted, [kind(**row) for row in cells]):
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.prediction == max(answer.probabilities, key=answer.probabilities.get)


def test_a_stopped_training_resumes_to_the_same_model(finished, own_csv, tmp_path):
    prepared(tmp_path, csv=own_csv, target="price")
    run = a_run(tmp_path, "train")
    run.stopping = True
    with pytest.raises(Stopped):
        train(run)
    trained(tmp_path)
    assert store.identity(tmp_path / "model") == store.identity(finished / "model")


def test_the_held_out_rows_change_with_the_seed_and_are_never_trained_on():
    parts = {seed: tables.split(list(range(50)), "regression", seed) for seed in (0, 0, 1)}
    assert parts[0] != parts[1]
    assert sorted(parts[0]["train"] + parts[0]["test"]) == list(range(50))


def test_a_preset_is_a_part_of_the_job(tmp_path):
    assert prepared(tmp_path / "a", preset=("diabetes",)).part == "preset diabetes"
    assert prepared(tmp_path / "b").part == ""


def test_a_preset_without_a_sample_says_so(tmp_path):
    with pytest.raises(DataUnavailable, match="red-wine has no sample"):
        prepared(tmp_path, preset=("red-wine",))


def test_a_csv_without_a_target_lists_its_columns(tmp_path, own_csv):
    with pytest.raises(InputInvalid, match=r"--target NAME .* id, sold, area"):
        prepared(tmp_path, csv=own_csv)


def test_a_csv_and_a_preset_are_one_too_many(tmp_path, own_csv):
    with pytest.raises(click.UsageError):
        prepared(tmp_path, csv=own_csv, preset=("wine",))


@pytest.mark.parametrize("study", sorted({s for own in lessons.STUDIES.values() for s in own},
                                         key=lambda s: s.__name__))  # fmt: skip
def test_every_study_has_a_verb(study):
    assert study.__doc__ in {command.__doc__ for command in job.commands.values()}
