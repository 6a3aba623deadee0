"""The checker has nothing to say of histories in which the rules hold, and finds it where a rule is broken."""

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories.check import check
from tests.histories.final import Row
from tests.histories.findings import FindingKind
from tests.histories.reference import Plan, Table, World

PLANS = st.builds(
    Plan,
    clients=st.integers(1, 8),
    keys=st.integers(1, 3),
    operations=st.sampled_from((6, 20, 40)),
    idle=st.sampled_from(((8,), (8, 12), (1, 40), (30,))),
    expiry=st.sampled_from((8, 30, 100)),
    pause=st.sampled_from((0, 1, 4, 10)),
    stall_in=st.sampled_from((3, 15, 1000)),
    unknown_in=st.sampled_from((2, 10, 1000)),
    sweep=st.sampled_from((2, 15, 1000)),
    grain=st.sampled_from((1, 3)),
)


@settings(max_examples=30, derandomize=True)
@given(plan=PLANS, seed=st.integers(0, 2**32))
def test_a_history_in_which_the_rules_hold_has_no_findings(plan: Plan, seed: int) -> None:
    assert check(*World(plan, random.Random(seed)).run()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1_000)
@given(plan=PLANS, seed=st.integers(0, 2**32))
def test_many_histories_in_which_the_rules_hold_have_no_findings(plan: Plan, seed: int) -> None:
    assert check(*World(plan, random.Random(seed)).run()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_operations_of_eight_clients_on_hot_keys_are_decided() -> None:
    plan = Plan(
        clients=8, keys=20, operations=100_000, idle=(2_000,), expiry=6_000, pause=10, stall_in=2_000, unknown_in=200
    )

    assert check(*World(plan, random.Random(1)).run()) == []


# Rules that are broken, one at a time


class LosingUpdates(Table):
    """Now and then a message is answered and forgotten: two writers have read the same row."""

    def message(self, key: str, now: datetime, idle: timedelta, expiry: timedelta) -> tuple[Row, bool]:
        before = self.active_on(key)
        row, opened = super().message(key, now, idle, expiry)
        if before is not None and before.status == "progress" and not opened and now.microsecond // 1000 % 5 == 0:
            self.rows[row.conv_id] = before
        return row, opened


@dataclass(slots=True)
class SweepingWithoutLookingAgain(Table):
    """A sweep ends what was due by the version of the row that it had seen."""

    seen: dict[str, Row] = field(default_factory=dict)

    def sweep(self, now: datetime, limit: int) -> None:
        for row in [row for row in self.rows.values() if row.status in {"pending", "progress"}][:limit]:
            seen = self.seen.get(row.conv_id, row)
            if min(seen.idle_at, seen.expires_at) <= now:
                self.end(row, "sweep", now)
        self.seen = dict(self.rows)


class SweepingBeforeTheDeadline(Table):
    """A sweep goes by a clock that is ahead, and says so nowhere: its moment is a right one."""

    def sweep(self, now: datetime, limit: int) -> None:
        ahead = now + timedelta(milliseconds=15)
        for row in [row for row in self.rows.values() if row.status in {"pending", "progress"}][:limit]:
            if (deadline := min(row.idle_at, row.expires_at)) <= ahead:
                self.end(row, "sweep", max(now, deadline))


class MovingDeadlinesBack(Table):
    """A message that comes late moves the last activity back."""

    def message(self, key: str, now: datetime, idle: timedelta, expiry: timedelta) -> tuple[Row, bool]:
        row, opened = super().message(key, now, idle, expiry)
        self.rows[row.conv_id] = row = replace(row, updated_at=now, idle_at=now + idle)
        return row, opened


class ResumingWhatIsDue(Table):
    """A message at the deadline, or after, goes on with what no sweep has got to."""

    def message(self, key: str, now: datetime, idle: timedelta, expiry: timedelta) -> tuple[Row, bool]:
        row = self.active_on(key)
        if row is None or min(row.idle_at, row.expires_at) > now:
            return super().message(key, now, idle, expiry)
        if row.status == "pending":
            row = self.change(row, "progress", "activity", now)
        self.rows[row.conv_id] = row = replace(row, updated_at=now, idle_at=now + idle)
        return row, False


class OpeningBeside(Table):
    """Now and then a message does not see that there is an active conversation: nothing forbids a second one."""

    def active_on(self, key: str) -> Row | None:
        return None if len(self.rows) % 4 == 3 else super().active_on(key)


class NamingAfterTheSweep(Table):
    """What a sweep ends is idle_timeout, also when it expired first."""

    def end(self, row: Row, cause: str, moment: datetime) -> Row:
        return self.change(row, "idle_timeout", cause, moment) if cause == "sweep" else super().end(row, cause, moment)


class EndingTwice(Table):
    """A sweep ends what it ended before: its events may come twice."""

    def sweep(self, now: datetime, limit: int) -> None:
        super().sweep(now, limit)
        ended = [event for event in self.events if event.cause == "sweep"]
        self.events.extend(replace(event, event_id=len(self.events) + 1) for event in ended[:1])


class ForgettingEvents(Table):
    """A close is not recorded."""

    def close(self, conv_id: str, now: datetime) -> Row:
        before = len(self.events)
        row = super().close(conv_id, now)
        del self.events[before:]
        return row


#: With what is found of it, whatever else is.
BROKEN = {
    LosingUpdates: FindingKind.LOST_ACTIVITY,
    SweepingWithoutLookingAgain: FindingKind.ENDED_EARLY,
    SweepingBeforeTheDeadline: FindingKind.UNEXPLAINED,
    MovingDeadlinesBack: FindingKind.LOST_ACTIVITY,
    ResumingWhatIsDue: FindingKind.UNEXPLAINED,
    OpeningBeside: FindingKind.TWO_ACTIVE,
    NamingAfterTheSweep: FindingKind.WRONG_STATUS,
    EndingTwice: FindingKind.ENDED_TWICE,
    ForgettingEvents: FindingKind.UNRECORDED,
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_rule_that_is_broken_is_found(broken: type[Table]) -> None:
    plan = Plan(clients=4, keys=1, operations=60, sweep=8, stall_in=8)
    histories = [World(plan, random.Random(seed), broken()).run() for seed in range(3)]

    found = {finding.kind for history in histories for finding in check(*history)}

    assert BROKEN[broken] in found
