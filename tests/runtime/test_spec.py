"""job.toml: what is wrong is told with the file and the key."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.errors import InputInvalid
from slipway.spec import Bar, JobSpec

MINIMAL = 'title = "T"\nquestion = "Q?"\n'


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], JobSpec]:
    folder = tmp_path / "jobs" / "example"
    folder.mkdir(parents=True)

    def write_and_read(text: str) -> JobSpec:
        (folder / "job.toml").write_text(text, "utf-8")
        return JobSpec.read(folder)

    return write_and_read


def test_the_toy_is_read_whole(toy) -> None:
    spec = JobSpec.read(toy.folder)

    assert "toy" == spec.name
    assert "base" == spec.base
    assert {"real", "sample"} == set(spec.accept)
    assert ">= 0.9" == str(spec.accept["real"]["average_precision"])


def test_a_minimal_job_has_defaults(read) -> None:
    spec = read(MINIMAL)

    assert ("example", "2g", {}, {}) == (
        spec.name,
        spec.resources.memory,
        spec.data,
        spec.accept,
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + "bse = 1", "unknown key bse"),
        (MINIMAL + 'name = "other"', "unknown key name"),
        (MINIMAL + 'folder = "/"', "unknown key folder"),
        ('title = "T"', "question is missing"),
        ('title = 3\nquestion = "Q"', "title = 3; wanted str"),
        (MINIMAL + 'base = "gpu"', "base = 'gpu'; wanted one of base, torch, cuda"),
        (MINIMAL + 'services = "postgres"', "services = 'postgres'; wanted a list of names"),
        (MINIMAL + 'variables = ["My-Key"]', "variables = ['My-Key']; wanted a list of names"),
        (MINIMAL + "variables = [3]", "variables = [3]; wanted a list of names like 'SLIPWAY_KEY'"),
        (MINIMAL + "resources = 3", "resources = 3; wanted a table"),
        (MINIMAL + "[resources]\nmemory = 2", "resources.memory = 2; wanted str"),
        (MINIMAL + '[resources]\nmemory = "2 GB"', "resources.memory = '2 GB'; wanted a size"),
        (MINIMAL + "[resources]\ncpus = true", "resources.cpus = True; wanted float"),
        (MINIMAL + "[resources]\nram = 1", "unknown key resources.ram"),
        (MINIMAL + "data = 3", "data = 3; wanted tables"),
        (MINIMAL + "[data]\nmessages = 3", "wanted tables like [data.name]"),
        (MINIMAL + '[data.mail]\nurl = "x"', "data.mail.file is missing"),
        (MINIMAL + '[data.mail]\nbytes = "7"', "data.mail.url is missing"),
        (MINIMAL + "[accept.mirror]", "[accept.mirror]; wanted [accept.real]"),
        (MINIMAL + '[accept.real]\nauc = "> 1"', "accept.real.auc: '> 1' is no bar"),
        (MINIMAL + "[accept.real]\nauc = 0.9", "accept.real.auc: '0.9' is no bar"),
        (MINIMAL + '[accept.real]\nauc = ">= nan"', "accept.real.auc: '>= nan' is no bar"),
        ("title = ?", "line 1"),
    ],
)
def test_a_fault_names_file_and_key(read, text: str, told: str) -> None:
    with pytest.raises(InputInvalid) as found:
        read(text)

    assert "jobs/example/job.toml: " in str(found.value)
    assert told in str(found.value)


def test_bytes_that_are_no_text_are_told(read, tmp_path: Path) -> None:
    (tmp_path / "jobs" / "example" / "job.toml").write_bytes(b"title = '\xff'")

    with pytest.raises(InputInvalid, match=r"job\.toml: 'utf-8' codec"):
        JobSpec.read(tmp_path / "jobs" / "example")


def test_a_folder_without_job_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no such file"):
        JobSpec.read(tmp_path)


def test_a_job_toml_that_is_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "job.toml").mkdir()

    with pytest.raises(InputInvalid, match="cannot be read"):
        JobSpec.read(tmp_path)


def test_a_folder_that_is_no_name_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "My-Job"
    folder.mkdir()
    (folder / "job.toml").write_text(MINIMAL, "utf-8")

    with pytest.raises(InputInvalid, match="'My-Job' is no snake_case name"):
        JobSpec.read(folder)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        (">= 0.9", 0.9, True),
        (">= 0.9", 0.89, False),
        ("<= -1.5e-3", -0.0015, True),
        ("<= 2", 2.1, False),
        (">= 0.9", float("nan"), False),
        ("<= 0.9", float("nan"), False),
    ],
)
def test_a_bar_includes_its_limit_and_never_holds_for_nan(text, value, holds) -> None:
    assert holds is Bar.parse(text).holds(value)


def test_a_jobs_code_is_in_folders_too_and_its_tests_are_none_of_it(read) -> None:
    spec = read(MINIMAL)
    for name in ("job.py", "test_job.py", "conftest.py", "parts/one.py", "sample/rows.csv"):
        path = spec.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")

    assert ["job.py", "parts/one.py"] == [
        path.relative_to(spec.folder).as_posix() for path in spec.code
    ]
