"""What ``adjourn health`` prints."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from services.health import HealthStatus, Role
from services.operations.asking_health import EXIT_CODES, ask_health
from services.tasks import Task
from services.values import text_of
from services.wording import how_many, span


def print_health(roles: Sequence[Role], *, url: str | None, as_json: bool) -> int:
    """Print how each of ``roles`` is; return the exit code of the one that is worse."""
    reports = ask_health(roles, url=url)
    if as_json:
        whole = {role.value: report for role, report in reports.items()}
        print(json.dumps(whole if len(roles) > 1 else whole[roles[0].value], indent=2))  # noqa: T201 - asked for
    else:
        for report in reports.values():
            print("\n".join(_lines(report)))  # noqa: T201 - the same
    return max(EXIT_CODES[HealthStatus(report["status"])] for report in reports.values())


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    reasons = "; ".join(filter(None, map(text_of, report["reasons"])))
    yield ": ".join(filter(None, (report["role"], report["status"], reasons)))
    # Another version may tell less.
    with suppress(LookupError, TypeError, ValueError, AttributeError, OverflowError):
        if report["processes"]:
            yield f"  up {span(timedelta(seconds=report['uptime_seconds']))}, {_at_work(report)}"
            yield from [_task_line(task, report["tasks"][task]) for task in Task]


def _at_work(report: Mapping[str, Any]) -> str:
    processes = report["processes"]
    if report["role"] == Role.SCHEDULER:
        return "leads" if processes[0]["leads"] else "does not lead"
    busy, threads = (sum(process[what] for process in processes) for what in ("busy", "threads"))
    return f"{len(processes)} {'process' if len(processes) == 1 else 'processes'}, {busy} of {threads} threads busy"


def _task_line(task: Task, counts: Mapping[str, Any]) -> str:
    error = counts["last_error"]
    told = ", ".join(f"{how_many(counts[what])} {what}" for what in ("runs", "failures"))
    last = "" if error is None else f"; last failure at {text_of(error['at'])}: {text_of(error['message'])}"
    return f"  {task}: {told}, {how_many(counts['items_processed'])} processed{last}"
