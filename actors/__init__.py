"""What ``dramatiq actors`` and ``periodiq actors`` load: the broker, and thin actors with their schedules.

Importing it connects to nothing.
"""

from actors.broker import broker
from actors.conversations import drain_backlog, process_expired_conversations, process_idle_conversations
from actors.measuring import measure_backlog

__all__ = [
    "broker",
    "drain_backlog",
    "measure_backlog",
    "process_expired_conversations",
    "process_idle_conversations",
]
