"""Consent, the watermark, provenance, and the listening test: against what is known beforehand."""

import hashlib
import itertools
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.voice_cloning import (
    consent,
    listening,
    provenance,
    ratings,
    robustness,
    trust_verbs,
    watermark,
)
from jobs.voice_cloning.speech import Speech, written
from slipway.errors import DataUnavailable, InputInvalid
from slipway.run import Run
from slipway.spec import JobSpec

TODAY = date(2026, 11, 21)
KEY = b"a key of the tests"
VOICE = b"the bytes of a recording"


def babble(seconds=3.0, rate=16_000, seed=0):
    """Return something with a voice's shape: pulses of a moving pitch, syllables, formants."""
    from scipy.signal import lfilter

    chance = np.random.default_rng(seed)
    count = int(seconds * rate)
    time = np.arange(count) / rate
    slow = np.interp(
        time,
        np.arange(0, seconds + 1, 0.15),
        chance.uniform(-1, 1, len(np.arange(0, seconds + 1, 0.15))),
    )
    pitch = 120 * 2 ** (0.3 * slow)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0) + 0.02 * chance.normal(
        size=count
    )
    for formant, width in ((500, 80), (1500, 120), (2500, 160)):
        radius = np.exp(-np.pi * width / rate)
        pulses = lfilter(
            [1], [1, -2 * radius * np.cos(2 * np.pi * formant / rate), radius**2], pulses
        )
    syllables = np.clip(np.sin(2 * np.pi * 2.2 * time + 3 * slow), 0, 1) + 0.003
    samples = pulses * syllables
    return Speech((0.3 * samples / np.abs(samples).max()).astype("float32"), rate)


def entries(**changed):
    """Return what a good consent file holds, with changes."""
    return {
        "speaker": "Ada",
        "purpose": ["clone"],
        "date": "2026-01-01",
        "expiry": "2026-12-31",
        "sha256": [hashlib.sha256(VOICE).hexdigest()],
    } | changed


@pytest.fixture
def agreed(tmp_path):
    """Return what writes a consent file."""

    def write(**changed):
        path = tmp_path / consent.FILE
        path.write_text(json.dumps(entries(**changed)), "utf-8")
        return path

    return write


def test_what_was_agreed_to_is_returned_for_a_file_and_for_its_folder(agreed, tmp_path):
    found = consent.check(agreed(), VOICE, "clone", TODAY)
    assert found.speaker == "Ada"
    assert found == consent.check(tmp_path, VOICE, "clone", TODAY)


def test_its_last_day_is_still_in_it(agreed):
    path = agreed()
    assert consent.check(path, VOICE, "clone", date(2026, 12, 31))
    with pytest.raises(InputInvalid, match="2026-12-31, which has passed; wanted 2027-01-01"):
        consent.check(path, VOICE, "clone", date(2027, 1, 1))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"expiry": "2026-11-20"}, "expiry: found 2026-11-20, which has passed"),
        ({"date": "2026-11-22"}, "date: found 2026-11-22, which is yet to come"),
        ({"purpose": "convert"}, "purpose: found convert; wanted one that names clone"),
        ({"sha256": "0" * 64}, f"found {'0' * 64}; wanted {hashlib.sha256(VOICE).hexdigest()}"),
        ({"expiry": "2025-12-31"}, "expiry: found 2025-12-31; wanted 2026-01-01 or later"),
        ({"expiry": "for ever"}, "expiry: found 'for ever'; wanted a day like"),
        ({"date": 20260101}, "date: found 20260101"),
        ({"purpose": ["sing"]}, "purpose: found 'sing'; wanted one or more of clone"),
        ({"sha256": ["ab"]}, "sha256: found 'ab'; wanted 64 digits"),
        ({"speaker": ""}, "found no speaker"),
        ({"speaker": ["Ada"]}, r"speaker: found \['Ada'\]"),
        ({"expires": "2027-01-01"}, "found the key 'expires'"),
    ],
)
def test_what_does_not_cover_the_use_is_refused(agreed, changed, told):
    with pytest.raises(InputInvalid, match=told) as refused:
        consent.check(agreed(**changed), VOICE, "clone", TODAY)
    assert refused.value.exit_code == 6
    assert consent.FILE in str(refused.value)


def test_a_request_may_bring_its_consent_as_text(agreed):
    text = json.dumps(entries())
    found = consent.granted(text, VOICE, "clone", TODAY)
    assert found == consent.granted(agreed(), VOICE, "clone", TODAY)
    for brought, told in (
        ("", "found none; wanted the speaker's consent to clone"),
        ("{", "consent: Expecting"),
        (text, "which is the recording's"),
    ):
        with pytest.raises(InputInvalid, match=told):
            consent.granted(brought, b"other", "clone", TODAY)


def test_no_file_is_no_consent(tmp_path):
    with pytest.raises(InputInvalid, match="found no consent"):
        consent.check(tmp_path, VOICE, "clone", TODAY)


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(consent.REQUIRED) | st.text(max_size=5), inner, max_size=6
                )
            ),
            max_leaves=12,
        ).map(lambda found: json.dumps(found).encode()),
    )
)
def test_whatever_the_file_holds_it_is_refused_in_words(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / consent.FILE
    path.write_bytes(content)
    with pytest.raises(InputInvalid, match=r"consent\.json"):
        consent.check(path, VOICE, "clone", TODAY)


def test_a_template_holds_once_its_speaker_is_filled_in(tmp_path):
    path = tmp_path / consent.FILE
    path.write_text(consent.template([VOICE, b"other"], "", ["train"], TODAY, TODAY), "utf-8")
    with pytest.raises(InputInvalid, match="found no speaker"):
        consent.check(path, VOICE, "train", TODAY)
    filled = json.loads(path.read_text("utf-8")) | {"speaker": "Ada"}
    path.write_text(json.dumps(filled), "utf-8")
    assert consent.check(path, b"other", "train", TODAY).speaker == "Ada"


def test_the_digest_is_of_what_is_agreed_to_and_not_of_its_layout():
    one, other = entries(), dict(reversed(entries().items()))
    assert consent.parsed(one).digest == consent.parsed(other).digest
    assert consent.parsed(entries(speaker="Bob")).digest != consent.parsed(one).digest


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100])
def test_it_is_found_with_its_message_at_every_rate(rate):
    found = watermark.found(watermark.marked(babble(rate=rate), KEY, 200), KEY)
    assert found.present
    assert found.message == 200


@pytest.mark.parametrize("name", robustness.CHANGES)
def test_it_is_found_after_what_happens_to_sound(name):
    found = watermark.found(robustness.CHANGES[name](watermark.marked(babble(5.0), KEY, 9)), KEY)
    assert found.present is (name != "five per cent faster")  # which the README says


def test_neither_other_speech_nor_another_key_is_taken_for_it():
    clips = [robustness.Clip(str(seed), babble(2.0, seed=seed)) for seed in range(8)]
    assert (robustness.falsely(clips, 0, 25) < 0).all()
    assert (robustness.falsely(clips, 1, 25, mark=KEY) < 0).all()


def test_it_is_found_in_a_part_of_a_longer_recording():
    bare, mark = babble(20, seed=1).samples, watermark.marked(babble(5, seed=2), KEY, 3).samples
    whole = Speech(np.concatenate([bare, mark, bare]), 16_000)
    assert watermark.found(whole, KEY).message == 3
    assert not watermark.found(Speech(np.concatenate([bare, bare]), 16_000), KEY).present


def test_a_long_recording_is_searched_without_filling_the_memory():
    import tracemalloc

    speech = babble(5.0)
    marked = watermark.marked(speech, KEY, 3).samples
    long = Speech(np.concatenate([np.tile(speech.samples, 12), marked]), 16_000)
    tracemalloc.start()
    found = watermark.found(long, KEY)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.message == 3
    assert most < 40 << 20


def test_pieces_of_a_stream_bear_one_mark():
    speech = babble(6.0)
    pieces = [Speech(speech.samples[at : at + 16_000], 16_000) for at in range(0, 96_000, 16_000)]
    marked = [watermark.marked(piece, KEY, 5, start=float(at)) for at, piece in enumerate(pieces)]
    whole = Speech(np.concatenate([piece.samples for piece in marked]), 16_000)
    apart = watermark.found(watermark.marked(speech, KEY, 5), KEY)
    assert watermark.found(whole, KEY).message == 5
    assert watermark.found(whole, KEY).score > 0.8 * apart.score


def test_what_it_costs_is_what_was_promised():
    speech = babble(4.0)
    assert robustness.cost(speech, watermark.marked(speech, KEY)) >= watermark.COST_DB - 0.5


def test_silence_stays_silent_and_full_scale_is_not_passed():
    silence = Speech(np.zeros(32_000, "float32"), 16_000)
    assert not watermark.marked(silence, KEY).samples.any()
    assert not watermark.found(silence, KEY).present
    loud = Speech(np.clip(5 * babble().samples, -1, 1), 16_000)
    assert np.abs(watermark.marked(loud, KEY).samples).max() <= 1


@pytest.mark.parametrize("count", [1, 100, 511, 512, 4000])
def test_what_is_too_short_to_tell_is_not_found_and_does_not_fail(count):
    speech = Speech(babble(1.0).samples[:count], 16_000)
    marked = watermark.marked(speech, KEY)
    assert len(marked.samples) == count
    assert not watermark.found(marked, KEY).present


def test_a_message_is_a_number_of_a_byte():
    with pytest.raises(ValueError, match="0 to 255"):
        watermark.marked(babble(1.0), KEY, 256)


def test_the_threshold_is_the_one_worked_by_hand():
    # sqrt(2 ln(1000 * 4 * 256^2)): one stretch, four cuts, 256 shifts, 256 messages
    assert watermark.threshold_of(4 * 256**2, 1e-3) == pytest.approx(6.2265, abs=1e-4)
    # and a hundred times rarer: sqrt(6.2265^2 + 2 ln 100)
    assert watermark.found(babble(2.0), KEY).threshold == pytest.approx(6.9267, abs=1e-4)


def test_chance_alone_passes_a_threshold_no_more_often_than_it_says():
    chance = np.random.default_rng(0)
    keys = [robustness.key_number(number, 0) for number in range(400)]
    cells = watermark._bins().size // watermark.WIDTH
    parts = chance.standard_normal((1, 4, watermark.PERIOD, cells)).astype("float32")
    scores = [watermark.matched(parts, key).score for key in keys]
    wanted = watermark.threshold_of(4 * watermark.PERIOD**2, false_positives=0.5)
    assert np.mean(np.array(scores) > wanted) < 0.5
    assert max(scores) < watermark.threshold_of(4 * watermark.PERIOD**2)


def test_the_key_is_the_machines_or_a_public_one(monkeypatch):
    monkeypatch.delenv(watermark.KEY_NAME, raising=False)
    assert watermark.key_of() == (watermark.PUBLIC_KEY, False)
    monkeypatch.setenv(watermark.KEY_NAME, "sécret")
    assert watermark.key_of() == ("sécret".encode(), True)


def test_the_interval_of_a_share_is_the_published_one():
    low, high = robustness.interval(0, 1000)  # the rule of three, exactly
    assert (low, high) == (0.0, pytest.approx(0.003682, abs=1e-6))


def record_of(**changed):
    told = {
        "engine": "flite",
        "weights": "built in",
        "consent": consent.parsed(entries()),
        "text": "Hello.",
        "created": datetime(2026, 11, 21, tzinfo=UTC),
    }
    return provenance.record(b"sound", KEY, **(told | changed))


def test_it_holds_for_its_file_and_key_alone():
    record = json.loads(json.dumps(record_of()))
    assert provenance.objections(record, b"sound", KEY) == []
    assert "another file" in provenance.objections(record, b"other", KEY)[0]
    assert "not of this key" in provenance.objections(record, b"sound", b"other")[0]


@pytest.mark.parametrize("name", ["engine", "consent", "watermark", "created", "settings"])
def test_a_change_of_any_entry_breaks_the_seal(name):
    record = record_of() | {name: "another"}
    assert "changed since" in provenance.objections(record, b"sound", KEY)[0]


def test_neither_the_text_nor_the_key_can_be_read_in_it():
    written_down = json.dumps(record_of())
    assert "Hello" not in written_down
    assert KEY.decode() not in written_down


@pytest.fixture
def folder(tmp_path):
    """Return a folder of clips as `mos` takes it: reference, two systems, three sentences."""
    for system, item in itertools.product(("reference", "one", "two"), "abc"):
        path = tmp_path / "clips" / system / f"{item}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written(babble(1.0, seed=hash_of(system + item))))
    return tmp_path / "clips"


def hash_of(text):
    return hashlib.sha256(text.encode()).digest()[0]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7])
def test_orders_are_balanced_for_place_and_for_what_came_before(count):
    square = listening.williams(count)
    for place in range(count):
        found = [order[place] for order in square]
        assert [found.count(entry) for entry in range(count)] == [len(square) // count] * count
    before = [pair for order in square for pair in itertools.pairwise(order)]
    wanted = len(square) * (count - 1) // (count * (count - 1))
    for pair in itertools.permutations(range(count), 2):
        assert before.count(pair) == wanted


def plan_of(systems=4, items=6, raters=8, repeats=3, seed=0):
    names = [listening.REFERENCE, listening.ANCHOR, *map(str, range(systems - 2))]
    return listening.planned(names, [f"s{at}" for at in range(items)], raters, repeats, seed)


def test_every_rater_hears_everything_once_and_some_clips_again():
    plan = plan_of()
    for order in plan.orders:
        rated = order[listening.PRACTICE :][:24]
        assert sorted(rated) == sorted(plan.names)
        again = order[listening.PRACTICE + 24 :]
        assert len(set(again)) == 3
        assert not set(again) & set(rated[-6:])  # not what was just heard
    assert len({tuple(order) for order in plan.orders}) == 8


def test_each_system_comes_equally_often_in_each_round():
    plan = plan_of(systems=4, items=8)
    for order in plan.orders:
        heard = [plan.names[name][0] for name in order[listening.PRACTICE :][:32]]
        for turn in range(4):
            part = heard[turn * 8 : turn * 8 + 8]
            assert {part.count(system) for system in part} == {2}


def test_the_page_does_not_name_a_system(folder):
    clips = listening.with_anchor(listening.clips_in(folder), "noise", 0)
    plan = listening.planned(list(clips), ["a", "b", "c"], 4, 1, 0)
    text = listening.page(plan, clips, "a test </script>", "naturalness", None)
    test = json.loads(text.split('id="test">')[1].split("</script>")[0])
    assert test["name"] == "a test </script>"
    assert set(test["clips"]) == set(plan.names)
    without_sound = json.dumps(test | {"clips": {}})
    assert not any(name in without_sound for name in ("one", "two", "reference"))
    assert "<title>Listening test: a test &lt;/script&gt;</title>" in text
    assert text.count("data:audio/flac") == len(plan.names)
    assert "http" not in text.replace("http-equiv", "")


def test_all_clips_are_equally_loud(folder):
    clips = listening.with_anchor(listening.clips_in(folder), "low-pass", 0)
    quiet = listening.levelled(Speech(clips["one"]["a"].samples * 0.01, 16_000))
    np.testing.assert_allclose(quiet.samples, clips["one"]["a"].samples, atol=1e-4)


def test_the_anchors_are_as_bad_as_they_say():
    speech = babble(4.0, rate=24_000)
    noisy = listening.anchor(speech, "noise", 0)
    assert robustness.cost(speech, noisy) == pytest.approx(listening.NOISE_DB, abs=0.3)
    dull = np.abs(np.fft.rfft(listening.anchor(speech, "low-pass", 0).samples))
    assert np.sum(dull[16_400:] ** 2) < 1e-4 * np.sum(dull**2)  # above 4.1 kHz


def test_for_likeness_the_anchor_is_another_person(folder):
    with pytest.raises(InputInvalid, match="wanted reference and anchor, another person"):
        listening.clips_in(folder, "similarity")
    (folder / "two").rename(folder / "anchor")
    with pytest.raises(InputInvalid, match="the anchor is made of it"):
        listening.clips_in(folder)
    clips = listening.clips_in(folder, "similarity")
    kept = listening.with_anchor(clips, "noise", 0)["anchor"]["a"]
    np.testing.assert_array_equal(kept.samples, listening.levelled(clips["anchor"]["a"]).samples)


def test_folders_that_do_not_match_are_refused(folder, tmp_path):
    (folder / "two" / "c.wav").rename(folder / "two" / "d.wav")
    with pytest.raises(InputInvalid, match=r"two: found clips a, b, d; wanted a, b, c"):
        listening.clips_in(folder)
    (folder / "reference").rename(tmp_path / "elsewhere")
    with pytest.raises(InputInvalid, match="found folders one, two; wanted reference"):
        listening.clips_in(folder)
    with pytest.raises(DataUnavailable, match="no such folder"):
        listening.clips_in(tmp_path / "nowhere")


SHROUT = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)
"""Six targets and four judges: Shrout and Fleiss 1979, table 2."""


def answers(names, scores, rater="1", headphones=6, again=()):
    """Return the CSV that the page saves for scores by stimulus name."""
    lines = [",".join(ratings.COLUMNS)]
    phases = [("rated", name) for name in names] + [("repeat", name) for name in again]
    for position, (phase, name) in enumerate(phases, start=3):
        score = scores[name] if phase == "rated" else scores[f"again {name}"]
        lines.append(f"t,{rater},{position},{phase},{name},{score},1,4.2,headphones,{headphones}")
    return "\n".join(lines).encode()


@pytest.fixture
def key():
    """Return a key of three systems and two sentences."""
    stimuli = {
        f"{system[0]}{item}": (system, item)
        for system in ("reference", "anchor", "clone")
        for item in "xy"
    }
    return {"test": "t", "ask": "naturalness", "stimuli": stimuli, "trials": 10}


GOOD = {"rx": 5, "ry": 4, "ax": 1, "ay": 2, "cx": 3, "cy": 3}


def test_agreement_is_that_of_the_published_example():
    one, mean = ratings.agreement(SHROUT)
    assert (round(one, 2), round(mean, 2)) == (0.29, 0.62)


def test_holm_is_that_of_an_example_worked_by_hand():
    assert ratings.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert ratings.holm([0.6, 0.9]) == [1.0, 1.0]


def test_raters_of_one_mind_are_told_from_chance():
    means = np.array([[4.0, 3, 2]] * 6) + np.arange(6)[:, None] / 10
    # Friedman's statistic is n (k - 1) = 12; with 2 degrees of freedom p = exp(-6)
    assert ratings.friedman(means) == pytest.approx(np.exp(-6))
    found = ratings.pairs(means, ["a", "b", "c"])
    assert [entry["pair"] for entry in found] == ["a - b", "a - c", "b - c"]
    # six differences of one sign: p = 2 / 2^6, three times by Holm
    assert [entry["p"] for entry in found] == pytest.approx([2 / 64] * 3)
    assert [entry["p (Holm)"] for entry in found] == pytest.approx([6 / 64] * 3)
    assert [entry["difference"] for entry in found] == pytest.approx([1, 2, 1])


def test_equal_systems_do_not_differ():
    same = np.full((5, 3), 3.0)
    assert np.isnan(ratings.friedman(same))
    assert [entry["p (Holm)"] for entry in ratings.pairs(same, ["a", "b", "c"])] == [1.0] * 3


def test_intervals_hold_what_they_promise():
    """Of 200 tests with raters and sentences that differ, nine in ten hold the true mean."""
    held = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        rater, item = chance.normal(0, 0.4, (12, 1, 1)), chance.normal(0, 0.3, (1, 1, 15))
        scores = 3 + rater + item + chance.normal(0, 0.7, (12, 1, 15))
        low, high = ratings.intervals(scores, seed, draws=400)[0][1:]
        held += low < 3 < high
    assert held >= 180


def test_an_interval_of_unanimous_raters_is_a_point():
    scores = np.broadcast_to(np.array([4.0, 2.0])[None, :, None], (5, 2, 6))
    np.testing.assert_allclose(ratings.intervals(scores, 0), [(4, 4, 4), (2, 2, 2)])


def test_a_good_rater_is_kept_and_put_in_the_table(key):
    (rater,) = ratings.read(answers(GOOD, GOOD), "one.csv", key)
    assert ratings.objection(rater, key) == ""
    table, systems = ratings.table_of([rater])
    assert systems == ["reference", "clone", "anchor"]
    assert table.tolist() == [[[5, 4], [3, 3], [1, 2]]]


@pytest.mark.parametrize(
    ("changed", "how", "told"),
    [
        ({"ax": 4, "ay": 4}, {}, "rated the anchor 4.0 and the real recording 4.5"),
        ({"again cx": 5}, {"again": ["cx"]}, "rated the same clips 2.0 apart"),
        ({}, {"headphones": 4}, "heard 4 of 6 tones right"),
    ],
)
def test_who_did_not_listen_is_left_out_and_why_is_told(key, changed, how, told):
    content = answers(GOOD, GOOD | changed, **how)
    (rater,) = ratings.read(content, "one.csv", key)
    assert told in ratings.objection(rater, key, headphones=True)


def test_who_stopped_early_is_left_out(key):
    (rater,) = ratings.read(answers(["rx", "ax"], GOOD), "one.csv", key)
    assert ratings.objection(rater, key) == "stopped early: 4 clips are not rated"


@pytest.mark.parametrize(
    ("find", "put", "told"),
    [
        (b",5,1", b",6,1", "one.csv, line 2, rating: found '6'; wanted 1 to 5"),
        (b",5,1", b",\xc2\xb2,1", "line 2, rating"),
        (b"rx", b"zz", "line 2, stimulus: found 'zz'"),
        (b"rated,ry", b"rated,rx", "line 3, stimulus: found rx a second time"),
        (b"rated,rx", b"heard,rx", "line 2, phase: found 'heard'; wanted practice"),
        (b"t,1,3", b"u,1,3", "line 2, test: found 'u'; wanted t"),
        (b",headphones,6\nt,1,4", b"\nt,1,4", "line 2: found 8 cells; wanted 10"),
        (b"test,rater", b"rater,test", "line 1: found rater,test"),
        (b"test", b"\xff\xfe", "found no CSV in UTF-8"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_line(key, find, put, told):
    content = answers(GOOD, GOOD)
    assert find in content
    with pytest.raises(InputInvalid, match=told):
        ratings.read(content.replace(find, put, 1), "one.csv", key)


@settings(max_examples=150, deadline=None, database=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_a_file_holds_it_is_read_or_refused_in_words(content, at):
    stimuli = {name: (name[0], name[1]) for name in GOOD}
    key = {"test": "t", "stimuli": stimuli, "trials": 6}
    good = answers(GOOD, GOOD)
    told = []
    for mixed in (content, good[:at] + content + good[at:]):
        try:
            found = ratings.read(mixed, "one.csv", key)
        except InputInvalid as refused:
            told.append(str(refused))
        else:
            assert all(1 <= value <= 5 for rater in found for value in rater.first.values())
    assert all(text.startswith("one.csv") for text in told)


def test_a_rater_is_in_one_file_only(key, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(answers(GOOD, GOOD))
    with pytest.raises(InputInvalid, match="found rater 1, who is in"):
        ratings.read_all(sorted(tmp_path.glob("*.csv")), key)


@pytest.fixture
def run(tmp_path):
    spec = JobSpec("voice_cloning", Path(trust_verbs.__file__).parent, "title", "question")
    return Run(spec, tmp_path / "out", "verb")


def test_consent_writes_a_file_that_covers_its_recordings(run, tmp_path, folder):
    last = datetime.now(UTC) + timedelta(days=9)
    trust_verbs.consent(run, (folder / "one",), "Ada", ("clone",), last, None)
    content = (folder / "one" / "b.wav").read_bytes()
    today = datetime.now(UTC).date()
    assert consent.check(run.out, content, "clone", today).expiry == last.date()
    other = (folder / "two" / "b.wav").read_bytes()
    with pytest.raises(InputInvalid, match="which is the recording's"):
        consent.check(run.out, other, "clone", today)
    with pytest.raises(InputInvalid, match="found a file there"):
        trust_verbs.consent(run, (folder / "one",), "Ada", ("clone",), last, None)


def test_detect_tells_marked_from_bare_and_reads_the_record(run, tmp_path, monkeypatch):
    monkeypatch.setenv(watermark.KEY_NAME, KEY.decode())
    agreed = consent.parsed(entries())
    message = provenance.message_of(agreed)
    marked = written(watermark.marked(babble(3.0), KEY, message))
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "bare.wav").write_bytes(written(babble(3.0)))
    path = tmp_path / "sound" / "marked.wav"
    path.write_bytes(marked)
    record = provenance.record(marked, KEY, engine="flite", weights="built in", consent=agreed)
    provenance.keep(path, record)
    trust_verbs.detect(run, tmp_path / "sound", keys=10, seed=0)
    rows = run.pieces[0]["rows"]
    assert [row["marked"] for row in rows] == ["no", "yes"]
    assert [row["record"] for row in rows] == ["none", "holds"]
    assert rows[1]["message"] == message == int(agreed.digest[:2], 16)
    assert "0 of 20 times" in run.pieces[1]["text"]


def test_measuring_finds_the_marks_and_keeps_what_detect_tells(run, tmp_path, monkeypatch):
    first = list(robustness.CHANGES.items())[:2]
    monkeypatch.setattr(robustness, "CHANGES", dict(first))
    for seed in range(3):
        (tmp_path / f"{seed}.wav").write_bytes(written(babble(6.0, seed=seed)))
    trust_verbs.measure_watermark(run, (tmp_path,), 6, 6, 4, seed=0)
    assert run.metrics["found_as_it_is__16_bits"] == 1
    assert run.metrics["false_positives"] == 0
    assert json.loads((run.out / trust_verbs.MEASURED).read_text("utf-8"))["tries"] == 24
    measured = run.out / trust_verbs.MEASURED
    assert "Measured on 6 clips" in trust_verbs._told_of_false_positives(measured, 0, 0)


def test_what_was_measured_of_another_mark_is_not_told(tmp_path, monkeypatch):
    shipped = Path(trust_verbs.__file__).with_name(trust_verbs.MEASURED)
    assert "Measured on 1,000 clips" in trust_verbs._told_of_false_positives(tmp_path, 0, 0)
    assert json.loads(shipped.read_text("utf-8"))["rate_high"] < 0.001
    monkeypatch.setattr(watermark, "STEP", 256)
    assert "measure-watermark measures it" in trust_verbs._told_of_false_positives(tmp_path, 0, 0)


def test_a_test_is_written_and_its_ratings_are_told(run, folder, tmp_path):
    trust_verbs.mos(run, folder, "naturalness", None, 6, 2, "noise", "t", seed=0)
    made = json.loads((run.out / "listening" / "key.json").read_text("utf-8"))
    chance = np.random.default_rng(0)
    (tmp_path / "csv").mkdir()
    level = {"reference": 5, "one": 4, "two": 2, "anchor": 1}
    for rater in range(1, 6):
        given = {
            name: int(np.clip(level[entry["system"]] + chance.integers(-1, 2), 1, 5))
            for name, entry in made["stimuli"].items()
        }
        path = tmp_path / "csv" / f"{rater}.csv"
        path.write_bytes(answers(given, given, rater=str(rater)))
    trust_verbs.mos_results(run, tmp_path / "csv", None, False, seed=0)
    assert run.metrics["raters"] == 5
    assert 3 < run.metrics["mos_one"] < 5
    assert run.metrics["mos_reference"] > run.metrics["mos_two"]
    assert (run.out / "report" / "verb-opinions.png").is_file()


def test_ratings_that_cannot_be_counted_are_no_result(run, folder, tmp_path):
    trust_verbs.mos(run, folder, "naturalness", None, 2, 0, "noise", "t", seed=0)
    made = json.loads((run.out / "listening" / "key.json").read_text("utf-8"))
    flat = dict.fromkeys(made["stimuli"], 3)
    (tmp_path / "one.csv").write_bytes(answers(flat, flat))
    with pytest.raises(InputInvalid, match="found 0 raters who can be counted of 1"):
        trust_verbs.mos_results(run, tmp_path / "one.csv", None, False, seed=0)
