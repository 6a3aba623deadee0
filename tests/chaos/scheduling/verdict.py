"""What a record means: the figures of each kind of fault, and everything that should not have happened.

Pure: the same record always gives the same verdict. The words:

- a **slot** of an actor is a second in which it should run; each belongs to the round that it falls into, or in which
  it was enqueued again;
- **once**: one message was enqueued for it, be it late;
- **twice**: more than one was;
- **stood in for**: none was, an outage explains it, and the first slot after it that was enqueued is the latest one
  that was due when somebody led again. By design only that one is made up for: one, not a storm;
- **missed**: none was, and nothing explains it;
- **gap**: the time between two messages of an actor that follow one another on the list;
- **without a leader**: from the fault to the next lease, or as long as no lease was to be seen.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.scheduling.bounds import INTERVAL, RENEW, SLACK
from tests.chaos.scheduling.checks import check_redis, describe_slot
from tests.chaos.scheduling.records import Kind, Outage, Push, Record, Reign, Round

#: A slot that fell due this shortly before a fault may not have been enqueued yet.
IN_THE_WORKS = 0.5
#: A slot that the loop of the leader overlooks is at least a second old, and at the next renewal it is made up for.
LONGEST_QUIET = INTERVAL + 1 + RENEW


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not have happened."""

    at: float
    text: str
    round: Round | None = None

    def __str__(self) -> str:
        where = "outside every round" if self.round is None else f"fault {self.round.number}, {self.round.kind}"
        return f"{self.text} ({where})"


@dataclass(slots=True)
class Figures:
    """The row of a kind."""

    faults: int = 0
    slots: int = 0
    once: int = 0
    twice: int = 0
    stood_in: int = 0
    missed: int = 0
    longest_gap: float = 0.0
    longest_leaderless: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures of each kind that occurred, and the findings in the order of time."""

    figures: dict[Kind, Figures]
    findings: tuple[Finding, ...]
    #: Slots that were enqueued again after Redis had forgotten that they were.
    forgotten: int


def judge(record: Record) -> Verdict:
    """Return what ``record`` means."""
    return _Judge(record).verdict()


class _Judge:
    def __init__(self, record: Record) -> None:
        self._record = record
        self._figures: dict[Kind, Figures] = defaultdict(Figures)
        self._findings: list[Finding] = []
        self._forgotten = 0
        self._outages = [outage for one in record.rounds for outage in one.outages]
        self._by_slot: dict[tuple[str, int], list[Push]] = defaultdict(list)
        for push in record.pushes:
            self._by_slot[push.actor, push.slot].append(push)

    def verdict(self) -> Verdict:
        for incident in self._record.incidents:
            self._findings.append(Finding(math.inf, incident))
        if self._record.rounds:
            for one in self._record.rounds:
                self._figures[one.kind].faults += 1
            for actor in self._record.actors:
                self._count_slots(actor)
                self._check_gaps(actor)
            self._check_leaders()
        for at, text in check_redis(self._record):
            self._find(at, text)
        findings = sorted(self._findings, key=lambda finding: finding.at)
        return Verdict(figures=dict(self._figures), findings=tuple(findings), forgotten=self._forgotten)

    def _find(self, at: float, text: str) -> None:
        self._findings.append(Finding(at, text, self._round(at)))

    def _round(self, at: float) -> Round | None:
        return next((one for one in self._record.rounds if one.start <= at < one.end), None)

    # Slots

    def _count_slots(self, actor: str) -> None:
        first, last = self._record.rounds[0].start, self._record.rounds[-1].end
        missing: list[int] = []
        for slot in range(math.ceil(first), math.ceil(last)):
            pushes = self._by_slot.get((actor, slot), [])
            if not pushes:
                missing.append(slot)
                continue
            self._count_missing(actor, missing, slot)
            missing = []
            if len(pushes) == 1:
                figures = self._of_slot(slot)
                figures.once += 1
            else:
                # What went wrong did so when it was enqueued again.
                again = self._round(pushes[-1].seen_at)
                figures = self._of_slot(slot) if again is None else self._figures[again.kind]
                figures.twice += 1
                self._judge_double(pushes)
            figures.slots += 1
        self._count_missing(actor, missing, None)

    def _of_slot(self, slot: int) -> Figures:
        found = self._round(slot)
        assert found is not None, "rounds follow one another without a gap"
        return self._figures[found.kind]

    def _count_missing(self, actor: str, missing: list[int], after: int | None) -> None:
        """Count the ``missing`` slots, which follow one another; ``after`` them one was enqueued."""
        explained = bool(missing) and after is not None and self._is_explained(missing[0], after)
        for slot in missing:
            figures = self._of_slot(slot)
            figures.slots += 1
            if explained:
                figures.stood_in += 1
            else:
                figures.missed += 1
                self._find(slot, f"missed: {actor}, slot {describe_slot(slot)}")

    def _is_explained(self, first: int, after: int) -> bool:
        """Return whether an outage explains that nothing was enqueued from ``first`` to just before ``after``.

        It does when ``after`` was the latest slot due as soon as somebody led (again): whatever fell due before was to
        be stood in for by it, whatever fell due later should have been enqueued in its own time.
        """
        return any(
            outage.start - IN_THE_WORKS <= first and after <= self._led_again_at(outage) + SLACK
            for outage in self._outages
        )

    def _led_again_at(self, outage: Outage) -> float:
        """Return when, at the latest, ``outage`` was over for whoever led then."""
        new = [one.since for one in self._new_reigns(outage)]
        # A lease may have been got by somebody who never learnt of it.
        if outage.same_leader and (outage.delayed or not new):
            return outage.deadline
        return max(new, default=-math.inf)

    def _new_reigns(self, outage: Outage) -> Iterator[Reign]:
        """Yield the leases that were got in time after ``outage`` began."""
        return (one for one in self._record.reigns if outage.start < one.since <= outage.deadline + SLACK)

    def _judge_double(self, pushes: list[Push]) -> None:
        """Accept a doubled slot only where Redis forgot the first, and it was the latest then."""
        for earlier, later in pairwise(pushes):
            if earlier.message_id == later.message_id:
                continue  # the order on the list tells
            lost_between = earlier.generation != later.generation
            found = self._round(later.seen_at)
            if (
                lost_between
                and found is not None
                and any(later.slot > outage.start - INTERVAL - SLACK for outage in found.outages)
            ):
                self._forgotten += 1
                continue
            self._find(
                later.seen_at,
                f"twice: {later.actor}, slot {describe_slot(later.slot)}: {earlier.message_id} at"
                f" {earlier.seen_at:.3f}, {later.message_id} at {later.seen_at:.3f}",
            )

    # Time

    def _check_gaps(self, actor: str) -> None:
        first, last = self._record.rounds[0].start, self._record.rounds[-1].end
        arrivals = [push.seen_at for push in self._record.pushes if push.actor == actor]
        for earlier, later in pairwise([*(at for at in arrivals if at < last), last]):
            found = self._round(later) or self._record.rounds[-1]
            if later < first:
                continue
            gap = later - earlier
            figures = self._figures[found.kind]
            figures.longest_gap = max(figures.longest_gap, gap)
            if gap > LONGEST_QUIET + SLACK and not any(
                outage.start > earlier - IN_THE_WORKS and later <= outage.deadline + SLACK for outage in self._outages
            ):
                self._find(later, f"gap: {gap:.2f} s without a message of {actor}, until {later:.3f}")

    def _check_leaders(self) -> None:
        for one in self._record.rounds:
            figures = self._figures[one.kind]
            for outage in one.outages:
                since = min((reign.since for reign in self._record.reigns if reign.since > outage.start), default=None)
                if since is not None and since <= min(one.end, outage.deadline + SLACK):
                    figures.longest_leaderless = max(figures.longest_leaderless, since - outage.start)
                elif outage.new_leader:
                    took = "never" if since is None else f"after {since - outage.start:.2f} s"
                    allowed = outage.deadline - outage.start
                    self._find(outage.start, f"leaderless: the next lease was got {took}, allowed were {allowed:.2f} s")
        for reign in self._record.reigns:
            if self._round(reign.since) is not None and not any(
                outage.start - SLACK <= reign.since <= outage.deadline + SLACK for outage in self._outages
            ):
                self._find(reign.since, f"unrest: {reign.holder} got term {reign.term} for no reason")
        for absence in self._record.absences:
            found = self._round(absence.end)
            if found is not None:
                figures = self._figures[found.kind]
                figures.longest_leaderless = max(figures.longest_leaderless, absence.end - absence.start)
