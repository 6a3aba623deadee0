"""A run of a task as workers and ``adjourn run --once`` do it: by the database's clock, with a line in the log."""

import time
import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from services import sweeps
from services.database import current_time, reading
from services.logs import get_logger
from services.scheduling.shift import Shift
from services.settings import Settings
from services.sweeps import OnBatch, Stopwatch, Sweep
from services.tasks import Task

log = get_logger(__name__)

_SWEEPS = {
    Task.IDLE: sweeps.process_idle_conversations,
    Task.EXPIRED: sweeps.process_expired_conversations,
}


def run_task(
    task: Task,
    engine: Engine,
    settings: Settings,
    *,
    shift: Shift | None = None,
    on_batch: OnBatch | None = None,
    stopwatch: Stopwatch = time.monotonic,
) -> Sweep:
    """Sweep for ``task``, by the clock of each moment, until a sweep meets no backlog; log what all of it did.

    A backlog is more than a batch. When it has gone, what fell due meanwhile is swept as well, so that a run which left
    its work to this one leaves nothing behind. The time budget is for the whole. ``shift`` is this run's in the crew of
    the task, without which it works alone. ``on_batch`` is told of each batch.

    The line is at info only when something changed.
    """
    try:
        sweep = _sweep_in_rounds(task, engine, settings, shift=shift, on_batch=on_batch, stopwatch=stopwatch)
    finally:
        if shift is not None:
            shift.end()
    (log.info if sweep.count else log.debug)(
        "swept",
        task=task.value,
        count=sweep.count,
        batches=sweep.batches,
        duration=round(sweep.duration, 3),
        drained=sweep.drained,
        sweep_id=str(sweep.sweep_id),
        **({"set_aside": sweep.set_aside} if sweep.set_aside else {}),
        **_company(shift),
    )
    return sweep


def _sweep_in_rounds(
    task: Task,
    engine: Engine,
    settings: Settings,
    *,
    shift: Shift | None,
    on_batch: OnBatch | None,
    stopwatch: Stopwatch,
) -> Sweep:
    """Return what the sweeps of a run did, as one."""
    proceed, sweep_id = (lambda: True, uuid.uuid4()) if shift is None else (shift.proceed, shift.sweep_id)
    started = stopwatch()
    count = batches = set_aside = 0
    left = settings.time_budget
    while True:
        with reading(engine) as connection:
            now = current_time(connection)
        sweep = _SWEEPS[task](
            engine,
            now=now,
            batch_size=settings.batch_size,
            time_budget=left,
            sweep_id=sweep_id,
            proceed=proceed,
            on_batch=on_batch,
            stopwatch=stopwatch,
        )
        count += sweep.count
        batches += sweep.batches
        set_aside += sweep.set_aside
        elapsed = stopwatch() - started
        left = settings.time_budget - timedelta(seconds=elapsed)
        met_backlog = sweep.count >= settings.batch_size
        is_over = shift is not None and shift.is_over
        if not met_backlog or not sweep.drained or left <= timedelta(0) or is_over:
            drained = sweep.drained and not met_backlog
            return Sweep(sweep_id, task, count, batches, set_aside, elapsed, drained=drained)


def _company(shift: Shift | None) -> dict[str, Any]:
    """Return what the log says of the other runs at the same backlog, where there was one."""
    if shift is None:
        return {}
    said = {"called_in": shift.was_called, "called": shift.called, "left_to_others": shift.is_refused}
    return {name: value for name, value in said.items() if value}
