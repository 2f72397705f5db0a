"""Retrieval over HuBERT's features, on random weights: frames, alignment, and what is refused."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch

from jobs.voice_cloning import (
    consent,
    conversion,
    corpus,
    measure,
    outcomes,
    preparing,
    provenance,
    retrieval,
    watermark,
)
from jobs.voice_cloning import speech as sound
from jobs.voice_cloning.engines import flite, weights
from jobs.voice_cloning.job import convert, job, retriever
from jobs.voice_cloning.speech import Speech
from slipway import Run
from slipway.errors import ContentWrong, DataUnavailable, InputInvalid
from slipway.run import Options

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

RATE = 16_000
TEXTS = ("The boat came in before the rain.", "Nobody was there to see it.")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def encoder():
    return retrieval.encoder("tiny", None)


@pytest.fixture(scope="module")
def said():
    """Two sentences by each of two voices."""
    engine = flite.Flite()
    return {voice: [engine.synthesize(text, voice) for text in TEXTS] for voice in ("slt", "rms")}


@pytest.fixture(scope="module")
def target(encoder, said):
    return retrieval.retriever(encoder, said["slt"])


def noise(count, rate=RATE):
    draw = np.random.default_rng(count).normal(0, 0.1, count)
    return Speech(draw.astype("float32"), rate)


class Plain:
    """In HuBERT's place: the samples that a frame hears, and nothing else."""

    def __call__(self, samples):
        frames = samples.unfold(1, retrieval.HEARD, retrieval.STRIDE)
        return SimpleNamespace(last_hidden_state=frames)


# Frames


@pytest.mark.parametrize("count", [400, 719, 720, 8_001, 16_000])
def test_a_frame_is_heard_every_20_ms(encoder, count):
    found = encoder.features(noise(count))
    assert found.shape == ((count - 400) // 320 + 1, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_less_than_a_frame_is_refused(encoder):
    with pytest.raises(InputInvalid, match=r"found 24\.9 ms of sound; wanted 25 or more"):
        encoder.features(noise(399))


def test_pieces_are_heard_like_the_whole(monkeypatch):
    plain = retrieval.Encoder(Plain(), "")
    whole = plain.features(noise(33_333))
    monkeypatch.setattr(retrieval, "PIECE", 20)
    monkeypatch.setattr(retrieval, "MARGIN", 3)
    assert len(whole) > 5 * retrieval.PIECE
    np.testing.assert_array_equal(plain.features(noise(33_333)), whole)


def test_another_rate_is_heard_alike(encoder, said):
    speech = said["slt"][0]
    one, other = (encoder.features(sound.resampled(speech, rate)) for rate in (RATE, 44_100))
    assert abs(len(one) - len(other)) <= 1
    least = min(len(one), len(other))
    alike = (one[:least] * other[:least]).sum(1)
    apart = (one[: least // 2] * one[least // 2 : least // 2 * 2]).sum(1)
    assert np.median(alike) > 0.999
    assert np.median(alike) > np.median(apart)


def test_how_loud_it_is_does_not_matter(encoder, said):
    speech = said["slt"][0]
    quiet = speech._replace(samples=speech.samples / 10)
    np.testing.assert_allclose(encoder.features(quiet), encoder.features(speech), atol=1e-3)


# Retrieval


def test_a_recording_retrieves_its_own_envelope(encoder, said):
    speech = said["slt"][0]
    found = retrieval.retriever(encoder, [speech])
    code = conversion.coded(conversion.analysed(corpus.levelled(speech)).envelope)
    path = found.retrieved(speech, len(code), nearest=1)
    last = 4 * len(encoder.features(speech))
    np.testing.assert_allclose(path[1 : last + 1], code[1 : last + 1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(path[0], path[1])
    np.testing.assert_array_equal(path[last:], path[last] + np.zeros((len(code) - last, 40)))


def test_frames_of_both_kinds_have_one_middle(encoder):
    from transformers import HubertConfig, HubertModel  # not before it is kept off the network

    quiet = noise(RATE).samples * 1e-3
    burst = quiet.copy()
    burst[8_000:8_400] += noise(400).samples  # what frame 25 hears, around 512.5 ms
    ears = HubertModel(
        HubertConfig(num_hidden_layers=1, feat_extract_norm="layer", **retrieval.TINY)
    ).feature_extractor  # which hears each frame by itself when no norm is taken over time
    with torch.no_grad():
        one, other = (ears(torch.from_numpy(samples)[None])[0] for samples in (quiet, burst))
    assert (one != other).any(0).nonzero().flatten().tolist() == [24, 25, 26]
    level = retrieval.beside(conversion.analysed(Speech(burst, RATE)).envelope, one.shape[1])
    level = level.sum((1, 2))
    middle = (level * np.arange(len(level))).sum() / level.sum()
    assert middle == pytest.approx(25, abs=0.1)


def test_four_frames_are_averaged(encoder, said, target):
    speech = said["rms"][0]
    heard = encoder.features(speech)
    apart = ((heard[:, None] - np.concatenate([encoder.features(one) for one in said["slt"]]))
             ** 2).sum(-1)  # fmt: skip
    wanted = target.codes[np.argsort(apart, 1)[:, :4]].mean(1)[7]
    path = target.retrieved(speech, 4 * len(heard) + 1)
    np.testing.assert_allclose(path[29:33], wanted, rtol=1e-4, atol=1e-4)


def test_a_target_of_few_frames_is_enough(encoder, said):
    short = Speech(said["slt"][0].samples[4_000:12_000], RATE)
    found = retrieval.retriever(encoder, [short])
    assert np.isfinite(found.retrieved(said["rms"][0], 100, nearest=99)).all()


def test_a_recording_gets_the_targets_pitch_and_keeps_its_time(said, target):
    speech = said["rms"][0]
    found = target.converted(speech)
    assert abs(len(found.samples) - len(speech.samples)) <= 80
    assert 0.05 < np.abs(found.samples).max() <= 1
    pitch = conversion.pitch_stats([conversion.pitch(found)])
    assert pitch.mean == pytest.approx(target.pitch.mean, abs=0.1)
    own = conversion.pitch_stats([conversion.pitch(speech)])
    assert abs(own.mean - target.pitch.mean) > 0.3


def test_what_is_converted_again_is_the_same(said, target):
    again = retrieval.retriever(retrieval.encoder("tiny", None), said["slt"])
    speech = said["rms"][0]
    np.testing.assert_array_equal(again.converted(speech).samples, target.converted(speech).samples)


def test_a_recording_without_voice_is_refused(target):
    with pytest.raises(InputInvalid, match="no voiced sound"):
        target.converted(noise(RATE))


# Weights


def sums(folder):
    files = [path for path in sorted(folder.iterdir()) if path.name != weights.SUMS]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / weights.SUMS).write_text("".join(lines))
    return folder


@pytest.fixture
def kept(encoder, tmp_path):
    """A folder as the hub has it: a pickle, whose weights have the names of 2021."""
    folder = tmp_path / "hubert"
    encoder.model.config.save_pretrained(folder)
    named = {"parametrizations.weight.original0": "weight_g",
             "parametrizations.weight.original1": "weight_v"}  # fmt: skip
    state = {}
    for name, value in encoder.model.state_dict().items():
        for new, old in named.items():
            name = name.replace(new, old)
        state[name] = value
    assert any(name.endswith("weight_g") for name in state)
    torch.save(state, folder / "pytorch_model.bin")
    return sums(folder)


def test_weights_as_the_hub_has_them_are_read(encoder, kept):
    found = retrieval.encoder("full", kept)
    assert found.weights == "own weights in hubert"
    speech = noise(8_000)
    np.testing.assert_array_equal(found.features(speech), encoder.features(speech))


def test_trained_weights_are_asked_for_and_held_to_their_pins(kept):
    with pytest.raises(DataUnavailable, match="hf download facebook/hubert-base-ls960 --revision"):
        retrieval.encoder("full", None)
    (kept / weights.SUMS).unlink()
    with pytest.raises(ContentWrong, match=f"wanted {retrieval.PINS['config.json']}"):
        retrieval.encoder("full", kept)
    with pytest.raises(DataUnavailable, match=r"pytorch_model\.bin: no such file|config\.json"):
        retrieval.encoder("full", kept.parent)


def test_weights_of_another_network_are_refused(encoder, kept):
    torch.save({"lstm.weight": torch.zeros(3)}, kept / "pytorch_model.bin")
    with pytest.raises(ContentWrong, match=r"found no .*; wanted HuBERT with 9 layers"):
        retrieval.encoder("full", sums(kept))
    state = encoder.model.state_dict()
    state["encoder.layers.8.final_layer_norm.weight"] = torch.zeros(5)
    torch.save(state, kept / "pytorch_model.bin")
    with pytest.raises(ContentWrong, match="cannot be read as HuBERT's weights"):
        retrieval.encoder("full", sums(kept))
    (kept / "pytorch_model.bin").rename(kept / "model.safetensors")
    with pytest.raises(ContentWrong, match="cannot be read as HuBERT's weights"):
        retrieval.encoder("full", sums(kept))


class Code:
    """A pickle that runs a command as it is loaded."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_code_in_a_pickle_does_not_run(kept, tmp_path):
    place = tmp_path / "ran"
    for zipped in (True, False):  # the two forms that PyTorch's files have had
        torch.save({"encoder": Code(place)}, kept / "pytorch_model.bin",
                   _use_new_zipfile_serialization=zipped)  # fmt: skip
        with pytest.raises(ContentWrong, match="cannot be read as HuBERT's weights"):
            retrieval.encoder("full", sums(kept))
        assert not place.exists()


# At the command line


@pytest.fixture
def made(tmp_path, said):
    """A run whose corpus has one clip to learn from and one held out; a recording to convert."""
    rows = []
    for part, speech, name in zip(("train", "held_out"), said["slt"], ("a", "b"), strict=True):
        for folder in ("clips", "source"):
            corpus.write(tmp_path / "data" / folder, name, speech)
        rows.append({"name": name, "speaker": "slt", "part": part, "text": "", "voice": "rms",
                     "phones": []})  # fmt: skip
    corpus.write_table(tmp_path / "data" / "corpus.json", rows)
    path = tmp_path / "recording.wav"
    path.write_bytes(sound.written(said["rms"][0]))
    return Run(job.spec, tmp_path, "convert", Options(data="sample")), path


def agreed(path, purpose="convert"):
    today = datetime.now(UTC).date()
    text = consent.template([path.read_bytes()], "Ada", [purpose], today, today + timedelta(1))
    place = path.with_name("consent.json")
    place.write_text(text, "utf-8")
    return place


def test_a_recording_is_converted_with_consent_marked_and_recorded(made):
    run, path = made
    to = run.out / "new.wav"
    convert(run, path, agreed(path), by="hubert", size="tiny", weights=None, to=to)
    content = to.read_bytes()
    key, _ = watermark.key_of()
    record = provenance.read(provenance.beside(to))
    assert watermark.found(sound.read(content, "new.wav"), key).present
    assert provenance.objections(record, content, key) == []
    assert record["engine"] == "hubert"
    assert record["weights"] == weights.RANDOM
    assert record["consent"]["speaker"] == "Ada"
    assert weights.RANDOM in run.pieces[0]["text"]


def test_without_consent_or_weights_nothing_is_converted(made):
    run, path = made
    to = run.out / "new.wav"
    for given in (None, agreed(path, "clone")):
        with pytest.raises(InputInvalid, match="consent") as refused:
            convert(run, path, given, by="hubert", size="tiny", weights=None, to=to)
        assert refused.value.exit_code == 6
    with pytest.raises(DataUnavailable, match="hf download") as absent:
        convert(run, path, agreed(path), by="hubert", size="full", weights=None, to=to)
    assert absent.value.exit_code == 5
    with pytest.raises(click.UsageError, match="without --by hubert"):
        convert(run, path, agreed(path), by="mapping", size="full", weights=run.out, to=to)
    assert not to.exists()


def test_what_is_held_out_is_not_retrieved_from(made, encoder, said):
    found = retriever(made[0], "tiny", None)
    learned = sound.read(sound.written(said["slt"][0]), "a.wav")
    assert len(found.codes) == len(encoder.features(learned))


def test_retrieval_is_measured_beside_the_source(made, target, said, monkeypatch):
    monkeypatch.setattr(measure, "word_errors", lambda *_: measure.WordErrors(0, 7, ""))
    run, _ = made
    model = SimpleNamespace(settings={"source": "rms"}, array=lambda _: voice)
    voice = measure.mean_voice([measure.embedding(one) for one in said["slt"]])
    pair = preparing.Pair("a", TEXTS[0], "held_out", said["slt"][0],
                          flite.Spoken(said["rms"][0], ()), "rms", "slt")  # fmt: skip
    ways = ["source", "hubert"]
    found = outcomes.collected(run, model, [pair], ways, 0, {"hubert": target})
    rows = outcomes.summary(found, [*ways, "real"], "source")
    assert [outcomes.shown(row)["way"] for row in rows][1] == "retrieval by HuBERT"
    source, own, real = rows
    # The sentence is one that is retrieved from, so even random weights find some of it again.
    assert source["distortion"] > own["distortion"] > real["distortion"] == 0
    assert own["similarity"] > source["similarity"]
