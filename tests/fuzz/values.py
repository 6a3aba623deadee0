"""What people and programs hand over: texts, numbers, instants and JSON of every kind, most of it bad."""

import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

#: Surrogates too, which no encoding writes and which Python makes of bytes that are not UTF-8.
CHARACTERS = st.characters(exclude_categories=())

AWKWARD_TEXTS = (
    "",
    " ",
    "\t\n",
    "\0",
    "a\0b",
    "\ud800",
    "a\udcffb",
    "\ufeff",
    "\uffff",
    "e\u0301",
    "\u202eabc",
    "\u200b",
    "😀" * 64,
    "\U0010ffff",
    "ß",
    "İ",
    "٣",
    "²",
    "1_000",
    " 60 ",
    "1e3",
    "inf",
    "nan",
    "-0",
    "9" * 5_000,
    "null",
    "'; DROP TABLE conversations; --",
    "%s",
    "%(owner_id)s",
    ":moment",
    "\\",
    "{}",
)
#: Just below, at and just above what is taken.
_LENGTHS = (255, 256, 2_048, 2_049, 2_704, 2_705, 10_000, 1_000_000)
texts = st.one_of(
    st.text(CHARACTERS, max_size=20),
    st.sampled_from(AWKWARD_TEXTS),
    st.builds(lambda one, times: one * times, st.sampled_from(("a", "é", "😀")), st.sampled_from(_LENGTHS)),
)

integers = st.one_of(
    st.integers(),
    st.sampled_from((0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**308, 10**309, 10**4_000, -(10**4_000))),
)
numbers: st.SearchStrategy[Any] = st.one_of(integers, st.floats(), st.booleans())
#: Of no type that anything here takes.
others: st.SearchStrategy[Any] = st.sampled_from(
    (None, 1, 1.5, float("nan"), True, b"bytes", (), [], {}, object(), ..., 1j, {1}, date(2026, 1, 31), int)
)
identifiers: st.SearchStrategy[Any] = st.one_of(
    st.uuids(), st.uuids().map(str), st.integers(), texts, others, st.just(uuid.UUID(int=0))
)


class OddInstant(datetime):
    """A datetime of somebody's own."""


class _Nowhere(tzinfo):
    """A time zone that does not know itself."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        del moment
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        del moment
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        del moment
        return None


_ZONES = (
    UTC,
    timezone(timedelta(hours=14)),
    timezone(-timedelta(hours=12)),
    timezone(timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999)),
    timezone(-timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999)),
    timezone(timedelta(minutes=9, seconds=21)),
    # Until 1911 its clocks went 00:09:21 before Greenwich's.
    ZoneInfo("Europe/Paris"),
    ZoneInfo("America/New_York"),
    ZoneInfo("Pacific/Apia"),
    _Nowhere(),
)
_EDGES = (
    datetime.min,  # noqa: DTZ901 - the zone is added below
    datetime(1, 1, 2),  # noqa: DTZ001
    datetime(1, 1, 3),  # noqa: DTZ001
    datetime(1582, 10, 10),  # noqa: DTZ001
    datetime(1900, 1, 1),  # noqa: DTZ001
    datetime(1969, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    datetime(1970, 1, 1),  # noqa: DTZ001
    datetime(2038, 1, 19, 3, 14, 8),  # noqa: DTZ001
    datetime(2024, 2, 29, 23, 59, 59, 999_999),  # noqa: DTZ001
    # Twice that night, and never that night, in Paris.
    datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001
    datetime(2026, 3, 29, 2, 30),  # noqa: DTZ001
    datetime(9988, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    datetime(9989, 1, 1),  # noqa: DTZ001
    datetime(9999, 12, 29, 23, 59, 59, 999_999),  # noqa: DTZ001
    datetime(9999, 12, 30),  # noqa: DTZ001
    datetime.max,  # noqa: DTZ901
)
_naive = st.one_of(st.sampled_from(_EDGES), st.datetimes())
aware = st.builds(lambda instant, zone: instant.replace(tzinfo=zone), _naive, st.sampled_from(_ZONES))
instants: st.SearchStrategy[Any] = st.one_of(
    aware,
    aware.map(lambda one: OddInstant.combine(one.date(), one.timetz())),
    _naive,
    others,
    st.sampled_from(("2026-01-31T12:00:00Z", time(12, tzinfo=UTC), 1_769_860_800)),
)

_scalars: st.SearchStrategy[Any] = st.one_of(st.none(), numbers, texts, others)
json_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner),
        st.dictionaries(st.one_of(texts, others.filter(lambda one: one.__hash__ is not None)), inner, max_size=3),
    ),
    max_leaves=6,
)


def nested(depth: int) -> dict[str, Any]:
    """Return a mapping in a mapping in a mapping…"""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def circle() -> dict[str, Any]:
    """Return a mapping that contains itself."""
    value: dict[str, Any] = {"list": []}
    value["list"].append(value)
    return value
