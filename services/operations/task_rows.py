"""What a person sees of the tasks: a column a task, a row for each thing that there is to say of one of them."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from rich.text import Text

from services.cluster.state import Asked, RunOutcome, Status, TaskStatus, Trigger
from services.operations.overview import Overview
from services.operations.problem import ProblemKind
from services.operations.problems import problems_of
from services.operations.task_problems import is_overdue
from services.tasks import Task
from services.wording import clock, distance, how_many, span

_NOTHING = "-"
_UNKNOWN = "unknown"
_WRONG = "red"
Cell = str | Text


def task_rows(overview: Overview) -> Iterator[tuple[str, list[Text]]]:
    """Yield a label and the cells of all tasks; rows that say nothing of any task are left out."""
    overdue = {one.task for one in problems_of(overview) if one.kind is ProblemKind.OVERDUE_CONVERSATIONS}
    age = overview.backlog_age
    label = "due now" if age is None else f"due {span(age)} ago"
    yield label, [Text(_due(overview, task), _WRONG if task in overdue else "") for task in Task]
    status = overview.status
    if status is None:
        return
    for label, draw in _ROWS.items():
        cells = [draw(task, status) for task in status.tasks]
        if any(cell is not None for cell in cells):
            yield label, [cell if isinstance(cell, Text) else Text(cell or _NOTHING) for cell in cells]


def _due(overview: Overview, task: Task) -> str:
    due = overview.due(task)
    if due.due == 0:
        return "none"
    count = how_many(due.due, is_capped=due.due_is_capped)
    return count if due.oldest_due is None else f"{count}, oldest {span(due.oldest_due)}"


def _schedule(task: TaskStatus, _status: Status) -> Cell:
    return task.schedule or "not scheduled"


def _last_slot(task: TaskStatus, status: Status) -> Cell:
    slot = task.last_slot
    if slot is None:
        return _NOTHING
    outcome = _UNKNOWN if slot.outcome is None else slot.outcome.replace("_", " ")
    late = slot.lateness
    if late is not None and slot.outcome is not None and slot.outcome.is_pushed:
        outcome += f" {span(late)} {'late' if late >= timedelta(0) else 'early'}"
    return f"{clock(slot.slot, now=status.now)} {outcome}"


def _next_slot(task: TaskStatus, status: Status) -> Cell:
    if task.schedule is None or task.next_slot is None:
        return _NOTHING
    at, until = clock(task.next_slot, now=status.now), task.next_slot - status.now
    if is_overdue(task, status):
        return Text(f"{at} overdue by {span(until)}", _WRONG)
    return f"{at} in {span(until)}" if until > timedelta(0) else f"{at} due since {span(until)}"


def _last_run(task: TaskStatus, status: Status) -> Cell:
    run = task.last_run
    if run is None:
        return _NOTHING
    at, outcome = clock(run.started_at, now=status.now), _UNKNOWN if run.outcome is None else run.outcome.value
    if run.outcome is RunOutcome.RUNNING:
        return f"{at} {outcome} for {span(status.now - run.started_at)}"
    took = "" if run.duration is None else f" in {span(run.duration)}"
    return Text(f"{at} {outcome}{took}", _WRONG if run.outcome is RunOutcome.FAILED else "")


def _last_success(task: TaskStatus, status: Status) -> Cell | None:
    # After a run that succeeded, it is that one.
    if task.last_success_at is None or (task.last_run and task.last_run.outcome is RunOutcome.DONE):
        return None
    return _when(task.last_success_at, status)


def _runs(task: TaskStatus, _status: Status) -> Cell:
    runs, failures = how_many(task.runs), how_many(task.failures)
    return runs if task.failures == 0 else f"{runs}, {failures} failed"


def _ended(task: TaskStatus, _status: Status) -> Cell:
    return how_many(task.ended)


def _dropped(task: TaskStatus, _status: Status) -> Cell | None:
    return None if task.dropped == 0 else how_many(task.dropped)


def _paused(task: TaskStatus, status: Status) -> Cell | None:
    return None if task.pause is None else Text(f"since {_asked(task.pause, status)}", _WRONG)


def _waiting(task: TaskStatus, status: Status) -> Cell | None:
    return None if task.waiting_trigger is None else f"since {_asked(task.waiting_trigger, status)}"


def _triggered(task: TaskStatus, status: Status) -> Cell | None:
    return None if task.last_trigger is None else _asked(task.last_trigger, status)


_ROWS: dict[str, Callable[[TaskStatus, Status], Cell | None]] = {
    "schedule": _schedule,
    "last slot": _last_slot,
    "next slot": _next_slot,
    "last run": _last_run,
    "last success": _last_success,
    "runs": _runs,
    "ended": _ended,
    "ticks dropped": _dropped,
    "paused": _paused,
    "run awaited": _waiting,
    "run sent": _triggered,
}


def _asked(what: Asked | Trigger, status: Status) -> str:
    return f"{_when(what.at, status)}, by {what.by or 'somebody'}"


def _when(at: datetime | None, status: Status) -> str:
    """Return the instant, in UTC as all instants here."""
    return _UNKNOWN if at is None else f"{clock(at, now=status.now)}, {distance(at, now=status.now)}"
