"""The job on its own sample, and its maths against numbers worked by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.california_housing import districts, features, generator, measures, models, trials
from jobs.california_housing.districts import CAP, FEATURES, TARGET, District
from jobs.california_housing.job import (
    TRUSTED,
    compare,
    evaluate,
    explore,
    job,
    predict_vs_actual,
    prepare,
    score,
    train,
    tune,
)
from slipway import store
from slipway.errors import InputInvalid, Stopped
from slipway.run import Options, Run
from slipway.types import example

HERE = {"longitude": -122.25, "latitude": 37.85, "housing_median_age": 30, "total_rooms": 2100,
        "total_bedrooms": 430, "population": 1170, "households": 410, "median_income": 4.5,
        "ocean_proximity": "NEAR BAY"}  # fmt: skip


def a_run(out: Path, verb: str, seed: int = 0) -> Run:
    return Run(job.spec, out, verb, Options(seed=seed, data="sample"))


def prepared(out: Path) -> Path:
    run = a_run(out, "prepare")
    prepare(run, seed=0)
    run.finish()
    return out


@pytest.fixture(scope="module", autouse=True)
def small_search():
    """Few and small models: what is tested is not the size of the search."""
    with pytest.MonkeyPatch.context() as patch:
        wanted = [entry for entry in models.COMPARED if entry[0] not in ("support vectors", "tree")]
        patch.setattr(models, "SEARCHES", {"least": 2, "quick": 2})
        patch.setattr(models, "FEW", models.FEW | {"rounds": (120,), "around": (False,)})
        patch.setattr(models, "BOOSTERS", 1)
        patch.setattr(models, "GRID", {"max_features": (0.7,)})
        patch.setattr(trials, "COMPARED", [*wanted[:1], *wanted[2:3], *wanted[-1:]])
        patch.setattr(trials, "FOLDS", 2)
        patch.setattr(measures, "RESAMPLES", 50)
        patch.setattr(Run, "track", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An artifacts folder after prepare and train."""
    out = prepared(tmp_path_factory.mktemp("artifacts"))
    run = a_run(out, "train")
    store.save(train(run, seed=0, search="quick"), out / "model")
    run.finish()
    return out


@pytest.fixture(scope="module")
def model(trained):
    return store.load(trained / "model", TRUSTED)


@pytest.fixture(scope="module")
def table():
    return generator.generate(seed=5, number=400)


# score()


def answer_of(model, **changed):
    return score(model, [District(**(HERE | changed))])[0]


def test_score_answers_with_a_price_inside_its_interval(model):
    found = answer_of(model)
    assert 15_000 < found.low < found.price < found.high <= CAP
    assert [type(value) for value in found.model_dump().values()] == [float] * 3


def test_income_is_worth_money(model):
    inland = {"longitude": -119.7, "latitude": 36.7, "ocean_proximity": "INLAND"}
    prices = [answer_of(model, **inland, median_income=income).price for income in (2, 4, 8)]
    assert prices == sorted(prices)
    assert prices[2] > 1.2 * prices[0]


def test_bedrooms_may_be_unknown(model):
    known, unknown = answer_of(model), answer_of(model, total_bedrooms=None)
    assert unknown.price == pytest.approx(known.price, rel=0.2)


@pytest.mark.parametrize("changed", [{"median_income": 0}, {"median_income": 20},
    {"total_rooms": 1, "total_bedrooms": 1, "population": 1, "households": 1},
    {"longitude": -114.0, "latitude": 42.1}, {"ocean_proximity": "ISLAND"}])  # fmt: skip
def test_the_ends_of_every_range_have_a_price(model, changed):
    found = answer_of(model, **changed)
    assert models.FLOOR <= found.low <= found.price <= found.high <= CAP


def test_order_is_kept_and_a_batch_scores_like_its_rows(model, table):
    rows = as_rows(table[:60])
    together = score(model, rows)
    assert together == [score(model, [row])[0] for row in rows]
    assert together[::-1] == score(model, rows[::-1])


def as_rows(table):
    found = table[list(FEATURES)].to_dict("records")
    return [District(**{k: None if v != v else v for k, v in row.items()}) for row in found]


def test_a_model_scores_the_same_after_save_and_load(model, table, tmp_path):
    store.save(model, tmp_path)
    again = store.load(tmp_path, TRUSTED)
    assert score(again, as_rows(table[:50])) == score(model, as_rows(table[:50]))


def test_types_that_are_not_trusted_are_refused(model, tmp_path):
    store.save(model, tmp_path)
    with pytest.raises(InputInvalid, match=r"not trusted.*Appraiser"):
        store.load(tmp_path)


def test_the_example_can_be_scored(model):
    assert score(model, [District(**example(District))])


# Training and evaluation


def test_the_model_nears_the_optimum_and_beats_a_constant(trained, model):
    run = a_run(trained, "evaluate")
    evaluate(run, model, seed=0)
    price = districts.read_split(trained / "data" / "test.csv")[TARGET]
    assert run.metrics["rmse"] < 0.7 * price.std()
    assert run.metrics["rmse_of_optimum"] < 1.15
    assert run.metrics["forest_gain"] > 0.15
    assert 0.85 < run.metrics["interval_coverage"] < 0.95
    assert run.metrics["optimum_rmse"] < run.metrics["rmse"]
    assert {piece["kind"] for piece in run.pieces} == {"figure", "table"}


def test_training_that_was_stopped_resumes_to_the_same_model(trained, tmp_path):
    out = prepared(tmp_path)
    first = a_run(out, "train")
    first.stopping = True  # as SIGTERM sets it
    with pytest.raises(Stopped):
        train(first, seed=0, search="quick")
    second = a_run(out, "train")
    assert len(second.resume()["done"]) == 1
    store.save(train(second, seed=0, search="quick"), out / "model")
    assert store.identity(out / "model") == store.identity(trained / "model")
    second.finish()
    metrics = [json.loads((at / "metrics.json").read_text())["train"] for at in (out, trained)]
    assert metrics[0] == metrics[1]


def tables_of(verb, run, **options):
    verb(run, **options)
    return {piece["name"]: piece["rows"] for piece in run.pieces if piece["kind"] == "table"}


def test_the_verbs_tell_what_they_found(trained):
    profile = tables_of(explore, a_run(trained, "explore"))["profile"]
    assert "median_income" in {row["column"] for row in profile}
    by_region = tables_of(predict_vs_actual, a_run(trained, "predict-vs-actual"))["by-region"]
    assert "in the interval" in by_region[0]
    compared = tables_of(compare, a_run(trained, "compare"))["comparison"]
    assert compared[0]["model"] in ("boosting", "forest")


def test_tune_tells_every_setting(trained):
    tried = tables_of(tune, a_run(trained, "tune"), search="quick")["search"]
    assert len(tried) == 1 + models.SEARCHES["least"]


def test_a_search_of_many_districts_is_a_race(table, monkeypatch):
    monkeypatch.setattr(models, "SMALL", 0)
    monkeypatch.setattr(models, "GRID", {"leaf": (3, 5, 9)})
    monkeypatch.setattr(trials, "COMPARED", [])
    monkeypatch.setattr(trials, "trial", lambda name, params, fold, *_: {
        "model": name, "params": params, "fold": fold,
        "estimates": [params["leaf"]] * len(trials.folds(table)[fold][1]),
    })  # fmt: skip
    done = []
    for found in trials.remaining(table, 0, "quick", done):
        done.append(found)
    grown = [run for run in done if run["model"] == "extra trees"]
    assert [run["params"]["leaf"] for run in grown] == [3, 5, 9, 9, 5]  # dearer is nearer here
    assert [run["fold"] for run in grown] == [0, 0, 0, 1, 1]


# The maths, worked by hand


def test_errors():
    price, found = np.array([100.0, 200, 300]), np.array([110.0, 180, 300])
    assert measures.rmse(price, found) == pytest.approx((500 / 3) ** 0.5)
    assert measures.mae(price, found) == pytest.approx(10)


def test_a_confidence_interval_holds_the_figure_and_narrows_with_districts():
    dice = np.random.default_rng(0)
    price = np.full(4000, 200.0)
    found = price + dice.normal(0, 10, 4000)
    few, many = (measures.bootstrapped(price[:n], found[:n], 0)["rmse"] for n in (100, 4000))
    assert few[0] < 10 < few[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 4


def test_bands_of_price():
    names = measures.price_bands(np.array([99_999.0, 100_000, 499_999, 500_000, CAP]))
    assert names.tolist() == ["below 100k", "100k to 200k", "400k to 500k", "400k to 500k",
                              "at the cap"]  # fmt: skip


def test_the_conformal_quantile_is_the_ceil_of_n_plus_1():
    scores = np.array([5.0, 1, 4, 2, 3, 9, 7, 8, 6])  # 9 scores: rank ceil(10 x 0.8) = 8
    assert models.conformal_quantile(scores, 0.8) == 8
    assert models.conformal_quantile(scores[:3], 0.9) == 5  # rank 4 of 3: the largest


def test_intervals_hold_nine_of_ten_in_every_band():
    dice = np.random.default_rng(1)
    typical = dice.uniform(50_000, 250_000, 20_000)
    price = typical * np.exp(dice.normal(0, 0.1 + typical / 2e6))
    appraiser = models.Appraiser(None).calibrate(typical[:10_000], price[:10_000])
    ends = appraiser.interval(typical[10_000:])
    for low in range(50_000, 250_000, 40_000):
        here = (typical[10_000:] >= low) & (typical[10_000:] < low + 40_000)
        assert measures.coverage(price[10_000:][here], ends[here]) == pytest.approx(0.9, abs=0.03)
    assert (np.diff(appraiser.widths_) > 0).all()


def test_best_weight():
    price = np.array([100.0, 200.0])
    assert trials.best_weight(price + 10, price - 30, price) == 0.75
    assert trials.best_weight(price, price + 5, price) == 1


def test_similarity_is_one_at_a_centre_and_falls_with_distance():
    places = pd.DataFrame({"longitude": [-120.0] * 5, "latitude": [36.0] * 5})
    found = features.ClusterSimilarity(clusters=1, width=111.2).fit(places)
    north = pd.DataFrame({"longitude": [-120.0, -120.0], "latitude": [36.0, 37.0]})
    assert found.transform(north)[:, 0] == pytest.approx([1, np.exp(-0.5)])


def test_a_district_is_no_neighbour_of_its_own(table):
    around = features.Neighbourhood(sizes=(1,))
    seen = around.fit_transform(table)
    again = around.transform(table)
    age, income = table["housing_median_age"].to_numpy(), table["median_income"].to_numpy()
    assert (again[:, -1] == 0).all()
    alone = ~table.duplicated(features.PLACE, keep=False).to_numpy()
    assert again[alone, 0] == pytest.approx(age[alone])
    assert (seen[alone, -1] > 0).all()
    assert abs(np.corrcoef(seen[:, 1], income)[0, 1]) < 0.3


def test_neighbourhoods_do_not_look_at_prices(table):
    first = features.Neighbourhood().fit(table, table[TARGET]).transform(table)
    other = features.Neighbourhood().fit(table, table[TARGET][::-1]).transform(table)
    assert (first == other).all()


def test_combined_columns():
    one = pd.DataFrame([HERE])
    assert features.combined(one)[0] == pytest.approx([2100 / 410, 1170 / 410, 1170 / 2100,
                                                       430 / 2100])  # fmt: skip


def test_a_selection_keeps_the_columns_that_matter(table):
    by_income = table.assign(**{TARGET: 40_000 * table["median_income"]})
    kept = models.fitted(models.forest(0, columns=3), by_income)[1].get_support()
    assert kept.sum() == 3
    assert kept[len(features.COUNTS) + features.OTHERS.index("median_income")]


def test_the_optimum_is_the_mean_of_drawn_prices(table):
    dice = np.random.default_rng(0)
    rows = table[:5]
    typical = generator.typical_price(rows)
    drawn = np.exp(dice.normal(0, generator.NOISE, (400_000, 1))) * typical
    mean, median = generator.optimum(rows)
    assert np.minimum(drawn, CAP).mean(axis=0) == pytest.approx(mean, rel=3e-3)
    assert np.median(np.minimum(drawn, CAP), axis=0) == pytest.approx(median, rel=3e-3)


# The data


def test_the_sample_is_what_the_generator_writes(tmp_path):
    path = tmp_path / "housing.csv"
    generator.generate().to_csv(path, index=False)
    sample = job.spec.folder / "sample" / "housing.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), pd.read_csv(sample), rtol=1e-9)
    rows = districts.read_raw(sample)
    assert set(rows["ocean_proximity"]) == {entry for entry in features.CLASSES[0]}
    assert rows["total_bedrooms"].isna().sum() > 10
    assert (rows[TARGET] == CAP).sum() > 10


HEADER = ",".join(districts.COLUMNS)
GOOD = "-122.2,37.9,30,2100,430,1170,410,4.5,250000,NEAR BAY"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (GOOD.replace("4.5", "45"), "line 3, column median_income: found .*45.*less than or equal"),
        (GOOD.replace("4.5", "nan"), "line 3, column median_income: found"),
        (GOOD.replace("4.5", ""), "line 3, column median_income: found None"),
        (GOOD.replace("NEAR BAY", "AT SEA"), "line 3, column ocean_proximity: found 'AT SEA'"),
        (GOOD.replace("250000", "600000"), "line 3, column median_house_value"),
        (GOOD.replace("-122.2", "122.2"), "line 3, column longitude"),
        (GOOD + ",1", "line 3: found too many"),
        ("-122.2,37.9", "line 3: found too many or too few"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, told):
    path = tmp_path / "housing.csv"
    path.write_text("\n".join([HEADER, GOOD, line, ""]))
    with pytest.raises(InputInvalid, match=f"housing.csv, {told}"):
        districts.read_raw(path)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "housing.csv"
    path.write_text("longitude,latitude\n-122,37\n")
    with pytest.raises(InputInvalid, match=r"line 1: found columns longitude.*wanted also housing"):
        districts.read_raw(path)


@settings(max_examples=60, deadline=None, database=None)  # a container has no place for one
@given(
    content=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: (HEADER + "\n" + t).encode())
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "housing.csv"
    path.write_bytes(content)
    found = read_or_refusal(path)
    assert (
        "housing.csv" in found if isinstance(found, str) else set(found) == set(HEADER.split(","))
    )


def read_or_refusal(path):
    try:
        return districts.read_raw(path)
    except InputInvalid as error:
        return str(error)


def test_the_split_keeps_the_shares_of_income_and_every_district(table):
    parts = districts.split(table, seed=3)
    assert sorted(parts[0].index.union(parts[1].index)) == list(table.index)
    assert len(parts[1]) == 80
    shares = [np.bincount(districts.income_bin(part), minlength=5) / len(part) for part in parts]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert not parts[1].index.equals(districts.split(table, seed=4)[1].index)


def test_too_few_districts_are_refused(table):
    with pytest.raises(InputInvalid, match="found 40 districts; wanted at least 100"):
        districts.split(table[:40], seed=0)
