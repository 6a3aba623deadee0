"""How late conversations end: the lags of a batch, counted by the buckets of the histogram that they are for."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

#: From deadline to end, in seconds: a fraction of the shortest interval, the default interval of 60, two of them (which
#: is the objective), an outage of minutes, of hours, of a day.
LAG_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 45, 60, 75, 90, 120, 180, 300, 600, 1800, 3600, 14400, 86400)


@dataclass(frozen=True, slots=True)
class Lags:
    """How late the conversations of a batch ended."""

    #: How many ended within each of ``LAG_BUCKETS`` and not within the one before it; the last figure is the rest.
    counts: Sequence[int]
    #: All of them together, in seconds.
    total: float

    @classmethod
    def of_reached(cls, reached: Mapping[int, int], total: float) -> "Lags":
        """Return the lags of so many conversations each, by how many of ``thresholds`` their deadlines had reached."""
        buckets = len(LAG_BUCKETS)
        return cls([reached.get(buckets - place, 0) for place in range(buckets + 1)], total)

    @classmethod
    def of_deadlines(cls, deadlines: Iterable[datetime], *, moment: datetime) -> "Lags":
        """Return the lags of conversations with these deadlines that ended at ``moment``."""
        limits = thresholds(moment)
        reached: dict[int, int] = {}
        total = timedelta(0)
        for deadline in deadlines:
            total += moment - deadline
            place = bisect_right(limits, deadline)
            reached[place] = reached.get(place, 0) + 1
        return cls.of_reached(reached, total.total_seconds())


def thresholds(moment: datetime) -> list[datetime]:
    """Return the deadline of a conversation that ends at ``moment`` on the edge of each bucket, earliest first."""
    return [moment - timedelta(seconds=bound) for bound in reversed(LAG_BUCKETS)]
