"""The state of schedulers and tasks as tables, for people; what is wrong comes first."""

import sys
from datetime import datetime, timedelta
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from services.errors import without_password
from services.operations.problems import is_overdue, problems_of
from services.operations.status import Asked, RunOutcome, SchedulerState, SchedulerStatus, Status, TaskStatus, Trigger
from services.operations.wording import clock, distance, place, span

#: Wide enough that no row is folded where there is no terminal to fit.
_WIDTH_OF_A_FILE = 1_000
#: How much of an id is shown to people.
_SHORT_ID = 8
_WORDS = {
    SchedulerState.LEADING: "leader",
    SchedulerState.STANDING_BY: "standing by",
    SchedulerState.GONE: "gone",
}
_NOTHING = "-"
_UNKNOWN = "unknown"


def print_tables(status: Status, *, redis_url: str, stream: TextIO | None = None) -> None:
    """Print the state for a person, what is wrong first, on standard output unless told otherwise."""
    stream = stream or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_FILE, highlight=False)
    problems = problems_of(status)
    for problem in problems:
        console.print(Text(f"! {problem.text}", style="bold red"))
    if not problems:
        console.print("nothing is wrong")
    console.print(
        Text(f"{status.now:%Y-%m-%d %H:%M:%S} UTC by the clock of {without_password(redis_url)}", style="dim")
    )
    console.print()
    schedulers = Table.grid(padding=(0, 2))
    for scheduler in status.schedulers:
        schedulers.add_row(*(Text(cell) for cell in _scheduler_row(scheduler, status)))
    if status.schedulers:
        console.print(schedulers)
        console.print()
    # As narrow as can be, for a terminal of 80 columns: no lines between columns, little in a line.
    headers = (Column("task", no_wrap=True), "last slot", "next slot", "last run", "asked for")
    table = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, show_lines=True)
    for task in status.tasks:
        table.add_row(*(Text("\n".join(lines)) for lines in _task_cells(task, status)))
    console.print(table)


def _scheduler_row(scheduler: SchedulerStatus, status: Status) -> list[str]:
    name = f"{place(scheduler.host, scheduler.pid)} {scheduler.id[:_SHORT_ID]}"
    about = []
    leader = status.leader
    if leader is not None and scheduler.state is SchedulerState.LEADING:
        about.append(f"term {_UNKNOWN if leader.term is None else leader.term}, since {_when(leader.since, status)}")
        lasts = "for ever" if leader.lease_ends_at is None else f"{span(leader.lease_ends_at - status.now)} still"
        about.append(f"its lease lasts {lasts}")
    else:
        started = _UNKNOWN if scheduler.started_at is None else clock(scheduler.started_at, now=status.now)
        heard = "never" if scheduler.heard_at is None else distance(scheduler.heard_at, now=status.now)
        about += [f"started {started}", f"heard of {heard}"]
    if scheduler.loop == "stuck":
        about.append("its loop is stuck")
    return [_WORDS[scheduler.state], name, "; ".join(about)]


def _task_cells(task: TaskStatus, status: Status) -> list[list[str]]:
    return [
        [task.task, task.schedule or "not scheduled"],
        _last_slot_lines(task, status),
        _next_slot_lines(task, status),
        _last_run_lines(task, status),
        _asked_lines(task, status),
    ]


def _last_slot_lines(task: TaskStatus, status: Status) -> list[str]:
    slot = task.last_slot
    if slot is None:
        return [_NOTHING]
    outcome = _UNKNOWN if slot.outcome is None else slot.outcome.replace("_", " ")
    late = slot.lateness
    if late is not None and slot.outcome is not None and slot.outcome.is_pushed:
        outcome += f" {span(late)} {'late' if late >= timedelta(0) else 'early'}"
    term = _UNKNOWN if slot.term is None else slot.term
    return [_when(slot.slot, status), outcome, f"by term {term}"]


def _next_slot_lines(task: TaskStatus, status: Status) -> list[str]:
    if task.schedule is None or task.next_slot is None:
        return [_NOTHING]
    at, until = clock(task.next_slot, now=status.now), task.next_slot - status.now
    if until > timedelta(0):
        return [at, f"in {span(until)}"]
    return [at, "overdue by" if is_overdue(task, status) else "due since", span(until)]


def _last_run_lines(task: TaskStatus, status: Status) -> list[str]:
    lines = []
    run = task.last_run
    if run is not None:
        outcome = _UNKNOWN if run.outcome is None else run.outcome.value
        if run.outcome is RunOutcome.RUNNING:
            outcome += f" for {span(status.now - run.started_at)}"
        elif run.duration is not None:
            outcome += f" in {span(run.duration)}"
        lines = [_when(run.started_at, status), outcome]
    if task.dropped != 0:
        lines.append(f"{_UNKNOWN if task.dropped is None else f'{task.dropped:,}'} ticks dropped")
    return lines or [_NOTHING]


def _asked_lines(task: TaskStatus, status: Status) -> list[str]:
    lines = []
    if task.pause is not None:
        lines.append(f"pause: {_asked(task.pause, status)}")
    if task.waiting_trigger is not None:
        lines.append(f"run, which waits: {_asked(task.waiting_trigger, status)}")
    if task.last_trigger is not None:
        lines.append(f"run, sent: {_asked(task.last_trigger, status)}")
    return lines or [_NOTHING]


def _asked(what: Asked | Trigger, status: Status) -> str:
    return f"{_when(what.at, status)}, {what.by or 'somebody'}"


def _when(at: datetime | None, status: Status) -> str:
    """Return the instant, in UTC as all instants here."""
    return _UNKNOWN if at is None else f"{clock(at, now=status.now)}, {distance(at, now=status.now)}"
