"""That each slot is enqueued once is no luck: a search of all that can happen to two schedulers and one Redis.

What was searched is what the scripts do: tests/integration/test_scheduler_conformance.py.
"""

from typing import Any

import pytest

from tests.model.schedulers import Check, Claim, Rules, Schedulers
from tests.model.search import search
from tests.model.trust import Trust, TrustingSchedulers


@pytest.mark.parametrize(
    ("conditions", "states"),
    [
        pytest.param({"slots": 2, "in_flight": 2}, 16_000, id="crashes, resignations, lost replies and late requests"),
        pytest.param({"slots": 1, "in_flight": 2, "pauses": True}, 11_000, id="a task that is paused and resumed"),
        pytest.param({"slots": 2, "in_flight": 1, "skews": (1, -1)}, 6_000, id="one slot ahead, the other behind"),
        pytest.param({"slots": 2, "in_flight": 1, "clock_goes_back": True}, 10_000, id="a clock that is put back"),
        pytest.param({"slots": 1, "in_flight": 1, "restarts": 1, "saves": False}, 10_000, id="a Redis that loses all"),
    ],
)
def test_whatever_happens_each_slot_is_enqueued_once_in_order_and_by_the_leader(
    conditions: dict[str, Any], states: int
) -> None:
    found = search(Schedulers(**conditions))
    print(found)  # noqa: T201 - what the argument rests on, with -s
    assert not found.broken, found
    assert found.states > states


def test_what_the_search_leaves_out_makes_no_difference() -> None:
    found = search(Schedulers(slots=1, in_flight=1, is_reduced=False))
    assert not found.broken, found
    assert found.states > 3 * search(Schedulers(slots=1, in_flight=1)).states


def test_nobody_trusts_a_lease_that_another_has_got_however_slow_the_replies() -> None:
    found = search(TrustingSchedulers(lease=2, trusted=2))
    print(found)  # noqa: T201
    assert not found.broken, found
    assert found.states > 10_000


TWICE = "slot 1 is pushed after slot 1"
NOT_HOLDING = "a scheduler pushes and does not hold the lease"
REPLACED = "a scheduler pushes under a term that was replaced"
LEFT_BEHIND = "a scheduler has ended in order, and its lease stays"
TAKEN = "a scheduler takes the lease that another holds"
NEVER = "one scheduler alone never enqueues slot 1"


@pytest.mark.parametrize(
    ("rules", "conditions", "broken"),
    [
        # The mark is what keeps a slot from being pushed twice,
        pytest.param({"heeds_mark": False}, {}, TWICE, id="no claim is looked for"),
        pytest.param({"heeds_mark": False, "repeats_message_id": False}, {}, TWICE, id="neither claim nor message id"),
        pytest.param({"claim": Claim.AFTER_PUSH}, {}, TWICE, id="the claim is a step after the push"),
        pytest.param({"claim": Claim.BEFORE_PUSH}, {}, NEVER, id="and one before"),
        # without which the lease would not do:
        pytest.param({"enqueue_checks": Check.NOTHING}, {}, NOT_HOLDING, id="an enqueue without a look at the lease"),
        pytest.param({"enqueue_checks": Check.HOLDER}, {}, REPLACED, id="an enqueue that looks at the holder only"),
        # Message ids are for the truth of what is counted.
        pytest.param(
            {"repeats_message_id": False},
            {},
            "a scheduler is told duplicate of slot 1, and that is not so",
            id="new ids",
        ),
        pytest.param(
            {"knows_repeats": False},
            {},
            "a scheduler is told duplicate of slot 1, and that is not so",
            id="unknown ids",
        ),
        pytest.param(
            {"looks_for_repeats_first": False},
            {},
            "a scheduler is told not_leader of slot 1, and that is not so",
            id="a repeat that is answered to leaders only",
        ),
        # The lease
        pytest.param({"acquire_heeds_holder": False}, {}, TAKEN, id="a lease for whoever asks"),
        pytest.param({"terms_grow": False}, {}, "a term is given twice", id="the same term for all"),
        pytest.param({"acquire_answers_own_holder": False}, {}, NEVER, id="a holder that is refused its own lease"),
        pytest.param(
            {"renew_checks": Check.NOTHING, "renew_writes": True},
            {},
            TAKEN,
            id="a renewal that writes the lease anew",
        ),
        pytest.param(
            {"renew_checks": Check.HOLDER, "renew_writes": True}, {}, REPLACED, id="and one that does so to its own"
        ),
        pytest.param(
            {"release_checks": Check.NOTHING},
            {},
            "a scheduler gives back the lease that another holds",
            id="a release of whatever lease there is",
        ),
        pytest.param({"release_checks": Check.HOLDER_AND_TERM}, {}, LEFT_BEHIND, id="a release of the known term only"),
        pytest.param(
            {"releases_unasked": False}, {}, LEFT_BEHIND, id="a release by those only who know that they lead"
        ),
        # The clock
        pytest.param({"mark_ahead": 9}, {"clock_goes_back": True}, NEVER, id="a mark that counts however far ahead"),
    ],
)
def test_without_any_one_rule_the_search_finds_what_goes_wrong(
    rules: dict[str, Any], conditions: dict[str, Any], broken: str
) -> None:
    for is_reduced in (True, False):
        found = search(Schedulers(rules=Rules(**rules), **conditions, is_reduced=is_reduced))
        print(found)  # noqa: T201
        assert found.broken == broken, found


def test_the_claim_alone_keeps_slots_from_being_enqueued_twice_and_the_lease_says_by_whom() -> None:
    unfenced = Schedulers(rules=Rules(enqueue_checks=Check.NOTHING), slots=1)
    found = search(unfenced, condoned=[NOT_HOLDING, REPLACED])
    assert not found.broken, found
    assert found.states > 3_000


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"trust": Trust.FROM_REPLY}, id="a slow renewal extends trust"),
        pytest.param({"trusted": 4}, id="trust is longer than the lease"),
        pytest.param({"rules": Rules(renew_checks=Check.NOTHING)}, id="a renewal of whatever lease there is"),
        pytest.param({"rules": Rules(release_checks=Check.NOTHING)}, id="a release of whatever lease there is"),
    ],
)
def test_of_each_mistake_about_time_comes_a_scheduler_that_trusts_a_lease_it_has_not(mistake: dict[str, Any]) -> None:
    found = search(TrustingSchedulers(**mistake))
    print(found)  # noqa: T201
    assert found.broken == "a scheduler trusts a lease that it does not hold", found


def test_the_way_to_a_mistake_is_told_step_by_step_with_names_that_stay() -> None:
    found = search(Schedulers(rules=Rules(release_checks=Check.HOLDER_AND_TERM)))
    assert found.trace == (
        "A asks for the lease",
        "A asks for the lease",
        "A's acquire: granted",
        "A gives its lease back and ends; C is started",
        "A's acquire: granted; the reply is lost",
        "A's release: lost; the reply is lost",
    )
