"""How long after its deadline each conversation was ended, outside of faults and within."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from tests.histories.final import Event

_BY_DEADLINE = frozenset({"idle_timeout", "expired"})


@dataclass(frozen=True, slots=True)
class Lags:
    """Of so many endings, in seconds."""

    count: int
    p50: float
    p99: float
    most: float


def lags_of(events: Iterable[Event], faults: Sequence[tuple[datetime, datetime]]) -> tuple[Lags, Lags]:
    """Return the lags outside of ``faults``, which are from an instant to another, and those within.

    An ending is within one when it was due or done then. Who closes a conversation does so before its deadline, and has
    no lag.
    """
    outside: list[float] = []
    within: list[float] = []
    for event in events:
        if event.status in _BY_DEADLINE:
            is_within = any(begun <= event.occurred_at and event.deadline <= over for begun, over in faults)
            (within if is_within else outside).append((event.occurred_at - event.deadline).total_seconds())
    return _summary(outside), _summary(within)


def _summary(lags: list[float]) -> Lags:
    lags.sort()
    return Lags(len(lags), _percentile(lags, 0.5), _percentile(lags, 0.99), lags[-1] if lags else 0.0)


def _percentile(ascending: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of them do not exceed, 0 of none."""
    return ascending[max(ceil(share * len(ascending)), 1) - 1] if ascending else 0.0
