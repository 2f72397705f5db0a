"""Datasets: the best tier that is there, and never a wrong file."""

import contextlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipway import data
from slipway.errors import ContentWrong, DataUnavailable
from slipway.spec import JobSpec


@contextlib.contextmanager
def serving(answers: dict[str, bytes], missing: int = 0) -> Iterator[str]:
    """Serve bytes by path on loopback; ``missing`` of them are promised and not sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in answers:
                self.send_error(404)
                return
            body = answers[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + missing))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def spec(toy) -> JobSpec:
    return JobSpec.read(toy.folder)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: bytes) -> Path:
    """A mirror folder with the toy's file; the file is returned."""
    file = tmp_path / "mirror" / "toy" / "messages.tsv"
    file.parent.mkdir(parents=True)
    file.write_bytes(messages)
    monkeypatch.setenv("SLIPWAY_MIRROR", str(tmp_path / "mirror"))
    return file


def with_dataset(spec: JobSpec, **changes: object) -> JobSpec:
    return replace(spec, data={"messages": replace(spec.data["messages"], **changes)})


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_mirror_folder_is_used_where_it_lies(spec, mirror, tmp_path) -> None:
    source = data.find(spec, "messages")

    assert (mirror, "mirror", spec.data["messages"].sha256) == (
        source.path,
        source.tier,
        source.sha256,
    )
    assert [] == cached(tmp_path)


def test_a_mirror_url_is_fetched_once(spec, messages, tmp_path, monkeypatch) -> None:
    with serving({"/toy/messages.tsv": messages}) as url:
        monkeypatch.setenv("SLIPWAY_MIRROR", url + "/")
        first = data.find(spec, "messages")
    second = data.find(spec, "messages")

    assert "mirror" == first.tier == second.tier
    assert messages == first.path.read_bytes()
    assert ["messages.tsv", "messages.tsv.tier"] == cached(tmp_path)


def test_the_official_address_gives_tier_real_and_its_licence_is_shown(
    spec, messages, capsys
) -> None:
    with serving({"/m": messages}) as url:
        source = data.find(with_dataset(spec, url=f"{url}/m"), "messages", "real")

    assert "real" == source.tier
    assert "licence CC0" in capsys.readouterr().err


def test_a_file_put_into_the_cache_by_hand_is_real(spec, messages, tmp_path) -> None:
    file = tmp_path / "cache" / "toy" / "messages.tsv"
    file.parent.mkdir(parents=True)
    file.write_bytes(messages)

    assert "real" == data.find(spec, "messages").tier


def test_auto_says_why_it_came_down_to_the_sample(spec, capsys) -> None:
    source = data.find(spec, "messages")
    told = capsys.readouterr().err

    assert "sample" == source.tier
    assert "mirror: SLIPWAY_MIRROR is not set" in told
    assert "real: http://127.0.0.1:9/messages.tsv: " in told


@pytest.mark.parametrize("wish", ["real", "mirror"])
def test_a_wished_tier_is_never_replaced(spec, wish) -> None:
    with pytest.raises(DataUnavailable, match=f"dataset messages: {wish}: "):
        data.find(spec, "messages", wish)


@pytest.mark.parametrize("wish", ["auto", "real"])
def test_a_file_that_is_published_nowhere_comes_from_a_mirror_only(spec, wish) -> None:
    unpublished = with_dataset(spec, url="", sample="")

    with pytest.raises(DataUnavailable, match="real: published at no address; a mirror brings it"):
        data.find(unpublished, "messages", wish)


@pytest.mark.parametrize("wish", ["auto", "mirror"])
def test_a_mirror_with_another_checksum_is_never_passed_over(spec, mirror, wish) -> None:
    mirror.write_bytes(b"something else")

    with pytest.raises(ContentWrong, match=r"messages\.tsv: sha256 is .*; wanted "):
        data.find(spec, "messages", wish)


def test_a_damaged_file_in_the_cache_is_told(spec, tmp_path) -> None:
    file = tmp_path / "cache" / "toy" / "messages.tsv"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")

    with pytest.raises(ContentWrong, match="sha256"):
        data.find(spec, "messages")


def test_a_download_with_another_checksum_leaves_nothing(spec, tmp_path) -> None:
    with serving({"/m": b"something else"}) as url, pytest.raises(ContentWrong, match="sha256"):
        data.find(with_dataset(spec, url=f"{url}/m"), "messages")

    assert [] == cached(tmp_path)


def test_an_interrupted_download_leaves_nothing_and_is_no_wrong_file(
    spec, messages, tmp_path
) -> None:
    with (
        serving({"/m": messages[:100]}, missing=7) as url,
        pytest.raises(DataUnavailable, match="the connection broke after 100 of 107 bytes"),
    ):
        data.find(with_dataset(spec, url=f"{url}/m"), "messages", "real")

    assert [] == cached(tmp_path)


def test_an_answer_404_names_the_address(spec) -> None:
    with serving({}) as url, pytest.raises(DataUnavailable, match=r"/nothing: Not Found"):
        data.find(with_dataset(spec, url=f"{url}/nothing"), "messages", "real")


@pytest.mark.parametrize("url", ["no address", "http://[", "http://127.0.0.1:9/a b", "ftq://x/y"])
def test_an_address_that_is_none_is_told(spec, url) -> None:
    with pytest.raises(DataUnavailable, match="dataset messages: real: "):
        data.find(with_dataset(spec, url=url), "messages", "real")


def test_one_member_is_taken_from_an_archive(spec, messages, tmp_path) -> None:
    with serving({"/m.zip": zipped(inside=messages, other=b"x")}) as url:
        wanted = with_dataset(spec, url=f"{url}/m.zip", member="inside")
        source = data.find(wanted, "messages", "real")

    assert messages == source.path.read_bytes()
    assert ["messages.tsv", "messages.tsv.tier"] == cached(tmp_path)


@pytest.mark.parametrize(
    ("archive", "told"),
    [
        (zipped(inside=b"0" * 10_000_000), "inside has 10000000 bytes; wanted"),
        (zipped(other=b"x"), "no zip archive with inside"),
        (b"no archive at all", "no zip archive with inside"),
        (zipped(**{"../../inside": b"x"}), "no zip archive with inside"),
    ],
)
def test_a_wrong_archive_is_never_passed_over_and_leaves_nothing(
    spec, archive, told, tmp_path
) -> None:
    with serving({"/m.zip": archive}) as url, pytest.raises(ContentWrong, match=told):
        data.find(with_dataset(spec, url=f"{url}/m.zip", member="inside"), "messages")

    assert [] == cached(tmp_path)
    assert [] == list(tmp_path.glob("inside"))


def test_damaged_bytes_inside_an_archive_are_told(spec, messages) -> None:
    archive = bytearray(zipped(inside=messages))
    archive[60:80] = bytes(20)
    with serving({"/m.zip": bytes(archive)}) as url, pytest.raises(ContentWrong, match="inside"):
        data.find(with_dataset(spec, url=f"{url}/m.zip", member="inside"), "messages", "real")


def test_a_cache_that_cannot_be_written_is_exit_code_5(
    toy, messages, tmp_path, monkeypatch
) -> None:
    (tmp_path / "file").write_text("a file where the cache should be")
    monkeypatch.setenv("SLIPWAY_DATA", str(tmp_path / "file"))
    with serving({"/toy/messages.tsv": messages}) as url:
        monkeypatch.setenv("SLIPWAY_MIRROR", url)
        code, _, err = toy("prepare", "--data", "mirror", "--out", str(toy.out))

    assert 5 == code
    assert "cannot be written" in err


def test_a_file_of_ones_own_is_tier_own(spec, tmp_path) -> None:
    file = tmp_path / "mine.tsv"
    file.write_text("x")

    assert (file, "own") == (
        data.find(spec, "messages", str(file)).path,
        data.find(spec, "messages", f"messages={file}").tier,
    )


@pytest.mark.parametrize(
    ("wish", "told"),
    [("nowhere.tsv", "no such file; wanted one of auto, real"), ("other=x", "dataset is messages")],
)
def test_a_wrong_wish_is_told(spec, wish, told) -> None:
    with pytest.raises(DataUnavailable, match=told):
        data.find(spec, "messages", wish)


def test_an_unknown_dataset_is_told_with_those_there_are(spec) -> None:
    with pytest.raises(DataUnavailable, match=r"job\.toml: no \[data\.mail\]; there is messages"):
        data.find(spec, "mail")


def test_a_missing_sample_is_told(spec, toy) -> None:
    (toy.folder / "sample" / "messages.tsv").unlink()

    with pytest.raises(DataUnavailable, match=r"job\.toml names it as the sample"):
        data.find(spec, "messages", "sample")
    with pytest.raises(DataUnavailable, match="has no sample"):
        data.find(with_dataset(spec, sample=""), "messages", "sample")


def test_a_file_is_written_whole_or_not_at_all(tmp_path) -> None:
    def stop_halfway() -> None:
        with data.written(tmp_path / "file") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    (tmp_path / "file").write_text("before")
    with pytest.raises(KeyboardInterrupt):
        stop_halfway()

    assert {"file": "before"} == {path.name: path.read_text() for path in tmp_path.iterdir()}


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path) -> None:
    with data.written(tmp_path / "file") as one, data.written(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")

        assert one != other
