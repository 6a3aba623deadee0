"""How late conversations ended, by the buckets of the histogram."""

from datetime import timedelta

import pytest

from services.lags import LAG_BUCKETS, Lags, thresholds
from tests.support import MOMENT, NOON


def within(lag: timedelta) -> int:
    """Return the place of the bucket that a lag is counted in."""
    lags = Lags.of_deadlines([NOON - lag], moment=NOON)
    assert sum(lags.counts) == 1
    assert lags.total == pytest.approx(lag.total_seconds())
    return list(lags.counts).index(1)


@pytest.mark.parametrize("place", range(len(LAG_BUCKETS)))
def test_a_lag_belongs_to_the_first_bucket_that_is_no_shorter(place: int) -> None:
    edge = timedelta(seconds=LAG_BUCKETS[place])

    assert within(edge - MOMENT) == place
    assert within(edge) == place
    assert within(edge + MOMENT) == place + 1


def test_what_ends_at_its_deadline_is_in_the_first_bucket_and_what_ends_after_days_in_the_last() -> None:
    assert within(timedelta(0)) == 0
    assert within(timedelta(days=3)) == len(LAG_BUCKETS)


def test_the_lags_of_a_batch_are_counted_together() -> None:
    deadlines = [NOON - timedelta(seconds=seconds) for seconds in (0.05, 70, 75, 75, 100_000)]

    lags = Lags.of_deadlines(deadlines, moment=NOON)

    expected = [0] * (len(LAG_BUCKETS) + 1)
    expected[0], expected[LAG_BUCKETS.index(75)], expected[-1] = 1, 3, 1
    assert list(lags.counts) == expected
    assert lags.total == pytest.approx(100_220.05)


def test_thresholds_are_in_order_and_a_deadline_reaches_as_many_as_buckets_hold_it() -> None:
    limits = thresholds(NOON)

    assert limits == sorted(limits)
    assert limits[-1] == NOON - timedelta(seconds=LAG_BUCKETS[0])
    assert Lags.of_reached({0: 2, len(LAG_BUCKETS): 1}, 9.0).counts == [1, *[0] * (len(LAG_BUCKETS) - 1), 2]
