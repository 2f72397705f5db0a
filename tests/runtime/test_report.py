"""The report and the card: the right bars, one file, escaped."""

import json
import re

import pytest

from slipway import report
from slipway.run import Options, Run
from slipway.spec import JobSpec


@pytest.fixture
def spec(toy) -> JobSpec:
    return JobSpec.read(toy.folder)


def record(toy, tier: str = "mirror", value: object = 0.95, **limits: int | None) -> None:
    """Write what an evaluation would have recorded."""
    stages = {
        verb: {"tier": tier, "options": {"seed": 0, "limit": limits.get(verb)}}
        for verb in ("prepare", "train", "evaluate")
    }
    (toy.out / "run.json").write_text(json.dumps(stages), "utf-8")
    figures = {} if value is None else {"average_precision": value}
    (toy.out / "metrics.json").write_text(json.dumps({"evaluate": figures}), "utf-8")


@pytest.mark.parametrize(
    ("tier", "value", "verdict"),
    [
        ("real", 0.95, "reached"),
        ("mirror", 0.95, "reached"),
        ("mirror", 0.85, "missed"),
        ("sample", 0.85, "missed"),
        ("own", 0.1, ""),
        ("real", float("nan"), "missed"),
        ("real", None, "missed"),
    ],
)
def test_each_tier_is_judged_by_its_own_bars(spec, toy, tier, value, verdict) -> None:
    record(toy, tier, value)
    (row,) = report.judged(spec, toy.out) or [{"verdict": ""}]

    assert verdict == row["verdict"]


def test_a_figure_written_as_null_misses_its_bar(spec, toy) -> None:
    record(toy)
    (toy.out / "metrics.json").write_text('{"evaluate": {"average_precision": null}}')

    assert "missed" == report.judged(spec, toy.out)[0]["verdict"]


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_limit_in_any_stage_takes_the_bars_away(spec, toy, stage) -> None:
    record(toy, "real", 0.1, **{stage: 10})

    assert "" == report.judged(spec, toy.out)[0]["verdict"]


def test_a_run_of_a_part_is_judged_by_the_figures_that_it_has(spec, toy) -> None:
    record(toy, "real", 0.1)
    path = toy.out / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prepare": {"part": "preset x"}}))
    assert "missed" == report.judged(spec, toy.out)[0]["verdict"]

    (toy.out / "metrics.json").write_text('{"evaluate": {"another": 1}}')
    assert [""] == [row["verdict"] for row in report.judged(spec, toy.out)]


def test_nothing_is_judged_before_an_evaluation(spec, toy) -> None:
    assert [] == report.judged(spec, toy.out)
    assert "None yet" in report.card_text(spec, toy.out)


def test_the_report_is_one_file_without_outside_references(spec, toy) -> None:
    run = Run(spec, toy.out, "evaluate", Options(data="sample"))
    run.start()
    figure, axes = report.pyplot().subplots(figsize=(1, 1))
    axes.plot([0, 1])
    run.figure("curve", figure, "A <curve> & more")
    run.series("slices", (report.pyplot().figure(figsize=(1, 1)) for _ in range(3)), "A stack")
    run.table("rows", [{"zeta": "<img src=x onerror=alert(1)>", "alpha": None}], "Rows")
    run.note("<script>alert(1)</script>")
    run.log(average_precision=0.95)
    run.data("messages")
    run.finish()
    page = report.render(spec, toy.out).read_text("utf-8")
    outside = re.findall(r"""(?:src|href|url|@import)\s*[=(]?\s*["']?(?!data:)(\w+:|//|/)""", page)

    assert [] == outside
    assert "data:image/png;base64,iVBOR" in page
    assert "A stack 3 of 3" in page
    assert page.count("data:image/png;base64,iVBOR") == 4
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "Toy &lt;b&gt;mail&lt;/b&gt;" in page
    assert "A &lt;curve&gt; &amp; more" in page
    assert page.index("zeta") < page.index("alpha")
    assert not report.pyplot().get_fignums()


@pytest.mark.parametrize(("dirty", "told"), [(True, " with changes"), (False, "")])
def test_report_and_card_tell_of_changes_that_no_commit_has(
    spec, toy, monkeypatch, dirty, told
) -> None:
    monkeypatch.setattr("slipway.run.built", lambda _: {"commit": "c0ffee" * 6, "dirty": dirty})
    run = Run(spec, toy.out, "evaluate", Options(data="sample"))
    run.start()
    run.log(average_precision=0.95)
    run.finish()

    assert f"commit c0ffeec0ff{told}</span>" in report.render(spec, toy.out).read_text("utf-8")
    assert f"commit {'c0ffee' * 6}{told}." in report.card_text(spec, toy.out)


def test_a_report_without_any_run_is_still_a_page(spec, toy) -> None:
    assert "data tier: <b>none</b>" in report.render(spec, toy.out).read_text("utf-8")
