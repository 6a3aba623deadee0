"""The state of schedulers, workers, tasks and queues, as Redis has it. What makes no sense there is None."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import redis
from redis.client import Pipeline

from services.cluster.backlog_record import backlog_of
from services.cluster.state import Leader, QueueStatus, SchedulerState, SchedulerStatus, Status, WorkerStatus
from services.cluster.task_hash import Hash, task_status
from services.scheduling import keys
from services.settings import LONGEST_LEASE
from services.tasks import Task, actor_of
from services.values import instant_of, integer_of, object_of, redis_time, text_of, written_instant_of

#: How long a lease lasts when nobody holds one that would tell: the default of BACKGROUND_TASK_LEASE_TIMEOUT.
USUAL_LEASE = timedelta(seconds=15)
#: What a scheduler is granted beyond its lease before it counts as gone, or a slot as overdue.
GRACE = timedelta(seconds=5)
#: How long a worker process may be silent before it counts as gone: it says every 5 seconds that it is there.
WORKER_SILENCE = timedelta(seconds=15)

_LONGEST = LONGEST_LEASE / timedelta(milliseconds=1)
_Said = Mapping[str, dict[str, Any]]
_Heard = Mapping[str, datetime | None]


def read_status(*, client: redis.Redis) -> Status:
    """Return the state at this moment. Two round trips.

    Raises redis.RedisError.
    """
    # No transaction: a Redis that is full refuses those, even when they only read.
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.info("memory")
        pipe.hgetall(keys.LEASE)
        pipe.pttl(keys.LEASE)
        pipe.get(keys.TERM)
        pipe.hgetall(keys.MEMBERS)
        pipe.zrange(keys.SEEN, 0, -1, withscores=True)
        pipe.hgetall(keys.WORKERS)
        pipe.zrange(keys.WORKERS_SEEN, 0, -1, withscores=True)
        pipe.smembers(keys.QUEUES)
        pipe.hgetall(keys.BACKLOG)
        for task in Task:
            pipe.hgetall(keys.task_key(actor_of(task)))
        time, memory, lease, remaining, term, *rest = _answers(pipe)
    members, seen, workers, workers_seen, queues, backlog, *tasks = rest
    now = redis_time(*time)
    said = _said(members)
    leader = _leader(lease or {}, remaining, said, now)
    patience = _lease_timeout(lease or {}) + GRACE
    return Status(
        now=now,
        leader=leader,
        last_term=integer_of(term),
        schedulers=_schedulers(said, _heard(seen), leader, gone_before=now - patience),
        workers=_workers(_said(workers), _heard(workers_seen), gone_before=now - WORKER_SILENCE),
        tasks=tuple(
            task_status(task, actor=actor_of(task), values=values or {})
            for task, values in zip(Task, tasks, strict=True)
        ),
        queues=_read_queues(client, sorted(queues or ())),
        backlog=backlog_of(backlog or {}),
        patience=patience,
        is_full=_is_full(memory or {}),
    )


def _answers(pipe: Pipeline) -> list[Any]:
    """Return what Redis answers; None where somebody made a key of another type, an error of its own command.

    Raises NoPermissionError: a leader that we may not see is there all the same.
    """
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, redis.exceptions.NoPermissionError):
            raise answer
    return [None if isinstance(one, redis.ResponseError) else one for one in answers]


def _is_full(memory: Mapping[str, Any]) -> bool:
    limit = memory.get("maxmemory") or 0
    return memory.get("maxmemory_policy") == "noeviction" and 0 < limit < memory.get("used_memory", 0)


def _said(members: Mapping[bytes, bytes] | None) -> _Said:
    return {text_of(member) or "": object_of(said) for member, said in (members or {}).items()}


def _heard(seen: Iterable[tuple[bytes, float]] | None) -> _Heard:
    return {text_of(member) or "": instant_of(score) for member, score in seen or []}


def _leader(lease: Hash, remaining: Any, about: _Said, now: datetime) -> Leader | None:
    holder = text_of(lease.get(b"holder"))
    if holder is None or remaining == -2:  # noqa: PLR2004 - PTTL's word for: it is gone
        return None
    said = about.get(holder, {})
    return Leader(
        id=holder,
        host=text_of(said.get("host")),
        pid=integer_of(said.get("pid")),
        term=integer_of(lease.get(b"term")),
        since=instant_of(lease.get(b"since")),
        lease_ends_at=instant_of(now.timestamp() * 1000 + remaining)
        if remaining is not None and remaining >= 0
        else None,
    )


def _lease_timeout(lease: Hash) -> timedelta:
    timeout = integer_of(lease.get(b"timeout"))
    # Milliseconds. One that is longer than any can be was not written by a scheduler.
    return USUAL_LEASE if timeout is None or not 0 < timeout <= _LONGEST else timedelta(milliseconds=timeout)


def _schedulers(
    about: _Said, heard: _Heard, leader: Leader | None, *, gone_before: datetime
) -> tuple[SchedulerStatus, ...]:
    leading = {leader.id} if leader else set()

    def state(scheduler: str) -> SchedulerState:
        if scheduler in leading:
            return SchedulerState.LEADING
        heard_at = heard.get(scheduler)
        return SchedulerState.GONE if heard_at is None or heard_at < gone_before else SchedulerState.STANDING_BY

    found = []
    for scheduler in about.keys() | heard.keys() | leading:
        said = about.get(scheduler, {})
        loop = text_of(said.get("loop"))
        found.append(
            SchedulerStatus(
                id=scheduler,
                state=state(scheduler),
                host=text_of(said.get("host")),
                pid=integer_of(said.get("pid")),
                started_at=written_instant_of(said.get("started_at")),
                heard_at=heard.get(scheduler),
                loop=loop if loop in {"running", "stuck"} else None,
            )
        )
    order = list(SchedulerState)
    return tuple(sorted(found, key=lambda one: (order.index(one.state), one.host or "", one.pid or 0, one.id)))


def _workers(about: _Said, heard: _Heard, *, gone_before: datetime) -> tuple[WorkerStatus, ...]:
    found = []
    for worker in about.keys() | heard.keys():
        said, heard_at = about.get(worker, {}), heard.get(worker)
        found.append(
            WorkerStatus(
                id=worker,
                is_alive=heard_at is not None and heard_at >= gone_before,
                host=text_of(said.get("host")),
                pid=integer_of(said.get("pid")),
                started_at=written_instant_of(said.get("started_at")),
                heard_at=heard_at,
                threads=integer_of(said.get("threads")),
                busy=integer_of(said.get("busy")),
            )
        )
    return tuple(sorted(found, key=lambda one: (not one.is_alive, one.host or "", one.pid or 0, one.id)))


def _read_queues(client: redis.Redis, names: Sequence[bytes]) -> tuple[QueueStatus, ...]:
    if not names:
        return ()
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(b"dramatiq:" + name)
            pipe.zcard(b"dramatiq:" + name + b".XQ")
        answers = _answers(pipe)
    return tuple(
        QueueStatus(name=text_of(name) or "", waiting=integer_of(waiting), dead=integer_of(dead))
        for name, waiting, dead in zip(names, answers[::2], answers[1::2], strict=True)
    )
