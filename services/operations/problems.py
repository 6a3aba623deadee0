"""What is wrong with the schedulers and their tasks, worst first: what a person should see at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from services.operations.status import RunOutcome, SchedulerState, Status, TaskStatus
from services.operations.wording import instant, place, span
from services.tasks import Task


class ProblemKind(StrEnum):
    """What can be wrong, by a name that does not change."""

    NO_LEADER = "no_leader"
    LOOP_STUCK = "loop_stuck"
    OVERDUE = "overdue"
    NOT_RUN = "not_run"
    PAUSED = "paused"
    RUN_FAILED = "run_failed"
    TRIGGER_WAITS = "trigger_waits"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    kind: ProblemKind
    #: A sentence, for a person.
    text: str
    task: Task | None = None
    #: The id of the scheduler that has it.
    scheduler: str | None = None


def problems_of(status: Status) -> list[Problem]:
    """Return what is wrong."""
    found = list(_of_schedulers(status))
    for task in status.tasks:
        found.extend(_of_task(task, status))
    return sorted(found, key=lambda problem: list(ProblemKind).index(problem.kind))


def _of_schedulers(status: Status) -> Iterator[Problem]:
    if status.leader is None:
        yield Problem(ProblemKind.NO_LEADER, f"no scheduler leads: {_why_no_leader(status)}")
    for scheduler in status.schedulers:
        if scheduler.loop == "stuck" and scheduler.state is not SchedulerState.GONE:
            where = place(scheduler.host, scheduler.pid)
            yield Problem(
                ProblemKind.LOOP_STUCK,
                f"the loop of the scheduler on {where} is stuck, so its slots come late: restart it",
                scheduler=scheduler.id,
            )


def _why_no_leader(status: Status) -> str:
    heard = [scheduler for scheduler in status.schedulers if scheduler.heard_at is not None]
    last = max(heard, key=lambda scheduler: scheduler.heard_at or status.now, default=None)
    if last is not None:
        where = place(last.host, last.pid)
        advice = "" if last.state is SchedulerState.STANDING_BY else "; start one with: periodiq actors"
        said = "heard of" if last.state is SchedulerState.STANDING_BY else "heard of that did not resign"
        return f"the last one {said} was {where} at {instant(last.heard_at, now=status.now)}{advice}"
    if status.last_term is not None or status.schedulers:
        return "none runs; start one with: periodiq actors"
    return "none was ever heard of; start one with: periodiq actors"


def _of_task(task: TaskStatus, status: Status) -> Iterator[Problem]:
    if is_overdue(task, status):
        at = instant(task.next_slot, now=status.now)
        yield Problem(ProblemKind.OVERDUE, f"{task.task} is overdue: its slot of {at} was not enqueued", task.task)
    waited = waits_for_a_worker(task, status)
    if waited is not None:
        yield Problem(
            ProblemKind.NOT_RUN,
            f"no worker runs {task.task}: its messages wait for {span(waited)}; start one with: dramatiq actors",
            task.task,
        )
    if task.pause is not None:
        yield Problem(
            ProblemKind.PAUSED,
            f"{task.task} is paused since {instant(task.pause.at, now=status.now)} by {task.pause.by or 'somebody'}; "
            f"to go on: adjourn resume {task.task.name.lower()}",
            task.task,
        )
    run = task.last_run
    if run is not None and run.outcome is RunOutcome.FAILED:
        took = "" if run.duration is None else f" after {span(run.duration)}"
        yield Problem(
            ProblemKind.RUN_FAILED,
            f"the last run of {task.task} failed, which began at {instant(run.started_at, now=status.now)}{took}: "
            "the log of the workers says why",
            task.task,
        )
    request = task.waiting_trigger
    if request is not None:
        yield Problem(
            ProblemKind.TRIGGER_WAITS,
            f"a run of {task.task} that {request.by or 'somebody'} asked for at {instant(request.at, now=status.now)} "
            "waits for a leader to send it",
            task.task,
        )


def is_overdue(task: TaskStatus, status: Status) -> bool:
    """Return whether a slot of ``task`` should have been claimed long since, and was not."""
    if task.schedule is None or task.pause is not None or task.next_slot is None:
        return False
    if status.now - task.next_slot <= status.patience:
        return False
    # What a leader writes down as the next slot when it begins may be claimed a moment before.
    return task.last_slot is None or task.next_slot > task.last_slot.slot


def waits_for_a_worker(task: TaskStatus, status: Status) -> timedelta | None:
    """Return for how long messages of ``task`` have waited, if that is longer than it should be."""
    if task.awaited_since is None:
        return None
    run = task.last_run
    if run and run.outcome is RunOutcome.RUNNING and status.now - run.started_at < (run.limit or timedelta(0)):
        return None  # what comes meanwhile waits for it
    waited = status.now - task.awaited_since
    return waited if waited > status.patience else None
