"""The state of schedulers and tasks as one JSON object, for programs."""

import json
from datetime import UTC, datetime, timedelta

from services.errors import without_password
from services.operations.problems import is_overdue, problems_of
from services.operations.status import Leader, SchedulerStatus, Status, TaskStatus, Trigger


def json_text(status: Status, *, redis_url: str) -> str:
    """Return the state as one JSON object, whose keys ``adjourn status --help`` explains."""
    report = {
        "problems": [
            {"kind": problem.kind, "task": problem.task, "scheduler": problem.scheduler, "text": problem.text}
            for problem in problems_of(status)
        ],
        "now": _iso(status.now),
        "redis": without_password(redis_url),
        "leader": None if status.leader is None else _leader_object(status.leader),
        "last_term": status.last_term,
        "schedulers": [_scheduler_object(scheduler) for scheduler in status.schedulers],
        "tasks": [_task_object(task, status) for task in status.tasks],
    }
    return json.dumps(report, indent=2)


def _leader_object(leader: Leader) -> dict[str, object]:
    return {
        "id": leader.id,
        "host": leader.host,
        "pid": leader.pid,
        "term": leader.term,
        "since": _iso(leader.since),
        "lease_ends_at": _iso(leader.lease_ends_at),
    }


def _scheduler_object(scheduler: SchedulerStatus) -> dict[str, object]:
    return {
        "id": scheduler.id,
        "state": scheduler.state,
        "host": scheduler.host,
        "pid": scheduler.pid,
        "started_at": _iso(scheduler.started_at),
        "heard_at": _iso(scheduler.heard_at),
        "loop": scheduler.loop,
    }


def _task_object(task: TaskStatus, status: Status) -> dict[str, object]:
    slot, run = task.last_slot, task.last_run
    return {
        "task": task.task,
        "actor": task.actor,
        "schedule": task.schedule,
        "last_slot": slot
        and {
            "slot": _iso(slot.slot),
            "outcome": slot.outcome,
            "enqueued_at": _iso(slot.enqueued_at),
            "late_seconds": _seconds(slot.lateness),
            "term": slot.term,
            "message_id": slot.message_id,
        },
        "next_slot": _iso(task.next_slot),
        "overdue": is_overdue(task, status),
        "last_run": run
        and {
            "slot": _iso(run.slot),
            "started_at": _iso(run.started_at),
            "ended_at": _iso(run.ended_at),
            "seconds": _seconds(run.duration),
            "outcome": run.outcome,
        },
        "awaited_since": _iso(task.awaited_since),
        "dropped": task.dropped,
        "paused": task.pause and {"at": _iso(task.pause.at), "by": task.pause.by},
        "waiting_trigger": _trigger_object(task.waiting_trigger),
        "last_trigger": _trigger_object(task.last_trigger),
    }


def _trigger_object(trigger: Trigger | None) -> dict[str, object] | None:
    if trigger is None:
        return None
    return {"id": trigger.id, "at": _iso(trigger.at), "by": trigger.by, "message_id": trigger.message_id}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
