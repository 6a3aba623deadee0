"""All kinds of faults, and the order in which a run does them."""

import random

from tests.chaos.conversations import (
    calendar_faults,
    clock_faults,
    postgres_faults,
    queue_faults,
    redis_faults,
    worker_faults,
)
from tests.chaos.conversations.faults import Fault

FAULTS: tuple[Fault, ...] = (
    *worker_faults.FAULTS,
    *postgres_faults.FAULTS,
    *redis_faults.FAULTS,
    *queue_faults.FAULTS,
    *clock_faults.FAULTS,
    *calendar_faults.FAULTS,
)
#: They take from twenty seconds to two minutes each, most of them on servers of their own.
_ONCE = frozenset((*clock_faults.FAULTS, *calendar_faults.FAULTS))


def draw_plan(faults: int, rng: random.Random, *, kind: str = "") -> list[Fault]:
    """Return every kind at least once, in any order; only those with ``kind`` in their names."""
    kinds = [fault for fault in FAULTS if kind in fault.name]
    again = [fault for fault in kinds if fault not in _ONCE] or kinds
    plan = [*kinds, *rng.choices(again, k=max(faults - len(kinds), 0))]
    rng.shuffle(plan)
    return plan
