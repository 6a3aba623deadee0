"""The last measurement of the backlog, in Redis: the database is asked once for all that show it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis

from services.backlog import Backlog, TaskBacklog
from services.scheduling import keys
from services.tasks import Task
from services.values import duration_of, instant_of, integer_of

#: After this time a measurement is no longer what anybody should go by. It is taken every 15 s.
LIFETIME = timedelta(seconds=90)

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime.fromtimestamp(0, UTC)
#: More than any database holds.
_TOO_MANY = 2**63


class BacklogRecord:
    """The last measurement. Its calls are one round trip each, and raise redis.RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def write(self, backlog: Backlog) -> None:
        """Put ``backlog`` in the place of the last one, for ``LIFETIME``."""
        # In one transaction: a field that could not be measured this time must not be left over from the last.
        with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(keys.BACKLOG)
            pipe.hset(keys.BACKLOG, mapping=_fields_of(backlog))
            pipe.pexpire(keys.BACKLOG, LIFETIME)
            pipe.execute()

    def read(self) -> Backlog | None:
        """Return the last measurement; None when there is none that is recent enough."""
        return backlog_of(self._client.hgetall(keys.BACKLOG))


def backlog_of(values: Mapping[Any, Any]) -> Backlog | None:
    """Return what the hash ``keys.BACKLOG`` says, for who reads it along with other things.

    None without the instant of the measurement. Another value that makes no sense counts as not measured.
    """
    measured_at = instant_of(values.get(b"measured_at"))
    if measured_at is None:
        return None
    active = _count_of(values.get(b"active"))
    return Backlog(
        measured_at=measured_at,
        active=active,
        active_is_estimate=active is not None and values.get(b"active_is_estimate") == b"1",
        tasks={task: _task_of(task, values) for task in Task},
        set_aside=_count_of(values.get(b"set_aside")),
    )


def _task_of(task: Task, values: Mapping[Any, Any]) -> TaskBacklog:
    due = _count_of(values.get(f"{task}:due".encode()))
    oldest_due = duration_of(values.get(f"{task}:oldest_due_ms".encode()))
    return TaskBacklog(
        due=due,
        due_is_capped=bool(due) and values.get(f"{task}:due_is_capped".encode()) == b"1",
        oldest_due=None if due == 0 or oldest_due is None or oldest_due < timedelta(0) else oldest_due,
    )


def _count_of(value: object) -> int | None:
    count = integer_of(value)
    return count if count is not None and 0 <= count < _TOO_MANY else None


def _fields_of(backlog: Backlog) -> dict[Any, Any]:
    fields: dict[Any, Any] = {"measured_at": (backlog.measured_at - _EPOCH) // _MILLISECOND}
    if backlog.active is not None:
        fields |= {"active": backlog.active, "active_is_estimate": int(backlog.active_is_estimate)}
    if backlog.set_aside is not None:
        fields["set_aside"] = backlog.set_aside
    for task, known in backlog.tasks.items():
        if known.due is not None:
            fields |= {f"{task}:due": known.due, f"{task}:due_is_capped": int(known.due_is_capped)}
        if known.oldest_due is not None:
            fields[f"{task}:oldest_due_ms"] = known.oldest_due // _MILLISECOND
        elif known.due == 0:
            fields[f"{task}:oldest_due_ms"] = ""
    return fields
