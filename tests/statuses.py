"""A cluster in which all is well, to be changed by a test, and what is said of it."""

import io
from dataclasses import replace
from datetime import timedelta
from typing import Any

from services.backlog import Backlog, TaskBacklog
from services.cluster.state import (
    ClaimedSlot,
    Leader,
    QueueStatus,
    Run,
    RunOutcome,
    SchedulerState,
    SchedulerStatus,
    Status,
    TaskStatus,
    WorkerStatus,
)
from services.errors import without_password
from services.operations.overview import Clock, Overview, Source, SourceState
from services.operations.problem import ProblemKind
from services.operations.problems import problems_of
from services.operations.status_report import print_screen
from services.scheduling.queue import Outcome
from services.tasks import Task
from tests.support import NOON

SECOND = timedelta(seconds=1)
SCHEDULER = SchedulerStatus("s", SchedulerState.LEADING, "web-1", 12, NOON, NOON, "running")
WORKER = WorkerStatus(
    id="w", is_alive=True, host="web-3", pid=13, started_at=NOON, heard_at=NOON - SECOND, threads=8, busy=2
)
TASK = TaskStatus(
    task=Task.IDLE,
    actor="process_idle_conversations",
    schedule="every 60 s",
    interval=60 * SECOND,
    last_slot=ClaimedSlot(NOON - 60 * SECOND, Outcome.ENQUEUED, NOON - 59 * SECOND, 7, "m"),
    next_slot=NOON,
    last_run=Run(NOON - 60 * SECOND, NOON - 59 * SECOND, NOON - 58 * SECOND, RunOutcome.DONE),
    last_success_at=NOON - 58 * SECOND,
    runs=1_204,
    failures=3,
    ended=18_204,
    dropped=0,
)
STATUS = Status(
    now=NOON,
    leader=Leader("s", "web-1", 12, 7, NOON - 60 * SECOND, NOON + 10 * SECOND),
    last_term=7,
    schedulers=(SCHEDULER,),
    workers=(WORKER,),
    tasks=(TASK,),
    queues=(QueueStatus("drains", 0, 0), QueueStatus("sweeps", 2, 0)),
    backlog=None,
    patience=20 * SECOND,
)
NOTHING_DUE = TaskBacklog(due=0, due_is_capped=False, oldest_due=None)
BACKLOG = Backlog(measured_at=NOON, active=5_000, active_is_estimate=False, tasks=dict.fromkeys(Task, NOTHING_DUE))


def with_task(**changes: Any) -> Status:
    """Return the cluster with another task."""
    return replace(STATUS, tasks=(replace(TASK, **changes),))


def due_for(oldest: timedelta, *, due: int | None = 40, task: Task = Task.IDLE) -> Backlog:
    """Return a backlog in which one task has conversations that are due."""
    return replace(BACKLOG, tasks={**BACKLOG.tasks, task: TaskBacklog(due, due_is_capped=False, oldest_due=oldest)})


def overview_of(status: Status | None = STATUS, **changes: Any) -> Overview:
    """Return what is seen of a cluster whose database answers, with less of it when a test says so."""
    overview = Overview(
        now=NOON if status is None else status.now,
        clock=Clock.REDIS,
        redis=Source(without_password("redis://:secret@redis.example/0"), SourceState.ANSWERS),
        database=Source("postgresql+psycopg://adjourn:***@db.example/adjourn", SourceState.ANSWERS),
        status=status,
        backlog=BACKLOG,
        is_backlog_current=True,
    )
    return replace(overview, **changes)


def kinds(seen: Status | Overview) -> list[ProblemKind]:
    """Return what is wrong, by name."""
    overview = overview_of(seen) if isinstance(seen, Status) else seen
    return [problem.kind for problem in problems_of(overview)]


def screen(seen: Status | Overview) -> str:
    """Return what a person sees where there is no terminal."""
    stream = io.StringIO()
    print_screen(overview_of(seen) if isinstance(seen, Status) else seen, stream=stream)
    return stream.getvalue()
