"""The one statement that changes statuses: the rows that a criterion picks, and their events, together.

On PostgreSQL it is a single statement: pick and lock, update, record, count. SQLite cannot write inside a CTE, but has
one writer: there the events are recorded first and the rows follow from them, in the same transaction.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    Select,
    bindparam,
    case,
    func,
    insert,
    literal,
    null,
    select,
    update,
)

from models.columns import UtcDateTime
from models.conversation import ENDED_STATUSES, ConversationStatus, active, conversations, deadline, due_status
from models.event import EventCause, conversation_events

_c = conversations.c
_e = conversation_events.c

#: The moment of a change, as a parameter of its statement: what deadlines are judged by when a message or a person
#: changes a conversation, ``ended_at`` of the rows that end, ``occurred_at`` of the events.
MOMENT = bindparam("moment", type_=UtcDateTime())
_RECORDED = [
    _e.conv_id,
    _e.previous_status,
    _e.status,
    _e.deadline,
    _e.last_activity_at,
    _e.cause,
    _e.sweep_id,
    _e.occurred_at,
]
_NAMES = [column.name for column in _RECORDED]


@dataclass(frozen=True, slots=True)
class Changed:
    """What one statement changed."""

    count: int
    #: The largest value of the order column among the rows, where there was an order and the database tells it.
    last: datetime | None = None


def status_at_moment(otherwise: ColumnElement[ConversationStatus]) -> ColumnElement[ConversationStatus]:
    """Return what a conversation becomes that is touched at ``MOMENT``: what its deadline says once that is reached."""
    return case((deadline <= MOMENT, due_status), else_=otherwise)


class Transition:
    """A change of status of the active conversations that ``where`` picks, with its events.

    ``status`` is what each row gets, as an expression of its present values. With ``order_by`` it takes the first
    ``batch_size`` in that order, and leaves out those that another transaction holds; without, it waits for them. Make
    it once: to build the statement takes longer than to run it.
    """

    def __init__(
        self,
        *,
        status: ColumnElement[ConversationStatus],
        cause: EventCause,
        where: ColumnElement[bool],
        order_by: Column[datetime] | None = None,
    ) -> None:
        picked = select(
            _c.conv_id,
            _c.status.label("previous_status"),
            status.label("status"),
            deadline.label("deadline"),
            _c.updated_at.label("last_activity_at"),
            literal(cause, _e.cause.type).label("cause"),
            bindparam("sweep_id", type_=_e.sweep_id.type).label("sweep_id"),
            MOMENT.label("occurred_at"),
        ).where(active, where)
        if order_by is not None:
            batch_size = bindparam("batch_size", type_=Integer())
            picked = picked.add_columns(order_by.label("position")).order_by(order_by).limit(batch_size)
        self._picked: Select[Any] = picked.with_for_update(skip_locked=order_by is not None)

    def apply(
        self, connection: Connection, *, moment: datetime, sweep_id: uuid.UUID | None = None, **parameters: Any
    ) -> Changed:
        """Make the change in the caller's transaction; ``parameters`` are those of ``where``, and ``batch_size``.

        Each conversation is judged in the version of its row that is locked.
        """
        parameters |= {"moment": moment, "sweep_id": sweep_id}
        if connection.dialect.name != "sqlite":
            count, last = connection.execute(self._whole, parameters).one()
            return Changed(count, last)
        before = connection.execute(_LAST_EVENT).scalar_one()
        connection.execute(self._record, parameters)
        return Changed(connection.execute(_FOLLOW_EVENTS, {"before": before}).rowcount)

    @cached_property
    def _whole(self) -> Executable:
        """All of it, for PostgreSQL; returns a row of ``Changed``."""
        due = self._picked.cte("due")
        changed = (
            update(conversations)
            .where(_c.conv_id == due.c.conv_id)
            .values(status=due.c.status, ended_at=_ended_at(due.c.status, due.c.occurred_at))
            .returning(*due.c)
            .cte("changed")
        )
        recorded = insert(conversation_events).from_select(_NAMES, select(*(changed.c[name] for name in _NAMES)))
        last = func.max(changed.c.position) if "position" in changed.c else null()
        return select(func.count(), last).select_from(changed).add_cte(recorded.cte("recorded"))

    @cached_property
    def _record(self) -> Executable:
        """The events, for SQLite."""
        due = self._picked.subquery("due")
        return insert(conversation_events).from_select(_NAMES, select(*(due.c[name] for name in _NAMES)))


def _ended_at(
    status: ColumnElement[ConversationStatus], moment: ColumnElement[datetime]
) -> ColumnElement[datetime | None]:
    return case((status.in_(ENDED_STATUSES), moment), else_=null())


#: On SQLite, where nobody else writes meanwhile: after which event this transaction's are.
_LAST_EVENT = select(func.coalesce(func.max(_e.event_id), 0))
#: On SQLite: bring the rows to what the new events say.
_FOLLOW_EVENTS = (
    update(conversations)
    .where(_e.event_id > bindparam("before"), _c.conv_id == _e.conv_id)
    .values(status=_e.status, ended_at=_ended_at(_e.status, _e.occurred_at))
)
