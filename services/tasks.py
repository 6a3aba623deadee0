"""The two tasks, and how much a batch of theirs may be. It imports nothing, for commands that ask Redis only."""

from datetime import timedelta
from enum import StrEnum

#: How many conversations one transaction ends: enough to pay for the statement, few enough that a message
#: which waits for one of its rows does not notice.
DEFAULT_BATCH_SIZE = 4_000
#: The largest batch that is taken: beyond it, larger is slower and only the wait grows.
LARGEST_BATCH_SIZE = 100_000


class Task(StrEnum):
    """The two sweeps, by the name that metrics and logs carry."""

    IDLE = "idle_conversations"
    EXPIRED = "expired_conversations"


#: A task that has not succeeded for so many of its intervals does not do what it is there for,
INTERVALS_WITHOUT_SUCCESS = 3
#: and so much later that is said: what a run and a change of leader may take.
SUCCESS_GRACE = timedelta(seconds=15)


def actor_of(task: Task) -> str:
    """Return the name of the actor that does ``task``."""
    return f"process_{task}"
