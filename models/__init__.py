"""Rows, statuses, predicates and constraints. Imports SQLModel, SQLAlchemy and the standard library only."""

from models.conversation import Conversation, ConversationStatus
from models.event import ConversationEvent, EventCause

__all__ = ["Conversation", "ConversationEvent", "ConversationStatus", "EventCause"]
