"""Instants as a history writes them: ISO 8601 in UTC, with microseconds."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def text_of(instant: datetime | None) -> str | None:
    """Return ``instant`` as text, such as ``2026-01-31T12:00:00.000000Z``.

    Raises ValueError when it has no time zone.
    """
    if instant is None:
        return None
    if instant.utcoffset() is None:
        raise ValueError(f"{instant!r} has no time zone")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat("T", "microseconds") + "Z"


def instant_of(text: str) -> datetime:
    """Return the instant of a text, in UTC.

    Raises ValueError when it is none, or has no time zone.
    """
    instant = datetime.fromisoformat(text)
    if instant.utcoffset() is None:
        raise ValueError(f"{text!r} has no time zone")
    return instant.astimezone(UTC)


def instant_or_none_of(text: str | None) -> datetime | None:
    """Return the instant of a text, None for none."""
    return None if text is None else instant_of(text)


def microseconds_of(instant: datetime) -> int:
    """Return the microseconds since 1970: exact, and quick to compare."""
    return (instant - _EPOCH) // _MICROSECOND


def instant_at(microseconds: int) -> datetime:
    """Return the instant of ``microseconds_of``."""
    return _EPOCH + timedelta(microseconds=microseconds)
