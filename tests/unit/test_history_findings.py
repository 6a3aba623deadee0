"""Each thing that the checker may find, in the smallest history that shows it; and what it must not find."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from tests.histories.book import open_book
from tests.histories.check import check
from tests.histories.final import FinalState, Row
from tests.histories.findings import Finding, FindingKind
from tests.histories.instants import microseconds_of
from tests.histories.orders import check_order
from tests.histories.record import Answer, Checkpoint, Kind, Operation, Outcome
from tests.histories.reference import NOON, Table
from tests.histories.search import Clock

KEY = "acme"
IDLE, EXPIRY = 10.0, 60.0
MOMENT = 1e-6


@dataclass
class Script:
    """A history written step by step, with the seconds at which each was done."""

    idle: float = IDLE
    expiry: float = EXPIRY
    table: Table = field(default_factory=Table)
    operations: list[Operation] = field(default_factory=list)

    def message(self, at: float, **given: Any) -> Answer:
        """Take a message as the rules want it."""
        row, opened = self.table.message(
            KEY, NOON + timedelta(seconds=at), timedelta(seconds=self.idle), timedelta(seconds=self.expiry)
        )
        return self.answer(at, row, opened=opened, **given)

    def close(self, at: float, conv_id: str, **given: Any) -> Answer:
        """Close as the rules want it."""
        row = self.table.close(conv_id, NOON + timedelta(seconds=at))
        return self.answer(at, row, opened=None, kind=Kind.CLOSE, conv_id=conv_id, **given)

    def sweep(self, at: float) -> None:
        self.table.sweep(NOON + timedelta(seconds=at), 10)

    def answer(self, at: float, row: Row, *, opened: bool | None, **given: Any) -> Answer:
        """Write down an operation that was answered with ``row``, whatever the table says."""
        answer = answer_of(row, opened=opened)
        self.ask(at, **{"outcome": Outcome.OK, "answer": answer, "returned": at + 0.5} | given)
        return answer

    def ask(self, at: float, **given: Any) -> None:
        """Write down an operation."""
        values: dict[str, Any] = {
            "number": len(self.operations) + 1,
            "client": 1,
            "kind": Kind.MESSAGE,
            "key": KEY,
            "now": NOON + timedelta(seconds=at),
            "idle_timeout": self.idle,
            "expire_after": self.expiry,
            "invoked": at,
            "returned": None,
        }
        self.operations.append(Operation(**values | given))

    def final(self, at: float = 1000) -> FinalState:
        return FinalState(tuple(self.table.rows.values()), tuple(self.table.events), NOON + timedelta(seconds=at))

    def found(self) -> list[Finding]:
        return check(self.operations, self.final())

    def kinds(self) -> set[FindingKind]:
        return {finding.kind for finding in self.found()}

    @property
    def row(self) -> Row:
        """The latest conversation."""
        return list(self.table.rows.values())[-1]

    def set_row(self, **changed: Any) -> None:
        self.table.rows[self.row.conv_id] = replace(self.row, **changed)

    def set_event(self, **changed: Any) -> None:
        self.table.events[-1] = replace(self.table.events[-1], **changed)


def answer_of(row: Row, *, opened: bool | None) -> Answer:
    return Answer(
        conv_id=row.conv_id,
        opened=opened,
        status=row.status,
        created_at=row.created_at,
        updated_at=row.updated_at,
        idle_at=row.idle_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
    )


def second(at: float) -> Any:
    return NOON + timedelta(seconds=at)


def ended_once() -> Script:
    """Two messages, and a sweep a second after the deadline."""
    script = Script()
    script.message(0)
    script.message(5)
    script.sweep(16)
    return script


# What is right


def test_a_conversation_that_was_swept_and_one_that_was_closed_are_right() -> None:
    script = ended_once()
    answer = script.message(20)
    script.close(25, answer.conv_id)
    script.close(26, answer.conv_id)

    assert script.found() == []


def test_a_message_just_before_the_deadline_resumes_and_at_the_deadline_ends_and_opens() -> None:
    script = Script()
    script.message(0)
    script.message(10 - MOMENT)
    script.message(20 - MOMENT)

    assert [one.answer.opened for one in script.operations if one.answer] == [True, False, True]
    assert script.found() == []


def test_a_message_that_was_stamped_before_the_deadline_and_came_after_the_sweep_opens_another() -> None:
    script = Script()
    script.message(0)
    script.sweep(10)
    # Nobody read the clock after it before the sweep can have come.
    script.message(9, returned=11.0)

    assert script.found() == []


def test_messages_of_one_stamp_may_set_deadlines_to_and_fro() -> None:
    script = Script()
    script.message(0)
    script.message(1)
    script.message(5, invoked=5.0, returned=5.1)
    script.idle = 20
    script.message(5, invoked=5.2, returned=5.3)
    script.idle = 10
    script.message(5, invoked=5.0, returned=5.4)

    assert script.row.idle_at == second(15)
    assert script.found() == []


@pytest.mark.parametrize("happened", [True, False])
def test_what_is_unknown_may_have_happened_or_not(happened: bool) -> None:  # noqa: FBT001
    script = Script()
    script.message(0)
    script.ask(5, outcome=Outcome.UNKNOWN, kind=Kind.ACTIVITY)
    if happened:
        script.table.message(KEY, second(5), timedelta(seconds=IDLE), timedelta(seconds=EXPIRY))
    script.message(12)

    assert script.operations[-1].answer is not None
    assert script.operations[-1].answer.opened is not happened
    assert script.found() == []


def test_what_is_unknown_may_happen_long_after_its_client_gave_up() -> None:
    script = Script()
    script.ask(0, outcome=Outcome.UNKNOWN, returned=1.0)
    script.message(5)
    script.sweep(20)
    script.table.message(KEY, second(0), timedelta(seconds=IDLE), timedelta(seconds=EXPIRY))

    assert script.found() == []


def test_what_was_refused_did_not_happen() -> None:
    script = Script()
    script.message(0)
    script.table.message(KEY, second(5), timedelta(seconds=IDLE), timedelta(seconds=EXPIRY))
    script.ask(5, outcome=Outcome.REFUSED, error="deadlock detected")

    assert script.kinds() == {FindingKind.UNEXPLAINED}


def test_rows_that_nobody_of_the_history_made_may_be_there() -> None:
    script = ended_once()
    script.table.message("other", second(0), timedelta(seconds=IDLE), timedelta(seconds=EXPIRY))

    assert script.found() == []


# What is wrong


def lose_an_update(script: Script) -> None:
    script.message(0)
    before = script.row
    script.message(5)
    script.set_row(updated_at=before.updated_at, idle_at=before.idle_at)


def lose_a_conversation(script: Script) -> None:
    script.message(0)
    script.table.rows.clear()


def lose_it_to_another_key(script: Script) -> None:
    script.message(0)
    script.set_row(session_key="other")


def end_in_spite_of_activity(script: Script) -> None:
    script.message(0)
    script.message(1)
    before = script.row
    script.message(11 - MOMENT)
    script.table.end(before, "sweep", second(11))


def end_what_is_not_due(script: Script) -> None:
    script.message(0)
    script.table.end(script.row, "sweep", second(10 - MOMENT))


def end_twice(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    script.table.events.append(replace(script.table.events[-1], event_id=2))


def have_two_active(script: Script) -> None:
    script.message(0)
    script.table.rows["second"] = replace(script.row, conv_id="second", created_at=second(1))


def resume_beside_another(script: Script) -> None:
    script.message(0)
    first = script.row
    script.table.rows["acme/1"] = replace(
        first, conv_id="acme/1", created_at=second(1), updated_at=second(1), idle_at=second(11), expires_at=second(61)
    )
    script.answer(1, script.row, opened=True)
    first = script.table.change(first, "progress", "activity", second(2))
    first = replace(first, updated_at=second(2), idle_at=second(12))
    script.answer(2, first, opened=False)
    script.table.end(first, "sweep", second(12))
    script.table.end(script.row, "sweep", second(13))


def name_what_is_equal_idle(script: Script) -> None:
    script.expiry = script.idle
    script.message(0)
    script.table.change(script.row, "idle_timeout", "sweep", second(10))


def close_at_the_deadline(script: Script) -> None:
    script.message(0)
    row = script.table.change(script.row, "closed", "close", second(10))
    script.answer(10, row, opened=None, kind=Kind.CLOSE, conv_id=row.conv_id)


def set_another_idle_deadline(script: Script) -> None:
    script.message(0)
    script.set_row(idle_at=second(11))


def move_the_expiry(script: Script) -> None:
    script.message(0)
    script.message(5)
    script.set_row(expires_at=second(65))


def change_what_ended(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    script.set_row(status="closed")


def touch_what_ended(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    script.set_row(updated_at=second(1), idle_at=second(11))


def reopen_what_ended(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    script.set_row(status="pending", ended_at=None)


def begin_what_ended(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    row = script.row
    script.table.change(row, "progress", "activity", second(12))
    script.table.rows[row.conv_id] = row


def answer_another_end(script: Script) -> None:
    answer = script.message(0)
    script.sweep(11)
    script.close(12, answer.conv_id)
    ended = script.operations[-1].answer
    assert ended is not None
    script.operations[-1] = replace(script.operations[-1], answer=replace(ended, status="closed"))


def end_without_an_event(script: Script) -> None:
    script.message(0)
    script.sweep(11)
    script.table.events.clear()


def begin_without_an_event(script: Script) -> None:
    script.message(0)
    script.message(1)
    script.table.events.clear()


def record_what_is_not_there(script: Script) -> None:
    script.message(0)
    script.table.end(replace(script.row, conv_id="gone"), "sweep", second(11))
    del script.table.rows["gone"]


def answer_a_stale_deadline(script: Script) -> None:
    script.message(0)
    row = script.row
    script.message(1)
    script.message(2)
    told = script.operations[-1].answer
    assert told is not None
    script.operations[-1] = replace(script.operations[-1], answer=replace(told, idle_at=row.idle_at))


def resume_at_the_deadline(script: Script) -> None:
    script.message(0)
    row = script.table.change(script.row, "progress", "activity", second(10))
    script.table.rows[row.conv_id] = replace(row, updated_at=second(10), idle_at=second(20))
    script.answer(10, script.row, opened=False)


def open_beside_another(script: Script) -> None:
    script.message(0)
    first = script.row
    script.table.rows["acme/1"] = replace(
        first, conv_id="acme/1", created_at=second(5), updated_at=second(5), idle_at=second(15), expires_at=second(65)
    )
    script.answer(5, script.row, opened=True)
    script.table.end(first, "sweep", second(11))
    # The clock had not come to the first one's deadline when the second had been opened.
    script.message(6)


def answer_without_counting(script: Script) -> None:
    script.message(0)
    script.message(1)
    script.answer(2, script.row, opened=False)


def begin_by_nobody(script: Script) -> None:
    script.message(0)
    script.table.message(KEY, second(5), timedelta(seconds=IDLE), timedelta(seconds=EXPIRY))


def open_twice(script: Script) -> None:
    script.message(0)
    script.answer(0, script.row, opened=True)


def close_by_nobody(script: Script) -> None:
    answer = script.message(0)
    script.table.close(answer.conv_id, second(5))


@pytest.mark.parametrize(
    ("breaking", "kinds"),
    [
        (lose_an_update, {FindingKind.LOST_ACTIVITY}),
        (lose_a_conversation, {FindingKind.LOST_ACTIVITY}),
        (lose_it_to_another_key, {FindingKind.LOST_ACTIVITY}),
        (end_in_spite_of_activity, {FindingKind.LOST_ACTIVITY, FindingKind.ENDED_EARLY}),
        (end_what_is_not_due, {FindingKind.ENDED_EARLY}),
        (end_twice, {FindingKind.ENDED_TWICE}),
        (have_two_active, {FindingKind.TWO_ACTIVE}),
        (resume_beside_another, {FindingKind.TWO_ACTIVE}),
        (name_what_is_equal_idle, {FindingKind.WRONG_STATUS}),
        (close_at_the_deadline, {FindingKind.WRONG_STATUS}),
        (set_another_idle_deadline, {FindingKind.WRONG_DEADLINE}),
        (move_the_expiry, {FindingKind.WRONG_DEADLINE}),
        (change_what_ended, {FindingKind.CHANGED_AFTER_END}),
        (touch_what_ended, {FindingKind.CHANGED_AFTER_END}),
        (reopen_what_ended, {FindingKind.CHANGED_AFTER_END}),
        (begin_what_ended, {FindingKind.CHANGED_AFTER_END}),
        (answer_another_end, {FindingKind.CHANGED_AFTER_END}),
        (end_without_an_event, {FindingKind.UNRECORDED}),
        (begin_without_an_event, {FindingKind.UNRECORDED}),
        (record_what_is_not_there, {FindingKind.UNRECORDED}),
        (answer_a_stale_deadline, {FindingKind.UNEXPLAINED}),
        (resume_at_the_deadline, {FindingKind.UNEXPLAINED}),
        (open_beside_another, {FindingKind.UNEXPLAINED}),
        (answer_without_counting, {FindingKind.LOST_ACTIVITY}),
        (begin_by_nobody, {FindingKind.UNEXPLAINED}),
        (open_twice, {FindingKind.UNEXPLAINED}),
        (close_by_nobody, {FindingKind.UNEXPLAINED}),
    ],
)
def test_what_is_wrong_is_found(breaking: Callable[[Script], None], kinds: set[FindingKind]) -> None:
    script = Script()
    breaking(script)

    assert script.kinds() == kinds


def test_what_nothing_explains_is_told_with_where_the_key_stood() -> None:
    script = Script()
    answer_a_stale_deadline(script)

    (finding,) = script.found()

    assert finding.operations == (3,)
    assert str(finding) == (
        "unexplained: acme: client 1's message at 2026-01-31T12:00:02.000000Z was answered acme/0 resumed, progress, "
        "last activity 2026-01-31T12:00:02.000000Z, idle_at 2026-01-31T12:00:10.000000Z; before, there could be acme/0 "
        "progress, last activity 2026-01-31T12:00:01.000000Z, idle_at 2026-01-31T12:00:11.000000Z, expires_at "
        "2026-01-31T12:01:00.000000Z (operations 3)"
    )


def test_a_search_that_gives_up_says_so() -> None:
    script = ended_once()
    (chapter,) = open_book(script.operations, script.final()).chapters
    clock = Clock([(one.invoked, microseconds_of(one.now)) for one in script.operations])

    (finding,) = check_order(chapter, clock, most_states=1)

    assert finding.kind is FindingKind.UNDECIDED


@pytest.mark.parametrize(("read_at", "left"), [(13 - MOMENT, False), (13, False), (13 + MOMENT, True)])
def test_what_is_due_at_the_end_for_longer_than_is_allowed_is_found(read_at: float, left: bool) -> None:  # noqa: FBT001
    script = Script()
    script.message(0)

    found = check(script.operations, script.final(read_at), allowed=timedelta(seconds=3))

    assert [finding.kind for finding in found] == [FindingKind.LEFT_DUE] * left


@pytest.mark.parametrize(
    ("due_since", "left"), [(None, False), (20 + MOMENT, False), (20, False), (20 - MOMENT, True), (0, True)]
)
def test_what_is_due_at_a_checkpoint_for_longer_than_is_allowed_is_found(
    due_since: float | None,
    left: bool,  # noqa: FBT001
) -> None:
    since = None if due_since is None else second(due_since)
    checkpoint = Checkpoint(at=second(23), due_since=since, allowed=3, after="a worker was killed")

    found = check([], Script().final(), [checkpoint])

    assert [finding.kind for finding in found] == [FindingKind.LEFT_DUE] * left
