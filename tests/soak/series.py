"""What was watched: for each thing and each figure of it, values over time."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TextIO

#: A thing and a figure of it: ("worker-001 process 1", "threads").
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """All that was read at one time, ``at`` in seconds from the start of the watch, but for what could not be."""

    at: float
    values: Mapping[Name, float]


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one figure, as pairs of seconds and value, in the order of time."""

    subject: str
    measure: str
    points: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """From the first value to the last."""
        return self.points[-1][0] - self.points[0][0] if self.points else 0.0

    def after(self, seconds: float) -> "Series":
        """Return it without the first ``seconds``."""
        begin = self.points[0][0] + seconds if self.points else 0.0
        return Series(self.subject, self.measure, tuple(point for point in self.points if point[0] >= begin))


def series_of(samples: Iterable[Sample]) -> list[Series]:
    """Return a series for each figure, in the order in which things, and figures of each, first came."""
    points: defaultdict[Name, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        for name, value in sample.values.items():
            points[name].append((sample.at, value))
    places = {subject: place for place, subject in enumerate(dict.fromkeys(subject for subject, _ in points))}
    found = [Series(subject, measure, tuple(values)) for (subject, measure), values in points.items()]
    return sorted(found, key=lambda series: places[series.subject])


def slope_of(points: Iterable[tuple[float, float]]) -> float:
    """Return the growth a second: the median of the slopes of all pairs of points, 0 with fewer than two.

    The estimator of Theil and Sen. Up to 29 % of the points may be anything at all, so what a fault does to some of
    them for a while does not count.
    """
    slopes = [(later[1] - one[1]) / (later[0] - one[0]) for one, later in combinations(points, 2) if later[0] > one[0]]
    return median(slopes) if slopes else 0.0


def write(stream: TextIO, sample: Sample) -> None:
    """Write a sample as a line of JSON."""
    values = [[subject, measure, value] for (subject, measure), value in sample.values.items()]
    stream.write(json.dumps({"at": round(sample.at, 3), "values": values}, separators=(",", ":")) + "\n")


def read(path: Path) -> Iterator[Sample]:
    """Yield the samples of a file."""
    with path.open() as stream:
        for line in stream:
            plain = json.loads(line)
            yield Sample(plain["at"], {(subject, measure): value for subject, measure, value in plain["values"]})
