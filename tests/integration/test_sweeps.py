import itertools
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from benchmarks.statements import statements_of
from models import Conversation, ConversationStatus, EventCause
from services.conversations import close_conversation, record_activity
from services.database import create_database_engine, open_session
from services.errors import InvalidValueError, NaiveDatetimeError
from services.sweeps import (
    Sweep,
    find_expired_conversations,
    find_idle_conversations,
    process_expired_conversations,
    process_idle_conversations,
)
from services.tasks import LARGEST_BATCH_SIZE, Task
from services.timeouts import Timeouts
from tests.support import MOMENT, NOON, TIMEOUTS, all_conversations, all_events, insert_row, opened

IDLE_TIMEOUT, EXPIRED = ConversationStatus.IDLE_TIMEOUT, ConversationStatus.EXPIRED
HALF_HOUR = timedelta(minutes=30)
LATER = NOON + timedelta(days=7)

Process = Callable[..., Sweep]
BOTH: tuple[Process, Process] = (process_idle_conversations, process_expired_conversations)
both_sweeps = pytest.mark.parametrize("process", BOTH)


def minutes(idle: int, expiry: int) -> Timeouts:
    return Timeouts(idle=timedelta(minutes=idle), expiry=timedelta(minutes=expiry))


def scripted(seconds: Iterable[float]) -> Callable[[], float]:
    return iter(seconds).__next__


def snapshot(engine: Engine) -> list[Any]:
    return [row.model_dump() for row in (*all_conversations(engine), *all_events(engine))]


def test_a_conversation_is_ended_exactly_at_its_deadline_and_not_before(engine: Engine) -> None:
    opened(engine)
    deadline = NOON + HALF_HOUR

    assert process_idle_conversations(engine, now=deadline - MOMENT).count == 0
    assert process_idle_conversations(engine, now=deadline).count == 1
    assert process_idle_conversations(engine, now=deadline + MOMENT).count == 0

    assert [one.status for one in all_conversations(engine)] == [IDLE_TIMEOUT]
    assert [event.deadline for event in all_events(engine)] == [deadline]


@pytest.mark.parametrize("since_deadline", [timedelta(0), MOMENT, timedelta(days=3)])
@pytest.mark.parametrize(
    ("process", "timeouts", "status"),
    [
        pytest.param(process_idle_conversations, minutes(30, 60), IDLE_TIMEOUT, id="idle"),
        pytest.param(process_expired_conversations, minutes(60, 30), EXPIRED, id="expired"),
        pytest.param(process_idle_conversations, minutes(30, 30), EXPIRED, id="tie found by the idle sweep"),
        pytest.param(process_expired_conversations, minutes(30, 30), EXPIRED, id="tie found by the expired sweep"),
    ],
)
def test_a_conversation_ends_from_its_deadline_on_with_the_status_that_it_names(
    engine: Engine, process: Process, timeouts: Timeouts, status: ConversationStatus, since_deadline: timedelta
) -> None:
    opened(engine, timeouts=timeouts)
    deadline = NOON + HALF_HOUR

    assert process(engine, now=deadline - MOMENT).count == 0
    assert [one.status for one in all_conversations(engine)] == [ConversationStatus.PENDING]
    assert process(engine, now=deadline + since_deadline).count == 1

    (ended,) = all_conversations(engine)
    assert ended.status is status
    assert ended.ended_at is not None
    assert timedelta(0) <= ended.ended_at - (deadline + since_deadline) < timedelta(minutes=1)
    assert ended.updated_at == NOON
    assert [(event.status, event.deadline) for event in all_events(engine)] == [(status, deadline)]


def test_a_microsecond_decides_which_deadline_comes_first(engine: Engine) -> None:
    for number, expiry in enumerate((HALF_HOUR - MOMENT, HALF_HOUR, HALF_HOUR + MOMENT)):
        opened(engine, number=number, timeouts=Timeouts(idle=HALF_HOUR, expiry=expiry))

    process_idle_conversations(engine, now=NOON + HALF_HOUR + MOMENT)

    assert [(one.from_number[-1], one.status) for one in all_conversations(engine)] == [
        ("0", EXPIRED),
        ("1", EXPIRED),
        ("2", IDLE_TIMEOUT),
    ]


@both_sweeps
@pytest.mark.parametrize(
    ("timeouts", "status", "deadline"),
    [
        (minutes(30, 40), IDLE_TIMEOUT, NOON + timedelta(minutes=30)),
        (minutes(40, 30), EXPIRED, NOON + timedelta(minutes=30)),
        (minutes(40, 40), EXPIRED, NOON + timedelta(minutes=40)),
    ],
)
def test_whichever_sweep_gets_there_first_the_status_and_the_deadline_are_the_same(
    engine: Engine, process: Process, timeouts: Timeouts, status: ConversationStatus, deadline: datetime
) -> None:
    opened(engine, timeouts=timeouts)

    assert process(engine, now=NOON + timedelta(hours=2)).count == 1

    assert [one.status for one in all_conversations(engine)] == [status]
    assert [(event.status, event.deadline) for event in all_events(engine)] == [(status, deadline)]


def test_a_conversation_is_left_to_the_sweep_whose_deadline_is_reached(engine: Engine) -> None:
    opened(engine, number=1, timeouts=minutes(30, 60))
    opened(engine, number=2, timeouts=minutes(60, 30))

    now = NOON + timedelta(minutes=45)
    assert process_expired_conversations(engine, now=now).count == 1
    assert [one.is_active for one in all_conversations(engine)] == [True, False]
    assert process_idle_conversations(engine, now=now).count == 1


@both_sweeps
def test_what_has_ended_is_never_touched_again(engine: Engine, process: Process) -> None:
    for number, status in enumerate(("idle_timeout", "expired", "closed")):
        insert_row(engine, status=status, ended_at="2026-01-31 12:10:00.000000", session_key=f"key {number}")
    one, two = opened(engine, number=1), opened(engine, number=2)
    with open_session(engine) as session:
        close_conversation(session, conv_id=one.conv_id, now=NOON + timedelta(minutes=1))
        record_activity(session, conv_id=two.conv_id, now=NOON + timedelta(minutes=5), timeouts=TIMEOUTS)
        session.commit()
    assert process(engine, now=LATER).count == 1  # the only one that was active
    before = snapshot(engine)

    for again in BOTH:
        sweep = again(engine, now=LATER + timedelta(days=1))
        assert (sweep.count, sweep.batches, sweep.drained) == (0, 0, True)

    assert snapshot(engine) == before


@both_sweeps
@pytest.mark.parametrize("status", ["pending", "progress"])
def test_both_active_statuses_are_swept_and_the_event_says_which_it_was(
    engine: Engine, process: Process, status: str
) -> None:
    insert_row(engine, status=status)

    sweep = process(engine, now=LATER)

    (event,) = all_events(engine)
    (ended,) = all_conversations(engine)
    assert (event.conv_id, event.previous_status, event.status) == (ended.conv_id, status, IDLE_TIMEOUT)
    assert (event.cause, event.sweep_id, event.ended) == (EventCause.SWEEP, sweep.sweep_id, True)
    assert (event.last_activity_at, event.deadline) == (NOON, NOON + HALF_HOUR)
    assert ended.ended_at == event.occurred_at
    assert LATER <= event.occurred_at < LATER + timedelta(minutes=1)
    assert sweep.task is {process_idle_conversations: Task.IDLE, process_expired_conversations: Task.EXPIRED}[process]


@both_sweeps
def test_a_second_run_changes_nothing(engine: Engine, process: Process) -> None:
    for number in range(3):
        opened(engine, number=number)
    process(engine, now=LATER)
    before = snapshot(engine)

    assert process(engine, now=LATER).count == 0

    assert snapshot(engine) == before


@both_sweeps
@pytest.mark.parametrize(("batch_size", "batches"), [(1, 7), (3, 3), (7, 1), (8, 1)])
def test_more_rows_than_a_batch_are_all_ended_by_one_sweep(
    engine: Engine, process: Process, batch_size: int, batches: int
) -> None:
    for number in range(7):
        opened(engine, number=number, now=NOON + timedelta(minutes=number * 17 % 7))

    sweep = process(engine, now=LATER, batch_size=batch_size)

    assert (sweep.count, sweep.batches, sweep.drained) == (7, batches, True)
    assert not any(one.is_active for one in all_conversations(engine))
    assert {event.sweep_id for event in all_events(engine)} == {sweep.sweep_id}
    assert len({event.conv_id for event in all_events(engine)}) == 7


@both_sweeps
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("deadlines", [(0,) * 7, (0, 1, 1, 1, 1, 1, 2)])
def test_conversations_with_the_same_deadline_are_not_lost_between_batches(
    engine: Engine, process: Process, batch_size: int, deadlines: tuple[int, ...]
) -> None:
    for number, minute in enumerate(deadlines):
        opened(engine, number=number, now=NOON + timedelta(minutes=minute))

    assert process(engine, now=LATER, batch_size=batch_size).count == 7


@both_sweeps
def test_those_due_longest_are_ended_first(engine: Engine, process: Process) -> None:
    for number in (3, 1, 4, 0, 2):
        opened(engine, number=number, now=NOON + timedelta(minutes=number))

    process(engine, now=LATER, batch_size=2, time_budget=timedelta(0))

    assert [one.is_active for one in all_conversations(engine)] == [False, False, True, True, True]


@both_sweeps
def test_a_sweep_stops_when_its_time_is_spent_and_the_next_one_goes_on(engine: Engine, process: Process) -> None:
    for number in range(7):
        opened(engine, number=number)
    clock = scripted([100.0, 100.0, 105.0, 110.0])

    sweep = process(engine, now=LATER, batch_size=2, time_budget=timedelta(seconds=10), stopwatch=clock)

    assert (sweep.count, sweep.batches, sweep.duration, sweep.drained) == (4, 2, 10.0, False)
    moments = [event.occurred_at for event in all_events(engine)]
    assert moments == [LATER, LATER, LATER + timedelta(seconds=5), LATER + timedelta(seconds=5)]
    ended = [one.ended_at for one in all_conversations(engine) if one.ended_at]
    assert sorted(ended) == moments
    rest = process(engine, now=LATER, batch_size=2)
    assert (rest.count, rest.drained) == (3, True)


@both_sweeps
def test_a_sweep_goes_on_just_before_its_time_is_spent(engine: Engine, process: Process) -> None:
    for number in range(3):
        opened(engine, number=number)
    clock = scripted([0.0, 0.0, 9.999, 9.9999, 10.0])

    sweep = process(engine, now=LATER, batch_size=1, time_budget=timedelta(seconds=10), stopwatch=clock)

    assert (sweep.count, sweep.drained) == (3, False)


@both_sweeps
def test_a_sweep_does_one_batch_however_late_it_is(engine: Engine, process: Process) -> None:
    for number in range(3):
        opened(engine, number=number)

    sweep = process(engine, now=LATER, batch_size=1, stopwatch=scripted(itertools.count(0.0, 1_000.0)))

    assert (sweep.count, sweep.batches, sweep.drained) == (1, 1, False)


@both_sweeps
def test_a_sweep_that_is_told_to_ends_after_the_batch_in_hand(engine: Engine, process: Process) -> None:
    for number in range(6):
        opened(engine, number=number)
    sweep_id = uuid.uuid4()

    sweep = process(engine, now=LATER, batch_size=2, sweep_id=sweep_id, proceed=iter((True, False)).__next__)

    assert (sweep.count, sweep.batches, sweep.drained, sweep.sweep_id) == (4, 2, False, sweep_id)
    assert [event.sweep_id for event in all_events(engine)] == [sweep_id] * 4


@both_sweeps
def test_a_sweep_is_asked_whether_to_go_on_after_full_batches_only(engine: Engine, process: Process) -> None:
    asked: list[int] = []
    for number in range(5):
        opened(engine, number=number)

    def proceed() -> bool:
        asked.append(len(all_events(engine)))
        return True

    assert process(engine, now=LATER, batch_size=2, proceed=proceed).drained
    assert asked == [2, 4]
    process(engine, now=LATER, batch_size=2, proceed=proceed)
    assert asked == [2, 4]


@both_sweeps
def test_a_sweep_ends_only_what_was_due_when_it_started(engine: Engine, process: Process) -> None:
    opened(engine, number=1, timeouts=minutes(30, 30))
    opened(engine, number=2, timeouts=minutes(30, 30), now=NOON + timedelta(seconds=1))

    sweep = process(engine, now=NOON + HALF_HOUR, batch_size=1, stopwatch=scripted(itertools.count(0.0, 5.0)))

    assert (sweep.count, sweep.drained) == (1, True)


@pytest.mark.parametrize("now", [NOON, NOON + HALF_HOUR - MOMENT, NOON + HALF_HOUR, NOON + timedelta(hours=1), LATER])
@pytest.mark.parametrize(
    ("find", "process"),
    [
        (find_idle_conversations, process_idle_conversations),
        (find_expired_conversations, process_expired_conversations),
    ],
)
def test_find_returns_what_process_would_end_and_ends_nothing(
    engine: Engine, find: Callable[..., list[Conversation]], process: Process, now: datetime
) -> None:
    for number, timeouts in enumerate((minutes(30, 90), minutes(60, 30), minutes(30, 30), minutes(120, 90))):
        opened(engine, number=number, timeouts=timeouts)
    insert_row(engine, status="closed", ended_at="2026-01-31 12:10:00.000000")
    before = snapshot(engine)

    with open_session(engine) as session:
        found = {one.conv_id: (one.status_when_due, one.deadline) for one in find(session, now=now)}

    assert snapshot(engine) == before
    assert process(engine, now=now).count == len(found)
    assert {event.conv_id: (event.status, event.deadline) for event in all_events(engine)} == found


def test_find_returns_those_due_longest_first_and_no_more_than_asked(engine: Engine) -> None:
    for number in (2, 0, 3, 1):
        opened(engine, number=number, now=NOON + timedelta(minutes=number))

    with open_session(engine) as session:
        idle = find_idle_conversations(session, now=LATER, limit=3)
        expired = find_expired_conversations(session, now=LATER, limit=2)

    assert [one.from_number[-1] for one in idle] == ["0", "1", "2"]
    assert [one.from_number[-1] for one in expired] == ["0", "1"]


@both_sweeps
def test_rows_of_plain_sql_are_swept_like_any_other(engine: Engine, process: Process) -> None:
    due = insert_row(engine, idle_at="2026-01-31 12:30:00.000000", expires_at="2026-01-31 12:30:00.000000")
    insert_row(engine, idle_at="2026-01-31 12:30:00.000001", expires_at="2026-01-31 12:30:00.000001")

    assert process(engine, now=NOON + HALF_HOUR - MOMENT).count == 0
    assert process(engine, now=NOON + HALF_HOUR).count == 1

    assert [str(event.conv_id) for event in all_events(engine)] == [due]


@both_sweeps
@pytest.mark.parametrize("batch_size", [0, -1, LARGEST_BATCH_SIZE + 1])
def test_a_batch_size_out_of_range_is_refused(engine: Engine, process: Process, batch_size: int) -> None:
    with pytest.raises(InvalidValueError, match=r"^batch_size: "):
        process(engine, now=NOON, batch_size=batch_size)


def test_the_largest_batch_is_taken(engine: Engine) -> None:
    assert process_idle_conversations(engine, now=NOON, batch_size=LARGEST_BATCH_SIZE).drained


def test_naive_datetimes_are_refused(engine: Engine) -> None:
    naive = NOON.replace(tzinfo=None)
    for process in BOTH:
        with pytest.raises(NaiveDatetimeError, match=r"^now: "):
            process(engine, now=naive)
    with open_session(engine) as session:
        for find in (find_idle_conversations, find_expired_conversations):
            with pytest.raises(NaiveDatetimeError, match=r"^now: "):
                find(session, now=naive)


@both_sweeps
def test_now_in_any_time_zone_is_the_same_instant(engine: Engine, process: Process) -> None:
    opened(engine, timeouts=minutes(30, 30))
    local = (NOON + HALF_HOUR).astimezone(ZoneInfo("Pacific/Kiritimati"))

    assert process(engine, now=local - MOMENT).count == 0
    assert process(engine, now=local).count == 1


def test_each_batch_limits_how_long_it_may_wait_for_a_lock_on_the_table(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    opened(engine)
    opened(engine, number=2)

    with statements_of(engine) as sent:
        sweep = process_idle_conversations(engine, now=NOON + timedelta(hours=1), batch_size=1)

    assert sweep.count == 2
    settings = [given for statement, given in sent if "set_config" in statement]
    # The look at what is set aside as well.
    assert len(settings) == 3 + 1
    for given in settings:
        values = list(given.values())
        assert values[values.index("statement_timeout") + 1] == "20000"
    engine.dispose()


def test_rows_that_are_kept_from_ending_do_not_keep_those_behind_them(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    kept = [opened(engine, number=number, now=NOON + number * MOMENT).conv_id for number in range(2)]
    opened(engine, number=2, now=NOON + timedelta(seconds=1))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE FUNCTION keep_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER keep_it BEFORE UPDATE ON conversations FOR EACH ROW
            WHEN (OLD.conv_id IN ('{kept[0]}', '{kept[1]}')) EXECUTE FUNCTION keep_it()
        """)

    sweep = process_idle_conversations(engine, now=NOON + timedelta(hours=1), batch_size=2)

    assert sweep.count == 1
    engine.dispose()


def test_an_event_tells_of_the_row_as_it_was_whatever_a_trigger_of_the_application_writes(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    opened(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("""
            CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
            CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()
        """)

    process_idle_conversations(engine, now=NOON + timedelta(hours=1))

    (ended,) = all_events(engine)
    assert (ended.last_activity_at, ended.deadline) == (NOON, NOON + TIMEOUTS.idle)
    engine.dispose()


def test_a_sweep_of_a_table_in_partitions_ends_only_what_is_due(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("""
            ALTER TABLE conversations RENAME TO whole;
            CREATE TABLE conversations (LIKE whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
                PARTITION BY RANGE (created_at);
            CREATE TABLE first PARTITION OF conversations FOR VALUES FROM (MINVALUE) TO ('2026-01-31 12:30+00');
            CREATE TABLE second PARTITION OF conversations FOR VALUES FROM ('2026-01-31 12:30+00') TO (MAXVALUE);
        """)
    due = insert_row(engine)
    # At the same place of the other partition.
    insert_row(engine, created_at="2026-01-31 13:00:00.000000", idle_at="2026-01-31 20:00:00.000000")

    process_idle_conversations(engine, now=NOON + timedelta(hours=1))

    assert [str(one.conv_id) for one in all_conversations(engine) if not one.is_active] == [due]
    engine.dispose()
