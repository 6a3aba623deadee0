from datetime import UTC, datetime, timedelta

import pytest

from services.scheduling.clock import RedisClock
from services.scheduling.loop_watch import GRACE, LoopWatch
from tests.support import NOON

SECOND = timedelta(seconds=1)


class Clocks:
    """This machine's two clocks, in the test's hand."""

    def __init__(self) -> None:
        self.seconds = 50.0
        self.wall = NOON
        self.redis = RedisClock(monotonic=lambda: self.seconds, local=lambda: self.wall)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)

    def read(self, said: datetime, *, took: float = 0) -> None:
        asked_at = self.seconds
        self.advance(took)
        self.redis.read(int(said.timestamp()), said.microsecond, asked_at=asked_at)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_before_the_first_answer_it_is_this_machines_clock(clocks: Clocks) -> None:
    assert clocks.redis.now() == NOON
    assert clocks.redis.to_local(NOON + SECOND) == NOON + SECOND


def test_it_says_what_redis_said_and_goes_on_from_there(clocks: Clocks) -> None:
    clocks.read(NOON + timedelta(minutes=5, microseconds=7))
    clocks.advance(2.5)

    assert clocks.redis.now() == NOON + timedelta(minutes=5, microseconds=7) + 2.5 * SECOND


def test_an_answer_counts_from_the_middle_of_its_way(clocks: Clocks) -> None:
    clocks.read(NOON, took=0.4)

    assert clocks.redis.now() == NOON + 0.2 * SECOND


def test_this_machines_clock_may_jump_as_it_likes(clocks: Clocks) -> None:
    clocks.read(NOON)
    clocks.wall += timedelta(hours=3)
    clocks.advance(1)

    assert clocks.redis.now() == NOON + SECOND
    assert clocks.redis.to_local(NOON + 2 * SECOND) == clocks.wall + SECOND


def test_a_vague_answer_replaces_no_better_one_until_that_is_old(clocks: Clocks) -> None:
    clocks.read(NOON)
    clocks.read(NOON + timedelta(hours=1), took=0.6)
    assert clocks.redis.now() == NOON + 0.6 * SECOND

    clocks.advance(60)
    clocks.read(NOON + timedelta(hours=1), took=0.6)
    assert clocks.redis.now() == NOON + timedelta(hours=1) + 0.3 * SECOND


def test_a_vague_answer_is_better_than_none(clocks: Clocks) -> None:
    clocks.read(NOON + timedelta(hours=1), took=8)

    assert clocks.redis.now() == NOON + timedelta(hours=1) + 4 * SECOND


def test_a_clock_that_was_set_is_believed_at_the_next_answer(clocks: Clocks) -> None:
    clocks.read(NOON)
    clocks.advance(5)
    clocks.read(NOON - timedelta(hours=1))

    assert clocks.redis.now() == NOON - timedelta(hours=1)


def test_the_current_time_is_read_in_utc() -> None:
    assert RedisClock().now().tzinfo is UTC


def test_a_loop_is_alive_until_it_is_overdue_by_more_than_the_grace() -> None:
    clocks = Clocks()
    loop = LoopWatch(monotonic=lambda: clocks.seconds)
    assert loop.is_alive()  # it has not begun

    loop.expect("every 60 s", seconds=60)
    loop.expect("every 1 s", seconds=1)
    clocks.advance(1 + GRACE - 0.1)
    assert loop.is_alive()
    clocks.advance(0.1)
    assert not loop.is_alive()

    loop.expect("every 1 s", seconds=1)
    assert loop.is_alive()
