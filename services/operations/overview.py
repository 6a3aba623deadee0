"""All that there is to be seen of a cluster: what Redis tells, what the database tells, and which of them did not."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.backlog import UNKNOWN, Backlog, TaskBacklog
from services.cluster.state import Status, TaskStatus
from services.tasks import Task, actor_of


class SourceState(StrEnum):
    """Whether a server could be asked."""

    ANSWERS = "answers"
    DOWN = "down"
    #: There is no embedded database yet: nothing has run on its data directory.
    ABSENT = "absent"


class Clock(StrEnum):
    """Whose clock it is."""

    REDIS = "redis"
    DATABASE = "database"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Source:
    """A server that was asked."""

    #: Without a password.
    url: str
    state: SourceState
    #: Why it could not be asked, in one line, when it is down.
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """What is known at one instant."""

    now: datetime
    #: Whose idea of the time ``now`` is: Redis's, else the database's, else that of this machine.
    clock: Clock
    redis: Source
    database: Source
    #: None when Redis does not answer.
    status: Status | None
    #: The database's own answer, else what a worker measured before; None when there is neither.
    backlog: Backlog | None
    #: Whether ``backlog`` is the database's own answer.
    is_backlog_current: bool

    @property
    def backlog_age(self) -> timedelta | None:
        """For how long the backlog may have changed unseen."""
        if self.backlog is None or self.is_backlog_current:
            return None
        return max(self.now - self.backlog.measured_at, timedelta(0))

    @property
    def is_complete(self) -> bool:
        """Whether neither Redis nor the database is down."""
        return SourceState.DOWN not in {self.redis.state, self.database.state}

    @property
    def tasks(self) -> tuple[TaskStatus, ...]:
        """What Redis tells of every task: nothing when it does not answer."""
        if self.status is None:
            return tuple(TaskStatus(task, actor_of(task)) for task in Task)
        return self.status.tasks

    def due(self, task: Task) -> TaskBacklog:
        """Return what is known to be due for ``task``."""
        return UNKNOWN if self.backlog is None else self.backlog.tasks[task]
