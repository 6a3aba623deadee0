"""What a benchmark finds: measurements of ways to do a thing, and targets that hold or do not."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: The unit of a ratio.
TIMES = "×"  # noqa: RUF001 - the sign that it is


@dataclass(frozen=True, slots=True)
class Measurement:
    """One way to do a thing, measured some times."""

    section: str
    way: str
    #: Of ``runs``: "s", "ms", "1/s", "MiB", "buffers", TIMES.
    unit: str
    #: A figure a run.
    runs: tuple[float, ...]
    #: The way of the same section that this one is compared with.
    yardstick: str | None = None
    #: What to know about the figure.
    note: str = ""

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.runs)


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that something has to reach, and what was measured."""

    #: As in the list of targets: 1 to 7, or a word.
    name: str
    what: str
    unit: str
    bound: float
    measured: float
    #: Whether the bound is the least that will do; otherwise it is the most.
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is reached, the bound itself included."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that ``percent`` of them do not exceed (nearest rank).

    Raises ValueError when there are none.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def ratio(measurement: Measurement, measurements: Sequence[Measurement]) -> float | None:
    """Return how many times its yardstick's median a measurement's is; None when there is none."""
    for other in measurements:
        if (other.section, other.way) == (measurement.section, measurement.yardstick) and other.median:
            return measurement.median / other.median
    return None
