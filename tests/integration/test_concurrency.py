"""Writers and sweeps at the same rows at once: real threads, real locks, the database's clock."""

import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy import event as hooks

from models import Conversation, ConversationStatus, EventCause
from services.conversations import Activity, close_conversation, record_activity
from services.database import create_database_engine, current_time, open_session
from services.sweeps import Sweep, process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts
from tests.support import MOMENT, NOON, TIMEOUTS, all_conversations, all_events, open_conversation, opened, wait_for

#: Short, so that deadlines fall all the time, and of both kinds.
SHORT = Timeouts(idle=timedelta(milliseconds=60), expiry=timedelta(milliseconds=200))
IDLE_AT = NOON + TIMEOUTS.idle


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    engine = create_database_engine(postgresql_url, pool_size=24, max_overflow=0)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Engine]:
    engine = create_database_engine(sqlite_url, pool_size=12, max_overflow=0)
    yield engine
    engine.dispose()


# Everything at once


@dataclass(frozen=True)
class Acknowledged:
    """A message whose transaction was committed."""

    conv_id: uuid.UUID
    opened: bool
    #: What it was stamped with, and when its writer knew that it was kept.
    stamped_at: datetime
    known_at: datetime


def clock(engine: Engine) -> datetime:
    with engine.connect().execution_options(read_only=True) as connection:
        return current_time(connection)


def write(engine: Engine, writer: int, messages: int, keys: int) -> list[Acknowledged]:
    """Write messages on a few keys, in each way that there is, and close a conversation now and then."""
    acknowledged: list[Acknowledged] = []
    known: dict[int, Conversation] = {}
    for message in range(messages):
        number = (writer + message * 7) % keys
        now = clock(engine)
        with open_session(engine) as session:
            way = message % 4
            if way == 0 or number not in known:
                activity = open_conversation(session, number=number, now=now, timeouts=SHORT)
            elif way == 1:
                activity = record_activity(session, conv_id=known[number].conv_id, now=now, timeouts=SHORT)
            else:
                activity = record_activity(session, session_key=known[number].session_key, now=now, timeouts=SHORT)
            session.commit()
        known[number] = activity.conversation
        acknowledged.append(Acknowledged(activity.conversation.conv_id, activity.opened, now, clock(engine)))
        if message % 29 == 28:
            with open_session(engine) as session:
                close_conversation(session, conv_id=known[number].conv_id, now=clock(engine))
                session.commit()
    return acknowledged


def sweep_until(engine: Engine, done: threading.Event, process: Callable[..., Sweep], batch_size: int) -> int:
    count = 0
    while not done.is_set():
        count += process(engine, now=clock(engine), batch_size=batch_size).count
        done.wait(0.002)
    return count


def run_all(engine: Engine, *, writers: int, messages: int, keys: int, sweeps: int) -> tuple[list[Acknowledged], int]:
    done = threading.Event()
    with ThreadPoolExecutor(writers + sweeps) as pool:
        sweeping = [
            pool.submit(
                sweep_until,
                engine,
                done,
                (process_idle_conversations, process_expired_conversations)[number % 2],
                1 + number // 2,
            )
            for number in range(sweeps)
        ]
        try:
            writing = [pool.submit(write, engine, number, messages, keys) for number in range(writers)]
            acknowledged = [one for future in writing for one in future.result(timeout=60)]
        finally:
            done.set()
        return acknowledged, sum(future.result(timeout=60) for future in sweeping)


def check(engine: Engine, acknowledged: list[Acknowledged], swept: int) -> None:
    rows = {one.conv_id: one for one in all_conversations(engine)}
    events = all_events(engine)
    endings = {event.conv_id: event for event in events if event.ended}

    # No two are active on a key; each that ended did so once, and says so.
    active = [one.session_key for one in rows.values() if one.is_active]
    assert len(active) == len(set(active))
    assert len(endings) == sum(bool(event.ended) for event in events)
    assert set(endings) == {one.conv_id for one in rows.values() if not one.is_active}
    assert swept == sum(event.cause is EventCause.SWEEP for event in events)
    for conv_id, event in endings.items():
        row = rows[conv_id]
        assert (event.status, event.deadline, event.last_activity_at) == (row.status, row.deadline, row.updated_at)
        assert row.ended_at == event.occurred_at
        if event.status is ConversationStatus.CLOSED:
            assert event.occurred_at < event.deadline
        else:
            assert event.status is row.status_when_due
            assert event.occurred_at >= event.deadline
        # It was told by a clock that has ticked, so it lies in the past of all of them.
        assert event.occurred_at <= max(one.known_at for one in acknowledged) + timedelta(minutes=1)

    # No message is lost: each is within the conversation that it was told, whose last activity is the last of them.
    told: defaultdict[uuid.UUID, list[Acknowledged]] = defaultdict(list)
    for one in acknowledged:
        told[one.conv_id].append(one)
    assert set(told) == set(rows)
    for conv_id, messages in told.items():
        row = rows[conv_id]
        assert row.updated_at == max(one.stamped_at for one in messages)
        (opener,) = (one for one in messages if one.opened)
        assert row.created_at == opener.stamped_at
        # A message stamped before another writer opened the conversation was on its way while that happened.
        assert all(one.stamped_at <= row.updated_at and row.created_at <= one.known_at for one in messages)
        assert row.idle_at == row.updated_at + SHORT.idle
        assert row.expires_at == row.created_at + SHORT.expiry
        if conv_id in endings:
            assert row.updated_at < endings[conv_id].deadline


def test_on_postgresql_eight_writers_and_four_sweeps_lose_and_double_nothing(postgresql: Engine) -> None:
    acknowledged, swept = run_all(postgresql, writers=8, messages=150, keys=5, sweeps=4)

    check(postgresql, acknowledged, swept)
    causes = Counter((event.cause, event.status) for event in all_events(postgresql))
    # It was a contest: sweeps and messages both ended some, by both deadlines.
    ending = {cause for cause, status in causes if not status.is_active}
    assert ending == {EventCause.SWEEP, EventCause.ACTIVITY, EventCause.CLOSE}
    assert {status for _, status in causes} >= {ConversationStatus.EXPIRED, ConversationStatus.CLOSED}


def test_on_sqlite_four_writers_and_two_sweeps_lose_and_double_nothing(sqlite: Engine) -> None:
    acknowledged, swept = run_all(sqlite, writers=4, messages=50, keys=3, sweeps=2)

    check(sqlite, acknowledged, swept)
    assert any(event.ended for event in all_events(sqlite))


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_applications_that_open_the_same_key_at_once_get_one_conversation(
    request: pytest.FixtureRequest, database: str
) -> None:
    engine: Engine = request.getfixturevalue(database)
    together, rounds = 4, 25
    barrier = threading.Barrier(together, timeout=30)

    def open_all(_: int) -> list[Activity]:
        activities = []
        for number in range(rounds):
            barrier.wait()
            with open_session(engine) as session:
                activities.append(open_conversation(session, number=number))
                session.commit()
        return activities

    with ThreadPoolExecutor(together) as pool:
        by_round = list(zip(*pool.map(open_all, range(together)), strict=True))

    for activities in by_round:
        assert len({activity.conversation.conv_id for activity in activities}) == 1
        assert sum(activity.opened for activity in activities) == 1
    assert len(all_conversations(engine)) == rounds
    assert Counter(event.status for event in all_events(engine)) == {ConversationStatus.PROGRESS: rounds}


def test_messages_that_arrive_at_once_after_the_deadline_end_it_once_and_open_one(postgresql: Engine) -> None:
    together, rounds = 4, 25
    olds = [opened(postgresql, number=number) for number in range(rounds)]
    barrier = threading.Barrier(together, timeout=30)

    def answer_all(thread: int) -> list[Activity]:
        activities = []
        for number, old in enumerate(olds):
            barrier.wait()
            with open_session(postgresql) as session:
                if thread % 2:
                    activity = record_activity(session, conv_id=old.conv_id, now=IDLE_AT, timeouts=TIMEOUTS)
                else:
                    activity = open_conversation(session, number=number, now=IDLE_AT)
                session.commit()
            activities.append(activity)
        return activities

    with ThreadPoolExecutor(together) as pool:
        by_round = list(zip(*pool.map(answer_all, range(together)), strict=True))

    for activities in by_round:
        assert len({activity.conversation.conv_id for activity in activities}) == 1
        assert sum(activity.opened for activity in activities) == 1
    assert len(all_conversations(postgresql)) == 2 * rounds
    assert sum(bool(event.ended) for event in all_events(postgresql)) == rounds


# One race at a time, decided by locks


def count_waiting(engine: Engine) -> int:
    """Return how many connections wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return int(connection.execute(text(query)).scalar_one())


@contextmanager
def uncommitted_sweep(engine: Engine) -> Iterator[None]:
    """Hold a sweep's batch just before its commit, and let it commit at the end."""
    reached, go_on = threading.Event(), threading.Event()
    sweeping = create_database_engine(engine.url)

    def hold(_: Any) -> None:
        reached.set()
        assert go_on.wait(30)

    hooks.listen(sweeping, "commit", hold)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(process_idle_conversations, sweeping, now=IDLE_AT)
        try:
            assert reached.wait(30)
            yield
        finally:
            go_on.set()
        assert future.result(30).count == 1
    sweeping.dispose()


WAYS: dict[str, Callable[..., Activity]] = {
    "pair": lambda session, _, now: open_conversation(session, now=now),
    "id": lambda session, old, now: record_activity(session, conv_id=old.conv_id, now=now, timeouts=TIMEOUTS),
    "key": lambda session, old, now: record_activity(session, session_key=old.session_key, now=now, timeouts=TIMEOUTS),
}


def answered(engine: Engine, way: Callable[..., Activity], old: Conversation, now: datetime) -> Activity:
    """Record a message in one of ``WAYS``, and commit."""
    with open_session(engine) as session:
        activity = way(session, old, now)
        session.commit()
    return activity


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("stamped", [IDLE_AT - MOMENT, IDLE_AT + MOMENT], ids=["before", "after"])
def test_a_message_waits_for_a_sweeps_uncommitted_batch_and_opens_the_next(
    postgresql: Engine, way: Callable[..., Activity], stamped: datetime
) -> None:
    old = opened(postgresql)

    with ThreadPoolExecutor(1) as pool:
        with uncommitted_sweep(postgresql):
            future = pool.submit(answered, postgresql, way, old, stamped)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the sweep")
            assert not future.done()
        activity = future.result(30)

    assert activity.opened
    ended, new = sorted(all_conversations(postgresql), key=lambda one: one.is_active)
    assert (ended.conv_id, ended.status, ended.updated_at) == (old.conv_id, ConversationStatus.IDLE_TIMEOUT, NOON)
    assert (new.conv_id, new.created_at) == (activity.conversation.conv_id, stamped)
    assert [(event.conv_id, event.cause) for event in all_events(postgresql)] == [(old.conv_id, EventCause.SWEEP)]


def test_a_closing_waits_for_a_sweeps_uncommitted_batch_and_changes_nothing(postgresql: Engine) -> None:
    old = opened(postgresql)

    def close() -> Conversation:
        with open_session(postgresql) as session:
            closed = close_conversation(session, conv_id=old.conv_id, now=IDLE_AT - MOMENT)
            session.commit()
        return closed

    with ThreadPoolExecutor(1) as pool:
        with uncommitted_sweep(postgresql):
            future = pool.submit(close)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the sweep")
            assert not future.done()
        closed = future.result(30)

    assert closed.status is ConversationStatus.IDLE_TIMEOUT
    assert [event.cause for event in all_events(postgresql)] == [EventCause.SWEEP]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("in_progress", [False, True])
def test_a_sweep_skips_what_a_message_holds_and_what_it_has_extended_stays_active(
    postgresql: Engine, way: Callable[..., Activity], *, in_progress: bool
) -> None:
    held = opened(postgresql, number=1)
    if in_progress:
        opened(postgresql, number=1)
    other = opened(postgresql, number=2)

    with open_session(postgresql) as session:
        way(session, held, IDLE_AT - MOMENT)
        assert process_idle_conversations(postgresql, now=IDLE_AT, batch_size=1).count == 1
        session.commit()

    assert process_idle_conversations(postgresql, now=IDLE_AT).count == 0
    assert {one.conv_id: one.is_active for one in all_conversations(postgresql)} == {
        held.conv_id: True,
        other.conv_id: False,
    }


def test_a_row_that_was_held_and_not_extended_is_left_to_the_next_sweep(postgresql: Engine) -> None:
    held = opened(postgresql)
    with open_session(postgresql) as session:
        open_conversation(session, now=NOON + timedelta(minutes=1))
        assert process_idle_conversations(postgresql, now=IDLE_AT).count == 0
        session.rollback()

    assert process_idle_conversations(postgresql, now=IDLE_AT).count == 1
    assert [event.conv_id for event in all_events(postgresql)] == [held.conv_id]


def test_a_sweep_skips_what_a_closing_holds_and_the_closing_counts(postgresql: Engine) -> None:
    held = opened(postgresql)
    with open_session(postgresql) as session:
        close_conversation(session, conv_id=held.conv_id, now=IDLE_AT - MOMENT)
        for process in (process_idle_conversations, process_expired_conversations):
            assert process(postgresql, now=NOON + timedelta(days=2)).count == 0
        session.commit()

    assert [event.status for event in all_events(postgresql)] == [ConversationStatus.CLOSED]


def test_two_sweeps_at_once_share_the_work_and_end_each_conversation_once(postgresql: Engine) -> None:
    first = opened(postgresql, number=1)
    with uncommitted_sweep(postgresql):
        second = opened(postgresql, number=2)
        later = NOON + timedelta(days=2)
        assert process_idle_conversations(postgresql, now=later).count == 1
        assert process_expired_conversations(postgresql, now=later).count == 0

    assert {event.conv_id for event in all_events(postgresql)} == {first.conv_id, second.conv_id}
    assert len(all_events(postgresql)) == 2


def test_a_message_that_waited_for_another_does_not_move_its_activity_back(postgresql: Engine) -> None:
    opened(postgresql)
    late, early = NOON + timedelta(minutes=20), NOON + timedelta(minutes=10)

    def answer() -> Activity:
        with open_session(postgresql) as session:
            activity = open_conversation(session, now=early)
            session.commit()
        return activity

    with open_session(postgresql) as session:
        open_conversation(session, now=late)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(answer)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the other message")
            assert not future.done()
            session.commit()
            waited = future.result(30)

    assert not waited.opened
    assert [one.updated_at for one in all_conversations(postgresql)] == [late]
    assert [event.status for event in all_events(postgresql)] == [ConversationStatus.PROGRESS]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_message_that_waited_for_an_opening_resumes_it_once_or_opens_it_itself(postgresql: Engine, end: str) -> None:
    with open_session(postgresql) as session:
        first = open_conversation(session).conversation
        first_id = first.conv_id
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(answered, postgresql, WAYS["pair"], first, NOON + MOMENT)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the opening")
            assert not future.done()
            getattr(session, end)()
            activity = future.result(30)

    committed = end == "commit"
    assert activity.opened is not committed
    (kept,) = all_conversations(postgresql)
    assert (kept.conv_id == first_id) is committed
    assert (kept.conv_id, kept.updated_at) == (activity.conversation.conv_id, NOON + MOMENT)
    assert [event.status for event in all_events(postgresql)] == [ConversationStatus.PROGRESS] * committed


def test_a_message_that_waited_for_an_opening_of_the_past_ends_that_and_opens_the_next(postgresql: Engine) -> None:
    with open_session(postgresql) as session:
        first = open_conversation(session).conversation
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(answered, postgresql, WAYS["pair"], first, IDLE_AT)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the opening")
            session.commit()
            activity = future.result(30)

    assert activity.opened
    assert [(event.conv_id, event.status) for event in all_events(postgresql)] == [
        (first.conv_id, ConversationStatus.IDLE_TIMEOUT)
    ]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("other", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_messages_at_once_on_a_pending_conversation_write_its_change_once(
    postgresql: Engine, way: Callable[..., Activity], other: Callable[..., Activity], end: str
) -> None:
    old = opened(postgresql)
    early, late = NOON + MOMENT, NOON + 2 * MOMENT

    with open_session(postgresql) as session:
        way(session, old, early)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(answered, postgresql, other, old, late)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the other message")
            assert not future.done()
            getattr(session, end)()
            activity = future.result(30)

    assert (activity.opened, activity.conversation.conv_id) == (False, old.conv_id)
    (kept,) = all_conversations(postgresql)
    assert (kept.status, kept.updated_at, kept.idle_at) == (ConversationStatus.PROGRESS, late, late + TIMEOUTS.idle)
    (event,) = all_events(postgresql)
    assert (event.previous_status, event.status) == (ConversationStatus.PENDING, ConversationStatus.PROGRESS)
    assert event.occurred_at == (early if end == "commit" else late)
    assert (event.last_activity_at, event.deadline) == (NOON, IDLE_AT)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("in_progress", [False, True])
def test_a_message_that_waited_for_a_closing_opens_the_next(
    postgresql: Engine, way: Callable[..., Activity], *, in_progress: bool
) -> None:
    old = opened(postgresql)
    if in_progress:
        opened(postgresql)

    with open_session(postgresql) as session:
        close_conversation(session, conv_id=old.conv_id, now=NOON)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(answered, postgresql, way, old, NOON + MOMENT)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the closing")
            assert not future.done()
            session.commit()
            activity = future.result(30)

    assert activity.opened
    assert activity.conversation.conv_id != old.conv_id
    assert {one.conv_id: one.status for one in all_conversations(postgresql)} == {
        old.conv_id: ConversationStatus.CLOSED,
        activity.conversation.conv_id: ConversationStatus.PENDING,
    }
    changes = [ConversationStatus.PROGRESS] * in_progress + [ConversationStatus.CLOSED]
    assert [(event.conv_id, event.status) for event in all_events(postgresql)] == [(old.conv_id, to) for to in changes]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_closing_that_waited_for_a_second_message_closes_what_that_left(
    postgresql: Engine, way: Callable[..., Activity]
) -> None:
    old = opened(postgresql)

    def close() -> Conversation:
        with open_session(postgresql) as session:
            closed = close_conversation(session, conv_id=old.conv_id, now=NOON + 2 * MOMENT)
            session.commit()
        return closed

    with open_session(postgresql) as session:
        way(session, old, NOON + MOMENT)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(close)
            wait_for(lambda: count_waiting(postgresql) == 1 or future.done(), what="a wait for the message")
            assert not future.done()
            session.commit()
            closed = future.result(30)

    assert (closed.status, closed.updated_at) == (ConversationStatus.CLOSED, NOON + MOMENT)
    assert [(event.previous_status, event.status) for event in all_events(postgresql)] == [
        (ConversationStatus.PENDING, ConversationStatus.PROGRESS),
        (ConversationStatus.PROGRESS, ConversationStatus.CLOSED),
    ]
