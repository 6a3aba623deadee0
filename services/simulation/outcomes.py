"""What a simulation finds: conversations as they ended, and the figures that an operator compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.conversation import ConversationStatus
from services.timeouts import Timeouts

#: A conversation counts as cut short when the customer wrote again within this time of its deadline.
CUT_SHORT_WITHIN = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=60))


@dataclass(frozen=True, slots=True)
class EndedConversation:
    """A conversation of the replay, as it ended."""

    session_key: str
    opened_at: datetime
    last_activity_at: datetime
    #: What ended it: the earlier of its idle deadline and its expiry.
    deadline: datetime
    status: ConversationStatus
    messages: int

    @property
    def duration(self) -> timedelta:
        """From its opening to its last activity."""
        return self.last_activity_at - self.opened_at


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles by nearest rank: each is a value that occurs, and at most the named share of the values is above."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distribution":
        """Return the distribution of ``values``, which are not empty."""
        ranked = sorted(values)
        at = {percent: ranked[-(-percent * len(ranked) // 100) - 1] for percent in (50, 90, 99)}
        return cls(p50=at[50], p90=at[90], p99=at[99], max=ranked[-1])


@dataclass(frozen=True, slots=True)
class CutShort:
    """How many conversations ended though the customer had not done."""

    #: The customer wrote again at the deadline or at most this long after it.
    within: timedelta
    count: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pair of timeouts makes of a history."""

    timeouts: Timeouts
    messages: int
    conversations: int
    ended_idle: int
    ended_expired: int
    #: From opening to last activity, in seconds.
    duration: Distribution
    messages_a_conversation: Distribution
    #: For each of ``CUT_SHORT_WITHIN``.
    cut_short: tuple[CutShort, ...]
