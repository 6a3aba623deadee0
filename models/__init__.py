"""Rows, statuses, predicates and constraints. Imports SQLModel, SQLAlchemy and the standard library only.

The names here are imported when somebody asks for them: half a second, which those who want ``models.errors`` do not
wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.conversation import Conversation, ConversationStatus
    from models.event import ConversationEvent, EventCause
    from models.latest import LatestConversation
    from models.set_aside import SetAsideConversation

__all__ = [
    "Conversation",
    "ConversationEvent",
    "ConversationStatus",
    "EventCause",
    "LatestConversation",
    "SetAsideConversation",
]

_MODULES = {
    "Conversation": "models.conversation",
    "ConversationEvent": "models.event",
    "ConversationStatus": "models.conversation",
    "EventCause": "models.event",
    "LatestConversation": "models.latest",
    "SetAsideConversation": "models.set_aside",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All of them, so that SQLModel.metadata never has a part of the tables.
    modules = {module: import_module(module) for module in _MODULES.values()}
    return getattr(modules[_MODULES[name]], name)
