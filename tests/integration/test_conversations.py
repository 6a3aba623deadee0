import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import Engine, event
from sqlmodel import Session

from models import Conversation, ConversationStatus, EventCause
from services.arguments import LONGEST_SESSION_KEY, LONGEST_TEXT
from services.conversations import (
    Activity,
    close_conversation,
    find_active_conversation,
    get_conversation,
    list_active_conversations,
    list_events,
    record_activity,
)
from services.database import create_database_engine, open_session
from services.errors import ConversationNotFoundError, InvalidValueError, NaiveDatetimeError
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts
from tests.support import (
    MOMENT,
    NOON,
    TIMEOUTS,
    all_conversations,
    all_events,
    insert_row,
    open_conversation,
    opened,
)

PENDING, PROGRESS = ConversationStatus.PENDING, ConversationStatus.PROGRESS
IDLE_TIMEOUT, EXPIRED = ConversationStatus.IDLE_TIMEOUT, ConversationStatus.EXPIRED
CLOSED = ConversationStatus.CLOSED
MINUTE = timedelta(minutes=1)
IDLE_AT = NOON + TIMEOUTS.idle
EXPIRES_AT = NOON + TIMEOUTS.expiry
UNKNOWN = uuid.UUID(int=0)

#: The three ways in which a message reaches a conversation that is known.
Way = Callable[[Session, Conversation, datetime], Any]


def by_pair(session: Session, conversation: Conversation, now: datetime) -> Any:
    del conversation
    return open_conversation(session, now=now)


def by_id(session: Session, conversation: Conversation, now: datetime) -> Any:
    return record_activity(session, conv_id=conversation.conv_id, now=now, timeouts=TIMEOUTS)


def by_session_key(session: Session, conversation: Conversation, now: datetime) -> Any:
    return record_activity(session, session_key=conversation.session_key, now=now, timeouts=TIMEOUTS)


every_way = pytest.mark.parametrize("way", [by_pair, by_id, by_session_key])


def lively_until_its_expiry(session: Session) -> Conversation:
    """Return a conversation whose idle deadline is ten minutes after its expiry."""
    conversation = open_conversation(session).conversation
    while conversation.idle_at < EXPIRES_AT:
        conversation = open_conversation(session, now=conversation.updated_at + 20 * MINUTE).conversation
    assert conversation.deadline == EXPIRES_AT
    return conversation


def outline(session: Session, conversation: Conversation) -> list[tuple[Any, ...]]:
    events = list_events(session, conv_id=conversation.conv_id)
    return [(event.previous_status, event.status, event.cause, event.deadline, event.occurred_at) for event in events]


# Opening and resuming


def test_the_first_message_opens_a_pending_conversation_with_both_deadlines(session: Session) -> None:
    activity = open_conversation(session, user_id="maria", metadata={"plan": "gold"})

    assert activity.opened
    session.expire_all()
    kept = get_conversation(session, conv_id=activity.conversation.conv_id)
    assert (kept.owner_id, kept.user_id, kept.channel) == ("acme", "maria", "whatsapp")
    assert (kept.from_number, kept.to_number) == ("+33600000001", "+33123456789")
    assert kept.session_key == "acme:whatsapp:+33123456789:+33600000001"
    assert (kept.status, kept.created_at, kept.updated_at, kept.ended_at) == (PENDING, NOON, NOON, None)
    assert (kept.idle_at, kept.expires_at) == (IDLE_AT, EXPIRES_AT)
    assert kept.metadata_ == {"plan": "gold"}
    assert list_events(session, conv_id=kept.conv_id) == []


@every_way
def test_the_second_message_takes_it_from_pending_to_progress_with_one_event_and_the_third_with_none(
    session: Session, way: Way
) -> None:
    first = open_conversation(session).conversation

    second = way(session, first, NOON + MINUTE)
    third = way(session, first, NOON + 2 * MINUTE)

    assert not second.opened
    assert not third.opened
    assert {second.conversation.conv_id, third.conversation.conv_id} == {first.conv_id}
    assert third.conversation.status is PROGRESS
    assert third.conversation.updated_at == NOON + 2 * MINUTE
    assert outline(session, first) == [(PENDING, PROGRESS, EventCause.ACTIVITY, IDLE_AT, NOON + MINUTE)]


@every_way
def test_activity_before_the_deadline_moves_the_idle_deadline_and_leaves_the_expiry(session: Session, way: Way) -> None:
    first = open_conversation(session).conversation
    now = IDLE_AT - MOMENT

    extended = way(session, first, now).conversation

    assert extended.conv_id == first.conv_id
    assert (extended.created_at, extended.updated_at) == (NOON, now)
    assert (extended.idle_at, extended.expires_at) == (now + TIMEOUTS.idle, EXPIRES_AT)


@every_way
@pytest.mark.parametrize(
    ("in_progress", "late"), [(False, timedelta(0)), (True, timedelta(0)), (False, MOMENT), (True, timedelta(days=2))]
)
def test_activity_from_the_idle_deadline_on_ends_it_as_a_sweep_would_and_opens_the_next(
    session: Session, way: Way, *, in_progress: bool, late: timedelta
) -> None:
    old = open_conversation(session).conversation
    if in_progress:
        open_conversation(session, now=NOON)
    now = IDLE_AT + late

    activity = way(session, old, now)

    assert activity.opened
    new = activity.conversation
    assert new.conv_id != old.conv_id
    assert (new.session_key, new.owner_id) == (old.session_key, "acme")
    assert (new.status, new.created_at, new.idle_at, new.expires_at) == (
        PENDING,
        now,
        now + TIMEOUTS.idle,
        now + TIMEOUTS.expiry,
    )
    ended = get_conversation(session, conv_id=old.conv_id)
    assert (ended.status, ended.ended_at, ended.updated_at) == (IDLE_TIMEOUT, now, NOON)
    previous = PROGRESS if in_progress else PENDING
    assert outline(session, old)[in_progress:] == [(previous, IDLE_TIMEOUT, EventCause.ACTIVITY, IDLE_AT, now)]


@every_way
def test_activity_just_before_the_expiry_goes_on_and_activity_at_it_opens_the_next(session: Session, way: Way) -> None:
    old = lively_until_its_expiry(session)

    assert not way(session, old, EXPIRES_AT - MOMENT).opened
    activity = way(session, old, EXPIRES_AT)

    assert activity.opened
    assert get_conversation(session, conv_id=old.conv_id).status is EXPIRED
    assert outline(session, old)[-1] == (PROGRESS, EXPIRED, EventCause.ACTIVITY, EXPIRES_AT, EXPIRES_AT)


@every_way
def test_activity_at_both_deadlines_at_once_finds_it_expired(session: Session, way: Way) -> None:
    same = Timeouts(idle=TIMEOUTS.idle, expiry=TIMEOUTS.idle)
    old = open_conversation(session, timeouts=same).conversation

    way(session, old, IDLE_AT)

    assert get_conversation(session, conv_id=old.conv_id).status is EXPIRED


@every_way
def test_activity_writes_the_status_and_the_deadline_that_a_sweep_on_time_would_have(engine: Engine, way: Way) -> None:
    timeouts = [Timeouts(idle=idle * MINUTE, expiry=expiry * MINUTE) for idle, expiry in ((30, 60), (60, 30), (30, 30))]
    unswept = [opened(engine, number=1, owner_id=f"unswept {n}", timeouts=each) for n, each in enumerate(timeouts)]
    for n, each in enumerate(timeouts):
        opened(engine, number=1, owner_id=f"swept {n}", timeouts=each)
    with open_session(engine) as session:
        for conversation in unswept:
            if way is by_pair:
                open_conversation(session, owner_id=conversation.owner_id, now=NOON + timedelta(hours=2))
            else:
                way(session, conversation, NOON + timedelta(hours=2))
        session.commit()
    assert process_idle_conversations(engine, now=NOON + 30 * MINUTE).count == 2
    assert process_expired_conversations(engine, now=NOON + 30 * MINUTE).count == 1

    found = {event.conv_id: (event.status, event.deadline, event.last_activity_at) for event in all_events(engine)}
    by_owner = {one.owner_id: found.get(one.conv_id) for one in all_conversations(engine) if not one.is_active}

    assert len(by_owner) == 6
    for n in range(3):
        assert by_owner[f"unswept {n}"] == by_owner[f"swept {n}"]


@every_way
def test_activity_stamped_earlier_than_the_last_counts_and_moves_nothing_back(session: Session, way: Way) -> None:
    conversation = open_conversation(session).conversation
    latest = way(session, conversation, NOON + 10 * MINUTE).conversation.updated_at

    resumed = way(session, conversation, NOON + 5 * MINUTE)

    assert not resumed.opened
    assert resumed.conversation.conv_id == conversation.conv_id
    assert (resumed.conversation.updated_at, resumed.conversation.idle_at) == (latest, latest + TIMEOUTS.idle)


@every_way
def test_an_early_stamp_takes_a_pending_conversation_to_progress_and_moves_nothing_back(
    session: Session, way: Way
) -> None:
    conversation = open_conversation(session).conversation

    resumed = way(session, conversation, NOON - MINUTE).conversation

    assert (resumed.status, resumed.updated_at, resumed.idle_at) == (PROGRESS, NOON, IDLE_AT)


@every_way
def test_the_idle_timeout_of_the_latest_message_counts_even_when_it_is_shorter(session: Session, way: Way) -> None:
    conversation = open_conversation(session, timeouts=Timeouts(idle=2 * TIMEOUTS.idle, expiry=TIMEOUTS.expiry))

    assert way(session, conversation.conversation, NOON + MINUTE).conversation.idle_at == IDLE_AT + MINUTE


@every_way
def test_what_a_message_returns_is_the_sessions_own_object_with_the_values_of_the_database(
    session: Session, way: Way
) -> None:
    first = open_conversation(session).conversation
    session.commit()
    session.expire(first)

    resumed = way(session, first, NOON + MINUTE).conversation

    assert resumed is first
    assert resumed in session
    assert not session.dirty
    assert (first.status, first.updated_at) == (PROGRESS, NOON + MINUTE)
    session.refresh(first)
    assert first == get_conversation(session, conv_id=first.conv_id)


@every_way
def test_what_the_session_has_yet_to_write_is_written_before_a_message(session: Session, way: Way) -> None:
    first = open_conversation(session).conversation
    first.user_id = "maria"

    resumed = way(session, first, NOON + MINUTE).conversation

    assert resumed.user_id == "maria"
    session.refresh(resumed)
    assert resumed.user_id == "maria"


def test_both_directions_of_a_pair_are_one_conversation(session: Session) -> None:
    there = open_conversation(session, from_number="+33 6 00 00 00 07", to_number="+33123456789")
    back = open_conversation(session, from_number="+33123456789", to_number="+33600000007", channel="WhatsApp")

    assert not back.opened
    assert back.conversation.conv_id == there.conversation.conv_id


def test_another_owner_channel_or_number_is_another_conversation(session: Session) -> None:
    activities = [
        open_conversation(session),
        open_conversation(session, owner_id="other"),
        open_conversation(session, channel="sms"),
        open_conversation(session, number=2),
        open_conversation(session, session_key="of the caller's own"),
    ]

    assert all(activity.opened for activity in activities)


def test_a_session_key_of_the_callers_own_is_what_counts(session: Session) -> None:
    first = open_conversation(session, session_key="ticket 7")
    second = open_conversation(session, session_key="ticket 7", number=2)

    assert (second.opened, second.conversation.conv_id) == (False, first.conversation.conv_id)
    assert second.conversation.from_number == first.conversation.from_number


def test_metadata_is_kept_as_json_and_a_resumed_conversation_keeps_its_own(session: Session) -> None:
    metadata = {"näme": "Žofie 🙂", "tags": ["a", {"b": None}], "count": 3, "rate": 0.5, "vip": True, "empty": {}}
    first = open_conversation(session, metadata=metadata, user_id="one").conversation

    resumed = open_conversation(session, now=NOON + MINUTE, metadata={"other": 1}, user_id="two").conversation

    assert (resumed.metadata_, resumed.user_id) == (metadata, "one")
    session.expire_all()
    assert get_conversation(session, conv_id=first.conv_id).metadata_ == metadata


@pytest.mark.parametrize("metadata", [None, {}])
def test_no_metadata_is_an_empty_object(session: Session, metadata: dict[str, Any] | None) -> None:
    conversation = open_conversation(session, metadata=metadata).conversation

    session.expire_all()
    assert get_conversation(session, conv_id=conversation.conv_id).metadata_ == {}


@pytest.mark.parametrize("way", [by_id, by_session_key])
def test_a_successor_has_the_particulars_of_its_predecessor(session: Session, way: Way) -> None:
    old = open_conversation(session, user_id="maria", metadata={"plan": "gold"}).conversation

    new = way(session, old, IDLE_AT).conversation

    kept = {"owner_id", "user_id", "channel", "from_number", "to_number", "session_key"}
    assert new.conv_id != old.conv_id
    assert new.model_dump(include=kept) == old.model_dump(include=kept)
    assert new.metadata_ == {"plan": "gold"}


def test_a_successor_of_a_new_message_of_the_pair_has_the_particulars_of_that_message(session: Session) -> None:
    open_conversation(session, user_id="maria", metadata={"plan": "gold"})

    new = open_conversation(session, now=IDLE_AT, user_id="jan", metadata={"plan": "none"}).conversation

    assert (new.user_id, new.metadata_) == ("jan", {"plan": "none"})


# Activity on a conversation that is known


@pytest.mark.parametrize("end", ["swept", "closed"])
@pytest.mark.parametrize("way", [by_id, by_session_key])
def test_activity_on_an_ended_conversation_opens_the_next_and_leaves_the_old_as_it_was(
    engine: Engine, way: Way, end: str
) -> None:
    old = opened(engine)
    if end == "swept":
        process_idle_conversations(engine, now=IDLE_AT)
    with open_session(engine) as session:
        ended = close_conversation(session, conv_id=old.conv_id, now=NOON + MINUTE).model_dump()
        events = outline(session, old)

        activity = way(session, old, IDLE_AT + MINUTE)

        assert activity.opened
        assert activity.conversation.conv_id != old.conv_id
        assert get_conversation(session, conv_id=old.conv_id).model_dump() == ended
        assert outline(session, old) == events


def test_activity_on_an_ended_conversation_goes_to_the_active_one_on_its_key(session: Session) -> None:
    old = open_conversation(session).conversation
    successor = open_conversation(session, now=IDLE_AT).conversation

    activity = by_id(session, old, IDLE_AT + MINUTE)

    assert (activity.opened, activity.conversation.conv_id) == (False, successor.conv_id)
    assert activity.conversation.updated_at == IDLE_AT + MINUTE


def test_activity_on_an_ended_conversation_ends_an_overdue_successor_and_opens_another(session: Session) -> None:
    old = open_conversation(session).conversation
    successor = open_conversation(session, now=IDLE_AT).conversation

    activity = by_id(session, old, successor.idle_at)

    assert activity.opened
    assert get_conversation(session, conv_id=successor.conv_id).status is IDLE_TIMEOUT


def test_activity_by_session_key_continues_the_latest_of_its_conversations(session: Session) -> None:
    for generation in range(3):
        now = NOON + generation * TIMEOUTS.idle
        conversation = open_conversation(session, now=now, user_id=f"generation {generation}").conversation

    activity = by_session_key(session, conversation, conversation.idle_at)

    assert (activity.opened, activity.conversation.user_id) == (True, "generation 2")


def test_activity_by_session_key_continues_the_active_one_although_another_was_opened_later(engine: Engine) -> None:
    later = {"created_at": "2026-01-31 13:00:00.000000", "ended_at": "2026-01-31 13:00:00.000000"}
    insert_row(engine, session_key="shared", user_id="ended", status="closed", **later)
    active = insert_row(engine, session_key="shared", user_id="active")
    with open_session(engine) as session:
        activity = record_activity(session, session_key="shared", now=IDLE_AT, timeouts=TIMEOUTS)

        assert (activity.opened, activity.conversation.user_id) == (True, "active")
        assert get_conversation(session, conv_id=uuid.UUID(active)).status is IDLE_TIMEOUT


@pytest.mark.parametrize("known_by", [{"conv_id": UNKNOWN}, {"session_key": "nobody's"}])
def test_activity_on_what_never_was_is_refused(session: Session, known_by: dict[str, Any]) -> None:
    open_conversation(session)
    with pytest.raises(ConversationNotFoundError, match=str(next(iter(known_by.values())))):
        record_activity(session, now=NOON, timeouts=TIMEOUTS, **known_by)


@pytest.mark.parametrize("both_or_neither", [{}, {"conv_id": UNKNOWN, "session_key": "key"}])
def test_activity_takes_either_an_id_or_a_session_key(session: Session, both_or_neither: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match="either conv_id or session_key"):
        record_activity(session, now=NOON, timeouts=TIMEOUTS, **both_or_neither)


# Closing


@pytest.mark.parametrize("in_progress", [False, True])
def test_closing_before_the_deadline_closes_with_one_event(session: Session, *, in_progress: bool) -> None:
    conversation = open_conversation(session).conversation
    if in_progress:
        open_conversation(session, now=NOON)
    now = IDLE_AT - MOMENT

    closed = close_conversation(session, conv_id=conversation.conv_id, now=now)

    assert (closed.status, closed.ended_at, closed.updated_at) == (CLOSED, now, NOON)
    previous = PROGRESS if in_progress else PENDING
    assert outline(session, closed)[in_progress:] == [(previous, CLOSED, EventCause.CLOSE, IDLE_AT, now)]
    assert find_active_conversation(session, session_key=closed.session_key) is None


@pytest.mark.parametrize("late", [timedelta(0), MOMENT, timedelta(days=9)])
@pytest.mark.parametrize(("expiry", "status"), [(60, IDLE_TIMEOUT), (30, EXPIRED)])
def test_closing_from_the_deadline_on_gives_the_status_that_the_deadline_names(
    session: Session, late: timedelta, expiry: int, status: ConversationStatus
) -> None:
    timeouts = Timeouts(idle=30 * MINUTE, expiry=expiry * MINUTE)
    conversation = open_conversation(session, timeouts=timeouts).conversation

    closed = close_conversation(session, conv_id=conversation.conv_id, now=IDLE_AT + late)

    assert (closed.status, closed.ended_at) == (status, IDLE_AT + late)
    assert outline(session, closed) == [(PENDING, status, EventCause.CLOSE, IDLE_AT, IDLE_AT + late)]


@pytest.mark.parametrize("end", ["swept", "closed"])
def test_closing_an_ended_conversation_changes_nothing(engine: Engine, end: str) -> None:
    conversation = opened(engine)
    if end == "swept":
        process_idle_conversations(engine, now=IDLE_AT)
    with open_session(engine) as session:
        first = close_conversation(session, conv_id=conversation.conv_id, now=NOON + MINUTE).model_dump()
        second = close_conversation(session, conv_id=conversation.conv_id, now=NOON + timedelta(days=3)).model_dump()

        assert first == second
        assert second["status"] is (IDLE_TIMEOUT if end == "swept" else CLOSED)
        assert len(outline(session, conversation)) == 1


def test_closing_or_getting_what_never_was_is_refused(session: Session) -> None:
    with pytest.raises(ConversationNotFoundError, match=str(UNKNOWN)):
        close_conversation(session, conv_id=UNKNOWN, now=NOON)
    with pytest.raises(ConversationNotFoundError, match=str(UNKNOWN)):
        get_conversation(session, conv_id=UNKNOWN)


def test_closing_closes_no_other_conversation(session: Session) -> None:
    one, two = open_conversation(session, number=1), open_conversation(session, number=2)

    close_conversation(session, conv_id=one.conversation.conv_id, now=NOON)

    assert get_conversation(session, conv_id=two.conversation.conv_id).status is PENDING


# Reading


def test_the_active_conversation_of_a_key_is_found_and_an_ended_one_is_not(session: Session) -> None:
    old = open_conversation(session).conversation
    new = open_conversation(session, now=IDLE_AT).conversation
    assert old.session_key == new.session_key

    found = find_active_conversation(session, session_key=new.session_key)

    assert found is not None
    assert found.conv_id == new.conv_id
    close_conversation(session, conv_id=new.conv_id, now=IDLE_AT)
    assert find_active_conversation(session, session_key=new.session_key) is None


def test_an_owners_active_conversations_come_page_by_page_oldest_first_none_twice_none_lost(session: Session) -> None:
    # Three openings in each instant, so that pages end among equals.
    expected = [
        open_conversation(session, number=number, now=NOON + number // 3 * MINUTE).conversation for number in range(9)
    ]
    open_conversation(session, number=50, owner_id="other")
    close_conversation(session, conv_id=expected.pop(4).conv_id, now=NOON + 3 * MINUTE)
    expected.sort(key=lambda one: (one.created_at, str(one.conv_id)))

    for limit in (1, 2, 3, 8, 9):
        pages: list[Conversation] = []
        while page := list_active_conversations(
            session, owner_id="acme", limit=limit, after=pages[-1] if pages else None
        ):
            assert len(page) <= limit
            pages += page
        assert [one.conv_id for one in pages] == [one.conv_id for one in expected]


def test_what_a_session_has_read_before_is_read_anew(engine: Engine) -> None:
    conversation = opened(engine)
    with open_session(engine) as session:
        before = get_conversation(session, conv_id=conversation.conv_id)
        assert before.is_active
        session.rollback()
        process_idle_conversations(engine, now=IDLE_AT)

        assert get_conversation(session, conv_id=conversation.conv_id).status is IDLE_TIMEOUT
        assert list_active_conversations(session, owner_id="acme") == []


# Transactions


@every_way
def test_the_callers_rollback_undoes_the_end_the_opening_and_the_event(engine: Engine, way: Way) -> None:
    old = opened(engine)
    with open_session(engine) as session:
        way(session, old, IDLE_AT)
        assert len(session.new | session.dirty) == 0
        session.rollback()

    assert [one.model_dump() for one in all_conversations(engine)] == [old.model_dump()]
    assert all_events(engine) == []


def test_the_callers_rollback_undoes_an_opening_a_resumption_and_a_closing(engine: Engine) -> None:
    kept = opened(engine, number=1)
    with open_session(engine) as session:
        open_conversation(session, number=2)
        open_conversation(session, number=1, now=NOON + MINUTE)
        close_conversation(session, conv_id=kept.conv_id, now=NOON + 2 * MINUTE)
        session.rollback()

    assert [one.model_dump() for one in all_conversations(engine)] == [kept.model_dump()]
    assert all_events(engine) == []


def test_nothing_is_kept_before_the_caller_commits(engine: Engine) -> None:
    with open_session(engine) as session:
        open_conversation(session)

    assert all_conversations(engine) == []


# What is refused


def test_naive_datetimes_are_refused(session: Session) -> None:
    naive = NOON.replace(tzinfo=None)
    conversation = open_conversation(session).conversation
    calls: list[Callable[[], object]] = [
        lambda: open_conversation(session, now=naive),
        lambda: by_id(session, conversation, naive),
        lambda: by_session_key(session, conversation, naive),
        lambda: close_conversation(session, conv_id=conversation.conv_id, now=naive),
    ]
    for call in calls:
        with pytest.raises(NaiveDatetimeError, match=r"^now: "):
            call()


TEXT_ARGUMENTS = ["owner_id", "channel", "from_number", "to_number", "user_id"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * (LONGEST_TEXT + 1), id="too long"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("a\ud800b", id="surrogate"),
    ],
)
def test_a_text_that_no_database_stores_is_refused_with_the_name_of_its_argument(engine: Engine, text: str) -> None:
    with open_session(engine) as session:
        for argument in TEXT_ARGUMENTS:
            for session_key in (None, "of the caller's own"):
                with pytest.raises(InvalidValueError, match=rf"^{argument}: ") as refused:
                    open_conversation(session, session_key=session_key, **cast(dict[str, Any], {argument: text}))
                assert str(refused.value).isprintable()
                assert len(str(refused.value)) < 250
        session.commit()

    assert all_conversations(engine) == []


@pytest.mark.parametrize(
    "text", ["", "x" * (LONGEST_SESSION_KEY + 1), "é" * (LONGEST_SESSION_KEY // 2) + "x", "a\0b", "a\udfffb"]
)
def test_a_session_key_that_no_database_stores_is_refused(session: Session, text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^session_key: "):
        open_conversation(session, session_key=text)


@pytest.mark.parametrize("character", ["x", "é", "漢", "🙂", "%", ":"])
def test_the_longest_text_is_kept_as_it_is(session: Session, character: str) -> None:
    text = character * LONGEST_TEXT

    for argument in TEXT_ARGUMENTS:
        conversation = open_conversation(session, **cast(dict[str, Any], {argument: text})).conversation
        session.expire_all()
        assert getattr(get_conversation(session, conv_id=conversation.conv_id), argument) == text


def test_the_longest_particulars_together_make_a_key_that_is_taken(session: Session) -> None:
    longest: dict[str, Any] = {argument: "é" * (LONGEST_TEXT - 1) + argument[0] for argument in TEXT_ARGUMENTS}

    first = open_conversation(session, **longest).conversation

    assert open_conversation(session, now=NOON, **longest).conversation.conv_id == first.conv_id


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"rate": float("nan")}, id="NaN"),
        pytest.param({"rate": [float("-inf")]}, id="infinity"),
        pytest.param({"name": "a\0b"}, id="NUL"),
        pytest.param({"a\0b": 1}, id="NUL in a key"),
        pytest.param({"name": "a\ud800b"}, id="surrogate"),
        pytest.param({"at": NOON}, id="not JSON"),
        pytest.param({"names": {"a", "b"}}, id="a set"),
        pytest.param({1: "one"}, id="a key that is no string"),
        pytest.param({"nested": [{None: "none"}]}, id="a nested key that is no string"),
        pytest.param(["a", "list"], id="a list"),
        pytest.param("text", id="a text"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused_with_its_name(session: Session, metadata: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^metadata\b") as refused:
        open_conversation(session, metadata=metadata)

    assert "\n" not in str(refused.value)


def test_metadata_that_refers_to_itself_is_refused(session: Session) -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    with pytest.raises(InvalidValueError, match=r"^metadata: "):
        open_conversation(session, metadata=circle)


def test_metadata_with_a_backslash_is_kept_as_it_is(session: Session) -> None:
    metadata = {"path": "C:\\u0000", "quote": '"\\'}

    conversation = open_conversation(session, metadata=metadata).conversation

    session.expire_all()
    assert get_conversation(session, conv_id=conversation.conv_id).metadata_ == metadata


@pytest.mark.parametrize("text", ["", "a\0b", "a\ud800b"])
def test_a_session_key_that_cannot_be_known_is_an_error_of_ours(session: Session, text: str) -> None:
    with pytest.raises((InvalidValueError, ConversationNotFoundError)):
        record_activity(session, session_key=text, now=NOON, timeouts=TIMEOUTS)


def test_a_time_that_leaves_no_room_for_a_deadline_is_refused(session: Session) -> None:
    with pytest.raises(InvalidValueError, match=r"^now: "):
        open_conversation(session, now=datetime.max.replace(tzinfo=NOON.tzinfo))


def test_a_session_key_of_another_owner_is_refused_and_nothing_is_touched(engine: Engine) -> None:
    theirs = opened(engine, session_key="shared", now=NOON)
    for later in (timedelta(minutes=1), timedelta(hours=2)):  # while it is pending, and past its deadline
        with (
            open_session(engine) as session,
            pytest.raises(InvalidValueError, match="session_key: 'shared' has an active conversation of another owner"),
        ):
            open_conversation(session, session_key="shared", owner_id="globex", now=NOON + later)

    [conversation] = all_conversations(engine)
    assert (conversation.conv_id, conversation.status) == (theirs.conv_id, "pending")
    assert all_events(engine) == []


def test_reading_on_sqlite_does_not_wait_for_the_writer(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    conversation = opened(engine)
    with open_session(engine) as writer, open_session(engine, read_only=True) as reader:
        open_conversation(writer, number=2)

        assert [one.conv_id for one in list_active_conversations(reader, owner_id="acme")] == [conversation.conv_id]
    engine.dispose()


def test_activity_may_be_recorded_in_a_hook_of_a_flush(session: Session) -> None:
    conversation = open_conversation(session).conversation
    recorded: list[Activity] = []

    def record(session: Session, *_: Any) -> None:
        if not recorded:
            recorded.append(record_activity(session, now=NOON, timeouts=TIMEOUTS, conv_id=conversation.conv_id))

    event.listen(session, "before_flush", record)
    conversation.user_id = "ann"
    session.flush()

    assert recorded[0].conversation.status is ConversationStatus.PROGRESS


def test_a_conversation_that_is_only_added_to_the_session_can_be_closed(session: Session) -> None:
    instants: dict[str, Any] = {"created_at": NOON, "updated_at": NOON, "idle_at": IDLE_AT, "expires_at": IDLE_AT}
    added = Conversation(owner_id="acme", channel="sms", from_number="1", to_number="2", session_key="key", **instants)
    session.add(added)

    assert close_conversation(session, conv_id=added.conv_id, now=NOON).status is ConversationStatus.CLOSED


def test_activity_by_a_key_never_goes_on_from_another_ones_conversation(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    insert_row(engine, session_key="one", status="closed", ended_at="2026-01-31 12:10:00.000000")
    with engine.begin() as connection:  # it fires no trigger for what it replaces
        connection.exec_driver_sql(
            "INSERT OR REPLACE INTO conversations SELECT conv_id, owner_id, user_id, channel, "
            "from_number, to_number, 'two', status, metadata, created_at, updated_at, idle_at, expires_at, ended_at "
            "FROM conversations"
        )
    with open_session(engine) as session, pytest.raises(ConversationNotFoundError, match="one"):
        record_activity(session, session_key="one", now=NOON, timeouts=TIMEOUTS)
    engine.dispose()
