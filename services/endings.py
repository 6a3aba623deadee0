"""The one statement that ends conversations: the rows that a criterion picks, and their events, together.

On PostgreSQL it is a single statement: pick and lock, update, record, count. SQLite cannot write inside a CTE, but has
one writer: there the events are recorded first and the rows follow from them, in the same transaction.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    Column,
    ColumnClause,
    ColumnElement,
    Connection,
    Executable,
    Integer,
    Interval,
    bindparam,
    case,
    column,
    delete,
    extract,
    func,
    insert,
    literal,
    null,
    select,
    update,
)

from models.columns import UtcDateTime
from models.conversation import (
    ACTIVE_STATUSES,
    ConversationStatus,
    active,
    conversations,
    deadline,
    due_status,
    status_literal,
)
from models.event import EventCause, conversation_events
from services.lags import Lags, thresholds

_c = conversations.c
_e = conversation_events.c

#: The moment of a change, as a parameter of its statement: what deadlines are judged by when a message or a person
#: changes a conversation, ``ended_at`` of the rows that end, ``occurred_at`` of the events.
MOMENT = bindparam("moment", type_=UtcDateTime())
_SWEEP_ID = bindparam("sweep_id", type_=_e.sweep_id.type)
#: See ``services.lags.thresholds``.
_THRESHOLDS = bindparam("thresholds", type_=ARRAY(UtcDateTime()))
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
#: Where PostgreSQL keeps a row's version: a place, and the table it is in, should somebody have made partitions.
_PLACE: ColumnClause[Any] = column("ctid")
_PARTITION: ColumnClause[Any] = column("tableoid")
_PLACE.table = _PARTITION.table = conversations


@dataclass(frozen=True, slots=True)
class Ended:
    """What one statement ended."""

    count: int
    #: How many it picked. The rest has changed since, so that PostgreSQL did not let the statement have them, or a
    #: trigger of the platform's keeps them as they are.
    picked: int
    #: The largest value of the order column among those, where there was an order and the database tells it.
    last: datetime | None = None
    #: How late they ended, where that was asked for.
    lags: Lags | None = None


def status_at_moment(otherwise: ColumnElement[ConversationStatus]) -> ColumnElement[ConversationStatus]:
    """Return what a conversation becomes that is touched at ``MOMENT``: what its deadline says once that is reached."""
    return case((deadline <= MOMENT, due_status), else_=otherwise)


class Ending:
    """An end of the conversations that ``where`` picks, active ones only, with its events.

    ``status`` is what each row gets, as an expression of its present values. With ``order_by`` it takes the first
    ``batch_size`` in that order, and leaves out those that another transaction holds; without, it waits for them. With
    ``tells_lags`` it says how late they ended. Make it once: to build the statement takes longer than to run it.
    """

    def __init__(
        self,
        *,
        status: ColumnElement[ConversationStatus],
        cause: EventCause,
        where: ColumnElement[bool],
        order_by: Column[datetime] | None = None,
        tells_lags: bool = False,
    ) -> None:
        self._status = status
        self._cause = literal(cause, _e.cause.type)
        self._where = where
        self._order_by = order_by
        self._tells_lags = tells_lags

    def apply(
        self, connection: Connection, *, moment: datetime, sweep_id: uuid.UUID | None = None, **parameters: Any
    ) -> Ended:
        """End them in the caller's transaction; ``parameters`` are those of ``where``, and ``batch_size``.

        Each conversation is judged in the version of its row that is locked.
        """
        parameters |= {"moment": moment, "sweep_id": sweep_id}
        if connection.dialect.name != "sqlite":
            return self._apply_whole(connection, parameters)
        before = connection.execute(_LAST_EVENT).scalar_one()
        picked = connection.execute(self._record, parameters).rowcount
        count = connection.execute(_FOLLOW_EVENTS, {"before": before}).rowcount
        if count < picked:
            connection.execute(_FORGET_UNDONE, {"before": before})
        lags = None
        if self._tells_lags:
            deadlines = connection.execute(_DEADLINES, {"before": before}).scalars()
            lags = Lags.of_deadlines(deadlines, moment=moment)
        return Ended(count, picked=picked, lags=lags)

    def _apply_whole(self, connection: Connection, parameters: dict[str, Any]) -> Ended:
        if not self._tells_lags:
            return Ended(*connection.execute(self._whole, parameters).one())
        parameters["thresholds"] = thresholds(parameters["moment"])
        count, picked, last, reached, total = connection.execute(self._whole, parameters).one()
        counts = {int(place): of_place for place, of_place in (reached or {}).items()}
        return Ended(count, picked, last, Lags.of_reached(counts, float(total or 0)))

    @cached_property
    def _whole(self) -> Executable:
        """All of it, for PostgreSQL; returns a row of ``Ended``."""
        is_sweep = self._order_by is not None
        # By its place a row is found at once, but not in a version that came after the statement began: a sweep leaves
        # that to the next one, who waited for it must have it.
        same = (_PLACE, _PARTITION) if is_sweep else (_c.conv_id,)
        position = (null() if self._order_by is None else self._order_by).label("position")
        due = (
            self._pick(
                *same,
                position,
                _c.status.label("previous_status"),
                deadline.label("deadline"),
                _c.updated_at.label("last_activity_at"),
            )
            .with_for_update(key_share=True, skip_locked=is_sweep)
            .cte("due")
        )
        ended = (
            update(conversations)
            .where(*(column == due.c[column.name] for column in same))
            .values(status=self._status, ended_at=MOMENT)
            .returning(_c.conv_id, due.c.previous_status, _c.status, due.c.deadline, due.c.last_activity_at)
            .cte("ended")
        )
        # What a trigger of the platform's has put back has not ended.
        has_ended = ended.c.status.not_in([status_literal(status) for status in ACTIVE_STATUSES])
        events = select(*ended.c, self._cause, _SWEEP_ID, MOMENT).where(has_ended)
        recorded = insert(conversation_events).from_select(_RECORDED, events)
        count = select(func.count()).select_from(ended).where(has_ended).scalar_subquery()
        figures = [count, func.count(), func.max(due.c.position)]
        if self._tells_lags:
            figures += _lag_figures(ended, has_ended)
        return select(*figures).select_from(due).add_cte(recorded.cte("recorded"))

    @cached_property
    def _record(self) -> Executable:
        """The events, for SQLite."""
        due = self._pick(
            _c.conv_id,
            _c.status,
            self._status.label("new_status"),
            deadline.label("deadline"),
            _c.updated_at,
            self._cause,
            _SWEEP_ID,
            MOMENT,
        )
        return insert(conversation_events).from_select(_RECORDED, due)

    def _pick(self, *columns: ColumnElement[Any]) -> Any:
        picked = select(*columns).where(self._where)
        if self._order_by is None:
            return picked
        # Written out, so that the planner knows of how few rows it is.
        return picked.order_by(self._order_by).limit(bindparam("batch_size", type_=Integer(), literal_execute=True))


def _lag_figures(ended: CTE, has_ended: ColumnElement[bool]) -> list[ColumnElement[Any]]:
    """Return, for PostgreSQL, how many of ``ended`` reached how many thresholds, as JSON, and their lags together."""
    # By thresholds in time, not by seconds: nothing is converted, and an edge belongs to the bucket below it.
    reached = func.width_bucket(ended.c.deadline, _THRESHOLDS).label("reached")
    places = select(reached, func.count().label("count")).where(has_ended).group_by(reached).subquery("places")
    by_place = select(func.json_object_agg(places.c.reached, places.c.count, type_=JSON()))
    total = select(extract("epoch", func.sum(MOMENT - ended.c.deadline, type_=Interval())))
    return [by_place.scalar_subquery(), total.select_from(ended).where(has_ended).scalar_subquery()]


#: On SQLite, where nobody else writes meanwhile: after which event this transaction's are.
_LAST_EVENT = select(func.coalesce(func.max(_e.event_id), 0))
#: On SQLite: the deadlines of what they ended.
_DEADLINES = select(_e.deadline).where(_e.event_id > bindparam("before"))
#: On SQLite: bring the rows to what the new events say.
_FOLLOW_EVENTS = (
    update(conversations)
    .where(_e.event_id > bindparam("before"), _c.conv_id == _e.conv_id)
    .values(status=_e.status, ended_at=_e.occurred_at)
)
#: On SQLite: take back the events of rows that a trigger kept as they are.
_FORGET_UNDONE = delete(conversation_events).where(
    _e.event_id > bindparam("before"), _e.conv_id.in_(select(_c.conv_id).where(active))
)
