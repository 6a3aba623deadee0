"""The one statement that changes statuses: the rows that a criterion picks, and their events, together.

On PostgreSQL it is a single statement: pick and lock, update, record, count. SQLite cannot write inside a CTE, but has
one writer: there the events are recorded first and the rows follow from them, in the same transaction.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, case, func, insert, literal, null, select, update

from models.columns import UtcDateTime
from models.conversation import ENDED_STATUSES, ConversationStatus, active, conversations, deadline, due_status
from models.event import EventCause, conversation_events

_c = conversations.c
_e = conversation_events.c


@dataclass(frozen=True, slots=True)
class Transition:
    """What happens to the rows that are picked, and what their events say of it."""

    #: The status that each row gets, as an expression of its present values.
    status: ColumnElement[ConversationStatus]
    cause: EventCause
    #: The moment at which it happens: ``ended_at`` of the rows that end, ``occurred_at`` of the events.
    moment: datetime
    sweep_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """What one statement changed."""

    count: int
    #: The largest value of the order column among the rows, where there was an order and the database tells it.
    last: datetime | None = None


def status_at(now: datetime, otherwise: ColumnElement[ConversationStatus]) -> ColumnElement[ConversationStatus]:
    """Return what a conversation becomes that is touched at ``now``: what its deadline says once that is reached."""
    return case((deadline <= now, due_status), else_=otherwise)


def apply_transition(
    connection: Connection,
    transition: Transition,
    *,
    where: ColumnElement[bool],
    order_by: Column[datetime] | None = None,
    limit: int | None = None,
    skip_locked: bool = False,
) -> Changed:
    """Apply ``transition`` to the active conversations that ``where`` picks, in the caller's transaction.

    Each is judged in the version of its row that is locked. With ``skip_locked`` those that another transaction holds
    are left out, otherwise they are waited for.
    """
    picked = select(
        _c.conv_id,
        _c.status.label("previous_status"),
        transition.status.label("status"),
        deadline.label("deadline"),
        _c.updated_at.label("last_activity_at"),
        literal(transition.cause, _e.cause.type).label("cause"),
        literal(transition.sweep_id, _e.sweep_id.type).label("sweep_id"),
        literal(transition.moment, UtcDateTime).label("occurred_at"),
    ).where(active, where)
    if order_by is not None:
        picked = picked.add_columns(order_by.label("position")).order_by(order_by).limit(limit)
    if connection.dialect.name == "sqlite":
        return _apply_on_sqlite(connection, picked)
    return _apply_on_postgresql(connection, picked.with_for_update(skip_locked=skip_locked))


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


def _apply_on_postgresql(connection: Connection, picked: Select[Any]) -> Changed:
    due = picked.cte("due")
    changed = (
        update(conversations)
        .where(_c.conv_id == due.c.conv_id)
        .values(status=due.c.status, ended_at=_ended_at(due.c.status, due.c.occurred_at))
        .returning(*due.c)
        .cte("changed")
    )
    recorded = insert(conversation_events).from_select(
        [column.name for column in _RECORDED],
        select(*(changed.c[column.name] for column in _RECORDED)),
    )
    last = func.max(changed.c.position) if "position" in changed.c else null()
    counted = select(func.count(), last).select_from(changed).add_cte(recorded.cte("recorded"))
    count, position = connection.execute(counted).one()
    return Changed(count, position)


def _apply_on_sqlite(connection: Connection, picked: Select[Any]) -> Changed:
    before = connection.execute(select(func.coalesce(func.max(_e.event_id), 0))).scalar_one()
    chosen = picked.subquery("due")
    connection.execute(
        insert(conversation_events).from_select(
            [column.name for column in _RECORDED],
            select(*(chosen.c[column.name] for column in _RECORDED)),
        )
    )
    changed = connection.execute(
        update(conversations)
        .where(_e.event_id > before, _c.conv_id == _e.conv_id)
        .values(status=_e.status, ended_at=_ended_at(_e.status, _e.occurred_at))
    )
    return Changed(changed.rowcount)


def _ended_at(
    status: ColumnElement[ConversationStatus], moment: ColumnElement[datetime]
) -> ColumnElement[datetime | None]:
    return case((status.in_(ENDED_STATUSES), moment), else_=null())
