"""Values in Redis, read by somebody who does not know who wrote them: what makes no sense is None."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

#: How much of a text is read, in characters: ours are shorter.
LONGEST_TEXT = 255

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


def text_of(value: object) -> str | None:
    """Return a text, fit to be shown on a terminal; None when it is empty."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str) or not value:
        return None
    # Whoever can write to Redis does not write to the terminal of whoever looks.
    return "".join(character if character.isprintable() else "?" for character in value[:LONGEST_TEXT])


def integer_of(value: object) -> int | None:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float | bytes):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def instant_of(value: object, *, unit: timedelta = _MILLISECOND) -> datetime | None:
    """Return the instant that is so many units, milliseconds unless told otherwise, after the epoch."""
    count = integer_of(value)
    try:
        return None if count is None else _EPOCH + count * unit
    except OverflowError:
        return None


def redis_time(seconds: int, microseconds: int) -> datetime:
    """Return the instant of an answer of Redis's to TIME."""
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def duration_of(value: object, *, unit: timedelta = _MILLISECOND) -> timedelta | None:
    """Return a duration of so many units, milliseconds unless told otherwise."""
    count = integer_of(value)
    try:
        return None if count is None else count * unit
    except OverflowError:
        return None


def written_instant_of(value: object) -> datetime | None:
    """Return the instant of a text in ISO 8601 with its offset."""
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
        return instant.astimezone(UTC) if instant and instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


def object_of(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        found = json.loads(value) if isinstance(value, str | bytes) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
