"""What is due by one of the two deadlines, ended a batch a transaction, in the order of that deadline."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, ColumnElement, Connection, bindparam

from models.columns import UtcDateTime
from models.conversation import conversations, due_expiry, due_idle, due_status
from models.event import EventCause
from services.database import set_locally
from services.endings import Ended, Ending

#: How long one batch may take: a thousand times what it does, so it waits for a lock on the whole table, or for nobody.
BATCH_TIMEOUT = timedelta(seconds=20)
#: For the transaction of a batch. PostgreSQL cannot tell in advance how much is due. When it expects little, it sorts
#: all of it instead of walking the index in its order until the batch is full; when it expects much, it reads the whole
#: table instead of looking up each row at its place. Both are right for small tables only.
_SETTINGS = {
    "statement_timeout": f"{BATCH_TIMEOUT // timedelta(milliseconds=1)}",
    **dict.fromkeys(("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
    # Where it has to do what is off after all, it is taken for so dear that it would be compiled first, each time.
    "jit": "off",
    # Its events are in the statement: the triggers for other writers, where there are some, need not look for each.
    "adjourn.writes_events": "on",
}
_START = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class DueBy:
    """One of the two deadlines, as what is due is found and ended by it."""

    deadline: Column[datetime]
    #: The criterion of what is due by it at an instant.
    due: Callable[[datetime | ColumnElement[datetime]], ColumnElement[bool]]

    def ending(self, cause: EventCause, *, tells_lags: bool = False) -> Ending:
        """Return the statement of a batch: what is due at ``now``, from ``position`` on. Make it once."""
        now, position = bindparam("now", type_=UtcDateTime()), bindparam("position", type_=UtcDateTime())
        where = self.due(now) & (self.deadline >= position)
        return Ending(status=due_status, cause=cause, where=where, order_by=self.deadline, tells_lags=tells_lags)


BY_IDLE_AT = DueBy(conversations.c.idle_at, due_idle)
BY_EXPIRES_AT = DueBy(conversations.c.expires_at, due_expiry)


class DueBatches:
    """What is due at ``now``, in batches, each going on where the last one ended.

    Behind it the index holds only the dead entries of what was just ended, which are not walked again. What others held
    there is left to them, or to the next sweep.
    """

    def __init__(self, ending: Ending, *, now: datetime, batch_size: int) -> None:
        self._ending = ending
        self._now = now
        self._batch_size = batch_size
        self._position = _START
        #: Whether nothing more was due than the last batch.
        self.is_drained = False
        #: Whether another batch would end nothing.
        self.is_over = False

    def end_next(self, connection: Connection, *, moment: datetime, sweep_id: uuid.UUID | None = None) -> Ended:
        """End the next batch, in the caller's transaction; ``moment`` is recorded."""
        set_locally(connection, **_SETTINGS)
        ended = self._ending.apply(
            connection,
            moment=moment,
            sweep_id=sweep_id,
            now=self._now,
            position=self._position,
            batch_size=self._batch_size,
        )
        self.is_drained = ended.picked < self._batch_size
        # All of a batch was kept from being ended, and the next one would be the same.
        is_stuck = not ended.count and ended.last == self._position
        self.is_over = self.is_drained or is_stuck
        self._position = ended.last or _START
        return ended
