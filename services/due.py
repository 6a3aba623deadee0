"""What is due by one of the two deadlines, ended a batch a transaction, in the order of that deadline.

Where the database refuses a batch because of one of its rows, the row is found by bisection and set aside.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, bindparam, select, type_coerce
from sqlalchemy.exc import DBAPIError

from models.columns import StoredId, UtcDateTime
from models.conversation import conversations, due_expiry, due_idle, due_status
from models.event import EventCause
from services import set_aside
from services.database import set_locally
from services.endings import Ended, Ending
from services.errors import first_line
from services.lags import Lags
from services.logs import get_logger
from services.refusals import Refusal, refusal_of

T = TypeVar("T")

#: How long one batch may take: a thousand times what it does, so it waits for a lock on the whole table, or for nobody.
BATCH_TIMEOUT = timedelta(seconds=20)
#: How many conflicts with other transactions, one after the other, before one counts as refused.
MOST_CONFLICTS = 3
#: What is left of the size of a batch that took too long, for the rest of the sweep.
_SMALLER = 16
#: How long a batch without rows may take: when it takes longer, somebody has the table locked.
PROBE_TIMEOUT = timedelta(seconds=2)
#: For the transaction of a batch. PostgreSQL cannot tell in advance how much is due. When it expects little, it sorts
#: all of it instead of walking the index in its order until the batch is full; when it expects much, it reads the whole
#: table instead of looking up each row at its place. Both are right for small tables only.
_SETTINGS = {
    **dict.fromkeys(("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    # Where it has to do what is off after all, it is taken for so dear that it would be compiled first, each time.
    "jit": "off",
    # Its events are in the statement: the triggers for other writers, where there are some, need not look for each.
    "adjourn.writes_events": "on",
}
#: The reason where the database says nothing.
_UNDONE = "its row stays as it is: a trigger or a rule undoes its end"
_START = datetime.min.replace(tzinfo=UTC)

log = get_logger(__name__)

_c = conversations.c
_NOW = bindparam("now", type_=UtcDateTime())
_POSITION = bindparam("position", type_=UtcDateTime())


class Transact(Protocol):
    """Does an act in a transaction of its own, and returns what it returns."""

    def __call__(self, act: Callable[[Connection], T], /) -> T:
        """Do it; what it raises rolls back."""


@dataclass(frozen=True)
class DueBy:
    """One of the two deadlines, as what is due is found by it."""

    deadline: Column[datetime]
    #: The criterion of what is due by it at an instant.
    due: Callable[[datetime | ColumnElement[datetime]], ColumnElement[bool]]


BY_IDLE_AT = DueBy(_c.idle_at, due_idle)
BY_EXPIRES_AT = DueBy(_c.expires_at, due_expiry)


class DueEnding:
    """The statements that end what is due by one of the deadlines. Make it once: to build them takes a while.

    With ``tells_lags`` they say how late each ended.
    """

    def __init__(self, due_by: DueBy, cause: EventCause, *, tells_lags: bool = False) -> None:
        due = due_by.due(_NOW)
        ahead = due & (due_by.deadline >= _POSITION) & set_aside.taken(_NOW)
        #: Ends the first ``batch_size`` from ``position`` on that are due at ``now``.
        self.batch = Ending(
            status=due_status, cause=cause, where=ahead, order_by=due_by.deadline, tells_lags=tells_lags
        )
        #: The first one alone, locked: its id, as the database has it, and its deadline.
        self.first = (
            select(type_coerce(_c.conv_id, StoredId()), due_by.deadline)
            .where(ahead)
            .order_by(due_by.deadline)
            .limit(1)
            .with_for_update(key_share=True, skip_locked=True)
        )
        #: Ends the one whose id is ``first_id``.
        first_id = bindparam("first_id", type_=StoredId())
        self.one = Ending(status=due_status, cause=cause, where=due & (_c.conv_id == first_id), tells_lags=tells_lags)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction did."""

    #: Conversations ended.
    count: int
    #: How late they ended, where that was asked for and there are any.
    lags: Lags | None = None
    #: Conversations set aside that were not before; then none ended.
    set_aside: int = 0


class DueBatches:
    """What is due at ``now``, in batches, each going on where the last one ended.

    Behind it the index holds only the dead entries of what was just ended, which are not walked again. What others held
    there is left to them, or to the next sweep.

    When the database refuses a batch because of a row, the next one is half as large, until it is a single row, which
    is set aside; then they grow again. After one that took too long they are small.
    """

    def __init__(self, ending: DueEnding, *, now: datetime, batch_size: int) -> None:
        self._ending = ending
        self._now = now
        self._batch_size = self._size = batch_size
        self._position = _START
        #: Of the rows ahead, how many are known to have one among them that was refused.
        self._suspects = 0
        #: The single row that was tried last.
        self._tried: uuid.UUID | str | None = None
        self._conflicts = 0
        #: How many were picked and not ended, though others of their batch were.
        self._kept = 0
        #: Whether nothing more was due than the last batch.
        self.is_over = False

    def end_next(self, transact: Transact, *, moment: datetime, sweep_id: uuid.UUID | None = None) -> Batch:
        """End the next batch in a transaction; ``moment`` is recorded.

        One that was refused ends nothing. Raises sqlalchemy.exc.DBAPIError for what is not about rows, and
        TooManySetAsideError.
        """
        self._tried = None
        try:
            ended = transact(lambda connection: self._end(connection, moment=moment, sweep_id=sweep_id))
        except DBAPIError as error:
            return self._see_to(error, transact, moment=moment)
        self._conflicts = 0
        if ended.picked and not ended.count:
            # Either each has changed since it was picked, or something undoes what is done to them without a word.
            return self._go_on_without(self._tried, _UNDONE, ended.picked, transact, moment)
        self._kept += ended.picked - ended.count
        self.is_over = ended.picked < self._size
        self._position = ended.last or self._position
        self._grow()
        if self.is_over and self._kept:
            # Once more from the start, where there is nothing but them now.
            self.is_over, self._position, self._kept = False, _START, 0
        if self.is_over:
            self._note(transact, lambda connection: set_aside.forget_ended(connection, now=self._now))
        return Batch(ended.count, ended.lags)

    @property
    def _place(self) -> dict[str, Any]:
        return {"now": self._now, "position": self._position}

    def _end(self, connection: Connection, *, moment: datetime, sweep_id: uuid.UUID | None) -> Ended:
        set_locally(connection, statement_timeout=_in_milliseconds(BATCH_TIMEOUT), **_SETTINGS)
        recorded: dict[str, Any] = {"moment": moment, "sweep_id": sweep_id}
        if self._size > 1:
            return self._ending.batch.apply(connection, **recorded, **self._place, batch_size=self._size)
        first = connection.execute(self._ending.first, self._place).one_or_none()
        if first is None:
            return Ended(0, picked=0)
        self._tried, deadline = first
        one = self._ending.one.apply(connection, **recorded, now=self._now, first_id=self._tried)
        return Ended(one.count, picked=1, last=deadline, lags=one.lags)

    def _see_to(self, error: DBAPIError, transact: Transact, *, moment: datetime) -> Batch:
        refusal = refusal_of(error)
        if refusal is Refusal.CONFLICT and self._conflicts < MOST_CONFLICTS:
            self._conflicts += 1
            return Batch(0)
        is_about_rows = refusal is not Refusal.OTHER and (self._size > 1 or self._tried is not None)
        if not is_about_rows or (self._size == self._batch_size and self._fails_without_rows(transact)):
            raise error
        if refusal is Refusal.TOO_LONG and self._size > 1:
            self._batch_size = self._size = max(1, self._size // _SMALLER)
            self._suspects = 0
            log.warning("a batch took too long: smaller ones for the rest of this sweep", batch_size=self._size)
            return Batch(0)
        return self._go_on_without(self._tried, first_line(error), self._size, transact, moment)

    def _fails_without_rows(self, transact: Transact) -> bool:
        """Return whether it cannot be a row's fault: something of ours is missing, or the right to it."""

        def probe(connection: Connection) -> Ended:
            set_locally(connection, statement_timeout=_in_milliseconds(PROBE_TIMEOUT))
            return self._ending.batch.apply(connection, moment=self._now, sweep_id=None, **self._place, batch_size=0)

        try:
            transact(probe)
        except DBAPIError:
            return True
        return False

    def _go_on_without(
        self, tried: uuid.UUID | str | None, reason: str, count: int, transact: Transact, moment: datetime
    ) -> Batch:
        """Set aside the one that was ``tried`` alone; else go on with half of the ``count`` rows that it is among."""
        if tried is None:
            self._suspects, self._size = count, max(1, count // 2)
            return Batch(0)
        is_new = self._note(
            transact, lambda connection: set_aside.set_aside(connection, tried, reason=reason, now=moment)
        )
        self._suspects = 0
        return Batch(0, set_aside=int(is_new))

    def _note(self, transact: Transact, act: Callable[[Connection], T]) -> T:
        """Do what is about set_aside_conversations: not for longer than a batch may take."""

        def briefly(connection: Connection) -> T:
            set_locally(connection, statement_timeout=_in_milliseconds(BATCH_TIMEOUT))
            return act(connection)

        return transact(briefly)

    def _grow(self) -> None:
        """Go on to the half that the refused row must be in, or from there on with twice as many at a time."""
        self._suspects = max(0, self._suspects - self._size)
        self._size = max(1, self._suspects // 2) if self._suspects else min(self._batch_size, 2 * self._size)


def _in_milliseconds(duration: timedelta) -> str:
    return f"{duration // timedelta(milliseconds=1)}"
