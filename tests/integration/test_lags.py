"""What a sweep tells of each batch: how many it ended and how late, as the events have it."""

from collections import Counter
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Engine

from models import Conversation
from services.due import Batch
from services.lags import LAG_BUCKETS
from services.sweeps import process_expired_conversations, process_idle_conversations
from tests.support import MOMENT, NOON, TIMEOUTS, all_conversations, all_events, opened

#: When the sweeps of these tests are.
NOW = NOON + timedelta(days=3)


def open_due(engine: Engine, *lags: timedelta) -> None:
    """Open conversations that are due for so long at NOW."""
    for number, lag in enumerate(lags, start=1):
        opened(engine, number=number, now=NOW - TIMEOUTS.idle - lag)


def recorded(engine: Engine) -> list[float]:
    """Return the lags of the events, in seconds."""
    return [(event.occurred_at - event.deadline).total_seconds() for event in all_events(engine)]


def bucketed(lags: list[float]) -> list[int]:
    """Return how many lags are in each bucket, by the meaning of a bucket."""
    bounds = [*LAG_BUCKETS, float("inf")]
    places = Counter(next(place for place, bound in enumerate(bounds) if lag <= bound) for lag in lags)
    return [places[place] for place in range(len(bounds))]


def test_each_batch_is_told_with_the_lags_of_its_events(engine: Engine) -> None:
    edges = [timedelta(seconds=bound) for bound in LAG_BUCKETS]
    open_due(engine, timedelta(0), *(edge + step for edge in edges for step in (-MOMENT, timedelta(0), MOMENT)))
    told: list[Batch] = []

    frozen = partial(float, 0)
    sweep = process_idle_conversations(engine, now=NOW, batch_size=25, on_batch=told.append, stopwatch=frozen)

    assert [batch.count for batch in told] == [25, 25, 14]
    assert sweep.count == 64
    for batch, start in zip(told, (0, 25, 50), strict=True):
        lags = sorted(recorded(engine), reverse=True)[start : start + 25]
        assert batch.lags is not None
        assert list(batch.lags.counts) == bucketed(lags)
        assert batch.lags.total == pytest.approx(sum(lags), abs=1e-5)


def test_the_lag_is_from_the_deadline_that_came_first_whichever_sweep_ended_it(engine: Engine) -> None:
    opened(engine, now=NOW - timedelta(days=2))  # idle since 47 h 30 min, expired since 24 h
    told: list[Batch] = []

    process_expired_conversations(engine, now=NOW, on_batch=told.append)

    (conversation,) = all_conversations(engine)
    assert conversation.deadline == NOW - timedelta(hours=47.5)
    assert told[0].lags is not None
    assert told[0].lags.total == pytest.approx(timedelta(hours=47.5).total_seconds(), abs=5)


def test_a_sweep_that_ends_nothing_tells_nothing(engine: Engine) -> None:
    opened(engine, now=NOW)
    told: list[Batch] = []

    assert process_idle_conversations(engine, now=NOW, on_batch=told.append).count == 0
    assert told == []


def test_a_batch_is_told_once_it_is_committed(engine: Engine) -> None:
    open_due(engine, timedelta(minutes=1), timedelta(minutes=2))
    seen: list[list[Conversation]] = []

    def look(_batch: Batch) -> None:
        seen.append([one for one in all_conversations(engine) if not one.is_active])

    process_idle_conversations(engine, now=NOW, batch_size=1, on_batch=look)

    assert [len(ended) for ended in seen] == [1, 2]
