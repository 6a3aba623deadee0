"""The sweeps: end what is due, a batch a transaction, until nothing is left or the time is spent."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlmodel import Session

from models.columns import require_aware
from models.conversation import Conversation
from models.event import EventCause
from services import set_aside
from services.arguments import LONGEST_PAGE, require_size
from services.due import BY_EXPIRES_AT, BY_IDLE_AT, Batch, DueBatches, DueBy, DueEnding
from services.tasks import DEFAULT_BATCH_SIZE, LARGEST_BATCH_SIZE, Task

#: How long one sweep may go on starting batches. What is left is for the next tick.
DEFAULT_TIME_BUDGET = timedelta(seconds=30)

T = TypeVar("T")

Stopwatch = Callable[[], float]
#: Asked after each batch but the last: whether to take another.
Proceed = Callable[[], bool]


#: Told of each batch that ended or set aside something, once it is committed.
OnBatch = Callable[[Batch], None]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did."""

    sweep_id: uuid.UUID
    task: Task
    #: Conversations ended.
    count: int
    #: Transactions in which it ended some.
    batches: int
    #: Conversations set aside that were not before.
    set_aside: int
    #: In seconds.
    duration: float
    #: False when it ended before it found nothing more that was due: its time budget was spent, or it was told to.
    drained: bool


@dataclass(frozen=True)
class _Kind:
    """What tells the two sweeps apart."""

    task: Task
    due_by: DueBy

    @cached_property
    def ending(self) -> DueEnding:
        """The statements of a batch."""
        return DueEnding(self.due_by, EventCause.SWEEP)

    @cached_property
    def telling_ending(self) -> DueEnding:
        """The same, which tell how late they ended."""
        return DueEnding(self.due_by, EventCause.SWEEP, tells_lags=True)


_IDLE = _Kind(Task.IDLE, BY_IDLE_AT)
_EXPIRED = _Kind(Task.EXPIRED, BY_EXPIRES_AT)


def _always() -> bool:
    return True


def process_idle_conversations(
    engine: Engine,
    *,
    now: datetime,
    batch_size: int = DEFAULT_BATCH_SIZE,
    time_budget: timedelta = DEFAULT_TIME_BUDGET,
    sweep_id: uuid.UUID | None = None,
    proceed: Proceed = _always,
    on_batch: OnBatch | None = None,
    stopwatch: Stopwatch = time.monotonic,
) -> Sweep:
    """End the conversations whose idle deadline is reached at ``now``.

    The deadline that comes first names the status, so one whose expiry came before is ``expired``. Conversations that
    another transaction holds are left to whoever holds them, or to the next sweep. One whose end the database refuses
    is set aside: see ``services.set_aside``. ``sweep_id`` is for the events, a new one unless it is given. ``proceed``
    is asked after each batch but the last, and ends the sweep when it says False; ``on_batch`` is told of each batch.
    ``stopwatch`` tells seconds that pass while it runs: they spend the budget and are added to ``now`` for the moment
    that events record.

    Raises NaiveDatetimeError, and InvalidValueError for a batch size that is not from 1 to 100,000;
    sqlalchemy.exc.DBAPIError for what is no row's fault, TooManySetAsideError when it looks like all of them.
    """
    return _sweep(engine, _IDLE, now, batch_size, time_budget, sweep_id or uuid.uuid4(), proceed, on_batch, stopwatch)


def process_expired_conversations(
    engine: Engine,
    *,
    now: datetime,
    batch_size: int = DEFAULT_BATCH_SIZE,
    time_budget: timedelta = DEFAULT_TIME_BUDGET,
    sweep_id: uuid.UUID | None = None,
    proceed: Proceed = _always,
    on_batch: OnBatch | None = None,
    stopwatch: Stopwatch = time.monotonic,
) -> Sweep:
    """End the conversations whose expiry is reached at ``now``; else as ``process_idle_conversations``."""
    return _sweep(
        engine, _EXPIRED, now, batch_size, time_budget, sweep_id or uuid.uuid4(), proceed, on_batch, stopwatch
    )


def find_idle_conversations(session: Session, *, now: datetime, limit: int = 100) -> list[Conversation]:
    """Return what ``process_idle_conversations`` would end at ``now``, longest due first, and end nothing.

    ``Conversation.status_when_due`` says what each would become.
    """
    return _find(session, _IDLE, now, limit)


def find_expired_conversations(session: Session, *, now: datetime, limit: int = 100) -> list[Conversation]:
    """Return what ``process_expired_conversations`` would end at ``now``, longest due first, and end nothing."""
    return _find(session, _EXPIRED, now, limit)


def _find(session: Session, kind: _Kind, now: datetime, limit: int) -> list[Conversation]:
    due_by = kind.due_by
    now = require_aware(now, "now")
    due = select(Conversation).where(due_by.due(now), set_aside.taken(now)).order_by(due_by.deadline)
    page = due.limit(require_size("limit", limit, LONGEST_PAGE))
    return list(session.scalars(page, execution_options={"populate_existing": True}))


def _sweep(  # noqa: PLR0917 - the two callers above hand on what they were given
    engine: Engine,
    kind: _Kind,
    now: datetime,
    batch_size: int,
    time_budget: timedelta,
    sweep_id: uuid.UUID,
    proceed: Proceed,
    on_batch: OnBatch | None,
    stopwatch: Stopwatch,
) -> Sweep:
    now = require_aware(now, "now")
    require_size("batch_size", batch_size, LARGEST_BATCH_SIZE)
    ending = kind.ending if on_batch is None else kind.telling_ending
    batches_due = DueBatches(ending, now=now, batch_size=batch_size)
    started = stopwatch()
    count = batches = aside = 0
    has_begun = False
    # One connection for all batches, each in a transaction of its own.
    with engine.connect() as connection:

        def transact(act: Callable[[Connection], T]) -> T:
            with connection.begin():
                return act(connection)

        while True:
            elapsed = stopwatch() - started
            if elapsed >= time_budget.total_seconds() and has_begun:
                return Sweep(sweep_id, kind.task, count, batches, aside, elapsed, drained=False)
            batch = batches_due.end_next(transact, moment=now + timedelta(seconds=elapsed), sweep_id=sweep_id)
            has_begun = True
            count += batch.count
            batches += batch.count > 0
            aside += batch.set_aside
            if on_batch is not None and (batch.count or batch.set_aside):
                on_batch(batch)
            if batches_due.is_over or not proceed():
                duration = stopwatch() - started
                drained = batches_due.is_over
                return Sweep(sweep_id, kind.task, count, batches, aside, duration, drained=drained)
