"""No recording comes in without consent, and no speech goes out without mark and record."""

import base64
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from jobs.voice_cloning import consent, provenance, releasing, streaming, watermark
from jobs.voice_cloning import speech as sound
from jobs.voice_cloning.engines.flite import Flite
from jobs.voice_cloning.job import Request, score
from slipway.errors import DataUnavailable, InputInvalid

TEXT = "The weather will be sunny in the morning, and the afternoon will bring a little rain."
TODAY = datetime.now(UTC).date()
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def spoken():
    return Flite().synthesize(TEXT, "slt")


@pytest.fixture(scope="module")
def reference(spoken):
    return sound.written(spoken)


def agreement(*contents, purpose="clone", first=TODAY, last=TODAY + DAY):
    return consent.template(list(contents), "Ada Example", [purpose], first, last)


def test_what_goes_out_bears_the_mark_and_says_on_whose_consent(spoken, reference) -> None:
    key, _ = watermark.key_of()
    agreed = releasing.permitted(reference, agreement(reference), "clone")
    assert not watermark.found(spoken, key).present
    assert watermark.found(releasing.marked(spoken), key).message == 0
    heard = sound.read(sound.written(releasing.marked(spoken, agreed)), "out.wav")
    assert watermark.found(heard, key).message == int(agreed.digest[:2], 16)


def test_a_stream_of_pieces_bears_one_mark() -> None:
    class Scorer:
        def score(self, rows):
            (said,) = score(None, rows)
            return [{"audio": base64.b64encode(said.audio).decode()}]

    row = Request(text=" ".join([TEXT] * 4), voice="slt")
    parts = list(streaming.sounds(Scorer(), row))
    assert len(parts) > 1
    whole = sound.Speech(np.concatenate([part.samples for part in parts]), parts[0].rate)
    found = watermark.found(whole, watermark.key_of()[0])
    apart = [releasing.marked(Flite().synthesize(TEXT, "slt")) for _ in parts]
    again = sound.Speech(np.concatenate([part.samples for part in apart]), parts[0].rate)
    assert found.message == 0
    assert found.score > watermark.found(again, watermark.key_of()[0]).score


def test_another_key_finds_nothing(spoken, monkeypatch) -> None:
    monkeypatch.setenv(watermark.KEY_NAME, "a secret of this test")
    speech = releasing.marked(spoken)
    assert watermark.found(speech, b"a secret of this test").present
    assert not watermark.found(speech, watermark.PUBLIC_KEY).present


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda _: "", "found none; wanted the speaker's consent to clone"),
        (lambda content: agreement(content, last=TODAY - DAY, first=TODAY - 2 * DAY), "has passed"),
        (lambda content: agreement(content + b"x"), "which is the recording's"),
        (lambda content: agreement(content, purpose="train"), "wanted one that names clone"),
        (lambda content: agreement(content)[:-9], "consent:"),
    ],
)
def test_a_voice_is_borrowed_with_its_owners_consent_only(reference, given, told) -> None:
    with pytest.raises(InputInvalid, match=told) as caught:
        releasing.permitted(reference, given(reference), "clone")
    assert caught.value.exit_code == 6
    row = {"text": TEXT, "reference": reference, "consent": given(reference)}
    with pytest.raises(ValidationError, match=told):
        Request.model_validate(row)


def test_a_row_with_consent_is_taken(reference) -> None:
    row = Request(text=TEXT, reference=reference, consent=agreement(reference))
    assert row.reference == reference


def test_a_reference_in_which_nobody_speaks_is_refused_by_itself(spoken) -> None:
    draw = np.random.default_rng(0).normal(0, 0.1, 3 * spoken.rate)
    hiss = sound.written(spoken._replace(samples=draw.astype("float32")))
    with pytest.raises(ValidationError, match="no voiced sound"):
        Request.model_validate({"text": TEXT, "reference": hiss, "consent": agreement(hiss)})


def test_each_recording_of_a_folder_needs_consent(tmp_path, reference, spoken) -> None:
    quiet = sound.written(spoken._replace(samples=spoken.samples / 2))
    (tmp_path / "one.wav").write_bytes(reference)
    (tmp_path / "two.wav").write_bytes(quiet)
    both = agreement(reference, quiet, purpose="train")
    releasing.permitted_all(tmp_path, both, "train")
    with pytest.raises(InputInvalid, match=r"two\.wav: consent: sha256"):
        releasing.permitted_all(tmp_path, agreement(reference, purpose="train"), "train")
    with pytest.raises(DataUnavailable, match="no such file"):
        releasing.permitted_all(tmp_path / "three", both, "train")


def test_a_file_stands_beside_its_record(tmp_path, spoken, reference) -> None:
    agreed = releasing.permitted(reference, agreement(reference), "clone")
    path = tmp_path / "said" / "it.wav"
    releasing.kept(path, spoken, "flite", "built in", agreed, TEXT)
    content = path.read_bytes()
    speech = sound.read(content, path.name)
    assert np.abs(speech.samples - spoken.samples).max() < 0.2
    found = provenance.read(provenance.beside(path))
    key, _ = watermark.key_of()
    assert provenance.objections(found, content, key) == []
    assert found["consent"]["speaker"] == "Ada Example"
    assert provenance.objections(found, content + b"x", key) != []
