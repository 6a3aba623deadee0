"""How much is due and how much is active, as it was measured; it loads nothing of the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.tasks import Task


@dataclass(frozen=True, slots=True)
class TaskBacklog:
    """What a task's sweep would end now."""

    #: How many; None when it could not be measured.
    due: int | None
    #: Whether there are more: the count stopped there.
    due_is_capped: bool
    #: For how long the one that is due longest has been; None when nothing is due, or when it could not be measured.
    oldest_due: timedelta | None

    @property
    def oldest_due_seconds(self) -> float | None:
        """The same for a gauge: 0 when nothing is due, None only when it could not be measured."""
        if self.due == 0:
            return 0.0
        return None if self.oldest_due is None else self.oldest_due.total_seconds()


#: What is known of a task of which nothing could be measured.
UNKNOWN = TaskBacklog(due=None, due_is_capped=False, oldest_due=None)


@dataclass(frozen=True, slots=True)
class Backlog:
    """One measurement."""

    #: By the database's clock, in UTC: what was due then.
    measured_at: datetime
    #: Conversations that go on, the due ones included; None when it could not be measured.
    active: int | None
    #: Whether ``active`` is what the database's statistics say: there were more than are counted.
    active_is_estimate: bool
    #: Of every task.
    tasks: Mapping[Task, TaskBacklog]
    #: Conversations that are set aside because the database refuses their end; they count as active, not as due. None
    #: when it could not be measured.
    set_aside: int | None = None
