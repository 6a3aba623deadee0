"""Instants, spans and numbers as a person reads them."""

from datetime import UTC, datetime, timedelta

_DAY = 86_400
_UNITS = (("d", _DAY), ("h", 3_600), ("min", 60), ("s", 1))
#: How many of them one span is told in.
_MOST_UNITS = 2


def span(duration: timedelta) -> str:
    """Return how long it is, whatever its sign: ``3 ms``, ``12 s``, ``1 h 5 min``."""
    seconds = abs(duration.total_seconds())
    if seconds < 1:
        return f"{int(seconds * 1000)} ms"
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:_MOST_UNITS] if part)


def how_many(count: int | None, *, is_capped: bool = False) -> str:
    """Return the number as people write it: ``1,204``, ``unknown``, or ``1,000,000 or more`` where counting stopped."""
    return "unknown" if count is None else f"{count:,}{' or more' if is_capped else ''}"


def counted(count: int, noun: str) -> str:
    """Return the number and its noun: ``1 row``, ``1,204 rows``."""
    return f"{how_many(count)} {noun}{'' if count == 1 else 's'}"


def instant(at: datetime | None, *, now: datetime | None) -> str:
    """Return the instant in UTC, and how far it is from ``now``: ``12:00:00 UTC (12 s ago)``."""
    if at is None:
        return "an unknown time"
    away = "" if now is None else f" ({distance(at, now=now)})"
    return f"{clock(at, now=now)} UTC{away}"


def iso(at: datetime | None) -> str | None:
    """Return the instant as JSON has it, in UTC to the millisecond: ``2026-01-31T12:00:00.000Z``."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: datetime, *, now: datetime | None) -> str:
    """Return the instant in UTC; with its date unless that is today's."""
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}" if now is not None and at.date() == now.date() else f"{at:%Y-%m-%d %H:%M:%S}"


def distance(at: datetime, *, now: datetime) -> str:
    """Return how far the instant is from ``now``: ``12 s ago``, ``in 48 s``."""
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def place(host: str | None, pid: int | None) -> str:
    """Return where a process is: ``web-1 (pid 12)``."""
    return f"{'an unknown host' if host is None else host} (pid {'unknown' if pid is None else pid})"


def shorten(text: str, longest: int) -> str:
    """Return ``text`` in at most ``longest`` characters: without its middle, since names differ at their ends."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[len(text) - end :]}"
