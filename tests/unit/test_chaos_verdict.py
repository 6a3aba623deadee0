"""The judge of the chaos runs: a checker that cannot find anything is worth nothing."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.chaos.scheduling.bounds import BOUNDS, LEASE, SLACK
from tests.chaos.scheduling.records import Absence, Claim, Kind, Outage, Push, Record, Reign, Round
from tests.chaos.scheduling.table import draw_table
from tests.chaos.scheduling.verdict import IN_THE_WORKS, Verdict, judge

ACTOR = "process_idle_conversations"
#: All records here are of slots 100 to 119, with a fault at 105.3.
START, FAULT, END = 100, 105.3, 119.9
SLOTS = range(START, 120)


def push(slot: int, *, at: float | None = None, message_id: str = "", generation: int = 0) -> Push:
    """Return a message that was enqueued for ``slot``, on time or, made up for, ``at`` an instant."""
    return Push(
        actor=ACTOR,
        slot=slot,
        message_id=message_id or f"message-{slot}",
        seen_at=slot + 0.02 if at is None else at,
        caught_up=at is not None,
        generation=generation,
    )


def reign(term: int, since: float, *, generation: int = 0) -> Reign:
    return Reign(holder=f"holder-{term}", term=term, since=since, seen_at=since + 0.01, generation=generation)


def fault(kind: Kind, *, lifted: float = FAULT) -> tuple[Outage, ...]:
    return (BOUNDS[kind].outage(FAULT, lifted),)


def record(kind: Kind, pushes: Iterable[Push], *, lifted: float = FAULT, reigns: Iterable[Reign] = ()) -> Record:
    """Return what a run with one fault left behind, whose first leader leads since before it."""
    return Record(
        actors=(ACTOR,),
        pushes=sorted(pushes, key=lambda one: one.seen_at),
        reigns=[reign(1, 90), *reigns],
        rounds=[Round(1, kind, "something was done", START, END, fault(kind, lifted=lifted))],
    )


def without(*slots: int) -> list[Push]:
    return [push(slot) for slot in SLOTS if slot not in slots]


def texts(verdict: Verdict) -> list[str]:
    return [str(finding) for finding in verdict.findings]


def killed(pushes: Iterable[Push], *, since: float) -> Verdict:
    """Judge a run whose leader was killed and followed by another."""
    return judge(record(Kind.LEADER_KILLED, pushes, reigns=[reign(2, since)]))


def test_a_run_in_which_every_slot_was_enqueued_once_is_fine() -> None:
    verdict = judge(record(Kind.REPLY_DROPPED, without()))

    assert verdict.findings == ()
    figures = verdict.figures[Kind.REPLY_DROPPED]
    assert (figures.faults, figures.slots, figures.once) == (1, 20, 20)
    assert (figures.twice, figures.stood_in, figures.missed) == (0, 0, 0)
    assert figures.longest_gap == pytest.approx(1)


def test_a_slot_with_two_messages_is_found() -> None:
    verdict = judge(
        record(
            Kind.LEADER_TERMINATED, [*without(), push(106, at=106.5, message_id="another")], reigns=[reign(2, 105.4)]
        )
    )

    (found,) = texts(verdict)
    assert "twice: process_idle_conversations, slot 00:01:46 (106): message-106" in found
    assert "fault 1, leader terminated" in found
    assert verdict.figures[Kind.LEADER_TERMINATED].twice == 1


def test_a_slot_with_two_messages_is_found_however_far_from_each_other() -> None:
    verdict = judge(record(Kind.REPLY_DROPPED, [*without(), push(106, at=118.5, message_id="another")]))

    assert any(text.startswith("twice:") for text in texts(verdict))


def test_a_message_that_is_on_the_list_again_is_found() -> None:
    verdict = judge(record(Kind.REPLY_DROPPED, [*without(), push(106, at=106.5)]))

    assert any("message message-106 is on the list again" in text for text in texts(verdict))


def test_a_missing_slot_that_no_fault_explains_is_missed() -> None:
    verdict = killed(without(115), since=105.9)

    assert texts(verdict) == [f"missed: {ACTOR}, slot 00:01:55 (115) (fault 1, leader killed)"]
    assert verdict.figures[Kind.LEADER_KILLED].missed == 1


def test_a_missing_slot_is_missed_where_nothing_may_be_missing() -> None:
    assert judge(record(Kind.REPLY_DROPPED, without(106))).figures[Kind.REPLY_DROPPED].missed == 1


def test_the_slots_of_a_crash_are_stood_in_for_by_the_latest() -> None:
    verdict = killed([*without(106, 107, 108), push(108, at=108.45)], since=108.4)

    assert verdict.findings == ()
    figures = verdict.figures[Kind.LEADER_KILLED]
    assert (figures.once, figures.stood_in, figures.missed) == (18, 2, 0)
    assert figures.longest_gap == pytest.approx(108.45 - 105.02)
    assert figures.longest_leaderless == pytest.approx(108.4 - FAULT)


def test_the_latest_slot_of_a_crash_is_missed_when_nothing_was_made_up_for() -> None:
    verdict = killed(without(106, 107, 108), since=108.4)

    # 109 is no stand-in: somebody led when 108 was the latest that was due.
    assert verdict.figures[Kind.LEADER_KILLED].missed == 3


def test_a_slot_that_falls_due_while_the_lease_is_got_may_be_the_latest() -> None:
    assert killed(without(106, 107, 108), since=109 - SLACK / 2).findings == ()


def test_a_slot_after_the_new_leader_began_is_missed() -> None:
    assert killed(without(106, 107), since=105.9).figures[Kind.LEADER_KILLED].missed == 2


def test_a_slot_that_was_due_just_before_the_fault_may_be_stood_in_for() -> None:
    assert killed(without(105), since=105.95).findings == ()


def test_a_slot_that_was_due_long_before_the_fault_is_missed() -> None:
    kind = Kind.LEADER_KILLED
    run = record(kind, without(105), reigns=[reign(2, 106.3)])
    late = 105 + IN_THE_WORKS + 0.01
    run.rounds = [replace(run.rounds[0], outages=(BOUNDS[kind].outage(late, late),))]

    assert judge(run).figures[kind].missed == 1


def test_slots_missing_at_the_end_are_missed() -> None:
    verdict = judge(record(Kind.REPLY_DROPPED, without(118, 119)))

    assert verdict.figures[Kind.REPLY_DROPPED].missed == 2


@pytest.mark.parametrize(("since", "found"), [(FAULT + LEASE + 1, False), (FAULT + LEASE + 1.3, True)])
def test_a_crash_may_cost_the_lease_and_a_second(since: float, found: bool) -> None:  # noqa: FBT001
    latest = int(since)
    verdict = killed([*without(*range(106, latest + 1)), push(latest, at=since + 0.02)], since=since)

    assert any(text.startswith("leaderless: the next lease was got after") for text in texts(verdict)) == found
    assert any(text.startswith("gap:") for text in texts(verdict)) == found


@pytest.mark.parametrize(("since", "found"), [(FAULT + 1, False), (FAULT + 1.3, True)])
def test_a_resignation_may_cost_a_second(since: float, found: bool) -> None:  # noqa: FBT001
    verdict = judge(record(Kind.LEADER_TERMINATED, without(), reigns=[reign(2, since)]))

    assert bool(verdict.findings) == found
    if not found:
        assert verdict.figures[Kind.LEADER_TERMINATED].longest_leaderless == pytest.approx(1)


def test_nobody_leading_at_all_is_found() -> None:
    (found,) = texts(judge(record(Kind.LEADER_KILLED, without())))

    assert "the next lease was got never, allowed were 4.00 s" in found


def test_a_change_of_leader_that_no_fault_explains_is_found() -> None:
    (found,) = texts(judge(record(Kind.REPLY_DROPPED, without(), reigns=[reign(2, 112)])))

    assert found.startswith("unrest: holder-2 got term 2 for no reason")


def test_the_same_leader_may_stand_in_for_what_it_could_not_enqueue() -> None:
    pushes = [*without(106, 107), push(107, at=107.6)]

    verdict = judge(record(Kind.REDIS_RESTARTED, pushes, lifted=107.5))

    assert verdict.findings == ()
    assert verdict.figures[Kind.REDIS_RESTARTED].stood_in == 1


def test_the_same_leader_may_not_take_longer_than_the_bound() -> None:
    verdict = judge(record(Kind.REDIS_RESTARTED, without(106, 107, 108), lifted=105.6))

    assert verdict.figures[Kind.REDIS_RESTARTED].missed == 3


def test_a_new_leader_after_an_outage_of_redis_has_no_longer_than_any_other() -> None:
    run = record(Kind.REDIS_RESTARTED, without(106, 107), lifted=106.2, reigns=[reign(2, 106.3)])

    assert judge(run).figures[Kind.REDIS_RESTARTED].missed == 2


def test_a_quiet_stretch_without_a_fault_is_found_even_if_all_is_made_up_for() -> None:
    late = [push(slot, at=114.5 + slot / 1000) for slot in (111, 112, 113, 114)]

    verdict = judge(record(Kind.REPLY_DROPPED, [*without(111, 112, 113, 114), *late]))

    assert any(text.startswith("gap: 4.") for text in texts(verdict))


def test_making_up_for_more_than_the_latest_is_a_storm() -> None:
    late = [push(slot, at=108.5) for slot in (107, 108)]

    (found,) = texts(killed([*without(106, 107, 108), *late], since=108.45))

    assert found.startswith(f"storm: {ACTOR}, slots 00:01:47 (107) and 00:01:48 (108) were both made up for")


def test_making_up_for_a_slot_at_each_of_two_renewals_is_no_storm() -> None:
    run = record(Kind.REPLY_DROPPED, [*without(107, 108), push(107, at=108.3), push(108, at=109.3)])

    assert not any(text.startswith("storm:") for text in texts(judge(run)))


def test_a_slot_that_is_enqueued_long_before_it_is_due_is_found() -> None:
    early = replace(push(115), seen_at=113.5)

    verdict = judge(record(Kind.CLOCKS_APART, [*without(115), early], reigns=[reign(2, 105.4)]))

    assert any(text.startswith("early:") for text in texts(verdict))


def test_a_slot_enqueued_after_a_later_one_is_found() -> None:
    late = replace(push(114), seen_at=115.5)

    verdict = judge(record(Kind.REPLY_DROPPED, [*without(114), late]))

    (found,) = texts(verdict)
    assert found.startswith(f"order: {ACTOR}, slot 00:01:54 (114) was enqueued after 00:01:55 (115)")


def emptied(*, again: int) -> Verdict:
    """Judge a run in which Redis lost its data, and slot ``again`` was enqueued again."""
    before = [push(slot) for slot in SLOTS if slot <= 105]
    after = [push(slot, generation=1) for slot in SLOTS if slot > 105]
    twice = push(again, at=105.5, message_id="another", generation=1)
    return judge(record(Kind.REDIS_EMPTIED, [*before, twice, *after], lifted=105.4))


def test_the_latest_slot_may_be_enqueued_again_after_redis_lost_its_data() -> None:
    verdict = emptied(again=105)

    assert verdict.findings == ()
    assert verdict.forgotten == 1
    assert verdict.figures[Kind.REDIS_EMPTIED].twice == 1


def test_an_older_slot_may_not_be_enqueued_again_after_redis_lost_its_data() -> None:
    assert any(text.startswith("twice:") for text in texts(emptied(again=103)))


def claim(slot: int, *, newest: int | None = None, term: int = 1) -> Claim:
    newest = slot if newest is None else newest
    return Claim(ACTOR, slot, f"message-{slot}", term, f"message-{newest}", newest, slot + 0.01, slot + 0.02, 0)


def test_a_mark_without_its_message_is_found() -> None:
    run = record(Kind.REPLY_DROPPED, without())
    run.claims = [claim(106), claim(108, newest=107)]

    (found,) = texts(judge(run))
    assert found.startswith(
        f"claim: {ACTOR} is marked 00:01:48 (108) (message-108), its newest message is for 00:01:47"
    )


def test_a_mark_that_goes_back_is_found() -> None:
    run = record(Kind.LEADER_KILLED, without(), reigns=[reign(2, 105.5)])
    run.claims = [claim(106, term=2), claim(107, term=1)]

    assert "went back from slot 00:01:46 (106), term 2 to 00:01:47 (107), term 1" in texts(judge(run))[0]


def test_a_slot_enqueued_by_a_leader_that_was_replaced_is_found() -> None:
    run = record(Kind.LEADER_KILLED, without(), reigns=[reign(2, 106.5)])
    run.claims = [claim(106, term=1), claim(107, term=1)]

    (found,) = texts(judge(run))
    assert "slot 00:01:47 (107) was enqueued by term 1 in term 2" in found


def test_in_the_millisecond_of_a_change_either_leader_may_have_enqueued() -> None:
    run = record(Kind.LEADER_KILLED, without(), reigns=[reign(2, 107.01)])
    run.claims = [claim(106, term=1), claim(107, term=1)]

    assert judge(run).findings == ()


@pytest.mark.parametrize(("term", "generation", "found"), [(2, 0, True), (1, 0, True), (3, 0, False), (1, 1, False)])
def test_terms_ascend_unless_redis_lost_its_data(term: int, generation: int, found: bool) -> None:  # noqa: FBT001
    run = record(Kind.REPLY_DROPPED, without(), reigns=[reign(2, 106), reign(term, 107, generation=generation)])

    assert any(text.startswith("term:") for text in texts(judge(run))) == found


def test_a_stretch_without_a_lease_is_in_the_figures() -> None:
    run = record(Kind.REDIS_RESTARTED, without(), lifted=107)
    run.absences = [Absence(105.3, 107.5)]

    assert judge(run).figures[Kind.REDIS_RESTARTED].longest_leaderless == pytest.approx(2.2)


def test_what_the_harness_noticed_is_a_finding() -> None:
    run = record(Kind.REPLY_DROPPED, without())
    run.incidents.append("a scheduler ended by itself")

    assert texts(judge(run)) == ["a scheduler ended by itself (outside every round)"]


def test_a_double_counts_where_it_was_enqueued_again() -> None:
    run = record(Kind.LEADER_PAUSED, [*without(), push(110, at=110.8, message_id="another", generation=1)])
    first = run.rounds[0]
    emptied_at = BOUNDS[Kind.REDIS_EMPTIED].outage(110.6, 110.7)
    second = Round(2, Kind.REDIS_EMPTIED, "something else was done", 110.5, END, (emptied_at,))
    run.rounds = [replace(first, end=110.5), second]

    verdict = judge(run)

    assert verdict.figures[Kind.LEADER_PAUSED].twice == 0
    assert verdict.figures[Kind.REDIS_EMPTIED].twice == 1
    assert verdict.forgotten == 1


def test_rounds_share_the_slots_among_their_kinds() -> None:
    run = record(Kind.REPLY_DROPPED, without())
    first = run.rounds[0]
    run.rounds = [replace(first, end=110.5), replace(first, number=2, kind=Kind.CONNECTIONS_CUT, start=110.5)]

    verdict = judge(run)

    assert verdict.figures[Kind.REPLY_DROPPED].slots == 11
    assert verdict.figures[Kind.CONNECTIONS_CUT].slots == 9
    assert draw_table(verdict).row_count == 3
