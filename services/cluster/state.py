"""What is known of schedulers, workers, tasks and queues at one instant. What nobody knows is None."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.backlog import Backlog
from services.scheduling.queue import Outcome
from services.tasks import Task


class SchedulerState(StrEnum):
    """What a scheduler does."""

    LEADING = "leading"
    STANDING_BY = "standing_by"
    #: It has not been heard of for longer than a lease lasts, and did not resign.
    GONE = "gone"


class RunOutcome(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """One scheduler. Others forget it when it has not been heard of for four leases."""

    id: str
    state: SchedulerState
    host: str | None
    pid: int | None
    #: By its own clock.
    started_at: datetime | None
    heard_at: datetime | None
    #: Whether Periodiq's loop is ``running`` or ``stuck``.
    loop: str | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process. Others forget it when it has not been heard of for a minute."""

    id: str
    #: False when it has not been heard of for longer than 15 seconds, and did not resign.
    is_alive: bool
    host: str | None
    pid: int | None
    #: By its own clock.
    started_at: datetime | None
    heard_at: datetime | None
    threads: int | None
    #: How many of its threads run a message.
    busy: int | None


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """One of dramatiq's queues."""

    name: str
    #: Messages that no worker has taken yet.
    waiting: int | None
    #: Dead letters: messages that failed and are not tried again.
    dead: int | None


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds the lease."""

    id: str
    host: str | None
    pid: int | None
    term: int | None
    since: datetime | None
    #: When another can lead, unless it is renewed.
    lease_ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimedSlot:
    """The last slot of a task, and what became of it."""

    slot: datetime
    #: ``enqueued``, ``caught_up`` or ``paused``.
    outcome: Outcome | None
    enqueued_at: datetime | None
    term: int | None
    message_id: str | None

    @property
    def lateness(self) -> timedelta | None:
        """From the slot to its message."""
        return None if self.enqueued_at is None else self.enqueued_at - self.slot


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of a task."""

    #: Of its tick; None when it was sent out of turn.
    slot: datetime | None
    started_at: datetime
    ended_at: datetime | None
    outcome: RunOutcome | None
    #: How long it may take before it is interrupted.
    limit: timedelta | None = None
    #: Why it failed, in one line.
    error: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """How long it took."""
        return None if self.ended_at is None else self.ended_at - self.started_at


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for something, and when."""

    at: datetime | None
    by: str | None


@dataclass(frozen=True, slots=True)
class Trigger:
    """A run that was asked for out of turn."""

    id: str
    #: When it was asked for or, once it is carried out, when that was.
    at: datetime | None
    by: str | None
    #: The message that was sent, once it is.
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """All about one task; as it stands without more, a task of which nothing is known."""

    task: Task
    actor: str
    #: None when no leader has scheduled it.
    schedule: str | None = None
    #: From the last slot to the next, as the leader told last.
    interval: timedelta | None = None
    last_slot: ClaimedSlot | None = None
    next_slot: datetime | None = None
    last_run: Run | None = None
    last_success_at: datetime | None = None
    #: Runs, those of them that failed, and the conversations that they ended: since Redis has its data.
    runs: int | None = None
    failures: int | None = None
    ended: int | None = None
    #: When the first message was enqueued that no run has begun for; a run that begins does the work of all.
    awaited_since: datetime | None = None
    #: Ticks that workers dropped because a later run had done their work.
    dropped: int | None = None
    pause: Asked | None = None
    waiting_trigger: Trigger | None = None
    last_trigger: Trigger | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """All that Redis tells, at one instant."""

    #: By Redis's clock, as all instants but where something else is said.
    now: datetime
    leader: Leader | None
    #: The last term that was given; None when no scheduler ever led.
    last_term: int | None
    #: Leader first, those that are gone last.
    schedulers: tuple[SchedulerStatus, ...]
    #: Those that are gone last.
    workers: tuple[WorkerStatus, ...]
    tasks: tuple[TaskStatus, ...]
    #: By name.
    queues: tuple[QueueStatus, ...]
    #: As a worker measured it last, every 15 seconds; None when none has for 90 seconds.
    backlog: Backlog | None
    #: How long silence is no sign of trouble: a lease and a little more.
    patience: timedelta
    #: Whether Redis has no memory left, so that it refuses messages.
    is_full: bool = False

    @property
    def lacks_workers(self) -> bool:
        """Whether no worker process is alive although one should be: a scheduler leads, or a task is scheduled."""
        is_wanted = self.leader is not None or any(task.schedule is not None for task in self.tasks)
        return is_wanted and not any(worker.is_alive for worker in self.workers)
