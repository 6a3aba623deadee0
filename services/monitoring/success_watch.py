"""Whether a task succeeds as often as it should, wherever in the cluster it runs. The clock is Redis's."""

from collections.abc import Mapping
from datetime import datetime

from services.cluster.state import RunOutcome, TaskStatus
from services.monitoring.worker_state import Expectation
from services.schedules import Schedule
from services.tasks import INTERVALS_WITHOUT_SUCCESS, SUCCESS_GRACE, Task
from services.wording import clock


def late_from(schedule: Schedule, since: datetime) -> datetime:
    """Return from when on a task that has not succeeded since an instant has not done so for three intervals."""
    slot = since
    for _ in range(INTERVALS_WITHOUT_SUCCESS):
        slot = schedule.slot_after(slot)
    return slot + SUCCESS_GRACE


class SuccessWatch:
    """What this process knows of the last success of each task that has a schedule.

    Counted from the last success; at the earliest, from the first look, and from the end of a pause.
    """

    def __init__(self, schedules: Mapping[Task, Schedule]) -> None:
        self._schedules = schedules
        self._since: dict[Task, datetime] = {}
        self._late_from: dict[Task, tuple[datetime, datetime]] = {}
        self._failing: set[Task] = set()

    def look(self, status: TaskStatus, *, now: datetime, at: float) -> Expectation | None:
        """Return until when the task must have succeeded; None when nothing is to be expected of it.

        ``now`` is Redis's clock, ``at`` the same moment on the monotonic clock, in seconds.
        """
        task, run = status.task, status.last_run
        schedule = self._schedules.get(task)
        if schedule is None:
            return None
        if task not in self._since or status.pause is not None:
            self._since[task] = now
        if status.last_success_at is not None:
            # Redis may have lost its data, which is no reason to forget.
            self._since[task] = max(self._since[task], min(status.last_success_at, now))
        if status.pause is not None:
            return None
        late = self._cached_late_from(task, schedule)
        if run is not None and run.outcome is not RunOutcome.RUNNING:
            (self._failing.add if run.outcome is RunOutcome.FAILED else self._failing.discard)(task)
        elif run is not None and run.limit is not None and task not in self._failing:
            # One that works off a backlog may take so long; but not each of those that come to nothing, one by one.
            late = max(late, schedule.slot_after(self._since[task]) + run.limit + SUCCESS_GRACE)
        why = self._why(status, schedule, now)
        since = clock(self._since[task], now=None)
        return Expectation(
            late_from=at + (late - now).total_seconds(), reason=f"{task} has not succeeded since {since} UTC: {why}"
        )

    def _cached_late_from(self, task: Task, schedule: Schedule) -> datetime:
        since = self._since[task]
        known = self._late_from.get(task)
        if known is None or known[0] != since:
            known = self._late_from[task] = since, late_from(schedule, since)
        return known[1]

    def _why(self, status: TaskStatus, schedule: Schedule, now: datetime) -> str:
        run, slot = status.last_run, status.last_slot
        if slot is None or late_from(schedule, slot.slot) <= now:
            ticks = "no tick has come for it" if slot is None else f"no tick since {clock(slot.slot, now=None)} UTC"
            why = f"{ticks}, is a scheduler running?"
        elif run is not None and run.outcome is RunOutcome.RUNNING:
            why = f"a run is under way since {clock(run.started_at, now=None)} UTC"
        elif status.awaited_since is not None:
            why = f"its messages wait for a worker since {clock(status.awaited_since, now=None)} UTC"
        else:
            why = "its runs came to nothing"
        if run is not None and run.outcome is RunOutcome.FAILED:
            failed = f"the last run failed: {run.error or 'the log of the workers says why'}"
            return failed if slot is not None and slot.slot >= run.started_at else f"{why}; {failed}"
        return why
