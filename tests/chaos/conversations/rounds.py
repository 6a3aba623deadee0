"""What a run leaves behind: its rounds, each with what was done, what it cost and what was found."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from tests.chaos.conversations.stack import LONGEST_DUE
from tests.chaos.conversations.traffic import Counts
from tests.histories.final import FinalState
from tests.histories.findings import Finding

_ENDED = {"idle_timeout", "expired", "closed"}


@dataclass(slots=True)
class Round:
    """From the injection of a fault until all was well again."""

    number: int
    name: str
    began: datetime
    #: The number of the last operation before it.
    after_operation: int
    #: How long it may take until all is well, in seconds: one interval plus one batch, and what the fault may cost.
    bound: float = LONGEST_DUE
    what: str = "not done to its end"
    ended: datetime | None = None
    until_operation: int = 0
    counts: Counts = field(default_factory=Counts)
    #: How long the injection took, in seconds: until its cause was taken away.
    injecting: float = 0.0
    #: From then until all was well, in seconds; None when it never was.
    well_after: float | None = None
    findings: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Add what is wrong with it by itself."""
        if self.well_after is None:
            self.findings.append("left due: it was never well again")
        elif self.well_after > self.bound:
            self.findings.append(f"left due: well again after {self.well_after:.2f} s, allowed are {self.bound:.2f} s")


@dataclass(slots=True)
class Figures:
    """The row of a kind of fault."""

    faults: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    ended: int = 0
    longest: float = 0.0
    bound: float = 0.0
    findings: int = 0


def attribute(findings: Iterable[Finding], rounds: Iterable[Round]) -> list[str]:
    """Give each finding of the checker to the round of its first operation; return those that belong to none."""
    rounds, left = list(rounds), []
    for finding in findings:
        first = min(finding.operations, default=0)
        for one in rounds:
            if one.after_operation < first <= one.until_operation:
                one.findings.append(str(finding))
                break
        else:
            left.append(str(finding))
    return left


def figures_of(rounds: Iterable[Round], final: FinalState | None) -> dict[str, Figures]:
    """Return a row for each kind of fault, in the order in which they first came."""
    endings = sorted(event.occurred_at for event in final.events if event.status in _ENDED) if final else []
    rows: dict[str, Figures] = {}
    for one in rounds:
        row = rows.setdefault(one.name, Figures())
        row.faults += 1
        row.acknowledged += one.counts.acknowledged
        row.refused += one.counts.refused + one.counts.unsent
        row.unknown += one.counts.unknown
        row.ended += sum(one.began <= at and (one.ended is None or at < one.ended) for at in endings)
        row.longest = max(row.longest, one.well_after or 0.0)
        row.bound = one.bound
        row.findings += len(one.findings)
    return rows
