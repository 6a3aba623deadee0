"""What Periodiq is told, by clocks in the test's hand."""

import itertools
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pendulum
import periodiq
import pytest

from actors.scheduler import AT_ONCE, Scheduled
from services.schedules import Cron, Every, Schedule
from services.scheduling.clock import RedisClock
from services.scheduling.loop_watch import LoopWatch
from tests.schedules import croniters, slots, utc
from tests.support import MOMENT, NOON

# Importing the actors configures the logging of a process of theirs; this one is pytest's.
logging.getLogger().handlers.clear()

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
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
    process.advance(39 * SECOND)
    assert process.loop.is_alive()
    process.advance(2 * SECOND)
    assert not process.loop.is_alive()


def test_it_is_shown_as_its_schedule_is() -> None:
    assert str(Process().scheduled) == "every 10 s"


# Through Periodiq's own scheduler


class SimulationEndedError(Exception):
    pass


class SleepingClock:
    """Time that passes only while Periodiq sleeps, and alarms that may come late."""

    def __init__(self, start: datetime, end: datetime, late: Iterator[float]) -> None:
        self.now, self.end = start, end
        self._late = late
        self._alarm_in = 0

    def tell(self) -> pendulum.DateTime:
        if self.now > self.end:
            raise SimulationEndedError
        return pendulum.instance(self.now).in_timezone("America/New_York")

    def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def set_alarm(self, seconds: int) -> None:
        self._alarm_in = seconds

    def install_handler(self, _signal: int, handler: Callable[[], None]) -> None:
        self.now += timedelta(seconds=self._alarm_in + next(self._late))
        handler()


class Recorder:
    """An actor that keeps the slots that it is sent for, by Redis's clock."""

    def __init__(self, clock: RedisClock, schedule: Schedule) -> None:
        process: Any = SimpleNamespace(clock=clock, loop=LoopWatch())
        self.options = {"periodic": Scheduled(schedule, start=lambda: process)}
        self._clock, self._schedule = clock, schedule
        self.slots: list[datetime] = []
        self.lags: list[timedelta] = []

    def send_with_options(self, *, scheduled_at: str) -> None:
        del scheduled_at
        slot = self._schedule.slot_at(self._clock.now())
        assert slot is not None
        self.slots.append(slot)
        self.lags.append(self._clock.now() - slot)


def run_periodiq(
    monkeypatch: pytest.MonkeyPatch,
    *schedules: Schedule,
    start: datetime,
    end: datetime,
    late: Iterator[float] | None = None,
    wrong: timedelta = timedelta(0),
) -> list[Recorder]:
    """Run Periodiq's own scheduler from ``start`` to ``end``, by a clock that is ``wrong`` by so much.

    What is sent at the very start is left out: the fence knows whether it was sent before.
    """
    clock = SleepingClock(start + wrong, end + wrong, late or itertools.repeat(0.0))

    def seconds() -> float:
        return (clock.now - start).total_seconds()

    redis_clock = RedisClock(monotonic=seconds, local=lambda: clock.now)
    redis_clock.read(int(start.timestamp()), start.microsecond, asked_at=seconds())
    recorders = [Recorder(redis_clock, schedule) for schedule in schedules]
    monkeypatch.setattr(periodiq.pendulum, "now", clock.tell)
    monkeypatch.setattr(periodiq, "sleep", clock.sleep)
    monkeypatch.setattr(periodiq, "alarm", clock.set_alarm)
    monkeypatch.setattr(periodiq, "signal", clock.install_handler)
    scheduler = periodiq.Scheduler(actors=recorders)
    scheduler.alarm_q.put(True)  # the first question, as Periodiq's main asks it
    with pytest.raises(SimulationEndedError):
        scheduler.loop()
    for recorder, schedule in zip(recorders, schedules, strict=True):
        assert recorder.slots.pop(0) == schedule.slot_at(start)
        del recorder.lags[0]
    return recorders


#: Saturday, three seconds past a minute.
START = datetime(2026, 1, 31, 11, 59, 3, 250_000, tzinfo=UTC)
LATENESS: list[Callable[[], Iterator[float]]] = [
    lambda: itertools.repeat(0.0),
    lambda: itertools.repeat(0.000_3),
    lambda: itertools.repeat(0.7),
    lambda: itertools.cycle([0.0, 0.2, 0.7, 0.499_9, 0.500_1]),
    lambda: itertools.cycle([0.0, 0.7, 40.0]),
]


@pytest.mark.parametrize("late", LATENESS, ids=["on time", "as ever", "0.7 s late", "unsteady", "40 s late at times"])
@pytest.mark.parametrize(
    "expression",
    [
        "*/5 * * * *",
        "*/5 3 * * *",
        "*/15 9-17 * * 1-5",
        "0 0 * * 0",
        "30 6 * * sun",
        "@weekly",
        "0 12 * * 0-6",
        "0 0 * * 7",
    ],
)
def test_periodiq_sends_every_slot_exactly_once(
    monkeypatch: pytest.MonkeyPatch, expression: str, late: Callable[[], Iterator[float]]
) -> None:
    # Half a day of every fifth minute, and two Sundays of what is rare.
    end = START + (9 * DAY if expression != "*/5 * * * *" else 12 * HOUR)

    (recorder,) = run_periodiq(monkeypatch, Cron(expression), start=START, end=end, late=late())

    expected = croniters(expression, START, len(recorder.slots))
    assert recorder.slots == expected
    assert croniters(expression, recorder.slots[-1], 1)[0] > end - MINUTE
    assert max(recorder.lags) < 41 * SECOND
    assert min(recorder.lags) >= timedelta(0)


def test_periodiq_sends_every_minute_of_two_hours_once_however_late_it_wakes_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = itertools.cycle([0.7, 0.0, 40.0, 59.0, 0.3])

    (recorder,) = run_periodiq(monkeypatch, Cron("* * * * *"), start=START, end=START + 2 * HOUR, late=late)

    assert recorder.slots == [NOON + number * MINUTE for number in range(2 * 60)]


@pytest.mark.parametrize("late", LATENESS[:4], ids=["on time", "as ever", "0.7 s late", "unsteady"])
def test_periodiq_sends_two_schedules_of_different_periods_side_by_side(
    monkeypatch: pytest.MonkeyPatch, late: Callable[[], Iterator[float]]
) -> None:
    end = START + HOUR

    ten, minute, cron = run_periodiq(
        monkeypatch, Every(seconds=10), Every(seconds=60), Cron("*/7 * * * *"), start=START, end=end, late=late()
    )

    assert ten.slots == [NOON - 50 * SECOND + number * 10 * SECOND for number in range(360)]
    assert minute.slots == [NOON + number * MINUTE for number in range(60)]
    assert cron.slots == croniters("*/7 * * * *", START, len(cron.slots))
    assert len(cron.slots) == 9


def test_slots_missed_in_a_pause_are_made_up_for_by_the_latest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    late = itertools.chain([0.0, 34.0], itertools.repeat(0.0))

    ten, minute = run_periodiq(
        monkeypatch, Every(seconds=10), Every(seconds=60), start=START, end=START + 2 * MINUTE, late=late
    )

    sent = [slot - NOON for slot in ten.slots]
    # The alarm of 11:59:20 came at 11:59:54.
    assert sent[:4] == [-50 * SECOND, -10 * SECOND, 0 * SECOND, 10 * SECOND]
    assert len(set(sent)) == len(sent) == 9
    assert minute.slots == [NOON, NOON + MINUTE]


@pytest.mark.parametrize("wrong", [-HOUR - 17.25 * SECOND, -0.4 * SECOND, 0.6 * SECOND, 3 * DAY])
def test_a_machine_whose_clock_is_wrong_sends_the_same_slots_in_time(
    monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    (recorder,) = run_periodiq(
        monkeypatch, Every(seconds=10), start=START, end=START + 10 * MINUTE, late=itertools.repeat(0.1), wrong=wrong
    )

    assert recorder.slots == [NOON - 50 * SECOND + number * 10 * SECOND for number in range(60)]
    assert timedelta(0) <= min(recorder.lags) <= max(recorder.lags) < 0.2 * SECOND


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Paris", "2026-03-28T12:00"),
        ("Europe/Paris", "2026-10-24T12:00"),
        ("America/New_York", "2026-10-31T12:00"),
    ],
)
def test_periodiq_sends_every_slot_exactly_once_where_clocks_change(
    monkeypatch: pytest.MonkeyPatch, zone: str, start: str
) -> None:
    (begin,) = utc(start)
    daily, often = Cron("30 2 * * *", tz=zone), Cron("*/20 * * * *", tz=zone)

    recorders = run_periodiq(
        monkeypatch, daily, often, start=begin + SECOND, end=begin + 2 * DAY + SECOND, late=itertools.repeat(0.7)
    )

    for recorder, schedule in zip(recorders, (daily, often), strict=True):
        assert recorder.slots == slots(schedule, begin + SECOND, begin + 2 * DAY)
