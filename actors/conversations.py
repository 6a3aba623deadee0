"""The actors that end conversations, each with its schedule beside it, and the one that is called in to a backlog."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import dramatiq
import redis
from structlog.contextvars import bind_contextvars

from actors.broker import broker, metrics, stopping, tally
from actors.engine import get_engine
from actors.scheduler import Scheduled
from actors.settings import settings
from services.cycle import run_task
from services.due import Batch
from services.logs import get_logger
from services.scheduling.crew import CALL_TIMEOUT, Crew
from services.scheduling.runs import RunRecord
from services.scheduling.shift import Shift
from services.sweeps import OnBatch
from services.tasks import Task
from services.values import text_of

#: Sweeps have a queue of their own: a long one never holds other messages behind it.
SWEEPS_QUEUE = "sweeps"
#: So have the runs that are called in: a tick never lies behind them.
DRAINS_QUEUE = "drains"
#: What a run may take beyond its time budget, in seconds, before dramatiq interrupts it: its last batch.
GRACE = 30

log = get_logger(__name__)

#: The next tick is the retry.
_RUN: dict[str, Any] = {
    "broker": broker,
    "max_retries": 0,
    "time_limit": int((settings.time_budget.total_seconds() + GRACE) * 1000),
}


def _sweep(task: Task) -> dict[str, Any]:
    """Return the options of a sweep's actor."""
    schedule = {"periodic": Scheduled(settings.schedule(task))} if settings.is_enabled(task) else {}
    return {**_RUN, "queue_name": SWEEPS_QUEUE, **schedule}


@dramatiq.actor(**_sweep(Task.IDLE))
def process_idle_conversations() -> None:
    """End each active conversation in which nobody has written for its idle timeout."""
    _run(Task.IDLE)


@dramatiq.actor(**_sweep(Task.EXPIRED))
def process_expired_conversations() -> None:
    """End each active conversation whose time is up, however lively it is."""
    _run(Task.EXPIRED)


@dramatiq.actor(**_RUN, queue_name=DRAINS_QUEUE, called_in=True, max_age=CALL_TIMEOUT // timedelta(milliseconds=1))
def drain_backlog(task: str, sweep_id: str) -> None:
    """Sweep for ``task`` beside the run that met a backlog and called for this one, under the id that it gave."""
    try:
        called = Task(task), uuid.UUID(sweep_id)
    except (ValueError, AttributeError):
        given = {"task": text_of(str(task)), "sweep_id": text_of(str(sweep_id))}
        log.error("nothing to drain: no such task or sweep", **given)  # noqa: TRY400 - one line
        return
    _run(*called)


_ACTORS = {Task.IDLE: process_idle_conversations, Task.EXPIRED: process_expired_conversations}


@cache
def _crew(task: Task) -> Crew:
    return Crew(broker.client, _ACTORS[task].actor_name, limit=settings.crew_limit)


def _run(task: Task, sweep_id: uuid.UUID | None = None) -> None:
    def call_in(sweep_ids: Sequence[str]) -> None:
        for one in sweep_ids:
            drain_backlog.send(task.value, one)

    shift = Shift(
        _crew(task),
        sweep_id=sweep_id,
        call_in=call_in if sweep_id is None else None,
        is_stopping=stopping.is_stopping,
    )
    bind_contextvars(sweep_id=str(shift.sweep_id))
    with _counting(task) as on_batch:
        run_task(task, get_engine(), settings, shift=shift, on_batch=on_batch)


@contextmanager
def _counting(task: Task) -> Iterator[OnBatch]:
    """Count a run for health, for Prometheus and for whoever asks Redis; yields what to tell of each batch."""
    with ExitStack() as counters:
        run = counters.enter_context(tally.run(task))
        if metrics is not None:
            counters.enter_context(metrics.worker.run(task))

        def count(batch: Batch) -> None:
            run.add(batch.count)
            if metrics is not None:
                metrics.worker.count_batch(task, batch)

        try:
            yield count
        finally:
            if run.items:
                _add_ended(task, run.items)


@cache
def _record() -> RunRecord:
    return RunRecord(broker.client)


def _add_ended(task: Task, count: int) -> None:
    try:
        _record().add_ended(_ACTORS[task].actor_name, count)
    except redis.RedisError as error:
        log.debug("what ended is not counted", reason=str(error))
