"""The state of the schedulers and their tasks, as Redis has it. What is missing there, or makes no sense, is None."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import redis

from services.operations.values import duration_of, instant_of, integer_of, object_of, text_of, written_instant_of
from services.scheduling import keys
from services.scheduling.queue import Outcome
from services.settings import LONGEST_LEASE
from services.tasks import Task

#: How long a lease lasts when nobody holds one that would tell: the default of BACKGROUND_TASK_LEASE_TIMEOUT.
USUAL_LEASE = timedelta(seconds=15)
#: What a scheduler is granted beyond its lease before it counts as gone, or a slot as overdue.
GRACE = timedelta(seconds=5)

_SECOND = timedelta(seconds=1)
_LONGEST = LONGEST_LEASE / timedelta(milliseconds=1)
Hash = Mapping[bytes, bytes]


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
    """All about one task."""

    task: Task
    actor: str
    #: None when no leader has scheduled it.
    schedule: str | None
    last_slot: ClaimedSlot | None
    next_slot: datetime | None
    last_run: Run | None
    #: When the first message was enqueued that no run has begun for; a run that begins does the work of all.
    awaited_since: datetime | None
    #: Ticks that workers dropped because a later run had done their work.
    dropped: int | None
    pause: Asked | None
    waiting_trigger: Trigger | None
    last_trigger: Trigger | None


@dataclass(frozen=True, slots=True)
class Status:
    """Schedulers and tasks, at one instant."""

    #: By Redis's clock, as all instants but one.
    now: datetime
    leader: Leader | None
    #: The last term that was given; None when no scheduler ever led.
    last_term: int | None
    #: Leader first, those that are gone last.
    schedulers: tuple[SchedulerStatus, ...]
    tasks: tuple[TaskStatus, ...]
    #: How long silence is no sign of trouble: a lease and a little more.
    patience: timedelta


def actor_of(task: Task) -> str:
    """Return the name of the actor that does ``task``."""
    return f"process_{task}"


def read_status(*, client: redis.Redis) -> Status:
    """Return the state at this moment.

    Raises redis.RedisError.
    """
    # No transaction: a Redis that is full refuses those, even when they only read.
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(keys.LEASE)
        pipe.pttl(keys.LEASE)
        pipe.get(keys.TERM)
        pipe.hgetall(keys.MEMBERS)
        pipe.zrange(keys.SEEN, 0, -1, withscores=True)
        for task in Task:
            pipe.hgetall(keys.task_key(actor_of(task)))
        # A key that somebody made of another type is an error of its own command.
        answers: list[Any] = [
            None if isinstance(one, redis.ResponseError) else one for one in pipe.execute(raise_on_error=False)
        ]
    (seconds, microseconds), lease, remaining, term, members, seen, *tasks = answers
    now = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
    heard = {text_of(member) or "": instant_of(score) for member, score in seen or []}
    about = {text_of(member) or "": object_of(said) for member, said in (members or {}).items()}
    leader = _leader(lease or {}, remaining, about, now)
    patience = _lease_timeout(lease or {}) + GRACE
    return Status(
        now=now,
        leader=leader,
        last_term=integer_of(term),
        schedulers=_schedulers(about, heard, leader, now - patience),
        tasks=tuple(_task(task, values or {}) for task, values in zip(Task, tasks, strict=True)),
        patience=patience,
    )


def _leader(lease: Hash, remaining: Any, about: Mapping[str, dict[str, Any]], now: datetime) -> Leader | None:
    holder = text_of(lease.get(b"holder"))
    if holder is None or remaining == -2:  # noqa: PLR2004 - PTTL's word for: it is gone
        return None
    said = about.get(holder, {})
    return Leader(
        id=holder,
        host=text_of(said.get("host")),
        pid=integer_of(said.get("pid")),
        term=integer_of(lease.get(b"term")),
        since=instant_of(lease.get(b"since")),
        lease_ends_at=instant_of(now.timestamp() * 1000 + remaining)
        if remaining is not None and remaining >= 0
        else None,
    )


def _lease_timeout(lease: Hash) -> timedelta:
    timeout = integer_of(lease.get(b"timeout"))
    # Milliseconds. One that is longer than any can be was not written by a scheduler.
    return USUAL_LEASE if timeout is None or not 0 < timeout <= _LONGEST else timedelta(milliseconds=timeout)


def _schedulers(
    about: Mapping[str, dict[str, Any]],
    heard: Mapping[str, datetime | None],
    leader: Leader | None,
    gone_before: datetime,
) -> tuple[SchedulerStatus, ...]:
    leading = {leader.id} if leader else set()

    def state(scheduler: str) -> SchedulerState:
        if scheduler in leading:
            return SchedulerState.LEADING
        heard_at = heard.get(scheduler)
        return SchedulerState.GONE if heard_at is None or heard_at < gone_before else SchedulerState.STANDING_BY

    found = []
    for scheduler in about.keys() | heard.keys() | leading:
        said = about.get(scheduler, {})
        loop = text_of(said.get("loop"))
        found.append(
            SchedulerStatus(
                id=scheduler,
                state=state(scheduler),
                host=text_of(said.get("host")),
                pid=integer_of(said.get("pid")),
                started_at=written_instant_of(said.get("started_at")),
                heard_at=heard.get(scheduler),
                loop=loop if loop in {"running", "stuck"} else None,
            )
        )
    order = list(SchedulerState)
    return tuple(sorted(found, key=lambda one: (order.index(one.state), one.host or "", one.pid or 0, one.id)))


def _task(task: Task, values: Hash) -> TaskStatus:
    return TaskStatus(
        task=task,
        actor=actor_of(task),
        schedule=text_of(values.get(b"schedule")),
        last_slot=_claimed_slot(values),
        next_slot=instant_of(values.get(b"next_slot"), unit=_SECOND),
        last_run=_run(values),
        awaited_since=instant_of(values.get(b"awaited_since")),
        dropped=integer_of(values.get(b"dropped", b"0")),
        pause=_pause(values),
        waiting_trigger=_trigger(values, "trigger"),
        last_trigger=_trigger(values, "triggered"),
    )


def _claimed_slot(values: Hash) -> ClaimedSlot | None:
    slot = instant_of(values.get(b"slot"), unit=_SECOND)
    if slot is None:
        return None
    outcome = text_of(values.get(b"outcome"))
    return ClaimedSlot(
        slot=slot,
        outcome=Outcome(outcome) if outcome in {Outcome.ENQUEUED, Outcome.CAUGHT_UP, Outcome.PAUSED} else None,
        enqueued_at=instant_of(values.get(b"enqueued_at")),
        term=integer_of(values.get(b"term")),
        # A slot that fell in a pause has an id and no message.
        message_id=None if outcome == Outcome.PAUSED else text_of(values.get(b"message_id")),
    )


def _run(values: Hash) -> Run | None:
    started_at = instant_of(values.get(b"run_started_at"))
    if started_at is None:
        return None
    outcome = text_of(values.get(b"run_outcome"))
    if b"run_ended_at" not in values:
        outcome = RunOutcome.RUNNING
    return Run(
        slot=instant_of(values.get(b"run_slot"), unit=_SECOND),
        started_at=started_at,
        ended_at=instant_of(values.get(b"run_ended_at")),
        outcome=RunOutcome(outcome) if outcome in set(RunOutcome) else None,
        limit=duration_of(values.get(b"run_limit")),
    )


def _pause(values: Hash) -> Asked | None:
    # As the scheduler has it: it is paused when the field is there.
    if b"paused_at" not in values:
        return None
    return Asked(instant_of(values[b"paused_at"]), text_of(values.get(b"paused_by")))


def _trigger(values: Hash, prefix: str) -> Trigger | None:
    request_id = text_of(values.get(f"{prefix}_id".encode()))
    if request_id is None:
        return None
    return Trigger(
        id=request_id,
        at=instant_of(values.get(f"{prefix}_at".encode())),
        by=text_of(values.get(f"{prefix}_by".encode())),
        message_id=text_of(values.get(f"{prefix}_message_id".encode())),
    )
