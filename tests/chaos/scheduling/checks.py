"""What must hold in Redis whatever is done: claims and pushes are one, slots and terms ascend, one leader enqueues.

Pure, as the verdict that these checks are part of.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tests.chaos.scheduling.bounds import SLACK
from tests.chaos.scheduling.records import Claim, Push, Record

#: Two slots of an actor that are made up for within so many seconds are made up for by the same hand.
_AT_ONCE = 0.3
#: A slot may be claimed this much before it is due.
_EARLIEST = 1.0


class Found(NamedTuple):
    """Something that should not have been there."""

    at: float
    text: str


def check_redis(record: Record) -> Iterator[Found]:
    """Yield whatever should not have lain in Redis."""
    yield from _check_order(record)
    yield from _check_earliness(record)
    yield from _check_storms(record)
    yield from _check_claims(record)
    yield from _check_fence(record)
    yield from _check_terms(record)


def describe_slot(slot: int) -> str:
    """Return a slot as people and logs name it: its second, and the seconds since the epoch."""
    day = slot % 86400
    return f"{day // 3600:02}:{day // 60 % 60:02}:{day % 60:02} ({slot})"


def _check_order(record: Record) -> Iterator[Found]:
    """Each actor's slots ascend on the list, and no message is on it twice."""
    seen: Counter[str] = Counter(push.message_id for push in record.pushes)
    newest: dict[tuple[str, int], Push] = {}
    for push in record.pushes:
        before = newest.get((push.actor, push.generation))
        if before is not None and push.slot < before.slot:
            yield Found(
                push.seen_at,
                f"order: {push.actor}, slot {describe_slot(push.slot)} was enqueued after {describe_slot(before.slot)}",
            )
        newest[push.actor, push.generation] = push
        if seen[push.message_id] > 1:
            seen[push.message_id] = 0
            yield Found(push.seen_at, f"twice: {push.actor}, message {push.message_id} is on the list again")


def _check_earliness(record: Record) -> Iterator[Found]:
    for push in record.pushes:
        ahead = push.slot - push.seen_at
        if ahead > _EARLIEST + SLACK:
            yield Found(push.seen_at, f"early: {push.actor}, slot {describe_slot(push.slot)}, {ahead:.2f} s ahead")


def _check_storms(record: Record) -> Iterator[Found]:
    """Of the slots that an outage cost, the latest alone is made up for."""
    delayed = [outage for one in record.rounds for outage in one.outages if outage.delayed]
    latest: dict[tuple[str, int], Push] = {}
    for push in record.pushes:
        if not push.caught_up:
            continue
        before = latest.get((push.actor, push.generation))
        latest[push.actor, push.generation] = push
        if before is None or push.seen_at - before.seen_at > _AT_ONCE:
            continue
        if not any(outage.start <= push.seen_at <= outage.deadline + SLACK for outage in delayed):
            yield Found(
                push.seen_at,
                f"storm: {push.actor}, slots {describe_slot(before.slot)} and {describe_slot(push.slot)} were both made"
                f" up for within {push.seen_at - before.seen_at:.2f} s",
            )


def _check_claims(record: Record) -> Iterator[Found]:
    """The mark of a task is the slot of its newest message, in every instant: claim and push are one."""
    latest: dict[tuple[str, int], Claim] = {}
    for claim in record.claims:
        if (claim.message_id, claim.slot) != (claim.newest_message_id, claim.newest_slot):
            yield Found(
                claim.seen_at,
                f"claim: {claim.actor} is marked {describe_slot(claim.slot)} ({claim.message_id}), its newest message"
                f" is for {describe_slot(claim.newest_slot)} ({claim.newest_message_id})",
            )
        before = latest.get((claim.actor, claim.generation))
        latest[claim.actor, claim.generation] = claim
        if before is not None and (claim.slot < before.slot or claim.term < before.term):
            yield Found(
                claim.seen_at,
                f"claim: {claim.actor} went back from slot {describe_slot(before.slot)}, term {before.term} to"
                f" {describe_slot(claim.slot)}, term {claim.term}",
            )


def _check_fence(record: Record) -> Iterator[Found]:
    """A slot is claimed under the term that is in force."""
    for claim in record.claims:
        terms = _terms_at(claim, record)
        if terms and claim.term not in terms:
            yield Found(
                claim.seen_at,
                f"fence: {claim.actor}, slot {describe_slot(claim.slot)} was enqueued by term {claim.term} in term"
                f" {max(terms)}",
            )


def _terms_at(claim: Claim, record: Record) -> set[int]:
    """Return the terms that were in force in the millisecond of ``claim``: two where one followed the other."""
    reigns = [one for one in record.reigns if one.generation == claim.generation]
    earlier = [one.term for one in reigns if one.since < claim.enqueued_at]
    return {one.term for one in reigns if one.since == claim.enqueued_at} | set(earlier[-1:])


def _check_terms(record: Record) -> Iterator[Found]:
    for earlier, later in pairwise(record.reigns):
        if later.generation == earlier.generation and later.term <= earlier.term:
            yield Found(
                later.seen_at,
                f"term: {later.holder} got {later.term} after {earlier.holder} had got {earlier.term}",
            )
