from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidValueError
from services.timeouts import LONGEST_TIMEOUT, Timeouts, format_duration, parse_duration

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        ("1h30m", timedelta(minutes=90)),
        ("1d2h3m4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("60", timedelta(seconds=60)),
        (" 1H ", timedelta(hours=1)),
        ("0h1s", SECOND),
        ("007m", timedelta(minutes=7)),
        ("3650d", LONGEST_TIMEOUT),
    ],
)
def test_a_duration_is_read_as_people_write_it(written: str, meant: timedelta) -> None:
    assert parse_duration(written) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "s",
        "m30",
        "30 m",
        "30min",
        "1m1h",
        "1h1h",
        "1.5h",
        "-5m",
        "+5m",
        "1e3",
        "30m\n5s",
        "٣m",
        "٣",
        "²",
        "1_0",
    ],
)
def test_what_is_no_duration_is_refused_with_what_would_be(written: str) -> None:
    with pytest.raises(InvalidValueError, match="write it like 90s, 30m, 24h, 7d or 1h30m") as refused:
        parse_duration(written)

    assert repr(written) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("written", ["0", "0s", "0h0m", "3650d1s", "87601h", "999999999999999999d"])
def test_a_duration_out_of_range_is_refused(written: str) -> None:
    with pytest.raises(InvalidValueError, match="out of range; it must be more than 0 and at most 3650d"):
        parse_duration(written)


@given(st.integers(min_value=1, max_value=int(LONGEST_TIMEOUT.total_seconds())))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    duration = timedelta(seconds=seconds)

    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0s"), (59, "59s"), (60, "1m"), (5_400, "1h30m"), (90_061, "1d1h1m1s")]
)
def test_a_duration_is_written_in_the_largest_units(seconds: int, written: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == written


@pytest.mark.parametrize("name", ["idle", "expiry"])
@pytest.mark.parametrize(
    "duration", [timedelta(0), -SECOND, LONGEST_TIMEOUT + timedelta(microseconds=1), timedelta.max, 30, None, "30m"]
)
def test_a_timeout_out_of_range_is_refused_with_its_name(name: str, duration: Any) -> None:
    with pytest.raises(InvalidValueError, match=rf"^timeouts\.{name}: .* give a timedelta"):
        Timeouts(**{"idle": SECOND, "expiry": SECOND, name: duration})


@pytest.mark.parametrize("duration", [timedelta(microseconds=1), LONGEST_TIMEOUT])
def test_the_shortest_and_the_longest_timeout_are_taken(duration: timedelta) -> None:
    assert Timeouts(idle=duration, expiry=duration).idle == duration
