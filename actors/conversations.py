"""The actors that end conversations, each with its schedule beside it."""

from typing import Any

import dramatiq

from actors.broker import broker
from actors.engine import get_engine
from actors.scheduler import Scheduled
from actors.settings import settings
from services.cycle import run_task
from services.sweeps import Task

#: Sweeps have a queue of their own: a long one never holds other messages behind it.
SWEEPS_QUEUE = "sweeps"
#: What a run may take beyond its time budget, in seconds, before dramatiq interrupts it: its last batch.
GRACE = 30


def _sweep(task: Task) -> dict[str, Any]:
    """Return the options of a sweep's actor. The next tick is the retry."""
    options: dict[str, Any] = {
        "broker": broker,
        "queue_name": SWEEPS_QUEUE,
        "max_retries": 0,
        "time_limit": int((settings.time_budget.total_seconds() + GRACE) * 1000),
    }
    if settings.is_enabled(task):
        options["periodic"] = Scheduled(settings.schedule(task))
    return options


@dramatiq.actor(**_sweep(Task.IDLE))
def process_idle_conversations() -> None:
    """End each active conversation in which nobody has written for its idle timeout."""
    run_task(Task.IDLE, get_engine(), settings)


@dramatiq.actor(**_sweep(Task.EXPIRED))
def process_expired_conversations() -> None:
    """End each active conversation whose time is up, however lively it is."""
    run_task(Task.EXPIRED, get_engine(), settings)
