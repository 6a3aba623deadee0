import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pendulum
import periodiq
import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidValueError
from services.schedules import Cron, Every, Schedule
from tests.support import MOMENT, NOON

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

EXPRESSIONS = [
    "* * * * *",
    "*/5 * * * *",
    "7-59/13 * * * *",
    "0 * * * *",
    "*/5 3 * * *",
    "*/15 9-17 * * 1-5",
    "0 0 * * 0",
    "0 0 * * 7",
    "30 6 * * sun",
    "0 0 * * Sat,Sun",
    "0 12 * * 0-6",
    "0 12 * * 5-7",
    "@weekly",
    "@hourly",
    "@daily",
    "@midnight",
    "@monthly",
    "@yearly",
    "@annually",
    "0 0 29 2 *",
    "0 0 31 * *",
    "15 10 1,15 jan-mar *",
    "0 0 13 * 5",
    "59 23 31 12 *",
    "0 */7 * * *",
]
ZONES = ["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo"]

instants = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
expressions = st.sampled_from(EXPRESSIONS)


def slots(schedule: Schedule, start: datetime, end: datetime) -> list[datetime]:
    """Return the slots after ``start`` and up to ``end``, walked one by one."""
    walked = [start]
    while (slot := schedule.slot_after(walked[-1])) <= end:
        walked.append(slot)
    return walked[1:]


def croniters(expression: str, start: datetime, count: int) -> list[datetime]:
    """Return what the other library says comes after ``start``."""
    other = croniter(expression, start, ret_type=datetime)
    return [other.get_next() for _ in range(count)]


# Cron, in UTC


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("year", [2024, 2099])
def test_a_cron_line_has_the_slots_that_another_library_finds(expression: str, year: int) -> None:
    schedule = Cron(expression)
    start = datetime(year, 1, 1, tzinfo=UTC) - MOMENT

    walked = list(itertools.islice(walk(schedule, start), 40))

    assert walked == croniters(expression, start, 40)


def walk(schedule: Schedule, start: datetime) -> Iterator[datetime]:
    while True:
        start = schedule.slot_after(start)
        yield start


@given(expressions, instants)
def test_from_any_instant_a_cron_line_has_the_next_and_the_last_slot_of_another_library(
    expression: str, instant: datetime
) -> None:
    schedule = Cron(expression)

    assert [schedule.slot_after(instant)] == croniters(expression, instant, 1)
    before = croniter(expression, instant + MOMENT, ret_type=datetime).get_prev()
    assert schedule.slot_at(instant) == before


def test_sundays_are_found_however_they_are_written() -> None:
    sundays = [datetime(2026, 2, day, tzinfo=UTC) for day in (1, 8, 15, 22)]

    for expression in ("0 0 * * 0", "0 0 * * 7", "0 0 * * sun", "0 0 * * SUN", "@weekly", "@WEEKLY"):
        assert slots(Cron(expression), NOON, NOON + 28 * DAY) == sundays


def test_every_day_of_a_week_is_found_and_no_slot_of_a_working_week_is_missed() -> None:
    week = (NOON, NOON + 7 * DAY)

    assert len(slots(Cron("0 3 * * 0-6"), *week)) == 7
    assert len(slots(Cron("*/5 3 * * *"), *week)) == 84
    assert len(slots(Cron("*/15 9-17 * * 1-5"), *week)) == 180


# Where clocks change


def utc(*times: str) -> list[datetime]:
    return [datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times]


#: Zone, a line, the UTC day around the change, and its slots in UTC.
CHANGES = [
    # Paris, spring: at 01:00 UTC the clocks go from 02:00 to 03:00.
    ("Europe/Paris", "30 2 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T00:30"]),
    ("Europe/Paris", "30 1 * * *", "2026-03-29", ["2026-03-29T00:30", "2026-03-29T23:30"]),
    ("Europe/Paris", "30 3 * * *", "2026-03-29", ["2026-03-29T01:30", "2026-03-30T01:30"]),
    ("Europe/Paris", "0 2 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T00:00"]),
    ("Europe/Paris", "0 3 * * *", "2026-03-29", ["2026-03-29T01:00", "2026-03-30T01:00"]),
    (
        "Europe/Paris",
        "*/30 * * * *",
        "2026-03-29T00:00/3h",
        [
            "2026-03-29T00:30",
            "2026-03-29T01:00",
            "2026-03-29T01:30",
            "2026-03-29T02:00",
            "2026-03-29T02:30",
            "2026-03-29T03:00",
        ],
    ),
    ("Europe/Paris", "0 * * * *", "2026-03-29T00:00/3h", ["2026-03-29T01:00", "2026-03-29T02:00", "2026-03-29T03:00"]),
    # Paris, autumn: at 01:00 UTC the clocks go from 03:00 back to 02:00.
    ("Europe/Paris", "30 2 * * *", "2026-10-25", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("Europe/Paris", "0 2 * * *", "2026-10-25", ["2026-10-25T00:00", "2026-10-26T01:00"]),
    ("Europe/Paris", "30 1 * * *", "2026-10-25", ["2026-10-24T23:30", "2026-10-26T00:30"]),
    ("Europe/Paris", "0 3 * * *", "2026-10-25", ["2026-10-25T02:00", "2026-10-26T02:00"]),
    (
        "Europe/Paris",
        "*/30 * * * *",
        "2026-10-25T00:00/2h",
        ["2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30", "2026-10-25T02:00"],
    ),
    ("Europe/Paris", "0 * * * *", "2026-10-25T00:00/3h", ["2026-10-25T01:00", "2026-10-25T02:00", "2026-10-25T03:00"]),
    # New York, spring: at 07:00 UTC the clocks go from 02:00 to 03:00.
    ("America/New_York", "30 2 * * *", "2026-03-08", ["2026-03-08T07:00", "2026-03-09T06:30"]),
    ("America/New_York", "30 1 * * *", "2026-03-08", ["2026-03-08T06:30", "2026-03-09T05:30"]),
    ("America/New_York", "0 3 * * *", "2026-03-08", ["2026-03-08T07:00", "2026-03-09T07:00"]),
    (
        "America/New_York",
        "*/30 * * * *",
        "2026-03-08T06:00/2h",
        ["2026-03-08T06:30", "2026-03-08T07:00", "2026-03-08T07:30", "2026-03-08T08:00"],
    ),
    # New York, autumn: at 06:00 UTC the clocks go from 02:00 back to 01:00.
    ("America/New_York", "30 1 * * *", "2026-11-01", ["2026-11-01T05:30", "2026-11-02T06:30"]),
    ("America/New_York", "0 1 * * *", "2026-11-01", ["2026-11-01T05:00", "2026-11-02T06:00"]),
    ("America/New_York", "0 2 * * *", "2026-11-01", ["2026-11-01T07:00", "2026-11-02T07:00"]),
    (
        "America/New_York",
        "0 * * * *",
        "2026-11-01T04:00/4h",
        ["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00", "2026-11-01T08:00"],
    ),
]


@pytest.mark.parametrize(("zone", "expression", "span", "expected"), CHANGES)
def test_where_clocks_change_each_slot_comes_once(zone: str, expression: str, span: str, expected: list[str]) -> None:
    start_text, _, hours = span.partition("/")
    start = datetime.fromisoformat(start_text).replace(tzinfo=UTC)
    # A day begins at local midnight, which is at most six hours away from midnight in UTC, and two of them are walked.
    if hours:
        end = start + int(hours.removesuffix("h")) * HOUR
    else:
        start, end = start.replace(tzinfo=ZoneInfo(zone)), start.replace(tzinfo=ZoneInfo(zone)) + 2 * DAY
    schedule = Cron(expression, tz=zone)

    walked = slots(schedule, start.astimezone(UTC), end.astimezone(UTC))

    assert walked == utc(*expected)
    for slot in walked:
        assert schedule.slot_at(slot) == slot
        assert schedule.slot_at(slot + 20 * MINUTE) == slot
        assert schedule.slot_at(slot - MOMENT) != slot


#: Instants in the two days around a change of clocks, to the second.
near_changes = st.builds(
    lambda change, seconds: change + timedelta(seconds=seconds),
    st.sampled_from(
        utc(
            "2026-03-29T01:00",
            "2026-10-25T01:00",
            "2026-03-08T07:00",
            "2026-11-01T06:00",
            "2026-04-04T15:00",
            "2026-10-03T15:30",
            "2018-11-04T03:00",
            "2018-02-18T02:00",
        )
    ),
    st.integers(-26 * 3600, 26 * 3600),
)
lines = expressions | st.sampled_from(["30 2 * * *", "15 1 * * *", "0 0 * * *", "*/20 1-2 * * *", "45 1,2 * * *"])


@given(lines, st.sampled_from(ZONES), near_changes)
def test_the_last_slot_is_the_last_that_walking_from_slot_to_slot_comes_to(
    expression: str, zone: str, instant: datetime
) -> None:
    schedule = Cron(expression, tz=zone)
    last = schedule.slot_at(instant)
    assert last is not None

    assert last <= instant < schedule.slot_after(last)
    assert schedule.slot_after(instant) == schedule.slot_after(last)
    assert schedule.slot_after(last - MOMENT) == last


@given(lines, st.sampled_from(ZONES), near_changes)
def test_walking_over_a_change_of_clocks_only_goes_forward_and_slot_at_finds_each_step(
    expression: str, zone: str, instant: datetime
) -> None:
    schedule = Cron(expression, tz=zone)

    walked = list(itertools.islice(walk(schedule, instant), 10))

    assert walked == sorted(set(walked))
    for slot, following in itertools.pairwise(walked):
        assert schedule.slot_at(slot) == slot
        assert schedule.slot_at(following - MOMENT) == slot


@given(expressions, st.sampled_from(ZONES), instants)
def test_slots_are_whole_minutes_in_utc(expression: str, zone: str, instant: datetime) -> None:
    slot = Cron(expression, tz=zone).slot_after(instant)

    assert (slot.tzinfo, slot.second, slot.microsecond) == (UTC, 0, 0)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "*",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "x * * * *",
        "@reboot",
        "@noon",
        "0 0 31 2 *",
        "0 0 31 4,6 *",
        "-1 * * * *",
    ],
)
def test_a_line_that_is_no_cron_line_is_refused_in_one_line(expression: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        Cron(expression)

    assert repr(expression) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zone", ["", "Mars/Base", "Europe", "../etc/passwd", "/etc/localtime", "a\0b", "Paris"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(InvalidValueError, match="is not a time zone; give a name such as Europe/Paris"):
        Cron("0 0 * * *", tz=zone)


def test_a_line_may_start_with_its_time_zone() -> None:
    assert Cron.parse(" 0 3 * * * ") == Cron("0 3 * * *")
    assert Cron.parse("TZ=Europe/Paris 0 3 * * *") == Cron("0 3 * * *", tz="Europe/Paris")
    assert Cron.parse("CRON_TZ=Europe/Paris @daily") == Cron("@daily", tz="Europe/Paris")


def test_a_schedule_says_what_it_is() -> None:
    assert str(Every(seconds=10)) == "every 10 s"
    assert str(Cron("*/5 * * * *")) == "*/5 * * * *"
    assert str(Cron("@daily", tz="Europe/Paris")) == "@daily (Europe/Paris)"


# Every


@given(st.integers(1, 100_000), instants)
def test_every_so_many_seconds_has_the_multiples_since_the_epoch(seconds: int, instant: datetime) -> None:
    schedule = Every(seconds=seconds)
    last, following = schedule.slot_at(instant), schedule.slot_after(instant)

    assert last <= instant < following
    assert following - last == timedelta(seconds=seconds)
    assert (last - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(seconds=seconds) == timedelta(0)
    assert schedule.slot_after(last - MOMENT) == schedule.slot_at(last) == last
    assert {last.tzinfo, following.tzinfo} == {UTC}


@pytest.mark.parametrize(
    ("every", "expression"), [(60, "* * * * *"), (300, "*/5 * * * *"), (3_600, "0 * * * *"), (86_400, "0 0 * * *")]
)
@given(instant=instants)
def test_every_and_cron_have_the_same_slots_where_both_can_say_it(
    every: int, expression: str, instant: datetime
) -> None:
    assert Every(seconds=every).slot_at(instant) == Cron(expression).slot_at(instant)
    assert Every(seconds=every).slot_after(instant) == Cron(expression).slot_after(instant)


@pytest.mark.parametrize("seconds", [0, -1, 0.5, "10", None])
def test_an_interval_that_is_no_whole_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidValueError, match="whole number of at least 1"):
        Every(seconds=seconds)


# Through Periodiq's own scheduler


class SimulationEndedError(Exception):
    pass


class Clock:
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
    """An actor that keeps the wake-ups that it is sent for."""

    def __init__(self, clock: Clock, schedule: Schedule) -> None:
        self.options = {"periodic": schedule}
        self._clock, self._schedule = clock, schedule
        self.slots: list[datetime] = []
        self.lags: list[timedelta] = []

    def send_with_options(self, *, scheduled_at: str) -> None:
        slot = self._schedule.slot_at(datetime.fromisoformat(scheduled_at))
        assert slot is not None
        self.slots.append(slot)
        self.lags.append(self._clock.now - slot)


def run_periodiq(
    monkeypatch: pytest.MonkeyPatch,
    *schedules: Schedule,
    start: datetime,
    end: datetime,
    late: Iterator[float] | None = None,
) -> list[Recorder]:
    """Run Periodiq's own scheduler from ``start`` to ``end``; only its clock is another."""
    clock = Clock(start, end, late or itertools.repeat(0.0))
    recorders = [Recorder(clock, schedule) for schedule in schedules]
    monkeypatch.setattr(periodiq.pendulum, "now", clock.tell)
    monkeypatch.setattr(periodiq, "sleep", clock.sleep)
    monkeypatch.setattr(periodiq, "alarm", clock.set_alarm)
    monkeypatch.setattr(periodiq, "signal", clock.install_handler)
    scheduler = periodiq.Scheduler(actors=recorders)
    scheduler.alarm_q.put(True)  # the first question, as Periodiq's main asks it
    with pytest.raises(SimulationEndedError):
        scheduler.loop()
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
    assert min(recorder.lags) > -0.6 * SECOND


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


def test_a_start_sends_only_the_slot_that_it_falls_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for start, first in (
        (NOON, NOON),
        (NOON - timedelta(seconds=0.4), NOON),
        (NOON + timedelta(seconds=0.4), NOON),
        (NOON + timedelta(seconds=0.6), NOON + MINUTE),
        (NOON + 30 * SECOND, NOON + MINUTE),
    ):
        (recorder,) = run_periodiq(monkeypatch, Every(seconds=60), start=start, end=start + 3 * MINUTE)
        assert recorder.slots[0] == first


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
