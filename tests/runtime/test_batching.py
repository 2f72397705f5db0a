"""Batches: order, isolation, bounds, and any schedule of threads."""

import random
import threading
from queue import SimpleQueue

import pytest

from slipway import batching
from slipway.batching import CLIENT, Batcher, Client, Gone, Limits
from slipway.errors import Busy, InputInvalid, NotReady

PATIENCE = 20


class Model:
    """Answers each row with itself; stops where a test holds it, and notes each call."""

    def __init__(self, held: bool = False) -> None:
        self.calls: list[list[object]] = []
        self.entered: SimpleQueue[int] = SimpleQueue()
        self.free = threading.Event()
        if not held:
            self.free.set()

    def __call__(self, rows):
        self.calls.append(rows)
        self.entered.put(len(rows))
        assert self.free.wait(PATIENCE)
        if "bad" in rows:
            raise InputInvalid("a bad row")
        if "leave" in rows:
            raise SystemExit(3)
        return [("answer", row) for row in rows]


@pytest.fixture
def start():
    """Start a call in a thread; joining it returns what it returned or raised."""
    threads = []

    def run(function, *arguments):
        box = []

        def call():
            try:
                box.append(function(*arguments))
            except Exception as error:
                box.append(error)

        thread = threading.Thread(target=call)
        threads.append(thread)
        thread.start()

        def join():
            thread.join(PATIENCE)
            assert not thread.is_alive()
            return box[0]

        return join

    yield run
    for thread in threads:
        thread.join(PATIENCE)


def wait_for_rows(batcher: Batcher, number: int) -> None:
    """Wait until so many rows are in the queue."""
    pause = threading.Event()
    for _ in range(PATIENCE * 1000):
        if batcher.waiting == number:
            return
        pause.wait(0.001)
    pytest.fail(f"{batcher.waiting} rows wait; wanted {number}")


def test_a_lone_request_is_scored_by_its_own_thread_and_waits_for_nobody() -> None:
    seen = []
    batcher = Batcher(lambda rows: seen.append(threading.current_thread()) or rows)

    assert [1, 2] == batcher.score([1, 2])
    assert [threading.current_thread()] == seen
    assert batcher.thread is None


def test_what_arrives_while_the_model_is_at_work_is_one_call_in_order(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model)
    first = start(batcher.score, ["a"])
    model.entered.get(timeout=PATIENCE)
    later = []
    for number in range(5):
        later.append(start(batcher.score, [f"b{number}", f"c{number}"]))
        wait_for_rows(batcher, 2 * number + 2)
    model.free.set()

    assert [("answer", "a")] == first()
    assert [[("answer", f"b{n}"), ("answer", f"c{n}")] for n in range(5)] == [j() for j in later]
    assert [["a"], [f"{letter}{n}" for n in range(5) for letter in "bc"]] == model.calls


def test_no_call_has_more_rows_than_the_ceiling(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model, Limits(batch_rows=4))
    joins = [start(batcher.score, ["first"])]
    model.entered.get(timeout=PATIENCE)
    for number, size in enumerate((3, 2, 2, 11, 1)):
        joins.append(start(batcher.score, [(number, place) for place in range(size)]))
        wait_for_rows(batcher, sum((3, 2, 2, 11, 1)[: number + 1]))
    model.free.set()
    found = [join() for join in joins]

    assert [1, 3, 4, 4, 4, 3, 1] == [len(call) for call in model.calls]
    assert [("answer", (3, place)) for place in range(11)] == found[4]


def test_a_bad_row_spoils_only_its_own_request(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model)
    joins = [start(batcher.score, ["first"])]
    model.entered.get(timeout=PATIENCE)
    for number, word in enumerate(["a", "b", "bad", "c", "leave", "d", "e"]):
        joins.append(start(batcher.score, [word]))
        wait_for_rows(batcher, number + 1)
    model.free.set()
    found = [join() for join in joins]

    assert [[("answer", word)] for word in ("first", "a", "b", "c", "d", "e")] == [
        entry for entry in found if isinstance(entry, list)
    ]
    assert isinstance(found[3], InputInvalid)
    assert isinstance(found[5], RuntimeError)
    assert [("answer", "z")] == batcher.score(["z"])


def test_a_lone_request_gets_its_own_error_and_the_model_is_free_again() -> None:
    batcher = Batcher(Model())
    for _ in range(3):
        with pytest.raises(InputInvalid, match="a bad row"):
            batcher.score(["bad"])

    assert [("answer", 1)] == batcher.score([1])


def test_the_queue_is_bounded_in_rows_but_takes_one_large_request_when_empty(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model, Limits(queue_rows=10))
    joins = [start(batcher.score, ["first"])]
    model.entered.get(timeout=PATIENCE)
    joins.append(start(batcher.score, ["large"] * 50))
    wait_for_rows(batcher, 50)

    with pytest.raises(Busy, match="50 rows wait already"):
        batcher.score(["one more"])

    model.free.set()

    assert [1, 50] == [len(join()) for join in joins]
    assert 0 == batcher.waiting
    assert [("answer", 1)] == batcher.score([1])


def test_rows_that_waited_too_long_are_not_scored(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model, Limits(timeout=0))
    first = start(batcher.score, ["a"])
    model.entered.get(timeout=PATIENCE)
    late = start(batcher.score, ["b"])
    wait_for_rows(batcher, 1)
    model.free.set()

    assert [("answer", "a")] == first()
    assert isinstance(late(), NotReady)
    assert [["a"]] == model.calls


def test_a_client_that_went_away_is_not_scored_and_the_next_one_is(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model)
    client = Client()

    def asked_by_client():
        CLIENT.set(client)
        return batcher.score(["b"])

    first = start(batcher.score, ["a"])
    model.entered.get(timeout=PATIENCE)
    left = start(asked_by_client)
    wait_for_rows(batcher, 1)
    stays = start(batcher.score, ["c"])
    wait_for_rows(batcher, 2)
    client.gone = True
    model.free.set()

    assert isinstance(left(), Gone)
    assert [[("answer", "a")], [("answer", "c")]] == [first(), stays()]
    assert [["a"], ["c"]] == model.calls
    assert [["b"]] == [ticket.rows for ticket in client.tickets]


def test_a_callback_that_fails_stops_nobody() -> None:
    batcher = Batcher(Model())
    told: SimpleQueue[object] = SimpleQueue()

    def fail(ticket):
        told.put(ticket)
        raise ZeroDivisionError

    batcher.submit([1], fail)
    told.get(timeout=PATIENCE)
    batcher.submit([2], told.put)

    assert [("answer", 2)] == told.get(timeout=PATIENCE).answers


def test_a_watcher_is_told_of_each_batch_and_its_failure_stops_nobody() -> None:
    seen = []

    def watch(tickets, seconds):
        seen.append(([ticket.rows for ticket in tickets], seconds >= 0))
        raise ZeroDivisionError

    batcher = Batcher(Model(), watch=watch)
    for number in range(2):
        assert [("answer", number)] == batcher.score([number])
    assert [([[0]], True), ([[1]], True)] == seen


def test_with_a_wait_a_full_batch_does_not_wait_for_its_end(start) -> None:
    model = Model()
    batcher = Batcher(model, Limits(batch_rows=3, max_wait=PATIENCE * 10))
    joins = [start(batcher.score, [number]) for number in range(3)]

    assert [[("answer", number)] for number in range(3)] == [join() for join in joins]
    assert [3] == [len(call) for call in model.calls]


def at_work() -> tuple[Model, Batcher]:
    """Return a model that is at work on the row "a" until it is free, and its batcher."""
    model = Model(held=True)
    batcher = Batcher(model)
    batcher.submit(["a"], lambda ticket: None)
    model.entered.get(timeout=PATIENCE)
    return model, batcher


def test_those_who_were_answered_together_are_scored_together_again(start, monkeypatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE", 1e9)
    model, batcher = at_work()
    answered = threading.Barrier(3)
    for row in ("b", "c"):
        batcher.submit([row], lambda ticket: start(answered.wait, PATIENCE))
    model.free.set()
    answered.wait(PATIENCE)
    for number, row in enumerate(("b2", "c2")):
        wait_for_rows(batcher, number)
        batcher.submit([row], lambda ticket: start(answered.wait, PATIENCE))
    answered.wait(PATIENCE)

    assert [["a"], ["b", "c"], ["b2", "c2"]] == model.calls


def holding(held, later):
    """Return what keeps an answer from its client; what is put asks again, then lets go."""

    def done(ticket):
        ticket.held = True
        held.put(lambda: (later(), setattr(ticket, "held", False)))

    return done


def test_those_whose_answers_are_held_are_scored_together_again(monkeypatch) -> None:
    monkeypatch.setattr(batching, "HELD_PATIENCE", 0.0)  # the hold alone keeps the model waiting
    monkeypatch.setattr(batching, "HELD_SECONDS", PATIENCE)
    model, batcher = at_work()
    held, answered = SimpleQueue[object](), SimpleQueue[object]()
    for row in ("b", "c"):
        done = holding(held, lambda row=row: batcher.submit([row + "2"], answered.put))
        batcher.submit([row], done)
    model.free.set()
    first, second = held.get(timeout=PATIENCE), held.get(timeout=PATIENCE)
    first()
    wait_for_rows(batcher, 1)
    assert len(model.calls) == 2  # "b2" waits for the one who is not told yet
    second()
    answered.get(timeout=PATIENCE)
    answered.get(timeout=PATIENCE)

    assert [["a"], ["b", "c"], ["b2", "c2"]] == model.calls


def test_the_model_waits_a_moment_for_an_answer_that_is_held_and_no_longer(monkeypatch) -> None:
    monkeypatch.setattr(batching, "HELD_SECONDS", 0.001)
    model, batcher = at_work()
    held, answered = SimpleQueue[object](), SimpleQueue[object]()
    for row in ("b", "c"):
        batcher.submit([row], holding(held, lambda: None))
    batcher.submit(["d"], lambda ticket: batcher.submit(["d2"], answered.put))
    model.free.set()

    assert answered.get(timeout=PATIENCE).answers == [("answer", "d2")]
    assert [["a"], ["b", "c", "d"], ["d2"]] == model.calls
    assert held.qsize() == 2  # nobody let go


def test_after_a_lone_request_nobody_waits_for_another(start, monkeypatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE", 1e9)
    model = Model()
    batcher = Batcher(model)
    answered: SimpleQueue[object] = SimpleQueue()
    for row in ("a", "b"):
        batcher.submit([row], answered.put)
        answered.get(timeout=PATIENCE)

    assert [["a"], ["b"]] == model.calls


def test_the_model_is_free_again_when_nobody_comes_back(start) -> None:
    model = Model(held=True)
    batcher = Batcher(model)
    joins = [start(batcher.score, ["a"])]
    model.entered.get(timeout=PATIENCE)
    for number in range(2):
        joins.append(start(batcher.score, [number]))
        wait_for_rows(batcher, number + 1)
    model.free.set()
    for join in joins:
        join()
    pause = threading.Event()
    for _ in range(PATIENCE * 1000):
        if not batcher.busy:
            break
        pause.wait(0.001)

    assert not batcher.busy
    assert [("answer", "d")] == batcher.score(["d"])
    assert [["a"], [0, 1], ["d"]] == model.calls


def after_the_first_batch(model, turns) -> Batcher:
    """Return a batcher with an event loop, which asks ``turns``, and a model that was seen once."""
    batcher = Batcher(model)
    batcher.soon = turns.append
    batcher.score(["first"])
    model.calls.clear()
    return batcher


def test_a_model_that_nobody_has_seen_is_not_called_on_the_loop() -> None:
    turns: list[object] = []
    batcher = Batcher(Model())
    batcher.soon = turns.append
    answered: SimpleQueue[object] = SimpleQueue()
    batcher.submit(["a"], answered.put)

    assert [("answer", "a")] == answered.get(timeout=PATIENCE).answers
    assert [] == turns


def test_a_quick_model_has_its_turn_on_the_loop_with_all_that_wait(monkeypatch) -> None:
    monkeypatch.setattr(batching, "QUICK", PATIENCE)
    turns: list[object] = []
    model = Model()
    batcher = after_the_first_batch(model, turns)
    answered: list[object] = []
    for row in "abc":
        batcher.submit([row], lambda ticket: answered.append(threading.current_thread()))

    assert 1 == len(turns)
    assert [] == model.calls
    turns.pop()()
    assert [["a", "b", "c"]] == model.calls
    assert [threading.current_thread()] * 3 == answered
    assert ([], False) == (turns, batcher.busy)


def test_rows_that_come_during_a_turn_have_the_next_one(monkeypatch) -> None:
    monkeypatch.setattr(batching, "QUICK", PATIENCE)
    turns: list[object] = []
    model = Model()
    batcher = after_the_first_batch(model, turns)
    batcher.submit(["a"], lambda ticket: batcher.submit(["b"], lambda ticket: None))
    turns.pop()()

    assert 1 == len(turns)
    turns.pop()()
    assert [["a"], ["b"]] == model.calls


def test_a_slow_model_is_never_called_on_the_loop_until_it_was_quick(monkeypatch) -> None:
    turns: list[object] = []
    model = Model()
    monkeypatch.setattr(batching, "QUICK", -1)
    monkeypatch.setattr(batching, "APART", 0)
    batcher = after_the_first_batch(model, turns)
    answered: SimpleQueue[object] = SimpleQueue()
    for row in "ab":
        batcher.submit([row], answered.put)
        answered.get(timeout=PATIENCE)
    assert [] == turns

    monkeypatch.setattr(batching, "QUICK", PATIENCE)
    model.free.clear()
    batcher.submit(["c"], answered.put)
    while ["c"] not in model.calls:
        model.entered.get(timeout=PATIENCE)
    batcher.submit(["d"], answered.put)
    model.free.set()
    answered.get(timeout=PATIENCE)
    pause = threading.Event()
    for _ in range(PATIENCE * 1000):
        if turns:
            break
        pause.wait(0.001)
    turns.pop()()
    assert [["a"], ["b"], ["c"], ["d"]] == model.calls


def test_for_long_after_a_slow_batch_quick_ones_are_scored_in_the_thread(monkeypatch) -> None:
    turns: list[object] = []
    monkeypatch.setattr(batching, "QUICK", -1)
    monkeypatch.setattr(batching, "APART", 1e12)
    batcher = after_the_first_batch(Model(), turns)
    monkeypatch.setattr(batching, "QUICK", PATIENCE)
    answered: SimpleQueue[object] = SimpleQueue()
    for row in "ab":
        batcher.submit([row], answered.put)
        answered.get(timeout=PATIENCE)

    assert [] == turns


@pytest.fixture
def loop():
    """Return a function that has callbacks run one after the other in a thread."""
    callbacks: SimpleQueue[object] = SimpleQueue()

    def run():
        while callback := callbacks.get():
            callback()

    thread = threading.Thread(target=run)
    thread.start()
    yield callbacks.put
    callbacks.put(None)
    thread.join(PATIENCE)


@pytest.mark.parametrize("seed", range(12))
def test_any_schedule_gives_every_request_exactly_its_own_answers(
    start, loop, monkeypatch, seed
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(batching, "QUICK", 0.0002)
    monkeypatch.setattr(batching, "APART", 2)
    ceiling = chance.choice((1, 2, 7, 64))
    largest = []

    def model(rows):
        largest.append(len(rows))
        if chance.random() < 0.5:
            threading.Event().wait(0.0002)
        if any(row[1] == "bad" for row in rows):
            raise InputInvalid("a bad row")
        return [(row, "answer") for row in rows]

    batcher = Batcher(model, Limits(batch_rows=ceiling, queue_rows=chance.choice((5, 50, 5000))))
    batcher.soon = chance.choice((loop, None))
    asked: SimpleQueue[object] = SimpleQueue()

    def client(number):
        mine = random.Random(seed * 1000 + number)
        outcomes = []
        for turn in range(40):
            word = "bad" if mine.random() < 0.05 else "good"
            rows = [((number, turn, place), word) for place in range(mine.choice((1, 1, 2, 9)))]
            try:
                if mine.random() < 0.5:
                    found = batcher.score(rows)
                else:
                    box: SimpleQueue[object] = SimpleQueue()
                    batcher.submit(rows, box.put)
                    ticket = box.get(timeout=PATIENCE)
                    if ticket.error:
                        raise ticket.error
                    found = ticket.answers
                outcomes.append(found == [(row, "answer") for row in rows] and word == "good")
            except InputInvalid:
                outcomes.append(word == "bad")
            except Busy:
                outcomes.append(None)
        asked.put(outcomes)

    for join in [start(client, number) for number in range(8)]:
        assert not isinstance(join(), Exception)
    outcomes = [entry for _ in range(8) for entry in asked.get(timeout=PATIENCE)]

    assert 320 == len(outcomes)
    assert False not in outcomes
    assert True in outcomes
    assert max(largest) <= ceiling
    assert (0, False) == (batcher.waiting, bool(batcher.queue))
