"""Redis's clock, as one process knows it: schedulers whose own clocks differ have the same slots."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.values import redis_time

#: A reading that took longer is too vague to replace a better one, in seconds: it is wrong by up to half of it.
VAGUE = 0.5
#: After so long, in seconds, even a vague reading is better than the old one: quartz drifts, and clocks are set.
OUTDATED = 60.0


@dataclass(frozen=True, slots=True)
class _Reading:
    #: What Redis's clock said,
    said: datetime
    #: at this instant of the monotonic clock, in seconds.
    at: float


class RedisClock:
    """Redis's clock: read with each renewal of the lease, carried on in between by the monotonic clock.

    Before the first reading it is this machine's clock.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        local: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._monotonic = monotonic
        self._local = local
        self._reading: _Reading | None = None

    def now(self) -> datetime:
        """Return what Redis's clock says now."""
        reading = self._reading
        if reading is None:
            return self._local()
        return reading.said + timedelta(seconds=self._monotonic() - reading.at)

    def to_local(self, instant: datetime) -> datetime:
        """Return what this machine's clock says when Redis's says ``instant``."""
        return self._local() + (instant - self.now())

    def read(self, seconds: int, microseconds: int, *, asked_at: float) -> None:
        """Take in an answer of Redis's TIME to a question of ``asked_at`` (monotonic clock)."""
        answered_at = self._monotonic()
        vague = answered_at - asked_at > VAGUE
        if vague and self._reading is not None and answered_at - self._reading.at < OUTDATED:
            return
        self._reading = _Reading(redis_time(seconds, microseconds), (asked_at + answered_at) / 2)
