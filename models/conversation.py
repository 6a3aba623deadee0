"""The conversation: its row, its statuses, and the predicates that say when it is due."""

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    String,
    Table,
    and_,
    case,
    event,
    literal_column,
    text,
)
from sqlmodel import Field, SQLModel

from models.columns import (
    JsonObject,
    UtcDateTime,
    UuidText,
    enum_as_text,
    instant_check,
    instant_triggers,
    readable_check,
)
from models.identifiers import new_identifier


class ConversationStatus(StrEnum):
    """Where a conversation stands. The database stores the value, in lower case."""

    #: Opened; nobody has written again since.
    PENDING = "pending"
    #: Opened, and there has been activity since.
    PROGRESS = "progress"
    #: Ended: nobody wrote before ``idle_at``.
    IDLE_TIMEOUT = "idle_timeout"
    #: Ended: its time was up at ``expires_at``.
    EXPIRED = "expired"
    #: Ended by the application before its deadline.
    CLOSED = "closed"

    @property
    def is_active(self) -> bool:
        """Whether a conversation of this status goes on; the others have ended and never change again."""
        return self in ACTIVE_STATUSES


ACTIVE_STATUSES = (ConversationStatus.PENDING, ConversationStatus.PROGRESS)
ENDED_STATUSES = (ConversationStatus.IDLE_TIMEOUT, ConversationStatus.EXPIRED, ConversationStatus.CLOSED)


STATUS_TYPE = enum_as_text(ConversationStatus)


def status_literal(status: ConversationStatus) -> ColumnElement[ConversationStatus]:
    """Return ``status`` as a literal of the statement, not a parameter.

    The planner matches a partial index only against what it can read in the statement.
    """
    return literal_column(f"'{status.value}'", STATUS_TYPE)


def _sql_list(statuses: tuple[ConversationStatus, ...]) -> str:
    return "(" + ", ".join(f"'{status.value}'" for status in statuses) + ")"


ACTIVE_SQL = f"status IN {_sql_list(ACTIVE_STATUSES)}"
ENDED_SQL = f"status IN {_sql_list(ENDED_STATUSES)}"


_INSTANTS = ("created_at", "updated_at", "idle_at", "expires_at", "ended_at")


class Conversation(SQLModel, table=True):
    """One conversation of a pair on a channel, from its opening to its end.

    Change it through ``services.conversations`` only: a change of status there writes its event as well.
    """

    __tablename__: ClassVar[Any] = "conversations"
    __table_args__ = (
        CheckConstraint(
            f"status IN {_sql_list(tuple(ConversationStatus))}",
            name="conversations_status_check",
        ),
        CheckConstraint(f"(ended_at IS NOT NULL) = ({ENDED_SQL})", name="conversations_ended_at_check"),
        readable_check("conversations", _INSTANTS),
        *(instant_check("conversations", column) for column in _INSTANTS),
        # At most one active conversation on a key, whoever opens it.
        Index(
            "conversations_active_session_key",
            "session_key",
            unique=True,
            postgresql_where=text(ACTIVE_SQL),
            sqlite_where=text(ACTIVE_SQL),
        ),
        # The two deadlines. Ended conversations, which are nearly all of them, are not in it.
        Index(
            "conversations_active_idle_at",
            "idle_at",
            postgresql_where=text(ACTIVE_SQL),
            sqlite_where=text(ACTIVE_SQL),
        ),
        Index(
            "conversations_active_expires_at",
            "expires_at",
            postgresql_where=text(ACTIVE_SQL),
            sqlite_where=text(ACTIVE_SQL),
        ),
        # What an owner has open, page by page.
        Index(
            "conversations_active_owner",
            "owner_id",
            "created_at",
            "conv_id",
            postgresql_where=text(ACTIVE_SQL),
            sqlite_where=text(ACTIVE_SQL),
        ),
        # Each sweep walks what the last ones left in the index of deadlines, until a vacuum has cleared it: a fifth of
        # the table, as PostgreSQL would have it, is too much for that. Nor may it leave the indexes alone because few
        # pages have changed.
        {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0.01, "vacuum_index_cleanup": "on"}},
    )

    #: Those that are opened one after the other lie together in its index: see ``models.identifiers``.
    conv_id: uuid.UUID = Field(
        default_factory=lambda: new_identifier(datetime.now(UTC)), sa_column=Column(UuidText, primary_key=True)
    )
    #: The tenant whose conversation it is.
    owner_id: str = Field(sa_column=Column(String, nullable=False))
    #: The owner's own name for the person at the other end, where there is one.
    user_id: str | None = Field(default=None, sa_column=Column(String))
    channel: str = Field(sa_column=Column(String, nullable=False))
    from_number: str = Field(sa_column=Column(String, nullable=False))
    to_number: str = Field(sa_column=Column(String, nullable=False))
    #: What makes messages belong together: see ``services.session_keys.canonical_session_key``.
    session_key: str = Field(sa_column=Column(String, nullable=False))
    status: ConversationStatus = Field(
        default=ConversationStatus.PENDING, sa_column=Column(STATUS_TYPE, nullable=False)
    )
    #: The application's own. ``metadata`` on the class is SQLAlchemy's, so the attribute has an underscore.
    metadata_: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column("metadata", JsonObject, nullable=False, server_default=text("'{}'"))
    )
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: The last activity.
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: Last activity plus idle timeout: moves with each activity.
    idle_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: Set when it opens, and stays.
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: The moment at which it ended; set exactly when the status is an ended one.
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))

    @property
    def is_active(self) -> bool:
        """Whether it goes on: ``pending`` or ``progress``."""
        return self.status.is_active

    @property
    def deadline(self) -> datetime:
        """The instant from which it is due: whichever of ``idle_at`` and ``expires_at`` comes first."""
        return min(self.idle_at, self.expires_at)

    @property
    def status_when_due(self) -> ConversationStatus:
        """The status that its deadline gives it; see ``due_status`` for the same in SQL."""
        return ConversationStatus.EXPIRED if self.expires_at <= self.idle_at else ConversationStatus.IDLE_TIMEOUT


conversations: Table = SQLModel.metadata.tables["conversations"]
_c = conversations.c

#: What ended never changes again, whoever writes.
_STAY_ENDED_ON_POSTGRESQL = f"""
CREATE FUNCTION conversations_stay_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'conversation % has ended and never changes again', OLD.conv_id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER conversations_stay_ended BEFORE UPDATE ON conversations FOR EACH ROW
WHEN (OLD.{ENDED_SQL} AND (NEW.status, NEW.ended_at) IS DISTINCT FROM (OLD.status, OLD.ended_at))
EXECUTE FUNCTION conversations_stay_ended()
"""
_STAY_ENDED_ON_SQLITE = f"""
CREATE TRIGGER conversations_stay_ended BEFORE UPDATE OF status, ended_at ON conversations
WHEN OLD.{ENDED_SQL} AND (NEW.status IS NOT OLD.status OR datetime(NEW.ended_at) IS NOT datetime(OLD.ended_at))
BEGIN SELECT RAISE(ABORT, 'a conversation that has ended never changes again'); END
"""
# Each message, and the end, puts a version of the row beside the one before it: without room for them, pages split and
# are searched for what can go, which made a sweep a third slower.
_ROOM_ON_POSTGRESQL = "ALTER INDEX conversations_pkey SET (fillfactor = 50)"
for _dialect, _statement in [
    ("postgresql", _STAY_ENDED_ON_POSTGRESQL),
    ("postgresql", _ROOM_ON_POSTGRESQL),
    ("sqlite", _STAY_ENDED_ON_SQLITE),
    *(("sqlite", trigger) for trigger in instant_triggers("conversations", "conv_id", _INSTANTS)),
]:
    _ddl = DDL(_statement.strip().replace("%", "%%"))  # type: ignore[no-untyped-call] # it takes % for its own formatting
    event.listen(conversations, "after_create", _ddl.execute_if(dialect=_dialect))
_ddl = DDL("DROP FUNCTION IF EXISTS conversations_stay_ended()")  # type: ignore[no-untyped-call]
event.listen(conversations, "after_drop", _ddl.execute_if(dialect="postgresql"))

#: Predicate: it goes on. Spelled with literals, as the partial indexes are.
active: ColumnElement[bool] = _c.status.in_([status_literal(status) for status in ACTIVE_STATUSES])

#: The instant from which a conversation is due.
deadline: ColumnElement[datetime] = case((_c.expires_at <= _c.idle_at, _c.expires_at), else_=_c.idle_at)

#: The status that its deadline gives a conversation: the deadline that comes first names it.
due_status: ColumnElement[ConversationStatus] = case(
    (_c.expires_at <= _c.idle_at, status_literal(ConversationStatus.EXPIRED)),
    else_=status_literal(ConversationStatus.IDLE_TIMEOUT),
)


def due_idle(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the predicate: active, and its idle deadline is reached at ``now``."""
    return and_(active, _c.idle_at <= now)


def due_expiry(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the predicate: active, and its expiry is reached at ``now``."""
    return and_(active, _c.expires_at <= now)


def ongoing(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the predicate: active, and at ``now`` neither deadline is reached."""
    return and_(active, _c.idle_at > now, _c.expires_at > now)


def overdue(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the predicate: active, and at ``now`` a deadline, whichever, is reached."""
    return and_(active, deadline <= now)
