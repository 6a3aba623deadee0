"""Durations as people write them (``30m``, ``24h``), and the two that every conversation has."""

import re
from dataclasses import dataclass
from datetime import timedelta

from models.errors import shown
from services.errors import InvalidValueError

#: The longest timeout that is taken for one, rather than for a slip of the unit.
LONGEST_TIMEOUT = timedelta(days=3650)

#: In characters. Python makes no number of thousands of digits.
_LONGEST_WRITTEN = 1_000
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


def parse_duration(value: str) -> timedelta:
    """Return the duration that ``value`` says: ``90s``, ``30m``, ``24h``, ``7d``, ``1h30m``, or bare seconds.

    Raises InvalidValueError for anything else, for zero and for more than ten years.
    """
    written = value.strip().lower()
    match = _DURATION.fullmatch(f"{written}s" if written.isdecimal() else written)
    if not written or match is None or len(written) > _LONGEST_WRITTEN:
        raise InvalidValueError(f"{shown(value)} is not a duration; write it like 90s, 30m, 24h, 7d or 1h30m")
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True))
    if not 0 < seconds <= LONGEST_TIMEOUT.total_seconds():
        raise InvalidValueError(f"{shown(value)} is out of range; it must be more than 0 and at most 3650d")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """Return ``duration``, in whole seconds, as ``parse_duration`` reads it: ``1h30m``."""
    seconds = round(duration.total_seconds())
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a conversation may be idle, and how long it may last at all.

    Raises InvalidValueError for a duration that is not positive or is longer than ten years.
    """

    #: From the last activity to ``idle_at``.
    idle: timedelta
    #: From the opening to ``expires_at``.
    expiry: timedelta

    def __post_init__(self) -> None:
        for name in ("idle", "expiry"):
            duration = getattr(self, name)
            if not isinstance(duration, timedelta) or not timedelta(0) < duration <= LONGEST_TIMEOUT:
                raise InvalidValueError(
                    f"timeouts.{name}: {shown(duration)} is out of range; give a timedelta above 0 and of at most 3650 "
                    "days"
                )
