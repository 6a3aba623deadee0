"""What is wrong, worst first: what a person should see at once. What is not known is no problem of its own."""

from collections.abc import Iterator
from datetime import timedelta

from services.cluster.state import SchedulerState, Status
from services.operations.overview import Overview, SourceState
from services.operations.problem import Problem, ProblemKind
from services.operations.task_problems import problems_of_task
from services.tasks import INTERVALS_WITHOUT_SUCCESS, Task
from services.wording import how_many, instant, place, span

#: After which a conversation is overdue when nobody knows the interval of its task.
OVERDUE_AFTER = timedelta(minutes=3)


def problems_of(overview: Overview) -> list[Problem]:
    """Return what is wrong."""
    found = [*_of_sources(overview), *_of_conversations(overview)]
    status = overview.status
    if status is not None:
        found += [*_of_schedulers(status), *_of_workers(status), *_of_queues(status)]
        for task in status.tasks:
            found += problems_of_task(task, status)
    order = list(ProblemKind)
    return sorted(found, key=lambda problem: order.index(problem.kind))


def _of_sources(overview: Overview) -> Iterator[Problem]:
    if overview.redis.state is SourceState.DOWN:
        yield Problem(ProblemKind.REDIS_DOWN, overview.redis.error or "")
    if overview.status is not None and overview.status.is_full:
        yield Problem(
            ProblemKind.REDIS_FULL,
            "Redis is full: it takes no messages and gives none out; raise its maxmemory, or find what fills it",
        )
    if overview.database.state is SourceState.DOWN:
        age = overview.backlog_age
        instead = "" if age is None else f"; a worker measured what is due {span(age)} ago"
        yield Problem(ProblemKind.DATABASE_DOWN, f"{overview.database.error}{instead}")


def _of_conversations(overview: Overview) -> Iterator[Problem]:
    intervals = {task.task: task.interval for task in overview.status.tasks} if overview.status else {}
    for task in Task:
        due, interval = overview.due(task), intervals.get(task)
        limit = OVERDUE_AFTER if interval is None else INTERVALS_WITHOUT_SUCCESS * interval
        if due.oldest_due is not None and due.oldest_due > limit:
            count = "some" if due.due is None else how_many(due.due, is_capped=due.due_is_capped)
            yield Problem(
                ProblemKind.OVERDUE_CONVERSATIONS,
                f"{task} are overdue: {count} due, the oldest for {span(due.oldest_due)}",
                task,
            )
    set_aside = overview.backlog and overview.backlog.set_aside
    if set_aside:
        yield Problem(
            ProblemKind.SET_ASIDE,
            f"conversations are due and cannot be ended, because the database refuses it: {how_many(set_aside)}; "
            "to see why: adjourn set-aside list",
        )


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


def _of_workers(status: Status) -> Iterator[Problem]:
    if status.lacks_workers:
        yield Problem(ProblemKind.NO_WORKER, "no worker is there, so nothing is ended; start one with: dramatiq actors")
    for worker in status.workers:
        if not worker.is_alive:
            where = place(worker.host, worker.pid)
            silent = "" if worker.heard_at is None else f" for {span(status.now - worker.heard_at)}"
            yield Problem(
                ProblemKind.WORKER_GONE,
                f"the worker on {where} is silent{silent}: it was killed, hangs, or has no Redis",
                worker=worker.id,
            )


def _of_queues(status: Status) -> Iterator[Problem]:
    dead = {queue.name: queue.dead for queue in status.queues if queue.dead}
    if dead:
        where = ", ".join(f"{count:,} in {name}" for name, count in dead.items())
        yield Problem(
            ProblemKind.DEAD_LETTERS,
            f"messages failed and are not tried again, {where}; to see why: adjourn dead-letters list",
        )
