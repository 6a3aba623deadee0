"""The event: the record of a change of status, written in the same transaction."""

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Boolean, Column, Computed, Identity, Index, Integer, Table
from sqlmodel import Field, SQLModel

from models.columns import UtcDateTime, UuidText, enum_as_text
from models.conversation import ENDED_SQL, STATUS_TYPE, ConversationStatus


class EventCause(StrEnum):
    """What brought a change of status about."""

    #: A sweep found the conversation due.
    SWEEP = "sweep"
    #: A message arrived: on a pending conversation, or at or after the deadline of one not yet swept.
    ACTIVITY = "activity"
    #: The application closed it.
    CLOSE = "close"
    #: Another writer of the table changed its status: see ``services.foreign_writers``.
    WRITER = "writer"
    #: When the table was adopted it was overdue, or not the only one that was active on its session key.
    ADOPTION = "adoption"


CAUSE_TYPE = enum_as_text(EventCause)


class ConversationEvent(SQLModel, table=True):
    """One change of status of one conversation, and why.

    There is no foreign key: an event is only ever written by the statement that changes its conversation, a check of
    the key would cost every sweep a look-up a row, and the record may outlive a conversation that was archived.
    """

    __tablename__: ClassVar[Any] = "conversation_events"
    __table_args__ = (
        # A conversation ends once. It also leaves `pending` at most once, so this is the way to its history as well.
        Index("conversation_events_conv_id_ended", "conv_id", "ended", unique=True),
    )

    event_id: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    )
    conv_id: uuid.UUID = Field(sa_column=Column(UuidText, nullable=False))
    previous_status: ConversationStatus = Field(sa_column=Column(STATUS_TYPE, nullable=False))
    status: ConversationStatus = Field(sa_column=Column(STATUS_TYPE, nullable=False))
    #: Whether ``status`` is an ended one. The database works it out.
    ended: bool | None = Field(default=None, sa_column=Column(Boolean, Computed(ENDED_SQL, persisted=True)))
    #: What the conversation's deadline was, in the version of the row that was changed.
    deadline: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: The last activity that the change saw.
    last_activity_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    cause: EventCause = Field(sa_column=Column(CAUSE_TYPE, nullable=False))
    #: The sweep that did it, where one did.
    sweep_id: uuid.UUID | None = Field(default=None, sa_column=Column(UuidText))
    #: When it happened; its lag is ``occurred_at - deadline``.
    occurred_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


conversation_events: Table = SQLModel.metadata.tables["conversation_events"]
