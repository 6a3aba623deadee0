"""When a task runs: every so many seconds, or by a cron line in a time zone.

Periodiq's own cron arithmetic misses Sundays and slots, so these two bring theirs: a plain multiple of seconds, and the
cronsim library. What Periodiq asks of a schedule is answered where its process is: actors/scheduler.py.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from models.errors import shown
from services.errors import InvalidValueError

#: Further than any time zone's clocks are ever put back.
_WIDEST_CHANGE_OF_CLOCKS = timedelta(hours=3)

#: In characters: with every minute of the hour written out, and every day, a line is shorter.
_LONGEST_LINE = 1_000

_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Schedule(ABC):
    """The slots of a task: nominal instants, in whole seconds, UTC."""

    @abstractmethod
    def slot_at(self, instant: datetime) -> datetime | None:
        """Return the latest slot at or before ``instant``, None when there never was one."""

    @abstractmethod
    def slot_after(self, instant: datetime) -> datetime:
        """Return the first slot after ``instant``."""


@dataclass(frozen=True)
class Every(Schedule):
    """Every so many seconds, counted from the epoch: all schedulers have the same slots, whenever they started."""

    seconds: int

    def __post_init__(self) -> None:
        if not isinstance(self.seconds, int) or self.seconds < 1:
            raise InvalidValueError(f"every {shown(self.seconds)} seconds: it must be a whole number of at least 1")

    def slot_at(self, instant: datetime) -> datetime:
        """Return the latest multiple of the interval."""
        return datetime.fromtimestamp(int(instant.timestamp()) // self.seconds * self.seconds, UTC)

    def slot_after(self, instant: datetime) -> datetime:
        """Return the next multiple of the interval."""
        return self.slot_at(instant) + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return f"every {self.seconds} s"


@dataclass(frozen=True)
class Cron(Schedule):
    """A cron line of five fields, as Debian's cron reads it, in a time zone.

    A job at a fixed time that falls into the hour that spring skips runs right after it; one in the hour that autumn
    repeats runs once. Jobs of every minute or every hour go on with the time that passes.
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        try:
            zone = ZoneInfo(self.tz)
        except (KeyError, ValueError, OSError):
            raise InvalidValueError(f"{shown(self.tz)} is not a time zone; give a name such as Europe/Paris") from None
        # Minute, hour, day, month, weekday.
        if len(self._fields.split()) != 5 or len(self._fields) > _LONGEST_LINE:  # noqa: PLR2004
            raise InvalidValueError(
                f"{shown(self.expression)} is not a cron line; give five fields such as */5 * * * *, or a name like "
                "@hourly"
            )
        try:
            next(CronSim(self._fields, datetime.now(zone)))
        except CronSimError as error:
            raise InvalidValueError(f"{shown(self.expression)} is not a cron line: {error}; see crontab(5)") from None
        except StopIteration:
            raise InvalidValueError(f"{shown(self.expression)} never comes; give a date that exists") from None

    @classmethod
    def parse(cls, line: str) -> Self:
        """Return the schedule of a line that may start with its time zone: ``TZ=Europe/Paris 0 3 * * *``."""
        if line.startswith(("TZ=", "CRON_TZ=")):
            zone, _, expression = line.partition("=")[2].partition(" ")
            return cls(expression.strip(), tz=zone)
        return cls(line.strip())

    @property
    def _fields(self) -> str:
        return _NAMED.get(self.expression.lower(), self.expression)

    def slot_at(self, instant: datetime) -> datetime | None:
        """Return the latest slot that the line names."""
        # Backwards, the library is not sure-footed where clocks change, so it only finds a place to start from.
        anchor = next(CronSim(self._fields, self._local(instant - _WIDEST_CHANGE_OF_CLOCKS), reverse=True), instant)
        latest = None
        for slot in CronSim(self._fields, self._local(anchor - _WIDEST_CHANGE_OF_CLOCKS)):
            if slot > instant:
                break
            latest = slot
        return None if latest is None else latest.astimezone(UTC)

    def slot_after(self, instant: datetime) -> datetime:
        """Return the next slot that the line names."""
        # In the hour that comes twice the library may start with a slot of the first pass.
        slots = CronSim(self._fields, self._local(instant))
        return next(slot for slot in slots if slot > instant).astimezone(UTC)

    def _local(self, instant: datetime) -> datetime:
        return instant.astimezone(ZoneInfo(self.tz))

    def __str__(self) -> str:
        return self.expression if self.tz == "UTC" else f"{self.expression} ({self.tz})"
