"""Concurrent requests become one call of score().

Rows that arrive while the model is at work are its next batch, and a lone request is scored at
once: only after a batch of several the next one waits for as many, a fraction of the time that it
took. A model of 30 µs costs 380 µs a call in scikit-learn, most of it checks, so a batch of 16
costs little more than one row.

A quick model is called on the event loop, between two looks at the sockets: a thread of its own
would fight the loop for Python's lock, which costs more than the score. A slow one has its thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from slipway.errors import Busy, NotReady

log = logging.getLogger("slipway.batching")


QUICK = 0.005
"""Seconds of a batch that the event loop can wait for: a thread that has Python's lock may keep
it as long anyway (`sys.getswitchinterval`)."""
APART = 20
"""For so many times the seconds of a slower batch the thread scores what comes next, and on until
a batch was quick: so the loop waits for slow ones a twentieth of the time at most, whatever their
order, and never for a model that is always slow."""
PATIENCE = 0.25
"""How long the next batch waits for one more row, as a share of the last one's time in score()."""
HELD_PATIENCE = 1.0
"""The same share after a batch whose answers were held: they set out later, and less together."""
HELD_SECONDS = 0.05
"""How long the next batch waits, at most, for answers of the last one that are held."""


class Gone(NotReady):
    """The client went away while its rows waited; nobody reads the answer."""


@dataclass(eq=False)
class Client:
    """Who waits for an answer; the server sets ``gone`` when the connection ends."""

    gone: bool = False
    began: float = field(default_factory=time.perf_counter)
    tickets: list[Ticket] = field(default_factory=list)


CLIENT: ContextVar[Client | None] = ContextVar("CLIENT", default=None)
"""The client whose request this thread answers."""


@dataclass(eq=False, slots=True)
class Ticket:
    """The rows of one request, later with their answers or their error, and when what happened.

    ``done`` may set ``held``, as long as it keeps the answer from its client to do more with it.
    """

    rows: list[Any]
    done: Callable[[Ticket], None]
    deadline: float
    client: Client | None = None
    answers: list[Any] = field(default_factory=list)
    error: Exception | None = None
    queued: float = field(default_factory=time.perf_counter)
    began: float = 0.0
    ended: float = 0.0
    held: bool = False

    def refused(self, now: float) -> Exception | None:
        """Return why these rows are not worth scoring any more."""
        if self.client and self.client.gone:
            return Gone("the client went away")
        if now > self.deadline:
            return NotReady("the rows waited too long for the model; send them again")
        return None


@dataclass(frozen=True)
class Limits:
    """How much a scorer takes: rows of a batch and of the queue, seconds of a request."""

    batch_rows: int = 256
    queue_rows: int = 4096
    timeout: float = 60.0
    max_wait: float = 0.0


Watch = Callable[[Sequence[Ticket], float], None]


class Batcher:
    """Calls ``answers(rows)`` from one thread at a time, with the rows of many requests.

    ``watch`` is told of the tickets of each batch and the seconds they took. Where ``answers``
    raises, the batch is halved until the request whose rows are to blame is alone with its error.
    ``soon`` runs a callback on the event loop, called from any thread; without it nothing is
    scored there.
    """

    def __init__(
        self,
        answers: Callable[[list[Any]], list[Any]],
        limits: Limits | None = None,
        watch: Watch = lambda tickets, seconds: None,
    ) -> None:
        self.answers = answers
        self.limits = limits or Limits()
        self.watch = watch
        self.queue: deque[Ticket] = deque()
        self.waiting = 0
        self.busy = False
        self.soon: Callable[[Callable[[], None]], None] | None = None
        self.thread: threading.Thread | None = None
        self._quick = False
        self._apart_until = 0.0
        self._lock = threading.Lock()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._filled = threading.Event()
        self._enough = self.limits.batch_rows

    def score(self, rows: list[Any]) -> list[Any]:
        """Return one answer a row; raise Busy, NotReady or what score() raised for these rows."""
        answered = threading.Lock()
        answered.acquire()
        ticket = self._ticket(rows, lambda _: answered.release(), CLIENT.get())
        if not self._alone():
            self._enqueue(ticket)
            answered.acquire()
        else:
            try:
                self._run([ticket])
            finally:
                self._hand_over()
        if ticket.error:
            raise ticket.error
        return ticket.answers

    def submit(
        self, rows: list[Any], done: Callable[[Ticket], None], client: Client | None = None
    ) -> Ticket:
        """Queue rows; ``done`` is called in the thread that scored them. Raises Busy."""
        ticket = self._ticket(rows, done, client)
        self._enqueue(ticket)
        return ticket

    def _ticket(
        self, rows: list[Any], done: Callable[[Ticket], None], client: Client | None
    ) -> Ticket:
        ticket = Ticket(rows, done, time.perf_counter() + self.limits.timeout, client)
        if client:
            client.tickets.append(ticket)
        return ticket

    def _alone(self) -> bool:
        """Take the model for this thread, where nobody has it nor waits for it."""
        with self._lock:
            alone = not (self.busy or self.queue or self.limits.max_wait)
            self.busy = self.busy or alone
            return alone

    def _enqueue(self, ticket: Ticket) -> None:
        with self._lock:
            if self.waiting and self.waiting + len(ticket.rows) > self.limits.queue_rows:
                raise Busy(f"{self.waiting} rows wait already; send these again in a second")
            self.queue.append(ticket)
            self.waiting += len(ticket.rows)
            if self.waiting >= self._enough:
                self._filled.set()
            if not self.busy:
                self.busy = True
                self._call()

    def _hand_over(self) -> None:
        """Leave the model to the loop or the scoring thread if rows have come meanwhile."""
        with self._lock:
            if self.queue:
                self._call()
            else:
                self.busy = False

    def _on_loop(self) -> Callable[[Callable[[], None]], None] | None:
        """Return what has a turn called on the event loop, if the model is quick enough for it."""
        return self.soon if self._quick and not self.limits.max_wait else None

    def _call(self) -> None:
        """Have the rows that wait scored: on the event loop, or in the scoring thread."""
        if soon := self._on_loop():
            soon(self._turn)
            return
        self.begin()
        self._wake.put(None)

    def begin(self) -> None:
        """Start the scoring thread, which the first rows do otherwise."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._serve, daemon=True, name="scoring")
            self.thread.start()

    def _turn(self) -> None:
        """Score one batch on the event loop, which then looks for requests before the next."""
        if batch := self._draw():
            self._run(batch)
            self._hand_over()

    def _serve(self) -> None:
        while True:
            self._wake.get()
            if self.limits.max_wait:
                self._filled.wait(self.limits.max_wait)
            while batch := self._draw():
                self._run(batch)
                if self._on_loop():
                    self._hand_over()
                    break
                self._linger(batch)

    def _linger(self, batch: Sequence[Ticket]) -> None:
        """Give those who were just answered together the time to ask again together.

        Else half of them are in each batch, and there are twice as many batches. It ends when as
        many rows have come as were answered, or when none came within `PATIENCE`. Who is not told
        yet, because the answer is held, cannot have asked again.
        """
        if len(batch) < 2:
            return
        seen = self.waiting
        share = HELD_PATIENCE if any(ticket.held for ticket in batch) else PATIENCE
        patience = share * (batch[0].ended - batch[0].began)
        end = time.perf_counter() + HELD_SECONDS
        while not self._filled.wait(patience) and (self.waiting > seen or _held(batch, end)):
            seen = self.waiting
        self._enough = self.limits.batch_rows

    def _expect(self, batch: Sequence[Ticket]) -> None:
        """Set how many rows are enough for the next batch, before the first of this one can ask."""
        if len(batch) < 2:
            return
        with self._lock:
            more = sum(len(ticket.rows) for ticket in batch)
            self._enough = min(self.waiting + more, self.limits.batch_rows)
            if self.waiting < self._enough:
                self._filled.clear()
            else:
                self._filled.set()

    def _draw(self) -> list[Ticket]:
        """Take the next batch off the queue; without one the model is free."""
        batch: list[Ticket] = []
        dropped: list[Ticket] = []
        room, now = self.limits.batch_rows, time.perf_counter()
        with self._lock:
            while self.queue and (not batch or len(self.queue[0].rows) <= room):
                ticket = self.queue.popleft()
                self.waiting -= len(ticket.rows)
                ticket.error = ticket.refused(now)
                if ticket.error:
                    dropped.append(ticket)
                else:
                    batch.append(ticket)
                    room -= len(ticket.rows)
            self._filled.clear()
            self.busy = bool(batch)
        for ticket in dropped:
            _tell(ticket)
        return batch

    def _run(self, batch: Sequence[Ticket]) -> None:
        began = time.perf_counter()
        for ticket in batch:
            ticket.began = began
        self._settle(batch)
        ended = time.perf_counter()
        self._judge(ended, ended - began)
        for ticket in batch:
            ticket.ended = ended
        try:
            self.watch(batch, ended - began)  # first: what is answered must be in the score log
        except Exception:
            log.exception("a batch was not counted")
        self._expect(batch)
        for ticket in batch:
            _tell(ticket)

    def _judge(self, ended: float, seconds: float) -> None:
        """Note whether the model is quick; one that was slow must be so again in the thread."""
        if seconds > QUICK:
            self._quick, self._apart_until = False, ended + APART * seconds
        elif ended >= self._apart_until:
            self._quick = True

    def _settle(self, batch: Sequence[Ticket]) -> None:
        """Give each ticket its answers, or its error."""
        rows = [row for ticket in batch for row in ticket.rows]
        try:
            found = self._in_slices(rows)
        except BaseException as error:  # whatever a job raises, those who wait must be told
            if len(batch) == 1:
                batch[0].error = error if isinstance(error, Exception) else RuntimeError(error)
                return
            half = math.ceil(len(batch) / 2)
            self._settle(batch[:half])
            self._settle(batch[half:])
            return
        start = 0
        for ticket in batch:
            ticket.answers = found[start : start + len(ticket.rows)]
            start += len(ticket.rows)

    def _in_slices(self, rows: list[Any]) -> list[Any]:
        """Score rows, never more than the ceiling in one call: a request may hold more."""
        step = self.limits.batch_rows
        if len(rows) <= step:
            return self.answers(rows)
        slices = (rows[start : start + step] for start in range(0, len(rows), step))
        return [answer for part in slices for answer in self.answers(part)]


def _held(batch: Sequence[Ticket], end: float) -> bool:
    return any(ticket.held for ticket in batch) and time.perf_counter() < end


def _tell(ticket: Ticket) -> None:
    try:
        ticket.done(ticket)
    except Exception:
        log.exception("an answer was not delivered")
