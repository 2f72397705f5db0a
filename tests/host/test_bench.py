"""`slipway bench`: which containers it starts, with what, and what it makes of their answers."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from slipway.errors import SlipwayError
from slipway.host import bench, cli
from slipway.host.catalog import find_job
from tests.host.conftest import Engine

ANSWERED, BEGAN = 104.0, 100.0


def trained(root: Path) -> Path:
    folder = root / "artifacts" / "example"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.skops").write_text("a model")
    return folder


def given(**options: Any) -> dict[str, Any]:
    return {"repeats": None, "seconds": None, "only": (), **options}


@pytest.fixture
def recipe(root: Path) -> Path:
    for name in ("bench.Dockerfile", "bench.txt", "bench-apart.txt", "install"):
        (root / "images" / name).write_text(name)
    return root


def test_options_that_were_given_go_on_as_arguments() -> None:
    found = bench.options_of(given(rows=7, only=("ours", "ray")))
    assert found == ["--only=ours", "--only=ray", "--rows=7"]
    assert bench.options_of(given(rows=7, seconds=2.0), ("seconds",)) == ["--seconds=2.0"]


def test_a_suite_runs_alone_in_one_container_without_a_network(
    recipe: Path, docker: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(recipe)
    (folder / "bench").mkdir()
    (folder / "bench" / "batch.md").write_text("the table")
    spec = find_job(recipe, "example")
    assert bench.bench_job(recipe, spec, "batch", given(rows=7), False) == 0
    made = docker.created[0].options
    assert made["arguments"] == ["batch", "--rows=7"]
    assert made["network_mode"] == "none"
    assert f"{folder}:/artifacts:rw" in made["volumes"]
    assert docker.created[0].removed
    assert docker.built()[-1] == "slipway/example-bench"
    assert "the table" in capsys.readouterr().out


def test_a_failed_suite_gives_its_exit_code_and_no_table(
    recipe: Path, docker: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(recipe)
    docker.code = 3
    assert bench.bench_job(recipe, find_job(recipe, "example"), "soak", given(), False) == 3
    assert capsys.readouterr().out == ""


def test_a_job_without_a_model_is_told_what_to_do_first(recipe: Path, docker: Engine) -> None:
    with pytest.raises(SlipwayError, match="make run JOB=example"):
        bench.bench_job(recipe, find_job(recipe, "example"), "batch", given(), False)


def test_the_suite_score_is_the_verb_of_the_image(root: Path, docker: Engine) -> None:
    command = ["bench", "example", "--suite", "score", "--seconds", "0.5", "--repeats", "9"]
    CliRunner().invoke(cli.cli, command, obj=root)
    assert docker.created[0].options["arguments"] == ["bench", "--seconds=0.5"]


def test_the_suite_may_come_from_make(root: Path, docker: Engine) -> None:
    CliRunner().invoke(cli.cli, ["bench", "example"], obj=root, env={"SUITE": "score"})
    assert docker.created[0].options["arguments"] == ["bench"]


def test_phases_of_a_cold_start_add_up_to_its_whole() -> None:
    marks = {"imported": 101.5, "loaded": 103.0}
    found = bench.split(BEGAN, 100.2, ANSWERED, marks)
    assert found == pytest.approx(
        {"container": 0.2, "import": 1.3, "load": 1.5, "answer": 1.0, "total": 4.0}
    )


def test_a_phase_without_a_mark_is_left_out() -> None:
    found = bench.split(BEGAN, 100.5, ANSWERED, {})
    assert found == {"container": 0.5, "answer": 3.5, "total": 4.0}


def test_of_several_workers_the_quickest_mark_counts(tmp_path: Path) -> None:
    path = tmp_path / "marks.txt"
    path.write_text("imported 2.5\nloaded 4.0\nimported 1.5\n")
    assert bench._marks(path) == {"imported": 1.5, "loaded": 4.0}


def test_tables_go_between_their_markers_in_the_docs(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "pictures").mkdir(parents=True)
    page = docs / "07-bench.md"
    page.write_text("above\n<!-- batch: made by `make bench` -->\nold\n<!-- /batch -->\nbelow\n")
    (tmp_path / "batch.md").write_text("new\n")
    (tmp_path / "batch.png").write_bytes(b"picture")
    assert bench.put_into_docs(tmp_path, "batch", tmp_path) == page
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("above\n<!-- batch: made by `make bench` -->\nnew\n")
    assert text.endswith("pictures/bench-batch.png)\n<!-- /batch -->\nbelow\n")
    assert (docs / "pictures" / "bench-batch.png").read_bytes() == b"picture"


def test_docs_without_the_markers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "07-bench.md").write_text("nothing here")
    with pytest.raises(SlipwayError, match="wanted the lines"):
        bench.put_into_docs(tmp_path, "batch", tmp_path)
