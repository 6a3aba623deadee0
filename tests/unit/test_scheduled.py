"""What Periodiq is told, by clocks in the test's hand."""

import logging
from datetime import datetime, timedelta
from typing import Any

import pytest

from actors.scheduler import AT_ONCE, Scheduled
from services.schedules import Every
from services.scheduling.clock import RedisClock
from services.scheduling.loop_watch import LoopWatch
from tests.support import MOMENT, NOON

# Importing the actors configures the logging of a process of theirs; this one is pytest's.
logging.getLogger().handlers.clear()

SECOND = timedelta(seconds=1)
#: What Periodiq gives: its own idea of the time, which does not count.
WHATEVER = datetime(2001, 1, 1).astimezone()


class Process:
    """The clocks of a scheduler's process: Redis's is a minute ahead of this machine's."""

    def __init__(self) -> None:
        self.local = NOON - timedelta(minutes=1)
        self.seconds = 0.0
        self.clock = RedisClock(monotonic=lambda: self.seconds, local=lambda: self.local)
        self.clock.read(int(NOON.timestamp()), 0, asked_at=self.seconds)
        self.loop = LoopWatch(monotonic=lambda: self.seconds)
        process: Any = self
        self.scheduled = Scheduled(Every(seconds=10), start=lambda: process)

    def advance(self, duration: timedelta) -> None:
        self.seconds += duration.total_seconds()
        self.local += duration

    def is_due(self) -> bool:
        return self.scheduled.validate(WHATEVER)

    def sleeps(self) -> timedelta:
        return self.scheduled.next_valid_date(WHATEVER) - self.local


@pytest.fixture
def process() -> Process:
    process = Process()
    assert process.is_due()  # at the start
    return process


def test_a_slot_is_due_once_from_its_instant_on(process: Process) -> None:
    assert process.sleeps() == 10 * SECOND
    process.advance(10 * SECOND - MOMENT)
    assert not process.is_due()
    process.advance(MOMENT)
    assert process.is_due()
    assert not process.is_due()


def test_a_loop_that_wakes_up_early_sleeps_the_rest(process: Process) -> None:
    process.advance(9.999 * SECOND)

    assert not process.is_due()
    assert process.sleeps() == 0.001 * SECOND


def test_a_slot_that_falls_between_the_two_questions_is_due_at_once(process: Process) -> None:
    process.advance(9.999 * SECOND)
    assert not process.is_due()
    process.advance(0.002 * SECOND)

    assert process.sleeps() == AT_ONCE
    process.advance(AT_ONCE)
    assert process.is_due()


def test_slots_that_fell_while_a_send_took_long_count_as_the_latest_and_periodiq_is_not_sent_into_the_past(
    process: Process,
) -> None:
    process.advance(35 * SECOND)

    assert process.sleeps() == AT_ONCE
    assert process.is_due()
    assert process.sleeps() == 5 * SECOND


def test_a_clock_that_was_put_back_brings_its_slots_again(process: Process) -> None:
    process.clock.read(int(NOON.timestamp()) - 3_600, 0, asked_at=process.seconds)

    assert process.sleeps() == AT_ONCE
    assert process.is_due()
    assert process.sleeps() == 10 * SECOND


def test_the_loop_says_when_it_means_to_wake_up(process: Process) -> None:
    process.sleeps()
    process.advance(29 * SECOND)
    assert process.loop.is_alive()
    process.advance(2 * SECOND)
    assert not process.loop.is_alive()


def test_it_is_shown_as_its_schedule_is() -> None:
    assert str(Process().scheduled) == "every 10 s"
