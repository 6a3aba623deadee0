import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidValueError
from services.schedules import Cron, Every, Schedule
from tests.schedules import croniters, slots, utc
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
