"""Scoring files: nothing lost, nothing half written, every bad row told with its line."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slipway.errors import InputInvalid
from slipway.images import opened
from slipway.job import Job
from slipway.scoring import readers, rows, writers
from slipway.scoring.score import Wishes, score_file
from slipway.scoring.shards import INDEX_VARIABLES, Share, parse_shard
from slipway.scoring.stores import entries
from slipway.types import Content, Input, Media, Output


@pytest.fixture
def scored(toy, finished_run):
    """Score a file with the finished model; return the output's path."""
    job = toy.job

    def score(
        source: Path | str,
        target: Path | str,
        shard: str | None = None,
        workers: int | None = None,
        format: str | None = None,
    ) -> Path:
        model = finished_run / "out" / "model"
        score_file(job, model, str(source), str(target), Wishes(shard, 2, workers, format))
        return Path(target)

    return score


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_bytes(
        b"".join(
            row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows
        )
    )
    return path


def test_jsonl_is_scored_in_order_with_line_numbers(scored, tmp_path) -> None:
    rows = [{"text": text, "label": 1} for text in ("win a prize", "see you", "win a prize")]
    output = scored(jsonl(tmp_path / "in.jsonl", *rows), tmp_path / "out.jsonl")

    assert [(1, True), (2, False), (3, True)] == [
        (row["line"], row["prediction"]) for row in lines(output)
    ]
    assert not (tmp_path / "out.errors.jsonl").exists()


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b"no json\n", "no JSON: Expecting value"),
        (b"[1]\n", "list; wanted an object"),
        (b"null\n", "NoneType; wanted an object"),
        (b'{"text": "\xff"}\n', "no JSON: 'utf-8' codec"),
        (b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
        (b"1" * 5000 + b"\n", "no JSON: Exceeds the limit"),
        (b"[" * 100_000 + b"\n", "no JSON: maximum recursion"),
        (b'{"text": 7}\n', "7"),
        (b'{"text": "a", "weight": NaN}\n', "nan"),
        (b'{"text": "a", "weight": 1e999}\n', "inf"),
        (b"{}\n", "{}"),
    ],
)
def test_a_bad_row_goes_to_errors_with_its_line_and_the_rest_is_scored(
    scored, tmp_path, bad, found
) -> None:
    good = {"text": "see you"}
    source = jsonl(tmp_path / "in.jsonl", good, b"\n", bad, good)
    output = scored(source, tmp_path / "out.jsonl")
    (error,) = lines(tmp_path / "out.errors.jsonl")

    assert [1, 4] == [row["line"] for row in lines(output)]
    assert 3 == error["line"]
    assert error["problems"][0]["found"].startswith(found)


def test_a_byte_order_mark_is_no_part_of_the_first_row(scored, tmp_path) -> None:
    source = jsonl(tmp_path / "in.jsonl", b"\xef\xbb\xbf", {"text": "see you"})
    table = tmp_path / "in.csv"
    table.write_bytes(b"\xef\xbb\xbftext\nsee you\n")

    assert 1 == len(lines(scored(source, tmp_path / "out.jsonl")))
    assert 1 == len(lines(scored(table, tmp_path / "out2.jsonl")))


def test_csv_is_typed_by_the_schema_and_comes_out_as_csv(scored, tmp_path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('text,weight,other\r\n"win a, ""prize""",2,x\r\nsee you,0.5,y\r\n', "utf-8")
    output = scored(source, tmp_path / "out.csv")
    rows = list(csv.DictReader(io.StringIO(output.read_text("utf-8"))))

    assert ["line", "prediction", "propensity"] == list(rows[0])
    assert [("2", "True"), ("3", "False")] == [(row["line"], row["prediction"]) for row in rows]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        (b"a,1,2\n", "3 fields; wanted the header's 2"),
        (b"a\n", "1 fields; wanted the header's 2"),
        (b"\xff,1\n", "bytes that are no UTF-8"),
        (b"a,nan\n", "'nan'"),
        (b"a,many\n", "'many'"),
        (b'"a"b,1\n', "no CSV: "),
        (b"a" * 9_000_000 + b",1\n", "no CSV: field larger"),
    ],
)
def test_a_bad_row_of_csv_is_told_with_its_line(scored, tmp_path, bad, found) -> None:
    (tmp_path / "in.csv").write_bytes(b"text,weight\ngood,1\n" + bad + b"good,1\n")
    output = scored(tmp_path / "in.csv", tmp_path / "out.jsonl")
    (error,) = lines(tmp_path / "out.errors.jsonl")

    assert [2, 4] == [row["line"] for row in lines(output)]
    assert 3 == error["line"]
    assert error["problems"][0]["found"].startswith(found)


@pytest.mark.parametrize(
    ("header", "told"), [(b"text,text\n", "column 'text' twice"), (b'"a"b\n', "no CSV header")]
)
def test_a_bad_header_is_told(scored, tmp_path, header, told) -> None:
    (tmp_path / "in.csv").write_bytes(header + b"a,b\n")

    with pytest.raises(InputInvalid, match=rf"in\.csv, line 1: .*{told}"):
        scored(tmp_path / "in.csv", tmp_path / "out.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_input_without_rows_gives_an_output_without_rows(scored, tmp_path, suffix) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"")
    output = scored(tmp_path / "in.jsonl", tmp_path / f"out{suffix}")

    assert output.is_file()
    if suffix == ".csv":
        assert "line,prediction,propensity\n" == output.read_text("utf-8").replace("\r", "")
    if suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(output)

        assert (0, ["line", "prediction", "propensity"]) == (table.num_rows, table.column_names)


def test_parquet_goes_in_and_out(scored, tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["win a prize", "see you", None], "weight": [1.0, 2.0, 3.0]})
    parquet.write_table(table, tmp_path / "in.parquet")
    output = scored(tmp_path / "in.parquet", tmp_path / "out.parquet")

    assert [1, 2] == parquet.read_table(output)["line"].to_pylist()
    assert [3] == [row["line"] for row in lines(tmp_path / "out.errors.jsonl")]


def test_row_groups_grow_so_that_the_first_results_come_soon(toy, monkeypatch) -> None:
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(writers, "FIRST_ROWS", 2)
    monkeypatch.setattr(writers, "GROUP_ROWS", 8)
    content = bytearray()
    sink = writers.Sink(toy.job, ".parquet", False, content.extend)
    row = pyarrow.record_batch({"line": [1], "prediction": [True], "propensity": [0.5]})
    for _ in range(25):
        sink.add(readers.packed(row))
    sink.close()
    metadata = parquet.ParquetFile(io.BytesIO(content)).metadata
    groups = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]

    assert [2, 4, 8, 8, 3] == groups


def test_a_damaged_parquet_file_is_told(scored, tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["see you"] * 50}), tmp_path / "in.parquet")
    whole = bytearray((tmp_path / "in.parquet").read_bytes())
    for damaged in (whole[:50], whole[:4] + bytes(40) + whole[44:], b"rubbish"):
        (tmp_path / "in.parquet").write_bytes(damaged)
        with pytest.raises(InputInvalid, match=r"in\.parquet, after row 0: no Parquet file"):
            scored(tmp_path / "in.parquet", tmp_path / "out.jsonl")

    assert not (tmp_path / "out.jsonl").exists()


def test_a_stream_is_scored_line_by_line(trained, monkeypatch) -> None:
    text = b'{"text": "win a prize"}\nrubbish\n{"text": "see you"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, out, err = trained("score", "-", "-", "--out", str(trained.out))

    assert 0 == code
    assert [1, 3] == [json.loads(line)["line"] for line in out.splitlines()]
    assert '{"line": 2, ' in err
    assert "score: 2 rows scored, 1 bad, by the trained model" in err


def test_another_stream_into_the_same_file_is_not_taken_for_finished(
    trained, monkeypatch, tmp_path
) -> None:
    for text in ("win a prize", "see you"):
        stream = io.TextIOWrapper(io.BytesIO(json.dumps({"text": text}).encode()))
        monkeypatch.setattr("sys.stdin", stream)
        trained("score", "-", str(tmp_path / "out.jsonl"), "--out", str(trained.out))

    assert not lines(tmp_path / "out.jsonl")[0]["prediction"]


def test_when_not_one_row_is_good_it_is_exit_code_6_again_and_again(trained, tmp_path) -> None:
    source = jsonl(tmp_path / "in.jsonl", {"text": 1}, b"rubbish\n")
    for _ in range(2):
        code, _, err = trained(
            "score", str(source), str(tmp_path / "out.jsonl"), "--out", str(trained.out)
        )

        assert 6 == code
        assert "in.jsonl: not one of 2 rows could be scored; line 1: " in err
        assert not (tmp_path / "out.jsonl").exists()
        assert [1, 2] == [row["line"] for row in lines(tmp_path / "out.errors.jsonl")]


@pytest.mark.parametrize("text", ["explode", "short", "nan"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_when_score_fails_the_old_output_stays_and_nothing_else(
    scored, tmp_path, text, suffix
) -> None:
    rows = [{"text": "a"}, {"text": 1}, {"text": "b"}, {"text": text}]
    source = jsonl(tmp_path / "in.jsonl", *rows)
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / f"out{suffix}").write_text("old")
    with pytest.raises((RuntimeError, ValueError)):
        scored(source, folder / f"out{suffix}")

    assert {f"out{suffix}": "old"} == {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_shards_together_are_the_whole(scored, tmp_path, suffix) -> None:
    texts = [f"text {number}" for number in range(11)]
    if suffix == ".csv":
        source = tmp_path / "in.csv"
        source.write_text("text\n" + "\n".join(texts), "utf-8")
    else:
        source = jsonl(tmp_path / "in.jsonl", *({"text": text} for text in texts))
    whole = scored(source, tmp_path / f"whole{suffix}").read_text("utf-8").splitlines()
    for part in range(4):
        scored(source, tmp_path / "parts", f"{part}/4")
    names = sorted((tmp_path / "parts").glob(f"part-*-of-00004{suffix}"))
    parts = [row for path in names for row in path.read_text("utf-8").splitlines()]

    assert 4 == len(names)
    assert set(whole) == set(parts)
    assert len(whole) == len(parts) - (3 if suffix == ".csv" else 0)


def test_a_shards_index_may_come_from_the_platform(monkeypatch) -> None:
    for name in INDEX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(click.UsageError, match="--shard /3: wanted I/N"):
        parse_shard("/3")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "2")

    found = [parse_shard(text) for text in ("/3", None, "1/2")]

    assert [(2, 3), (0, 1), (1, 2)] == [(shard.index, shard.count) for shard in found]


@pytest.mark.parametrize("text", ["3/3", "x/2", "1", "", "-1/2", "1/", "1/0"])
def test_a_shard_that_is_none_is_told(text) -> None:
    with pytest.raises(click.UsageError, match="wanted I/N"):
        parse_shard(text)


def test_a_rerun_skips_what_is_finished_and_only_that(scored, tmp_path, capsys) -> None:
    source = jsonl(tmp_path / "in.jsonl", {"text": "a"})
    output = scored(source, tmp_path / "out.jsonl")
    before = output.stat().st_mtime_ns
    scored(source, output)

    assert "is finished; skipped" in capsys.readouterr().err
    assert before == output.stat().st_mtime_ns

    (tmp_path / "out.record.json").write_text("{damaged")
    scored(source, output)
    jsonl(source, {"text": "a"}, {"text": "b"})
    scored(source, output)
    output.unlink()
    scored(source, output)

    assert "skipped" not in capsys.readouterr().err
    assert 2 == len(lines(output))


def test_an_input_is_never_overwritten(scored, tmp_path) -> None:
    source = jsonl(tmp_path / "in.jsonl", {"text": "a"})

    with pytest.raises(click.UsageError, match="OUTPUT is INPUT"):
        scored(source, tmp_path / "." / "in.jsonl")


def test_an_output_of_another_kind_is_told(scored, tmp_path) -> None:
    with pytest.raises(click.UsageError, match="wanted a name that ends in"):
        scored(jsonl(tmp_path / "in.jsonl", {"text": "a"}), tmp_path / "out.xlsx")


FRAGMENTS = st.sampled_from(
    [b'{"text": "a"}', b'{"text": 1}', b'"', b",", b"text", b"\n", b"\r\n", b"\\ud8", b"\xff", b"{"]
)
FUZZ = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(chunks=st.lists(FRAGMENTS | st.binary(max_size=12), max_size=12))
def test_every_line_of_any_jsonl_is_scored_or_in_errors(scored, tmp_path, chunks) -> None:
    content = b"".join(chunks)
    (tmp_path / "in.jsonl").write_bytes(content)
    (tmp_path / "out.jsonl").unlink(missing_ok=True)
    numbers = {number for number, line in enumerate(io.BytesIO(content), start=1) if line.strip()}
    try:
        good = {row["line"] for row in lines(scored(tmp_path / "in.jsonl", tmp_path / "out.jsonl"))}
    except InputInvalid:
        good = set()
    errors = tmp_path / "out.errors.jsonl"
    bad = {row["line"] for row in lines(errors)} if errors.exists() else set()

    assert numbers == good | bad
    assert not good & bad


@FUZZ
@given(chunks=st.lists(FRAGMENTS | st.binary(max_size=12), max_size=12))
def test_no_csv_crashes_the_reader(toy, tmp_path, chunks) -> None:
    (tmp_path / "in.csv").write_bytes(b"text,weight\n" + b"".join(chunks))

    (entry,) = entries(str(tmp_path / "in.csv"))
    share = Share(entry, 0, entry.size)
    check = rows.Checker(toy.job)
    numbers = []
    for chunk in readers.chunks(share, {"text": True}):
        found = check(chunk)
        numbers += found.numbers + [row["line"] for row in found.bad]

    assert len(numbers) == len(set(numbers))
    assert all(number > 1 for number in numbers)


class Picture(Input):
    """A picture and whether it shall be turned; only the picture is required."""

    max_bytes = 5000
    image: Annotated[
        Content,
        Media("image/png", "image/jpeg", reader=lambda content: opened(content, 10_000)),
    ]
    turned: bool = False


class Size(Output):
    """What the picture measures."""

    width: int


def width_of(_: Any, rows: list[Picture]) -> list[Size]:
    return [Size(width=row.image.read.width) for row in rows]


def png(width: int, height: int = 1) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_pictures_is_scored_and_each_that_is_none_is_told(
    toy, finished_run, tmp_path, workers
) -> None:
    pictures = Job(toy.job.spec)
    pictures.score(width_of)
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    whole = png(40)
    contents = {
        "a.png": png(3), "below/b.png": png(5), "bomb.png": png(200, 100), "empty.png": b"",
        "labels.csv": b"a.png,3\n", "long.png": b"x" * 5001, "text.png": b"no picture",
        "truncated.png": whole[: len(whole) // 2], "z.png": whole,
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    target = tmp_path / "out.jsonl"

    wishes = Wishes(None, 2, workers, None)
    score_file(pictures, finished_run / "out" / "model", str(folder), str(target), wishes)

    scored = [("a.png", 3), ("below/b.png", 5), ("z.png", 40)]
    assert scored == [(row["file"], row["width"]) for row in lines(target)]
    errors = lines(tmp_path / "out.errors.jsonl")
    assert sorted(contents.keys() - {name for name, _ in scored}) == sorted(
        row["file"] for row in errors
    )
    told = {row["file"]: row["problems"][0]["wanted"] for row in errors}
    assert "10,000 pixels at most, found 200 x 100" in told["bomb.png"]
    assert "begins as image/png or image/jpeg" in told["empty.png"]


@pytest.mark.parametrize("way", ["itself", "symbolic link", "other spelling"])
def test_an_output_that_is_the_input_is_refused(scored, tmp_path, way) -> None:
    source = jsonl(tmp_path / "in.jsonl", {"text": "see you"})
    target = source
    if way == "symbolic link":
        target = tmp_path / "link.jsonl"
        target.symlink_to(source)
    elif way == "other spelling":
        (tmp_path / "below").mkdir()
        target = tmp_path / "below" / ".." / "in.jsonl"

    with pytest.raises(click.UsageError, match="OUTPUT is INPUT"):
        scored(source, target)


@pytest.mark.parametrize("large", ["a", "b", "c"])
def test_files_beside_one_that_is_too_large_are_read(large, tmp_path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(b"x" * (20 if name == large else 5))
    found = list(readers.raw(entries(str(tmp_path)), longest=10))

    names = [
        name
        for chunk in found
        for name in ([chunk.file] if chunk.wrong else dict(readers.untied(chunk.content)))
    ]

    assert ["a.txt", "b.txt", "c.txt"] == names
    assert [f"{large}.txt"] == [chunk.file for chunk in found if chunk.wrong]


def test_a_file_that_grew_since_it_was_listed_is_read_whole(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"short")
    listed = entries(str(tmp_path))
    path.write_bytes(b"much longer than before")
    (chunk,) = readers.raw(listed)

    assert b"much longer than before" in chunk.content
    (chunk,) = readers.raw(listed, longest=10)
    assert "over 10 bytes; wanted no more" == chunk.wrong
