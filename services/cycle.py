"""A run of a task as workers and ``adjourn run --once`` do it: by the database's clock, with a line in the log."""

from sqlalchemy import Engine

from services import sweeps
from services.database import current_time, reading
from services.logs import get_logger
from services.settings import Settings
from services.sweeps import Sweep, Task

log = get_logger(__name__)

_SWEEPS = {
    Task.IDLE: sweeps.process_idle_conversations,
    Task.EXPIRED: sweeps.process_expired_conversations,
}


def run_task(task: Task, engine: Engine, settings: Settings) -> Sweep:
    """Sweep once for ``task``, now, and log what it did: at info only when something changed."""
    with reading(engine) as connection:
        now = current_time(connection)
    sweep = _SWEEPS[task](engine, now=now, batch_size=settings.batch_size, time_budget=settings.time_budget)
    (log.info if sweep.count else log.debug)(
        "swept",
        task=task.value,
        count=sweep.count,
        batches=sweep.batches,
        duration=round(sweep.duration, 3),
        drained=sweep.drained,
        sweep_id=str(sweep.sweep_id),
    )
    return sweep
