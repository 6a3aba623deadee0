"""All kinds of faults, and the order in which a run does them."""

import random
from collections.abc import Sequence

from tests.chaos.conversations import (
    calendar_faults,
    clock_faults,
    postgres_faults,
    queue_faults,
    redis_faults,
    worker_faults,
)
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.shifted_clock import find_compiler

FAULTS: tuple[Fault, ...] = (
    *worker_faults.FAULTS,
    *postgres_faults.FAULTS,
    *redis_faults.FAULTS,
    *queue_faults.FAULTS,
    *clock_faults.FAULTS,
    *calendar_faults.FAULTS,
)
#: They take from twenty seconds to two minutes each.
_ONCE = frozenset((*clock_faults.FAULTS, *calendar_faults.FAULTS))


def possible_faults(*, kind: str = "", short: bool = False) -> tuple[Fault, ...]:
    """Return the kinds with ``kind`` in their names that this machine can do; a ``short`` form has none of minutes."""
    sets_clocks = find_compiler() is not None and not (short and not kind)
    return tuple(fault for fault in FAULTS if kind in fault.name and (sets_clocks or not fault.sets_clocks))


def draw_plan(faults: int, rng: random.Random, *, possible: Sequence[Fault] = FAULTS) -> list[Fault]:
    """Return each of the ``possible`` at least once, in any order. Those that take long come once."""
    again = [fault for fault in possible if fault not in _ONCE] or possible
    plan = [*possible, *rng.choices(again, k=max(faults - len(possible), 0))]
    rng.shuffle(plan)
    return plan
