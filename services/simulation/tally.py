"""What the messages of a replay tell beyond what its database keeps: sizes, and who came back after the end."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from services.conversations import Activity
from services.simulation.history import Message
from services.simulation.outcomes import CUT_SHORT_WITHIN


class Tally:
    """What the messages have told so far."""

    def __init__(self) -> None:
        self.sizes: dict[str, list[int]] = defaultdict(list)
        self.latest_deadline: datetime | None = None
        self._deadlines: dict[str, datetime] = {}
        #: By session key, the deadlines of ended conversations after which the customer has not written again.
        self._unanswered: dict[str, list[datetime]] = {}
        self._returned = dict.fromkeys(CUT_SHORT_WITHIN, 0)

    def add(self, message: Message, activity: Activity) -> None:
        """Count a message, and what it did."""
        key, deadline = message.session_key, activity.conversation.deadline
        if activity.opened:
            self.sizes[key].append(1)
            if key in self._deadlines:
                self._ended(key, self._deadlines[key], message.at)
        else:
            self.sizes[key][-1] += 1
        if message.may_be_from_customer:
            self._returns(self._unanswered.pop(key, ()), message.at)
        self._deadlines[key] = deadline
        if self.latest_deadline is None or deadline > self.latest_deadline:
            self.latest_deadline = deadline

    @property
    def cut_short(self) -> list[int]:
        """How many ended though the customer had not done, for each of ``CUT_SHORT_WITHIN``."""
        return list(self._returned.values())

    def _ended(self, key: str, deadline: datetime, now: datetime) -> None:
        unanswered = [earlier for earlier in self._unanswered.get(key, ()) if now - earlier <= CUT_SHORT_WITHIN[-1]]
        self._unanswered[key] = [*unanswered, deadline]

    def _returns(self, deadlines: Iterable[datetime], now: datetime) -> None:
        for deadline in deadlines:
            for within in CUT_SHORT_WITHIN:
                self._returned[within] += now - deadline <= within
