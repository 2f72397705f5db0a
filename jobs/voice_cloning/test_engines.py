"""The neural engines, on random weights: their whole path, not their quality."""

import dataclasses
import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.voice_cloning import (
    adapting,
    engine_speed,
    engine_verbs,
    engines,
    finetune,
    heeding,
    onnx_parity,
)
from jobs.voice_cloning.engines import csm, kokoro, orpheus, weights, xtts
from jobs.voice_cloning.engines.orpheus import Layout, SlotMask, flattened, unflattened
from jobs.voice_cloning.measure import WordErrors
from jobs.voice_cloning.speech import Speech, read, written
from slipway import Run
from slipway.errors import ContentWrong, DataUnavailable, InputInvalid
from slipway.spec import JobSpec

# Of transformers, peft, coqui-tts and kokoro, about themselves and each other.
pytestmark = pytest.mark.filterwarnings("ignore")

SPEC = JobSpec.read(Path(__file__).parent)
TEXT = "The boat came in."
RECIPE = finetune.Recipe(steps=6, batch=2, accumulate=1, rate=5e-3, every=3, listen=6, bf16=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: a second thread waits more than it works
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def spoken():
    """Engines by name, loaded once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = engines.make(name)
            made[name].load()
            if name == "xtts":  # the vocoder's size is fixed, and it is slow
                made[name].codes = 6
        return made[name]

    return get


def hum(seed=0, seconds=1.2, rate=24_000):
    """A tone that swells, in noise."""
    draw, time = np.random.default_rng(seed), np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (150 + 40 * seed) * time) * (1 + 0.5 * np.sin(19 * time))
    return Speech((tone + draw.normal(0, 0.02, len(time))).astype("float32").clip(-1, 1), rate)


def clips(count):
    return [finetune.Clip(TEXT[: 9 + number], hum(number, 1.0)) for number in range(count)]


# Weights


def test_git_and_lfs_know_a_file_by_these_ids(tmp_path):
    file = tmp_path / "hello"
    file.write_bytes(b"hello\n")
    digest, whole, _ = weights.identities(file)
    assert whole == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert digest == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


@pytest.mark.parametrize("name", ["xtts", "csm", "orpheus", "kokoro"])
def test_trained_weights_are_not_fetched_but_asked_for(name, tmp_path):
    engine = engines.make(name, "full")
    wanted = f"hf download {engine.facts.hub} --revision {engine.facts.revision}"
    with pytest.raises(DataUnavailable, match=wanted) as told:
        engine.load()
    assert engine.facts.licence in str(told.value)
    with pytest.raises(DataUnavailable, match="no such file"):
        engines.make(name, "full", tmp_path).load()


def test_weights_that_are_others_are_refused(tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    named = weights.checked(tmp_path, kokoro.FACTS, {"model": right})
    assert named == "hexgrad/Kokoro-82M@f3ff3571"
    with pytest.raises(ContentWrong, match=f"{right}.*wanted 00"):
        weights.checked(tmp_path, kokoro.FACTS, {"model": "00"})


def test_weights_of_ones_own_are_held_to_their_own_checksums(tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    sums(tmp_path)
    assert "own weights" in weights.checked(tmp_path, kokoro.FACTS, {"model": "00"})
    (tmp_path / "model").write_bytes(b"others!")
    with pytest.raises(ContentWrong, match="wanted"):
        weights.checked(tmp_path, kokoro.FACTS, {"model": "00"})
    for wrong, told in (("00  ../model\n", "outside"), ("none\n", "two spaces")):
        (tmp_path / weights.SUMS).write_text(wrong)
        with pytest.raises(ContentWrong, match=told):
            weights.checked(tmp_path, kokoro.FACTS, {})


@pytest.mark.parametrize("name", ["xtts", "csm", "orpheus", "kokoro"])
def test_weights_in_a_folder_are_read_and_speak(name, spoken, tmp_path):
    tiny = spoken(name)
    voice = WRITERS[name](tiny, tmp_path)
    for folder in [tmp_path, *(path for path in tmp_path.iterdir() if path.name == "snac")]:
        sums(folder)
    engine = engines.make(name, "full", tmp_path)
    engine.load()
    assert engine.weights == f"own weights in {tmp_path.name}"
    if name != "kokoro":  # random weights would go on for as long as they may
        setattr(engine, "codes" if name == "xtts" else "frames", 4)
    found = engine.synthesize("Hi.", voice)
    assert found.seconds > 0.05
    assert np.isfinite(found.samples).all()


def write_xtts(engine, folder):
    engine.model.config.save_json(str(folder / "config.json"))
    torch.save({"model": engine.model.state_dict()}, folder / "model.pth")
    xtts.letters().save(str(folder / "vocab.json"))
    state = engine.speakers["random"].state
    speaker = {"gpt_cond_latent": state["latent"], "speaker_embedding": state["speaker"]}
    torch.save({"Ada": speaker}, folder / "speakers_xtts.pth")
    return "Ada"


def write_tokenizer(folder, known):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = {sign: number for number, sign in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(tokens, [], unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def write_csm(engine, folder):
    engine.model.save_pretrained(folder)
    write_tokenizer(folder, "?Hi.[01]")
    return "1"


def write_orpheus(engine, folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = engine.model.config.to_dict() | {"vocab_size": 156_940, "hidden_size": 16}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    write_tokenizer(folder, "?Hi.: tar")
    codec = {"encoder_dim": 4, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 32,
             "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096,
             "vq_strides": [4, 2, 1], "sampling_rate": 24_000}  # fmt: skip
    (folder / "snac").mkdir()
    (folder / "snac" / "config.json").write_text(json.dumps(codec))
    torch.save(type(engine.codec)(**codec).state_dict(), folder / "snac" / "pytorch_model.bin")
    return "mia"


def write_kokoro(engine, folder):
    shape = kokoro.SHAPE | {"plbert": kokoro.TINY_BERT, "vocab": engine.model.vocab}
    (folder / "config.json").write_text(json.dumps(shape))
    parts = {name: part.state_dict() for name, part in engine.model.named_children()}
    torch.save(parts, folder / "kokoro-v1_0.pth")
    (folder / "voices").mkdir()
    torch.save(engine.packs["random"], folder / "voices" / "af_ada.pt")
    return "af_ada"


WRITERS = {"xtts": write_xtts, "csm": write_csm, "orpheus": write_orpheus, "kokoro": write_kokoro}


def sums(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != weights.SUMS]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"
             for path in sorted(files)]  # fmt: skip
    (folder / weights.SUMS).write_text("".join(lines))


def test_libraries_are_kept_off_the_network(spoken):
    spoken("xtts")
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


def test_drawing_leaves_the_generator_as_it_was():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with weights.seeded(5):
        torch.rand(7)
    assert torch.equal(torch.rand(3), wanted)


# Orpheus


def test_a_frame_is_flattened_in_the_published_order():
    codes = [np.array([1]), np.array([2, 3]), np.array([4, 5, 6, 7])]
    slots = flattened(codes) - 128_266 - 4096 * np.arange(7)
    assert slots.tolist() == [1, 2, 4, 5, 3, 6, 7]


def test_a_thousand_frames_come_back():
    draw = np.random.default_rng(0)
    codes = [draw.integers(0, 4096, 1000 * width) for width in orpheus.WIDTHS]
    tokens = flattened(codes)
    assert len(tokens) == 7000
    for one, other in zip(unflattened(tokens), codes, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(flattened(unflattened(tokens)), tokens)


@given(st.lists(st.integers(0, 200_000), max_size=30))
@settings(database=None, max_examples=200)
def test_any_tokens_are_codes_or_are_refused(tokens):
    whole = len(tokens) // 7 * 7
    slots = [(token - 128_266) // 4096 for token in tokens[:whole]]
    if slots == [*range(7)] * (whole // 7):
        codes = unflattened(np.array(tokens, np.int64))
        assert [len(level) for level in codes] == [whole // 7 * width for width in (1, 2, 4)]
    else:
        with pytest.raises(InputInvalid, match="not of slot"):
            unflattened(np.array(tokens, np.int64))


def test_only_the_slot_that_is_due_may_be_drawn():
    layout = Layout(base=10, codebook=4, end=3)
    mask = SlotMask(layout, start=2, least=7)
    for done in range(15):
        given_ = torch.zeros(1, 2 + done, dtype=torch.long)
        allowed = torch.isfinite(mask(given_, torch.zeros(1, layout.tokens)))[0].nonzero().flatten()
        low = 10 + done % 7 * 4
        ends = [3] if done in (7, 14) else []
        assert allowed.tolist() == [*ends, *range(low, low + 4)]


def test_orpheus_speaks_whole_frames(spoken):
    engine = spoken("orpheus")
    found = engine.synthesize(TEXT, "tara")
    assert len(found.samples) == engine.frames * orpheus.FRAME
    assert len(engine.first(TEXT, "leo").samples) == orpheus.FIRST * orpheus.FRAME
    assert [len(one.samples) for one in engine.batch(TEXT, "tara", 2)] == [len(found.samples)] * 2


# All engines


@pytest.mark.parametrize("name", ["xtts", "csm", "orpheus", "kokoro"])
def test_an_engine_speaks_and_says_the_same_again(name, spoken):
    engine = spoken(name)
    found = engine.synthesize("Come in.", engine.voices[0])
    assert engine.weights == weights.RANDOM
    assert found.rate == 24_000
    assert found.samples.dtype == np.float32
    assert np.isfinite(found.samples).all()
    assert found.samples.std() > 1e-5
    assert np.abs(found.samples).max() <= 1
    torch.rand(3)  # nobody else's draws matter
    again = engine.synthesize("Come in.", engine.voices[0])
    np.testing.assert_array_equal(again.samples, found.samples)
    with pytest.raises(InputInvalid, match="wanted one of"):
        engine.synthesize("Come in.", "nobody")


@pytest.mark.parametrize("name", ["orpheus", "kokoro"])
def test_what_clones_no_one_says_so(name, spoken):
    with pytest.raises(InputInvalid, match=r"clones no one.*xtts and csm can"):
        spoken(name).clone(hum())


def test_an_xtts_clone_sounds_otherwise_than_another(spoken):
    engine = spoken("xtts")
    one, other = (engine.synthesize(TEXT, engine.clone(hum(seed, 1.5))) for seed in (0, 5))
    assert len(one.samples) == len(other.samples)
    assert np.abs(one.samples - other.samples).max() > 1e-6


def test_a_csm_clone_is_heard_by_the_model(spoken):
    engine = spoken("csm")
    said = []
    for seed in (0, 5):
        speaker, context = engine.context_of(engine.clone(hum(seed, 1.5), "Who?"))
        with torch.no_grad():
            asked = engine.asked([*context, csm.Turn(speaker, TEXT)])
            said.append(engine.model(**asked).logits[0, -1])
    assert not torch.allclose(*said, atol=1e-6)
    assert engine.synthesize(TEXT, engine.clone(hum())).seconds == pytest.approx(0.96)


def test_xtts_streams_and_speaks_several_at_once(spoken):
    engine = spoken("xtts")
    whole = engine.synthesize(TEXT, "random")
    assert 0 < len(engine.first(TEXT, "random").samples) <= len(whole.samples)
    both = engine.batch(TEXT, "random", 2)
    assert [len(one.samples) for one in both] == [len(whole.samples)] * 2
    assert not np.array_equal(both[0].samples, both[1].samples)  # each draws its own codes
    with pytest.raises(InputInvalid, match=r"found 0\.60 s; XTTS wants a second"):
        engine.clone(hum(seconds=0.6))


def test_csm_frames_are_80_ms(spoken):
    engine = spoken("csm")
    assert len(engine.synthesize(TEXT, "0").samples) == engine.frames * csm.FRAME
    assert len(engine.first(TEXT, "1").samples) == csm.FIRST * csm.FRAME


def test_csm_learns_the_last_turn_alone(spoken):
    engine = spoken("csm")
    turns = [csm.Turn(0, "Who?", hum(0, 0.8)), csm.Turn(1, "Me.", hum(1, 0.48))]
    labels = engine.labelled(turns)["labels"][0]
    learned = (labels != -100).all(dim=1)
    assert learned.sum() == 6 + 1  # 0.48 s at 12.5 frames a second, and the frame that ends them
    assert ((labels == -100).all(dim=1) | learned).all()
    assert len(labels[learned].unique(dim=0)) > 1  # not every frame has the same codes
    sound = torch.from_numpy(turns[1].speech.samples)[None, None]
    codes = engine.model.codec_model.encode(sound).audio_codes[0].T
    assert torch.equal(labels[learned][:-1], codes)


# Kokoro


def test_phonemes_are_kokoros():
    assert kokoro.phonemes("Say hello.").startswith("s\u02c8A h\u0259l\u02c8O")


def test_espeak_is_not_loaded_out_of_a_temporary_folder():
    kokoro.phonemes("Hello.")
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.split(maxsplit=5)[-1] for line in maps if "libespeak-ng" in line}
    assert loaded
    assert all("espeakng_loader" in path for path in loaded)


def test_a_text_without_sounds_is_refused(spoken):
    with pytest.raises(InputInvalid, match="nothing that has a sound"):
        spoken("kokoro").asked("  ", "random")


def test_onnx_has_the_durations_of_pytorch(spoken, tmp_path):
    engine = spoken("kokoro")
    kokoro.exported(engine, tmp_path / "kokoro.onnx")
    rows = onnx_parity.compared(engine, tmp_path / "kokoro.onnx", ("Come in.", "So it was a boat."))
    assert [row["durations equal"] for row in rows] == [True, True]
    assert rows[0]["phonemes"] < rows[1]["phonemes"]
    assert all(row["apart (dB)"] <= 1.5 * row["PyTorch from itself (dB)"] for row in rows)


# Fine-tuning


def fresh(name, recipe=RECIPE):
    engine = engines.make(name)
    engine.load()
    if name == "xtts":
        engine.codes = 6
    task = adapting.task(engine)
    return engine, task, recipe


@pytest.fixture(scope="module", params=["xtts", "csm"])
def tuned(request):
    """A whole run, and the checkpoint of its middle."""
    engine, task, recipe = fresh(request.param)
    kept = {}

    def keep(state, tensors):
        if len(state["curve"]) == 3:
            copied = {name: value.clone() for name, value in tensors.items()}
            kept.update(json.loads(json.dumps(state)), tensors=copied)

    found = finetune.tune(
        task, finetune.adapted(task, recipe), clips(2), clips(3)[2:], recipe, None, keep
    )
    return request.param, engine, task, found, kept


def test_the_loss_falls(tuned):
    _, _, _, found, _ = tuned
    losses = [loss for _, loss in found.curve]
    assert np.mean(losses[-2:]) < losses[0] - 0.02
    assert np.isfinite([found.before, found.after]).all()
    assert [taken for taken, _ in found.heard] == [0, RECIPE.steps]
    assert all(0 < off < 100 for _, off in found.heard)


def test_a_run_that_goes_on_ends_in_the_same_bytes(tuned):
    name, _, _, found, kept = tuned
    _, task, recipe = fresh(name)
    again = finetune.tune(
        task, finetune.adapted(task, recipe), clips(2), clips(3)[2:], recipe, kept
    )
    assert again.curve == found.curve
    assert again.heard == found.heard
    assert again.after == found.after
    pairs = zip(again.adapted.trained, found.adapted.trained, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_computing_activations_twice_gives_the_same_gradients_in_less_memory(tuned):
    name = tuned[0]
    gradients, kept = {}, {}
    for checkpointing in (False, True):
        _, task, recipe = fresh(name, dataclasses.replace(RECIPE, checkpointing=checkpointing))
        own = finetune.adapted(task, recipe)
        draw = torch.Generator().manual_seed(1)
        for part in own.trained:
            torch.nn.init.normal_(part, std=0.05, generator=draw)
        own.network.train()
        examples = task.examples(clips(1))
        torch.manual_seed(0)  # of dropout
        task.loss(examples).backward()
        gradients[checkpointing] = [part.grad.clone() for part in own.trained]
        kept[checkpointing] = finetune.memory(task, own, examples, recipe).kept
    assert max(part.abs().max() for part in gradients[False]) > 1e-4
    for one, other in zip(gradients[False], gradients[True], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert kept[True] < 0.8 * kept[False]


def test_adapters_are_saved_for_a_hub_and_merge_into_the_weights(tuned, tmp_path):
    from peft import PeftModel

    name, engine, task, found, _ = tuned
    finetune.saved(found, task, RECIPE, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == engine.facts.hub
    assert config["fan_in_fan_out"] == (name == "xtts")
    assert weights.RANDOM in (tmp_path / "README.md").read_text()
    examples = task.examples(clips(1))
    found.adapted.network.eval()
    with torch.no_grad():
        adapted = task.loss(examples).item()
        _, other, _ = fresh(name)
        plain = other.loss(examples).item()
        PeftModel.from_pretrained(other.network, tmp_path).eval()
        assert other.loss(examples).item() == pytest.approx(adapted, abs=1e-6)
        task.finish(found.adapted.network)
        assert task.loss(examples).item() == pytest.approx(adapted, abs=1e-4)
    assert abs(plain - adapted) > 1e-2
    assert np.isfinite(engine.synthesize("Come in.", engine.voices[0]).samples).all()


def test_the_verb_tunes_on_the_prepared_clips(tmp_path, monkeypatch):
    tracked = {}
    monkeypatch.setattr(
        Run, "track", lambda run, name, params, metrics, curves: tracked.update(metrics, **curves)
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    run = prepared_run(tmp_path, "finetune")
    engine_verbs.finetune(
        run, "xtts", "tiny", None, steps=2, batch=1, accumulate=1, rate=1e-3, rank=2,
        checkpointing=True, bf16=True, every=1, listen=2,
    )  # fmt: skip
    torch.use_deterministic_algorithms(deterministic)
    folder = tmp_path / "adapters" / "xtts"
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert list(tracked.pop("step/loss")) == [1, 2]
    assert list(tracked.pop("step/distortion_db").values()) == [
        run.metrics["xtts_distortion_before"], run.metrics["xtts_distortion_after"]
    ]  # fmt: skip
    assert run.metrics == {f"xtts_{name}": value for name, value in tracked.items()}
    assert run.metrics["xtts_kept_mb_checkpointed"] < run.metrics["xtts_kept_mb_plain"]
    assert {piece["kind"] for piece in run.pieces} == {"figure", "table", "note"}
    assert (tmp_path / "report" / "finetune-loss-xtts.png").is_file()


def test_the_verb_wants_a_prepared_corpus(tmp_path):
    with pytest.raises(DataUnavailable, match="run prepare first"):
        engine_verbs.clips(Run(SPEC, tmp_path, "finetune"))


def prepared_run(folder, verb):
    """A run beside a corpus of two clips to learn from and one that is held out."""
    native = folder / "data" / "native"
    native.mkdir(parents=True)
    rows = []
    for number, part in enumerate(("train", "train", "choose", "held_out")):
        (native / f"{number}.wav").write_bytes(written(hum(number, 1.2)))
        rows.append({"name": str(number), "part": part, "text": TEXT})
    (folder / "data" / "corpus.json").write_text(json.dumps(rows))
    return Run(SPEC, folder, verb)


def test_what_cannot_be_fine_tuned_says_so(spoken):
    with pytest.raises(InputInvalid, match="wanted one of xtts, csm"):
        adapting.task(spoken("kokoro"))


# Speech that is listened to


class Careless:
    """An engine that drops words at first: its sound says how many it spoke."""

    weights, seed, asked = "trained", 4, ()

    def synthesize(self, text, voice):
        self.asked += (self.seed,)
        return Speech(np.full(2400, 0.1 * (self.seed - 3), "float32"), 24_000)


def test_a_piece_is_spoken_again_until_it_is_understood(monkeypatch):
    rates = {0.1: 0.9, 0.2: 0.4, 0.3: 0.0}

    def heard(speech, text):
        return WordErrors(round(10 * rates[round(float(speech.samples[0]), 1)]), 10, "")

    monkeypatch.setattr(heeding.measure, "word_errors", heard)
    engine = Careless()
    (piece,) = heeding.said(engine, TEXT, "one")
    assert (piece.turns, piece.wrong, engine.asked, engine.seed) == (2, 0.4, (4, 5), 4)
    rates[0.2] = rates[0.3] = 0.8
    (piece,) = heeding.said(engine, TEXT, "one")  # never understood: the best of three
    assert (piece.turns, piece.wrong) == (3, 0.8)
    assert piece.speech.samples[0] == pytest.approx(0.2)


def test_a_tail_of_silence_is_cut():
    voice, silence = np.full(2400, 0.3, "float32"), np.full(24_000, 1e-4, "float32")
    found = heeding.trimmed(Speech(np.concatenate([voice, silence]), 24_000))
    assert found.seconds == pytest.approx(0.1 + heeding.KEPT)
    still = Speech(silence * 0, 24_000)
    assert heeding.trimmed(still) is still


def test_an_engine_says_what_it_is_asked_to(tmp_path, spoken, monkeypatch):
    loaded = {name: spoken(name) for name in ("orpheus", "csm")}
    monkeypatch.setattr(engines, "make", lambda name, *rest: loaded[name])
    run = Run(SPEC, tmp_path, "say")
    engine_verbs.say(run, TEXT, "orpheus", "tiny", None, None, None, None, None)
    found = read((tmp_path / "said" / "orpheus.wav").read_bytes(), "orpheus.wav")
    assert found.seconds > 0.3
    assert weights.RANDOM in run.pieces[0]["caption"]
    (tmp_path / "ada.wav").write_bytes(written(hum()))
    with pytest.raises(InputInvalid, match="consent"):
        engine_verbs.say(run, TEXT, "csm", "tiny", None, None, tmp_path / "ada.wav", None, None)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2"}))
    with pytest.raises(InputInvalid, match="found adapters of gpt2; wanted some of sesame/csm-1b"):
        engine_verbs.say(run, TEXT, "csm", "tiny", None, None, None, None, tmp_path)


# Speed


def test_the_real_time_factor_by_hand():
    pace = engine_speed.Pace(tuple(range(1, 21)), 2.0)
    assert pace.factors == (10.5 / 2, 19 / 2)


def test_the_largest_batch_is_found_by_halving():
    class Narrow:
        voices = ("one",)

        def batch(self, text, voice, count):
            if count > 5:
                raise MemoryError

    assert engine_speed.largest_batch(Narrow(), engine_speed.Wish("narrow")) == "5"
    assert engine_speed.largest_batch(Narrow(), engine_speed.Wish("narrow", most=4)) == "4+"
    assert engine_speed.largest_batch(object(), engine_speed.Wish("")).startswith("1: takes one")


def test_an_engine_is_measured_in_a_process_of_its_own():
    row = engine_speed.measured(engine_speed.Wish("orpheus", repeats=2, most=2))
    assert row["weights"] == weights.RANDOM
    assert row["largest batch"] == "2+"
    assert 0 < row["RTF p50"] <= row["RTF p95"]
    assert row["speech (s)"] == pytest.approx(12 * orpheus.FRAME / 24_000, abs=0.01)
    figure = engine_verbs.paces([row])
    assert figure.get_suptitle().startswith("orpheus needs least: ")


def test_the_facts_are_shown_before_any_weights(tmp_path):
    run = Run(SPEC, tmp_path, "facts")
    engine_verbs.facts(run)
    table, *notes = run.pieces
    shown = {row["engine"]: row for row in table["rows"]}
    assert list(shown) == list(engines.NAMES)
    assert shown["csm"]["gated"] == "yes"
    assert shown["kokoro"]["GB"] == "0.33"
    told = " ".join(note["text"] for note in notes)
    assert "hf download hexgrad/Kokoro-82M" in told
    assert "hf download facebook/hubert-base-ls960" in told
    assert "no commercial use" in told


def test_what_has_no_onnx_form_says_why(tmp_path):
    with pytest.raises(InputInvalid, match="xtts has no ONNX form: XTTS writes one code after"):
        engine_verbs.export_engine(Run(SPEC, tmp_path, "export-engine"), "xtts", "tiny", None)


def test_an_error_comes_out_of_the_process_as_it_is():
    here, there = multiprocessing.Pipe(duplex=False)
    engine_speed._answer(there, engine_speed.Wish("csm", "full"))
    found = here.recv()
    assert isinstance(found, DataUnavailable)
    assert "hf download" in str(found)
