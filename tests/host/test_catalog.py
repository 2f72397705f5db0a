from pathlib import Path

import pytest

from slipway.errors import SlipwayError
from slipway.host import catalog
from slipway.host.new import create


def test_every_folder_with_a_job_toml_is_a_job(root: Path) -> None:
    (root / "jobs" / "notes").mkdir()
    create(root, "another", "torch")
    assert catalog.job_names(root) == ["another", "example"]


def test_an_unknown_job_is_told_with_the_nearest_name(root: Path) -> None:
    with pytest.raises(catalog.UnknownJob, match=r"no job 'exampel'.* did you mean example\?"):
        catalog.find_job(root, "exampel")


def test_an_unknown_job_like_no_other_is_told_with_all_names(root: Path) -> None:
    with pytest.raises(catalog.UnknownJob, match="known are example"):
        catalog.find_job(root, "zzz")


def test_the_text_table_is_aligned() -> None:
    assert catalog.text_table([("a", "bcd"), ("long", "e")]) == "a     bcd\nlong  e"


def test_the_markdown_table_links_each_job(root: Path) -> None:
    table = catalog.markdown_table(catalog.read_jobs(root))
    question = "Which of two kinds is this thing, by its length and width?"
    row = f"| [`example`](jobs/example) | {question} | base | real, sample |"
    assert table.splitlines()[2] == row


def test_the_readme_gets_the_table_between_its_markers(root: Path) -> None:
    readme = root / "README.md"
    readme.write_text(f"# Title\n{catalog.OPENING}\nold\n{catalog.CLOSING}\nend\n", "utf-8")

    catalog.write_readme(root)

    table = catalog.markdown_table(catalog.read_jobs(root))
    wanted = f"# Title\n{catalog.OPENING}\n{table}\n{catalog.CLOSING}\nend\n"
    assert wanted == readme.read_text("utf-8")


def test_a_readme_without_markers_is_told(root: Path) -> None:
    (root / "README.md").write_text("# Title\n", "utf-8")

    with pytest.raises(SlipwayError, match="wanted the lines"):
        catalog.write_readme(root)
