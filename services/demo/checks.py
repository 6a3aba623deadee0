"""What must be true after a demo: claims that are checked in its database and could come out false."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Engine, Executable, ScalarSelect, func, literal, select

from models.conversation import active, conversations, deadline, due_status
from models.event import EventCause, conversation_events
from services.database import current_time, reading
from services.demo.figures import seconds_between

#: What nothing in a demo may be late by: far above a sweep's interval, far below a sweep that does not run.
TOO_LATE = timedelta(seconds=10)

_c = conversations.c
_e = conversation_events.c


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it holds, and the numbers that say so."""

    claim: str
    holds: bool
    found: str


def read_checks(engine: Engine, *, opened: int) -> list[Check]:
    """Return what must be true of a demo whose feed opened ``opened`` conversations, all from one snapshot."""
    with reading(engine) as connection:
        found = connection.execute(_claims(connection, current_time(connection))).one()
    latest = max(found.latest or 0.0, found.waiting or 0.0)
    return [
        Check("none lost", found.total == opened, f"{opened:,} opened, {found.total:,} in the database"),
        Check(
            "each ended once",
            found.ended == found.end_events and not found.unrecorded,
            f"{found.ended:,} ended, {found.end_events:,} end events",
        ),
        Check("none ended early", not found.early, f"{found.early:,} before the deadline"),
        Check(
            "none left behind",
            latest < TOO_LATE.total_seconds(),
            f"{latest:.2f} s late at most; {TOO_LATE.total_seconds():g} s would be too late",
        ),
        Check(
            "for the right reason",
            not found.misnamed,
            f"{found.end_events:,} judged again by their deadlines, {found.misnamed:,} differ",
        ),
        Check("one at a time", not found.doubled, f"{found.doubled:,} customers with two open conversations"),
    ]


def _claims(connection: Connection, now: datetime) -> Executable:
    """Count what contradicts each claim."""
    end_event = select(_e.event_id).where(
        _e.conv_id == _c.conv_id, _e.ended, _e.status == _c.status, _e.occurred_at == _c.ended_at
    )
    misnamed = (_e.status != due_status) | (_e.deadline != deadline)
    doubled = select(_c.session_key).where(active).group_by(_c.session_key).having(func.count() > 1).subquery()
    ended_events = select(func.count()).select_from(conversation_events).where(_e.ended)
    by_deadline = _e.cause.in_([EventCause.SWEEP, EventCause.ACTIVITY])
    return select(
        _count().label("total"),
        _count(_c.ended_at.is_not(None)).label("ended"),
        ended_events.scalar_subquery().label("end_events"),
        _count(_c.ended_at.is_not(None), ~end_event.exists()).label("unrecorded"),
        ended_events.where(by_deadline, _e.occurred_at < _e.deadline).scalar_subquery().label("early"),
        ended_events.join(conversations, _c.conv_id == _e.conv_id)
        .where(by_deadline, misnamed)
        .scalar_subquery()
        .label("misnamed"),
        select(func.count()).select_from(doubled).scalar_subquery().label("doubled"),
        select(func.max(seconds_between(connection, _e.deadline, _e.occurred_at)))
        .where(_e.ended)
        .scalar_subquery()
        .label("latest"),
        select(func.max(seconds_between(connection, deadline, literal(now, _c.idle_at.type))))
        .where(active)
        .scalar_subquery()
        .label("waiting"),
    )


def _count(*criteria: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).select_from(conversations).where(*criteria).scalar_subquery()
