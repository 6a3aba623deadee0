"""What is wrong with the slots and runs of a task."""

from collections.abc import Iterator
from datetime import timedelta

from services.cluster.state import RunOutcome, Status, TaskStatus
from services.operations.problem import Problem, ProblemKind
from services.tasks import INTERVALS_WITHOUT_SUCCESS, SUCCESS_GRACE
from services.wording import instant, span


def problems_of_task(task: TaskStatus, status: Status) -> Iterator[Problem]:
    """Yield what is wrong with one task, as Redis tells of it."""
    for kind, text in (
        (ProblemKind.NO_SUCCESS, _no_success(task, status)),
        (ProblemKind.OVERDUE, _overdue(task, status)),
        (ProblemKind.NOT_RUN, _not_run(task, status)),
        (ProblemKind.PAUSED, _paused(task, status)),
        (ProblemKind.RUN_FAILED, _run_failed(task, status)),
        (ProblemKind.TRIGGER_WAITS, _trigger_waits(task, status)),
    ):
        if text is not None:
            yield Problem(kind, text, task.task)


def _no_success(task: TaskStatus, status: Status) -> str | None:
    if task.pause is not None or task.schedule is None or task.interval is None or task.last_success_at is None:
        return None
    if status.now - task.last_success_at <= INTERVALS_WITHOUT_SUCCESS * task.interval + SUCCESS_GRACE:
        return None
    return f"no run of {task.task} has succeeded since {instant(task.last_success_at, now=status.now)}"


def _overdue(task: TaskStatus, status: Status) -> str | None:
    if not is_overdue(task, status):
        return None
    return f"{task.task} is overdue: its slot of {instant(task.next_slot, now=status.now)} was not enqueued"


def is_overdue(task: TaskStatus, status: Status) -> bool:
    """Return whether a slot of ``task`` should have been claimed long since, and was not."""
    if task.schedule is None or task.pause is not None or task.next_slot is None:
        return False
    if status.now - task.next_slot <= status.patience:
        return False
    # What a leader writes down as the next slot when it begins may be claimed a moment before.
    return task.last_slot is None or task.next_slot > task.last_slot.slot


def _not_run(task: TaskStatus, status: Status) -> str | None:
    waited = waits_for_a_worker(task, status)
    # Where there is no worker at all, that is the problem.
    if waited is None or status.lacks_workers:
        return None
    return f"no worker runs {task.task}: its messages wait for {span(waited)}; start one with: dramatiq actors"


def waits_for_a_worker(task: TaskStatus, status: Status) -> timedelta | None:
    """Return for how long messages of ``task`` have waited, if that is longer than it should be."""
    if task.awaited_since is None:
        return None
    run = task.last_run
    if run and run.outcome is RunOutcome.RUNNING and status.now - run.started_at < (run.limit or timedelta(0)):
        return None  # what comes meanwhile waits for it
    waited = status.now - task.awaited_since
    return waited if waited > status.patience else None


def _paused(task: TaskStatus, status: Status) -> str | None:
    if task.pause is None:
        return None
    since = f"since {instant(task.pause.at, now=status.now)} by {task.pause.by or 'somebody'}"
    return f"{task.task} is paused {since}; to go on: adjourn resume {task.task.name.lower()}"


def _run_failed(task: TaskStatus, status: Status) -> str | None:
    run = task.last_run
    if run is None or run.outcome is not RunOutcome.FAILED:
        return None
    took = "" if run.duration is None else f" after {span(run.duration)}"
    began = instant(run.started_at, now=status.now)
    why = run.error or "the log of the workers says why"
    return f"the last run of {task.task} failed, which began at {began}{took}: {why}"


def _trigger_waits(task: TaskStatus, status: Status) -> str | None:
    request = task.waiting_trigger
    if request is None:
        return None
    asked = f"{request.by or 'somebody'} asked for at {instant(request.at, now=status.now)}"
    return f"a run of {task.task} that {asked} waits for a leader to send it"
