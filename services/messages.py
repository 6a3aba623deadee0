"""The statements that take a message: resume the conversation that it belongs to, or open one, and return the row.

On PostgreSQL a message is one statement, the event of a second message included. SQLite cannot write inside a CTE, but
has one writer and no network: there the second message takes three.

A conversation that is past its deadline they leave alone, and return nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    Insert,
    Row,
    Select,
    bindparam,
    case,
    exists,
    false,
    insert,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from models.conversation import ACTIVE_SQL, ConversationStatus, conversations, deadline, ongoing, status_literal
from models.event import EventCause, conversation_events
from services.endings import MOMENT

_c = conversations.c
_e = conversation_events.c

_PENDING = status_literal(ConversationStatus.PENDING)
_PROGRESS = status_literal(ConversationStatus.PROGRESS)


def _given(column: str) -> ColumnElement[Any]:
    # With the bare name of a column SQLAlchemy would take the parameter for a value to set.
    return bindparam(f"given_{column}", type_=_c[column].type)


#: What a conversation opens with; the parameters in it are those of an opening.
_OPENING: dict[str, ColumnElement[Any]] = {
    "status": _PENDING,
    "created_at": MOMENT,
    "updated_at": MOMENT,
    **{
        column: _given(column)
        for column in (
            "conv_id",
            "owner_id",
            "user_id",
            "channel",
            "from_number",
            "to_number",
            "session_key",
            "metadata",
            "idle_at",
            "expires_at",
        )
    },
}


class Resumption:
    """Activity on the one active conversation that ``which`` picks, if it goes on: the second message and each later.

    Make it once: to build the statements takes longer than to run them.
    """

    def __init__(self, which: ColumnElement[bool]) -> None:
        self._goes_on = which & ongoing(MOMENT)

    def apply(self, connection: Connection, parameters: Mapping[str, Any]) -> Row[Any] | None:
        """Return the conversation as it now stands, None when none goes on at ``moment``.

        ``parameters`` are ``moment``, ``given_idle_at`` and those of ``which``.
        """
        if connection.dialect.name == "sqlite":
            touched = connection.execute(self._touch, parameters).one_or_none()
            return touched or self.begin(connection, parameters)
        return connection.execute(self._whole, parameters).one_or_none()

    def begin(self, connection: Connection, parameters: Mapping[str, Any]) -> Row[Any] | None:
        """On SQLite: the same for a conversation that is pending only."""
        if not connection.execute(self._record, parameters).rowcount:
            return None
        return connection.execute(self._begin, parameters).one()

    @cached_property
    def changed(self) -> CTE:
        """On PostgreSQL: the conversation as it now stands, beside what its event says of how it stood before.

        It is picked and locked first, because RETURNING knows the new row only.
        """
        known = self._known.with_for_update(key_share=True).cte("known")
        moved = _moved(MOMENT, _given("idle_at"))
        return (
            update(conversations)
            .where(_c.conv_id == known.c.conv_id)
            .values(status=_PROGRESS, **moved)
            .returning(*_c, known.c.previous_status, known.c.deadline, known.c.last_activity_at)
            .cte("changed")
        )

    @cached_property
    def recorded(self) -> CTE:
        """On PostgreSQL: the event, when the conversation was pending."""
        return _beginning_event(self.changed).cte("recorded")

    @cached_property
    def _whole(self) -> Executable:
        return select(*_columns_of(self.changed)).add_cte(self.recorded)

    @cached_property
    def _known(self) -> Select[Any]:
        return select(
            _c.conv_id,
            _c.status.label("previous_status"),
            deadline.label("deadline"),
            _c.updated_at.label("last_activity_at"),
        ).where(self._goes_on)

    @cached_property
    def _touch(self) -> Executable:
        return self._update(_c.status == _PROGRESS)

    @cached_property
    def _record(self) -> Executable:
        return _beginning_event(self._known.subquery("known"))

    @cached_property
    def _begin(self) -> Executable:
        return self._update(_c.status == _PENDING)

    def _update(self, status: ColumnElement[bool]) -> Executable:
        moved = _moved(MOMENT, _given("idle_at"))
        return update(conversations).where(self._goes_on, status).values(status=_PROGRESS, **moved).returning(*_c)


#: Activity on a conversation that is known by its id: the parameter is ``given_conv_id``.
BY_ID = Resumption(_c.conv_id == _given("conv_id"))
#: Activity on the conversation of a session key, whoever's: the parameter is ``given_session_key``.
BY_SESSION_KEY = Resumption(_c.session_key == _given("session_key"))

_OF_PAIR = Resumption((_c.session_key == _given("session_key")) & (_c.owner_id == _given("owner_id")))


def open_or_resume(connection: Connection, parameters: Mapping[str, Any]) -> Row[Any] | None:
    """Resume the conversation of a session key and owner that goes on at ``moment``, or open one; return it.

    ``parameters`` are ``moment`` and those of an opening. Returns None when there is an active conversation on the key
    which is past its deadline, is another owner's, or was not there yet when the statement began. It is locked then, so
    what the caller does next is the last word on it.
    """
    if connection.dialect.name == "sqlite":
        upserted = connection.execute(_upsert(), parameters).one_or_none()
        return upserted or _OF_PAIR.begin(connection, parameters)
    return connection.execute(_resume_else_open(), parameters).one_or_none()


@cache
def _resume_else_open() -> Executable:
    """Return the statement for PostgreSQL."""
    opening = select(*_OPENING.values()).where(~exists(select(_OF_PAIR.changed.c.conv_id)))
    opened = (
        postgresql.insert(conversations)
        .from_select(list(_OPENING), opening)
        # Nothing is updated, but what is in the way is waited for and locked.
        .on_conflict_do_update(
            index_elements=[_c.session_key],
            index_where=text(ACTIVE_SQL),
            set_={"updated_at": _c.updated_at},
            where=false(),
        )
        .returning(*_c)
        .cte("opened")
    )
    return union_all(select(*_columns_of(_OF_PAIR.changed)), select(*opened.c)).add_cte(_OF_PAIR.recorded)


@cache
def _upsert() -> Executable:
    """Return the statement for SQLite: open a conversation, or record activity on the one that is in progress."""
    new = sqlite.insert(conversations).values(_OPENING)
    arriving = new.excluded
    return new.on_conflict_do_update(
        index_elements=[_c.session_key],
        index_where=text(ACTIVE_SQL),
        set_=_moved(arriving.updated_at, arriving.idle_at),
        where=ongoing(arriving.updated_at) & (_c.status == _PROGRESS) & (_c.owner_id == arriving.owner_id),
    ).returning(*_c)


def _moved(now: ColumnElement[datetime], idle_at: ColumnElement[datetime]) -> dict[str, ColumnElement[datetime]]:
    """Return what activity at ``now`` changes; a message that comes late moves nothing back."""
    later = now >= _c.updated_at
    return {
        "updated_at": case((later, now), else_=_c.updated_at),
        "idle_at": case((later, idle_at), else_=_c.idle_at),
    }


def _beginning_event(known: FromClause) -> Insert:
    """Return the INSERT of the event for a conversation that was pending."""
    columns = [_e.conv_id, _e.previous_status, _e.status, _e.deadline, _e.last_activity_at, _e.cause, _e.occurred_at]
    event = select(
        known.c.conv_id,
        known.c.previous_status,
        _PROGRESS,
        known.c.deadline,
        known.c.last_activity_at,
        literal(EventCause.ACTIVITY, _e.cause.type),
        MOMENT,
    ).where(known.c.previous_status == _PENDING)
    return insert(conversation_events).from_select(columns, event)


def _columns_of(changed: CTE) -> list[ColumnElement[Any]]:
    return [changed.c[column.name] for column in _c]
