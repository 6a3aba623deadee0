"""The soak's look at the whole history: checked in parts, and how late the endings were."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.histories.check import check
from tests.histories.final import Event, FinalState
from tests.histories.record import Checkpoint, write_all
from tests.histories.reference import Plan, World
from tests.soak.lags import Lags, lags_of
from tests.soak.shards import check_in_shards

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ALLOWED = timedelta(hours=1)
NOTHING = Lags(0, 0.0, 0.0, 0.0)


def found_in_shards(tmp_path: Path, world: World, final: FinalState, *checkpoints: Checkpoint) -> list[str]:
    history = tmp_path / "history.jsonl"
    write_all(history, [*world.operations, *checkpoints])
    found = check_in_shards(history, final, tmp_path / "shards", allowed=ALLOWED, shards=4)
    return sorted(str(finding) for finding in found)


@pytest.fixture
def world() -> World:
    return World(Plan(keys=8, operations=120), random.Random(7))


def test_a_history_in_which_the_rules_hold_is_as_good_in_parts(tmp_path: Path, world: World) -> None:
    _, final = world.run()

    assert found_in_shards(tmp_path, world, final) == []


def test_what_is_wrong_is_found_in_parts_as_it_is_at_once(tmp_path: Path, world: World) -> None:
    operations, final = world.run()
    # Conversations of several keys are gone, the events of theirs are not, and one is of nobody.
    nobodys = replace(final.events[0], event_id=10_000, conv_id="nobody's")
    broken = FinalState(final.rows[3:], (*final.events, nobodys), final.read_at)
    late = Checkpoint(at=NOON, due_since=NOON - timedelta(seconds=9), allowed=2.0, after="nothing")

    at_once = sorted(str(finding) for finding in check(operations, broken, [late], allowed=ALLOWED))

    assert {text.partition(":")[0] for text in at_once} == {"left_due", "lost_activity", "unrecorded"}
    assert found_in_shards(tmp_path, world, broken, late) == at_once


def ending(*, deadline: float, lag: float, status: str = "idle_timeout") -> Event:
    return Event(
        event_id=1,
        conv_id="acme/0",
        previous_status="progress",
        status=status,
        deadline=NOON + timedelta(seconds=deadline),
        last_activity_at=NOON,
        cause="sweep",
        sweep_id=None,
        occurred_at=NOON + timedelta(seconds=deadline + lag),
    )


def test_of_a_hundred_endings_the_ninety_ninth_is_the_percentile() -> None:
    outside, within = lags_of([ending(deadline=0, lag=lag) for lag in range(1, 101)], [])

    assert outside == Lags(100, 50.0, 99.0, 100.0)
    assert within == NOTHING


def test_who_closes_a_conversation_is_not_late() -> None:
    assert lags_of([ending(deadline=60, lag=-50, status="closed")], []) == (NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("deadline", "lag", "is_within"),
    [(98, 1.0, False), (98, 2.0, True), (105, 1.0, True), (110, 1.0, True), (110.1, 1.0, False), (90, 30.0, True)],
)
def test_what_was_due_or_done_during_a_fault_is_within_it(deadline: float, lag: float, is_within: bool) -> None:  # noqa: FBT001
    fault = (NOON + timedelta(seconds=100), NOON + timedelta(seconds=110))

    outside, within = lags_of([ending(deadline=deadline, lag=lag)], [fault])

    assert (outside.count, within.count) == ((0, 1) if is_within else (1, 0))
