"""Slots, worked out by somebody else."""

from datetime import UTC, datetime

from croniter import croniter

from services.schedules import Schedule


def slots(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return the slots after ``start`` and up to ``end``, walked one by one."""
    walked = [start]
    while (slot := schedule.slot_after(walked[-1])) <= end:
        walked.append(slot)
    return walked[1:]


def croniters(expression: str, start: datetime, count: int) -> list[datetime]:
    """Return what the other library says comes after ``start``."""
    other = croniter(expression, start, ret_type=datetime)
    return [other.get_next() for _ in range(count)]


def utc(*times: str) -> list[datetime]:
    return [datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times]
