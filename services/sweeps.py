"""The sweeps: end what is due, a batch a transaction, until nothing is left or the time is spent."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from sqlalchemy import Column, ColumnElement, Engine, bindparam, select
from sqlmodel import Session

from models.columns import UtcDateTime, require_aware
from models.conversation import Conversation, conversations, due_expiry, due_idle, due_status
from models.event import EventCause
from services.arguments import LONGEST_PAGE, require_size
from services.database import set_locally
from services.endings import Ending
from services.lags import Lags
from services.tasks import DEFAULT_BATCH_SIZE, LARGEST_BATCH_SIZE, Task

#: How long one sweep may go on starting batches. What is left is for the next tick.
DEFAULT_TIME_BUDGET = timedelta(seconds=30)

#: How long one batch may take: a thousand times what it does, so it waits for a lock on the whole table, or for nobody.
BATCH_TIMEOUT = timedelta(seconds=20)
#: For the transaction of a batch, a sweep's or an adoption's. PostgreSQL cannot tell in advance how much is due. When
#: it expects little, it sorts all of it instead of walking the index in its order until the batch is full; when it
#: expects much, it reads the whole table instead of looking up each row at its place. Both are right for small tables
#: only.
BATCH_SETTINGS = {
    "statement_timeout": f"{BATCH_TIMEOUT // timedelta(milliseconds=1)}",
    **dict.fromkeys(("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    # Where it has to do what is off after all, it is taken for so dear that it would be compiled first, each time.
    "jit": "off",
    # Its events are in the statement: the triggers for other writers, where there are some, need not look for each.
    "adjourn.writes_events": "on",
}

Stopwatch = Callable[[], float]
#: Asked after each full batch: whether to take another.
Proceed = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction of a sweep did."""

    #: Conversations ended.
    count: int
    #: How late they ended.
    lags: Lags


#: Told of each batch that ended something, once it is committed.
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
    #: In seconds.
    duration: float
    #: False when it ended before it found nothing more that was due: its time budget was spent, or it was told to.
    drained: bool


@dataclass(frozen=True)
class _Kind:
    """What tells the two sweeps apart."""

    task: Task
    #: The deadline that they go by, and in whose order they go.
    due_at: Column[datetime]
    due: Callable[[datetime | ColumnElement[datetime]], ColumnElement[bool]]

    @cached_property
    def ending(self) -> Ending:
        """The statement of a batch: what is due at ``now``, from ``position`` on."""
        return self._ending(tells_lags=False)

    @cached_property
    def telling_ending(self) -> Ending:
        """The same, which tells how late they ended."""
        return self._ending(tells_lags=True)

    def _ending(self, *, tells_lags: bool) -> Ending:
        now, position = bindparam("now", type_=UtcDateTime()), bindparam("position", type_=UtcDateTime())
        due = self.due(now) & (self.due_at >= position)
        return Ending(status=due_status, cause=EventCause.SWEEP, where=due, order_by=self.due_at, tells_lags=tells_lags)


_IDLE = _Kind(Task.IDLE, conversations.c.idle_at, due_idle)
_EXPIRED = _Kind(Task.EXPIRED, conversations.c.expires_at, due_expiry)
_START = datetime.min.replace(tzinfo=UTC)


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
    another transaction holds are left to whoever holds them, or to the next sweep. ``sweep_id`` is for the events, a
    new one unless it is given. ``proceed`` is asked after each full batch, and ends the sweep when it says False;
    ``on_batch`` is told of each batch. ``stopwatch`` tells seconds that pass while it runs: they spend the budget and
    are added to ``now`` for the moment that events record.

    Raises NaiveDatetimeError, and InvalidValueError for a batch size that is not from 1 to 100,000.
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
    due = select(Conversation).where(kind.due(require_aware(now, "now"))).order_by(kind.due_at)
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
    started = stopwatch()
    count = batches = 0
    has_begun = False
    position = _START
    # One connection for all batches, each in a transaction of its own.
    with engine.connect() as connection:
        while True:
            elapsed = stopwatch() - started
            if elapsed >= time_budget.total_seconds() and has_begun:
                return Sweep(sweep_id, kind.task, count, batches, elapsed, drained=False)
            with connection.begin():
                set_locally(connection, **BATCH_SETTINGS)
                ended = ending.apply(
                    connection,
                    moment=now + timedelta(seconds=elapsed),
                    sweep_id=sweep_id,
                    now=now,
                    position=position,
                    batch_size=batch_size,
                )
            has_begun = True
            count += ended.count
            batches += ended.count > 0
            if on_batch is not None and ended.count and ended.lags is not None:
                on_batch(Batch(ended.count, ended.lags))
            drained = ended.picked < batch_size
            # All of a batch was kept from being ended, and the next one would be the same.
            is_stuck = not ended.count and ended.last == position
            if drained or is_stuck or not proceed():
                return Sweep(sweep_id, kind.task, count, batches, stopwatch() - started, drained=drained)
            # Behind it the index holds only the dead entries of what was just ended: do not walk them again. What
            # others held there is the next sweep's.
            position = ended.last or _START
