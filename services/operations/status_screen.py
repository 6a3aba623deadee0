"""The state of the cluster on one screen, for people: whether conversations end on time, and what is wrong, first."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.cluster.state import SchedulerState, SchedulerStatus, Status, WorkerStatus
from services.operations.overview import Clock, Overview, SourceState
from services.operations.problems import problems_of
from services.operations.punctuality import Punctuality, punctuality_of
from services.operations.task_rows import task_rows
from services.tasks import Task
from services.wording import distance, how_many, place, shorten, span

#: As wide as the longest label, so that all blocks have one edge.
_LABEL_WIDTH = 13
_STATE_WIDTH = 7
_GAP = 2
#: What stands beside the name of a process and what is said of it.
_BESIDE_NAME = _LABEL_WIDTH + _STATE_WIDTH + 3 * _GAP
_SHORTEST_NAME = 20

_UNKNOWN = "unknown"

# Red is for what is wrong, green for its absence; both are among the colours that a theme keeps readable.
_WRONG = "red"
_HEADLINES = {
    Punctuality.ON_TIME: ("conversations end on time", "bold green"),
    Punctuality.AT_RISK: ("conversations may end late", "bold red"),
    Punctuality.LATE: ("conversations end late", "bold red"),
    Punctuality.UNKNOWN: ("nobody can tell whether conversations end on time", "bold red"),
}
_STATES = {
    SchedulerState.LEADING: "leader",
    SchedulerState.STANDING_BY: "standby",
    SchedulerState.GONE: "gone",
}
_CLOCKS = {Clock.REDIS: "Redis", Clock.DATABASE: "the database", Clock.MACHINE: "this machine"}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line about a process, or about there being none."""

    label: str
    state: str
    process: SchedulerStatus | WorkerStatus | None = None
    about: str = ""
    is_wrong: bool = False


def draw_screen(overview: Overview, *, width: int) -> RenderableType:
    """Return all that is known, for a screen of ``width`` columns."""
    problems = problems_of(overview)
    lines: list[RenderableType] = [_headline(overview, punctuality_of(overview, problems))]
    if problems:
        marked = Table.grid(padding=(0, 1, 0, 0))
        for problem in problems:
            marked.add_row("!", Text(problem.text), style=_WRONG)
        lines.append(marked)
    if overview.status is not None:
        lines += [Text(), _processes(overview.status, width=width)]
    return Group(*lines, Text(), _tasks(overview), Text(), _rest(overview))


def _headline(overview: Overview, punctuality: Punctuality) -> Text:
    words, style = _HEADLINES[punctuality]
    details = []
    backlog = overview.backlog
    if backlog is not None and backlog.active is not None:
        details.append(f"{'about ' if backlog.active_is_estimate else ''}{how_many(backlog.active)} active")
    due = [overview.due(task) for task in Task]
    oldest = max((one.oldest_due for one in due if one.oldest_due is not None), default=None)
    if oldest is not None:
        details.append(f"the oldest due for {span(oldest)}")
    elif all(one.due == 0 for one in due):
        details.append("none due")
    if details and overview.backlog_age is not None:
        details.append(f"{span(overview.backlog_age)} ago")
    return Text.assemble((words, style), f": {', '.join(details)}" if details else "")


def _processes(status: Status, *, width: int) -> Table:
    rows = [*_scheduler_rows(status), *_worker_rows(status)]
    # What is said of them is short, so that what is left is enough for a name, without its middle if need be.
    longest_name = max(width - _BESIDE_NAME - max(len(row.about) for row in rows), _SHORTEST_NAME)
    table = _labelled(columns=3, no_wrap=True)
    for row in rows:
        cells = (row.state, _shortened(row.process, longest_name), row.about)
        table.add_row(_label(row.label), *(Text(cell, _WRONG if row.is_wrong else "") for cell in cells))
    return table


def _scheduler_rows(status: Status) -> Iterator[_Row]:
    label = "schedulers"
    for scheduler in status.schedulers:
        is_stuck = scheduler.loop == "stuck"
        about = _about_leader(status) if scheduler.state is SchedulerState.LEADING else _heard(scheduler, status)
        yield _Row(
            label,
            _STATES[scheduler.state],
            scheduler,
            f"{about}, loop is stuck" if is_stuck else about,
            is_wrong=is_stuck or scheduler.state is SchedulerState.GONE,
        )
        label = ""
    if not status.schedulers:
        yield _Row(label, "none")


def _about_leader(status: Status) -> str:
    leader = status.leader
    if leader is None or leader.term is None:
        return ""
    return f"term {leader.term}{'' if leader.since is None else f' for {span(status.now - leader.since)}'}"


def _worker_rows(status: Status) -> Iterator[_Row]:
    label = "workers"
    for worker in status.workers:
        is_told = worker.is_alive and worker.busy is not None and worker.threads is not None
        about = f"{worker.busy} of {worker.threads} threads busy" if is_told else _heard(worker, status)
        yield _Row(label, "alive" if worker.is_alive else "gone", worker, about, is_wrong=not worker.is_alive)
        label = ""
    if not status.workers:
        yield _Row(label, "none")


def _shortened(process: SchedulerStatus | WorkerStatus | None, longest: int) -> str:
    if process is None:
        return ""
    if process.host is None:
        return shorten(process.id, longest)
    host = shorten(process.host, max(longest - len(place("", process.pid)), 1))
    return place(host, process.pid)


def _heard(process: SchedulerStatus | WorkerStatus, status: Status) -> str:
    return "never heard of" if process.heard_at is None else f"heard {distance(process.heard_at, now=status.now)}"


def _tasks(overview: Overview) -> Table:
    table = _labelled(columns=len(Task))
    table.add_row("", *(Text(task, "bold") for task in Task))
    for label, cells in task_rows(overview):
        table.add_row(_label(label), *cells)
    return table


def _rest(overview: Overview) -> Table:
    table = _labelled(columns=1)
    if overview.status is not None:
        queues = overview.status.queues
        waiting = ", ".join(f"{one.name} {how_many(one.waiting)}" for one in queues)
        dead = ", ".join(f"{one.name} {how_many(one.dead)}" for one in queues if one.dead)
        table.add_row(_label("queues"), Text(waiting or _UNKNOWN))
        table.add_row(_label("dead letters"), Text(dead, _WRONG) if dead else Text("none" if queues else _UNKNOWN))
    for label, source in (("redis", overview.redis), ("database", overview.database)):
        state = {SourceState.DOWN: " (down)", SourceState.ABSENT: " (no database yet)"}.get(source.state, "")
        table.add_row(_label(label), Text(f"{source.url}{state}", _WRONG if source.state is SourceState.DOWN else ""))
    at = f"{overview.now:%Y-%m-%d %H:%M:%S} UTC by the clock of {_CLOCKS[overview.clock]}"
    table.add_row(_label("time"), Text(at))
    return table


def _labelled(*, columns: int, no_wrap: bool = False) -> Table:
    """Return a table with a column of labels and so many others; all such tables have one left edge."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(width=_LABEL_WIDTH, no_wrap=True)
    for _ in range(columns):
        table.add_column(no_wrap=no_wrap)
    return table


def _label(text: str) -> Text:
    return Text(text, "dim")
