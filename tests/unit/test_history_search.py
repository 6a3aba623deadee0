"""The search decides what trying every order decides, on histories small enough for that."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories.book import open_book
from tests.histories.instants import microseconds_of
from tests.histories.model import Deed, Model, State
from tests.histories.orders import as_searched
from tests.histories.reference import Plan, World
from tests.histories.search import Call, Clock, Search

PLANS = st.builds(
    Plan,
    clients=st.integers(2, 5),
    keys=st.just(1),
    operations=st.integers(3, 7),
    idle=st.sampled_from(((4,), (4, 6), (1, 20))),
    expiry=st.sampled_from((4, 12)),
    pause=st.sampled_from((1, 3)),
    stall_in=st.just(4),
    unknown_in=st.sampled_from((3, 1000)),
    refused_in=st.just(1000),
    sweep=st.just(4),
    grain=st.sampled_from((1, 3)),
)


def is_explained(model: Model, calls: Sequence[Call], clock: Clock) -> bool:
    """Try every order."""
    tried: set[tuple[State, frozenset[int]]] = set()

    def goes_on(state: State, left: frozenset[int]) -> bool:
        if (state, left) in tried:
            return False
        tried.add((state, left))
        rest = [calls[place] for place in left]
        until = min((call.returned for call in rest if call.returned is not None), default=float("inf"))
        if until == float("inf") and model.is_final(state):
            return True
        swept = model.sweep(state, clock.latest(until))
        if swept is not None and goes_on(swept, left):
            return True
        for place in left:
            after = model.take(state, calls[place].deed) if calls[place].invoked <= until else None
            if after is not None and goes_on(after, left - {place}):
                return True
        return False

    return goes_on(State(), frozenset(range(len(calls))))


def misremembered(deed: Deed, others: Sequence[Deed], rng: random.Random) -> Deed:
    """Return ``deed`` with an answer that is a little wrong, or that of another."""
    if deed.answer is None:
        return deed
    other = rng.choice([one.answer for one in others if one.answer is not None])
    changed = rng.choice(("updated_at", "idle_at", "place", "opened", "all"))
    if changed == "all":
        return replace(deed, answer=other)
    return replace(deed, answer=deed.answer._replace(**{changed: getattr(other, changed)}))


def compare(plan: Plan, seed: int, wrongs: int) -> bool:
    rng = random.Random(seed)
    operations, final = World(plan, rng).run()
    (chapter,) = open_book(operations, final).chapters
    model, calls = as_searched(chapter)
    clock = Clock([(one.invoked, microseconds_of(one.now)) for one in operations])
    for _ in range(wrongs):
        place = rng.randrange(len(calls))
        if rng.randrange(4):
            deeds = [call.deed for call in calls]
            calls[place] = replace(calls[place], deed=misremembered(deeds[place], deeds, rng))
        else:
            # Nobody heard of it.
            calls[place] = replace(calls[place], returned=None, deed=replace(calls[place].deed, answer=None))

    explained = is_explained(model, calls, clock)

    assert (Search(model, calls, clock).run() is None) == explained
    return explained


@settings(max_examples=80, derandomize=True)
@given(plan=PLANS, seed=st.integers(0, 2**32), wrongs=st.integers(0, 3))
def test_the_search_decides_as_trying_every_order_does(plan: Plan, seed: int, wrongs: int) -> None:
    compare(plan, seed, wrongs)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=5_000)
@given(plan=PLANS, seed=st.integers(0, 2**32), wrongs=st.integers(0, 3))
def test_the_search_decides_as_trying_every_order_does_very_often(plan: Plan, seed: int, wrongs: int) -> None:
    compare(plan, seed, wrongs)


def test_both_verdicts_are_met() -> None:
    plan = Plan(clients=4, keys=1, operations=6, idle=(4, 6), expiry=12, sweep=4)

    assert {compare(plan, seed, wrongs=1) for seed in range(10)} == {True, False}
