"""The judge of a scheduler: whether its loop and its election go on, and whether somebody leads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.health import (
    Answer,
    HealthReport,
    HealthStatus,
    ProcessHealth,
    Role,
    TaskCounts,
    describe_trouble,
)
from services.tasks import Task
from services.wording import span

#: For how long beyond a lease a scheduler may know of no leader.
LEADERLESS = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class SchedulerFacts:
    """What a scheduler knows of itself."""

    pid: int
    started_at: datetime
    uptime: timedelta
    #: How many rounds Periodiq's loop has made.
    rounds: int
    is_loop_alive: bool
    #: By how much the loop is overdue.
    loop_late: timedelta
    is_election_alive: bool
    leads: bool
    #: For how long it has known of no leader, itself included.
    leaderless: timedelta
    lease_timeout: timedelta
    #: Why the last try of the election failed, if it did.
    trouble: Answer | None
    #: Why the last tick of an actor was not enqueued, where it was not.
    failing_ticks: Mapping[str, str]
    tasks: Mapping[Task, TaskCounts]


def judge_scheduler(facts: SchedulerFacts) -> HealthReport:
    """Return the health of a scheduler. One that stands by is as healthy as one that leads."""
    dead = list(_of_threads(facts))
    reasons = [*dead, *_of_redis(facts)]
    status = HealthStatus.DEGRADED if reasons else HealthStatus.HEALTHY
    return HealthReport(
        role=Role.SCHEDULER,
        status=HealthStatus.STOPPED if dead else status,
        is_live=not dead,
        reasons=tuple(reasons),
        uptime_seconds=facts.uptime.total_seconds(),
        cycle_count=facts.rounds,
        tasks=facts.tasks,
        processes=(
            ProcessHealth(
                pid=facts.pid,
                started_at=facts.started_at,
                heard_seconds_ago=0.0,
                redis=facts.trouble or Answer(),
                leads=facts.leads,
            ),
        ),
    )


def _of_threads(facts: SchedulerFacts) -> Iterator[str]:
    if not facts.is_loop_alive:
        yield f"Periodiq's loop is dead: it should have woken up {span(facts.loop_late)} ago"
    if not facts.is_election_alive:
        yield "the election is dead: its thread has ended or hangs"


def _of_redis(facts: SchedulerFacts) -> Iterator[str]:
    if facts.trouble is not None:
        yield describe_trouble("Redis", facts.trouble)
    if facts.leaderless > facts.lease_timeout + LEADERLESS:
        yield f"nobody leads, neither this scheduler nor another that it knows of, for {span(facts.leaderless)}"
    if facts.leads and facts.trouble is None:
        for actor, reason in facts.failing_ticks.items():
            yield f"the last tick of {actor} was not enqueued: {reason}"
