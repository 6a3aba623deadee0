"""Whether Periodiq's loop is alive: each of its rounds says when it means to wake up again."""

import time
from collections.abc import Callable

#: How much later than it meant to the loop may wake up, in seconds: sends are tried again while Redis is away.
GRACE = 30.0


class LoopWatch:
    """Notes when the loop means to wake up, and tells whether it did."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._wakes_at: dict[str, float] = {}
        #: How often it said when it means to wake up: once a schedule, in each of its rounds.
        self.answers = 0

    def expect(self, schedule: str, *, seconds: float) -> None:
        """Note that the loop means to wake up for ``schedule`` in so many seconds."""
        self._wakes_at[schedule] = self._monotonic() + seconds
        self.answers += 1

    def late(self) -> float:
        """Return by how many seconds the loop is overdue; 0 when it is not."""
        return max(self._monotonic() - min(list(self._wakes_at.values()), default=float("inf")), 0)

    def is_alive(self) -> bool:
        """Return whether the loop is not overdue. One that has not begun is not."""
        return self.late() < GRACE
