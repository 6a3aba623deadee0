"""The state of the cluster as one JSON object, for programs. ``adjourn status --help`` explains its keys."""

import json
from datetime import timedelta

from services.cluster.state import Leader, QueueStatus, SchedulerStatus, TaskStatus, Trigger, WorkerStatus
from services.operations.overview import Overview, Source
from services.operations.problem import Problem
from services.operations.problems import problems_of
from services.operations.punctuality import punctuality_of
from services.operations.task_problems import is_overdue
from services.wording import iso


def json_text(overview: Overview, *, indent: int | None = 2) -> str:
    """Return the state as one JSON object, in one line unless it is indented."""
    problems = problems_of(overview)
    status = overview.status
    report = {
        "punctuality": punctuality_of(overview, problems),
        "problems": [_problem_object(problem) for problem in problems],
        "now": iso(overview.now),
        "clock": overview.clock,
        "redis": _source_object(overview.redis),
        "database": _source_object(overview.database),
        "leader": status and status.leader and _leader_object(status.leader),
        "last_term": status and status.last_term,
        "schedulers": status and [_scheduler_object(scheduler) for scheduler in status.schedulers],
        "workers": status and [_worker_object(worker) for worker in status.workers],
        "backlog": _backlog_object(overview),
        "tasks": [_task_object(task, overview) for task in overview.tasks],
        "queues": status and [_queue_object(queue) for queue in status.queues],
    }
    return json.dumps(report, indent=indent)


def _problem_object(problem: Problem) -> dict[str, object]:
    return {
        "kind": problem.kind,
        "task": problem.task,
        "scheduler": problem.scheduler,
        "worker": problem.worker,
        "text": problem.text,
    }


def _source_object(source: Source) -> dict[str, object]:
    return {"url": source.url, "state": source.state, "error": source.error}


def _leader_object(leader: Leader) -> dict[str, object]:
    return {
        "id": leader.id,
        "host": leader.host,
        "pid": leader.pid,
        "term": leader.term,
        "since": iso(leader.since),
        "lease_ends_at": iso(leader.lease_ends_at),
    }


def _scheduler_object(scheduler: SchedulerStatus) -> dict[str, object]:
    return {
        "id": scheduler.id,
        "state": scheduler.state,
        "host": scheduler.host,
        "pid": scheduler.pid,
        "started_at": iso(scheduler.started_at),
        "heard_at": iso(scheduler.heard_at),
        "loop": scheduler.loop,
    }


def _worker_object(worker: WorkerStatus) -> dict[str, object]:
    return {
        "id": worker.id,
        "alive": worker.is_alive,
        "host": worker.host,
        "pid": worker.pid,
        "started_at": iso(worker.started_at),
        "heard_at": iso(worker.heard_at),
        "threads": worker.threads,
        "busy": worker.busy,
    }


def _backlog_object(overview: Overview) -> dict[str, object] | None:
    backlog = overview.backlog
    if backlog is None:
        return None
    return {
        "source": "database" if overview.is_backlog_current else "worker",
        "measured_at": iso(backlog.measured_at),
        "active": backlog.active,
        "active_is_estimate": backlog.active_is_estimate,
        "set_aside": backlog.set_aside,
    }


def _task_object(task: TaskStatus, overview: Overview) -> dict[str, object]:
    due, slot, run = overview.due(task.task), task.last_slot, task.last_run
    return {
        "task": task.task,
        "actor": task.actor,
        "due": due.due,
        "due_is_capped": due.due_is_capped,
        "oldest_due_seconds": due.oldest_due_seconds,
        "schedule": task.schedule,
        "interval_seconds": _seconds(task.interval),
        "last_slot": slot
        and {
            "slot": iso(slot.slot),
            "outcome": slot.outcome,
            "enqueued_at": iso(slot.enqueued_at),
            "late_seconds": _seconds(slot.lateness),
            "term": slot.term,
            "message_id": slot.message_id,
        },
        "next_slot": iso(task.next_slot),
        "overdue": overview.status and is_overdue(task, overview.status),
        "last_run": run
        and {
            "slot": iso(run.slot),
            "started_at": iso(run.started_at),
            "ended_at": iso(run.ended_at),
            "seconds": _seconds(run.duration),
            "outcome": run.outcome,
            "error": run.error,
        },
        "last_success_at": iso(task.last_success_at),
        "runs": task.runs,
        "failures": task.failures,
        "ended": task.ended,
        "awaited_since": iso(task.awaited_since),
        "dropped": task.dropped,
        "paused": task.pause and {"at": iso(task.pause.at), "by": task.pause.by},
        "waiting_trigger": _trigger_object(task.waiting_trigger),
        "last_trigger": _trigger_object(task.last_trigger),
    }


def _trigger_object(trigger: Trigger | None) -> dict[str, object] | None:
    if trigger is None:
        return None
    return {"id": trigger.id, "at": iso(trigger.at), "by": trigger.by, "message_id": trigger.message_id}


def _queue_object(queue: QueueStatus) -> dict[str, object]:
    return {"name": queue.name, "waiting": queue.waiting, "dead": queue.dead}


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
