"""What a worker command or a scheduler says of its health. It imports little, for commands that must be quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.tasks import Task
from services.wording import clock


class Role(StrEnum):
    """Whose health it is."""

    WORKER = "worker"
    SCHEDULER = "scheduler"


class HealthStatus(StrEnum):
    """In one word, best first."""

    HEALTHY = "healthy"
    #: It runs, and something is wrong.
    DEGRADED = "degraded"
    #: It does nothing, or nothing is there.
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Failure:
    """The last thing that went wrong with a task."""

    at: datetime
    #: The first line of it.
    message: str


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """What a process, or all of a command together, did for one task since they started.

    A worker counts its runs, those included that were called in to a backlog, and the conversations that they ended; a
    scheduler counts the slots that it dealt with as the leader, and the messages that it enqueued.
    """

    runs: int = 0
    successes: int = 0
    failures: int = 0
    items_processed: int = 0
    #: When the last run ended,
    last_run_at: datetime | None = None
    #: and the last one that succeeded.
    last_success_at: datetime | None = None
    last_error: Failure | None = None
    #: How long all runs together took.
    total_seconds: float = 0.0

    def __add__(self, other: "TaskCounts") -> "TaskCounts":
        errors = [error for error in (self.last_error, other.last_error) if error is not None]
        return TaskCounts(
            runs=self.runs + other.runs,
            successes=self.successes + other.successes,
            failures=self.failures + other.failures,
            items_processed=self.items_processed + other.items_processed,
            last_run_at=_later(self.last_run_at, other.last_run_at),
            last_success_at=_later(self.last_success_at, other.last_success_at),
            last_error=max(errors, key=lambda error: error.at, default=None),
            total_seconds=self.total_seconds + other.total_seconds,
        )

    def as_object(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        error = self.last_error
        return {
            "runs": self.runs,
            "successes": self.successes,
            "failures": self.failures,
            "items_processed": self.items_processed,
            "last_run_at": _written(self.last_run_at),
            "last_success_at": _written(self.last_success_at),
            "last_error": None if error is None else {"at": _written(error.at), "message": error.message},
            "total_seconds": round(self.total_seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a database or a Redis answers."""

    answers: bool = True
    #: Since when it does not,
    since: datetime | None = None
    #: and why, as far as is known.
    reason: str | None = None

    def as_object(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"answers": self.answers, "since": _written(self.since), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """One process of a worker command, or the one of a scheduler, which has no threads for runs and no database."""

    pid: int
    started_at: datetime
    heard_seconds_ago: float
    threads: int | None = None
    busy: int | None = None
    database: Answer | None = None
    redis: Answer = field(default_factory=Answer)
    #: Whether a scheduler leads.
    leads: bool | None = None

    def as_object(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "pid": self.pid,
            "started_at": _written(self.started_at),
            "heard_seconds_ago": round(self.heard_seconds_ago, 1),
            "threads": self.threads,
            "busy": self.busy,
            "database": None if self.database is None else self.database.as_object(),
            "redis": self.redis.as_object(),
            "leads": self.leads,
        }


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a worker command or of a scheduler."""

    role: Role
    status: HealthStatus
    #: Whether a restart would not help: what it depends on does not count here.
    is_live: bool
    #: What is wrong, a sentence each; none when it is healthy.
    reasons: tuple[str, ...] = ()
    uptime_seconds: float = 0.0
    #: Runs of a worker; rounds of a scheduler's loop.
    cycle_count: int = 0
    tasks: Mapping[Task, TaskCounts] = field(default_factory=dict)
    processes: tuple[ProcessHealth, ...] = ()

    @property
    def is_ready(self) -> bool:
        """Whether all is well."""
        return self.status is HealthStatus.HEALTHY

    def as_object(self) -> dict[str, Any]:
        """Return it as JSON has it; the keys are always there."""
        return {
            "role": self.role.value,
            "status": self.status.value,
            "running": self.status is not HealthStatus.STOPPED,
            "live": self.is_live,
            "ready": self.is_ready,
            "reasons": list(self.reasons),
            "uptime_seconds": round(self.uptime_seconds, 1),
            "cycle_count": self.cycle_count,
            "tasks": {task.value: self.tasks.get(task, TaskCounts()).as_object() for task in Task},
            "processes": [process.as_object() for process in self.processes],
        }


def describe_trouble(name: str, *answers: Answer) -> str:
    """Return that a database or a Redis cannot be used, since when the first who asked knows it, and why."""
    first = min(answers, key=lambda answer: (answer.since is None, answer.since))
    since = "" if first.since is None else f" since {clock(first.since, now=None)} UTC"
    return f"{name} cannot be used{since}: {first.reason or 'nobody knows why'}"


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
