"""Conversations whose end the database refuses, so that their batch would fail: left out of batches for a while."""

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Column, Integer, String, Table
from sqlmodel import Field, SQLModel

from models.columns import UtcDateTime, UuidText, readable_check


class SetAsideConversation(SQLModel, table=True):
    """A conversation that is due and that no sweep can end. Its row goes when the conversation has ended or is gone."""

    __tablename__: ClassVar[Any] = "set_aside_conversations"
    __table_args__ = (readable_check("set_aside_conversations", ("set_aside_at", "tried_at", "retry_at")),)

    conv_id: uuid.UUID = Field(sa_column=Column(UuidText, primary_key=True))
    #: What the database said when it was last tried, in one line and without the row.
    reason: str = Field(sa_column=Column(String, nullable=False))
    #: How many times it was tried by itself, alone in its transaction.
    tries: int = Field(sa_column=Column(Integer, nullable=False))
    #: When it was found.
    set_aside_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: When it was last tried.
    tried_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    #: From when on sweeps take it again.
    retry_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


set_aside_conversations: Table = SQLModel.metadata.tables["set_aside_conversations"]
