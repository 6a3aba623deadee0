"""The verdict: which series grow by more than their bounds."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from tests.soak.bounds import BOUNDS, unit_of, written
from tests.soak.series import Name, Series, slope_of

HOUR = 3600.0


class Verdict(StrEnum):
    """What is said of a series."""

    FLAT = "flat"
    GROWS = "grows"
    #: It ended, or began, too late to be judged.
    TOO_SHORT = "too short"
    #: There is no bound to it: it grows by design, or with what else the machine has to do.
    SHOWN = "shown"


@dataclass(frozen=True, slots=True)
class Terms:
    """How series are judged. Times are in seconds."""

    #: Of each series this is left out: caches fill, pools open.
    warm_up: float
    #: What is shorter than this after it is not judged.
    least: float
    #: By how much the bounds of an hour are multiplied: one more descriptor in half a minute makes 120 an hour.
    slack: float = 1.0
    #: What grows by design.
    growing: frozenset[Name] = frozenset()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a series did after its warm-up; figures are in its unit, bytes for bytes."""

    subject: str
    measure: str
    first: float
    last: float
    least: float
    most: float
    #: In an hour.
    slope: float
    #: In an hour; None where there is none.
    bound: float | None
    verdict: Verdict

    def __str__(self) -> str:
        unit = unit_of(self.measure)
        allowed = written(self.bound or 0.0, unit)
        figures = f"by {written(self.slope, unit)} {unit.value}".rstrip()
        return f"{self.subject}: {self.measure} {self.verdict} {figures} an hour, allowed are {allowed}"


def judge(series: Series, terms: Terms) -> Judgement:
    """Return the verdict on a series. One that falls is flat: it gives back what it had."""
    settled = series.after(terms.warm_up)
    is_judged = settled.seconds >= terms.least
    values = [value for _, value in (settled if is_judged else series).points]
    bound = None if (series.subject, series.measure) in terms.growing else BOUNDS.get(series.measure)
    allowed = None if bound is None else bound.allowed(median(values)) * terms.slack
    slope = slope_of(settled.points) * HOUR if is_judged else 0.0
    if not is_judged:
        verdict = Verdict.TOO_SHORT
    elif allowed is None:
        verdict = Verdict.SHOWN
    else:
        verdict = Verdict.GROWS if slope > allowed else Verdict.FLAT
    return Judgement(
        subject=series.subject,
        measure=series.measure,
        first=values[0],
        last=values[-1],
        least=min(values),
        most=max(values),
        slope=slope,
        bound=allowed,
        verdict=verdict,
    )


def judge_all(every: Iterable[Series], terms: Terms) -> list[Judgement]:
    """Return the verdicts on all series."""
    return [judge(series, terms) for series in every]
