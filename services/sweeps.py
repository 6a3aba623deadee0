"""The sweeps: end what is due, a batch a transaction, until nothing is left or the time is spent."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property

from sqlalchemy import Column, ColumnElement, Engine, bindparam, select
from sqlmodel import Session

from models.columns import UtcDateTime, require_aware
from models.conversation import Conversation, conversations, due_expiry, due_idle, due_status
from models.event import EventCause
from services.arguments import LONGEST_PAGE, require_size
from services.database import limit_statements
from services.transitions import Transition

#: How many conversations one transaction ends: enough to pay for the statement, few enough that a message
#: which waits for one of its rows does not notice.
DEFAULT_BATCH_SIZE = 2_000
#: The largest batch that is taken: beyond it, larger is slower and only the wait grows.
LARGEST_BATCH_SIZE = 100_000
#: How long one sweep may go on starting batches. What is left is for the next tick.
DEFAULT_TIME_BUDGET = timedelta(seconds=30)

#: How long one batch may take: a thousand times what it does, so it waits for a lock on the whole table, or for nobody.
BATCH_TIMEOUT = timedelta(seconds=20)

Stopwatch = Callable[[], float]


class Task(StrEnum):
    """The two sweeps, by the name that metrics and logs carry."""

    IDLE = "idle_conversations"
    EXPIRED = "expired_conversations"


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
    #: False when the time budget was spent before it found nothing more that was due.
    drained: bool


@dataclass(frozen=True)
class _Kind:
    """What tells the two sweeps apart."""

    task: Task
    #: The deadline that they go by, and in whose order they go.
    due_at: Column[datetime]
    due: Callable[[datetime | ColumnElement[datetime]], ColumnElement[bool]]

    @cached_property
    def ending(self) -> Transition:
        """The statement of a batch: what is due at ``now``, from ``position`` on."""
        now, position = bindparam("now", type_=UtcDateTime()), bindparam("position", type_=UtcDateTime())
        due = self.due(now) & (self.due_at >= position)
        return Transition(status=due_status, cause=EventCause.SWEEP, where=due, order_by=self.due_at)


_IDLE = _Kind(Task.IDLE, conversations.c.idle_at, due_idle)
_EXPIRED = _Kind(Task.EXPIRED, conversations.c.expires_at, due_expiry)
_START = datetime.min.replace(tzinfo=UTC)


def process_idle_conversations(
    engine: Engine,
    *,
    now: datetime,
    batch_size: int = DEFAULT_BATCH_SIZE,
    time_budget: timedelta = DEFAULT_TIME_BUDGET,
    stopwatch: Stopwatch = time.monotonic,
) -> Sweep:
    """End the conversations whose idle deadline is reached at ``now``.

    The deadline that comes first names the status, so one whose expiry came before is ``expired``. Conversations that
    another transaction holds are left to whoever holds them, or to the next sweep. ``stopwatch`` tells seconds that
    pass while it runs: they spend the budget and are added to ``now`` for the moment that events record.

    Raises NaiveDatetimeError, and InvalidValueError for a batch size that is not from 1 to 100,000.
    """
    return _sweep(engine, _IDLE, now, batch_size, time_budget, stopwatch)


def process_expired_conversations(
    engine: Engine,
    *,
    now: datetime,
    batch_size: int = DEFAULT_BATCH_SIZE,
    time_budget: timedelta = DEFAULT_TIME_BUDGET,
    stopwatch: Stopwatch = time.monotonic,
) -> Sweep:
    """End the conversations whose expiry is reached at ``now``; else as ``process_idle_conversations``."""
    return _sweep(engine, _EXPIRED, now, batch_size, time_budget, stopwatch)


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
    engine: Engine, kind: _Kind, now: datetime, batch_size: int, time_budget: timedelta, stopwatch: Stopwatch
) -> Sweep:
    now = require_aware(now, "now")
    require_size("batch_size", batch_size, LARGEST_BATCH_SIZE)
    sweep_id = uuid.uuid4()
    started = stopwatch()
    count = batches = 0
    position = _START
    while True:
        elapsed = stopwatch() - started
        if elapsed >= time_budget.total_seconds() and batches:
            return Sweep(sweep_id, kind.task, count, batches, elapsed, drained=False)
        with engine.begin() as connection:
            limit_statements(connection, BATCH_TIMEOUT)
            changed = kind.ending.apply(
                connection,
                moment=now + timedelta(seconds=elapsed),
                sweep_id=sweep_id,
                now=now,
                position=position,
                batch_size=batch_size,
            )
        count += changed.count
        batches += changed.count > 0
        if changed.count < batch_size:
            return Sweep(sweep_id, kind.task, count, batches, stopwatch() - started, drained=True)
        # Behind it the index holds only the dead entries of what was just ended: do not walk them again. What others
        # held there is the next sweep's.
        position = changed.last or _START
