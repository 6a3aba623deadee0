"""What ``dramatiq actors`` and ``periodiq actors`` load: the broker, and thin actors with their schedules.

Importing it connects to nothing.
"""

from actors.broker import broker
from actors.conversations import process_expired_conversations, process_idle_conversations

__all__ = ["broker", "process_expired_conversations", "process_idle_conversations"]
