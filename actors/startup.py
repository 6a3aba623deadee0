"""What a command checks before it works, so that a wrong address is one line and not a stream of errors."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import dramatiq
from dramatiq.middleware import Middleware

from actors.engine import get_engine
from actors.settings import settings
from services.database import check_database
from services.errors import AdjournError
from services.redis_client import check_redis
from services.schedules import Schedule


class WorkerStart(Middleware):
    """End a worker that cannot reach Redis or the database, or finds the database not migrated.

    dramatiq stops the whole command when one of its processes ends.
    """

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Check both."""
        del broker, worker
        _end_unless(lambda: check_redis(settings.broker_url))
        _end_unless(lambda: check_database(get_engine()))


@cache
def start_scheduler() -> None:
    """End a scheduler that cannot reach Redis; once a process."""
    _end_unless(lambda: check_redis(settings.broker_url))


@dataclass
class Scheduled(Schedule):
    """A schedule as Periodiq has it: with the start of the scheduler's process behind the first question.

    Periodiq boots no middleware, but only its process asks a schedule anything.
    """

    schedule: Schedule

    def validate(self, date: datetime) -> bool:
        """Start the scheduler when that has not been done, then answer."""
        start_scheduler()
        return super().validate(date)

    def next_valid_date(self, last: datetime) -> datetime:
        """Return the first slot after ``last`` that is still to come.

        When sends take longer than the interval, Periodiq would call itself at once, and again, until Python's stack
        is full; the slots that are gone by then count as the latest of them.
        """
        coming = super().next_valid_date(last)
        return max(coming, self.slot_after(datetime.now(UTC)))

    def slot_at(self, instant: datetime) -> datetime | None:
        """Return the latest slot at or before ``instant``."""
        return self.schedule.slot_at(instant)

    def slot_after(self, instant: datetime) -> datetime:
        """Return the first slot after ``instant``."""
        return self.schedule.slot_after(instant)

    def __str__(self) -> str:
        return str(self.schedule)


def _end_unless(check: Callable[[], None]) -> None:
    try:
        check()
    except AdjournError as error:
        raise SystemExit(f"adjourn: {error}") from None
