import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlmodel import Session

from models import Conversation, ConversationEvent, ConversationStatus, EventCause
from models.conversation import conversations, deadline, due_expiry, due_idle, due_status, ongoing, overdue
from models.errors import NaiveDatetimeError
from services.conversations import close_conversation, get_conversation, record_activity
from services.database import create_database_engine, current_time, open_session
from services.sweeps import find_idle_conversations, process_expired_conversations, process_idle_conversations
from tests.support import MOMENT, NOON, TIMEOUTS, all_conversations, all_events, insert_row, open_conversation, opened

ENDED_AT = "2026-01-31 12:10:00.000000"
INSTANT_COLUMNS = ["created_at", "updated_at", "idle_at", "expires_at", "ended_at"]


def raw(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def event(**given: Any) -> ConversationEvent:
    columns: dict[str, Any] = {
        "conv_id": uuid.UUID(int=1),
        "previous_status": ConversationStatus.PENDING,
        "status": ConversationStatus.CLOSED,
        "deadline": NOON,
        "last_activity_at": NOON,
        "cause": EventCause.CLOSE,
        "occurred_at": NOON,
    }
    return ConversationEvent(**columns | given)


def test_a_status_that_is_none_is_refused(engine: Engine) -> None:
    for status in ("PENDING", "Pending", "IDLE_TIMEOUT", "idle", "", "ended"):
        for ended_at in (None, ENDED_AT):
            with pytest.raises(IntegrityError, match=r"conversations_(status|ended_at)_check"):
                insert_row(engine, status=status, ended_at=ended_at)


@pytest.mark.parametrize("status", ["pending", "progress"])
def test_an_active_conversation_with_an_end_is_refused(engine: Engine, status: str) -> None:
    insert_row(engine, status=status)
    with pytest.raises(IntegrityError, match="conversations_ended_at_check"):
        insert_row(engine, status=status, ended_at=ENDED_AT)


@pytest.mark.parametrize("status", ["idle_timeout", "expired", "closed"])
def test_an_ended_conversation_without_an_end_is_refused(engine: Engine, status: str) -> None:
    insert_row(engine, status=status, ended_at=ENDED_AT)
    with pytest.raises(IntegrityError, match="conversations_ended_at_check"):
        insert_row(engine, status=status)


@pytest.mark.parametrize(("first", "second"), [("pending", "progress"), ("progress", "pending")])
def test_a_second_active_conversation_on_a_key_is_refused(engine: Engine, first: str, second: str) -> None:
    insert_row(engine, status=first, session_key="key")
    with pytest.raises(IntegrityError, match=r"session_key"):
        insert_row(engine, status=second, session_key="key")


def test_a_key_may_have_any_number_of_ended_conversations_and_one_that_is_active(engine: Engine) -> None:
    for status in ("idle_timeout", "expired", "closed", "closed"):
        insert_row(engine, status=status, ended_at=ENDED_AT, session_key="key")
    insert_row(engine, session_key="key")

    assert len(all_conversations(engine)) == 5


def test_a_column_that_must_say_something_is_never_null(engine: Engine) -> None:
    for column in ("owner_id", "channel", "from_number", "to_number", "session_key", "status", *INSTANT_COLUMNS[:4]):
        with pytest.raises(IntegrityError, match=column):
            insert_row(engine, **{column: None})


@pytest.mark.parametrize("second", [ConversationStatus.CLOSED, ConversationStatus.EXPIRED])
def test_a_second_end_of_a_conversation_is_refused(engine: Engine, second: ConversationStatus) -> None:
    with open_session(engine) as session:
        session.add(event(status=ConversationStatus.IDLE_TIMEOUT))
        session.add(event(conv_id=uuid.UUID(int=2)))
        session.commit()
    with open_session(engine) as session:
        session.add(event(status=second))
        with pytest.raises(IntegrityError):
            session.commit()


def test_a_conversation_leaves_pending_at_most_once_and_then_ends(engine: Engine) -> None:
    with open_session(engine) as session:
        session.add(event(status=ConversationStatus.PROGRESS))
        session.add(event(previous_status=ConversationStatus.PROGRESS))
        session.commit()
    assert [one.ended for one in all_events(engine)] == [False, True]
    with open_session(engine) as session:
        session.add(event(status=ConversationStatus.PROGRESS))
        with pytest.raises(IntegrityError):
            session.commit()


def test_the_status_is_stored_as_its_value_in_lower_case(engine: Engine) -> None:
    now = NOON + timedelta(minutes=30)
    with open_session(engine) as session:
        for number in range(4):
            open_conversation(session, number=number)
        open_conversation(session, number=1)
        closed = open_conversation(session, number=2).conversation
        close_conversation(session, conv_id=closed.conv_id, now=NOON)
        open_conversation(session, number=3, now=now)
        session.commit()

    assert raw(engine, "SELECT status, count(*) FROM conversations GROUP BY status ORDER BY status") == [
        ("closed", 1),
        ("idle_timeout", 1),
        ("pending", 2),
        ("progress", 1),
    ]
    assert raw(engine, "SELECT DISTINCT previous_status, status, cause FROM conversation_events ORDER BY 1, 2") == [
        ("pending", "idle_timeout", "activity"),
        ("pending", "progress", "activity"),
        ("progress", "closed", "close"),
    ]


def test_every_instant_that_is_read_is_aware_and_in_utc(engine: Engine) -> None:
    elsewhere = ZoneInfo("Asia/Kathmandu")
    conversation = opened(engine, now=NOON.astimezone(elsewhere))
    process_idle_conversations(engine, now=(NOON + timedelta(days=1)).astimezone(elsewhere))
    insert_row(engine)

    with engine.connect() as connection:
        instants = [current_time(connection)]
    for row in (*all_conversations(engine), *all_events(engine)):
        instants += [value for value in row.model_dump().values() if isinstance(value, datetime)]

    assert len(instants) == 1 + 5 + 4 + 3
    assert {instant.tzinfo for instant in instants} == {UTC}
    with open_session(engine) as session:
        assert get_conversation(session, conv_id=conversation.conv_id).created_at == NOON


def test_a_microsecond_is_kept(engine: Engine) -> None:
    opened(engine, now=NOON + MOMENT)

    assert [one.created_at for one in all_conversations(engine)] == [NOON + MOMENT]


def test_a_naive_datetime_reaches_no_statement(session: Session) -> None:
    with pytest.raises((StatementError, NaiveDatetimeError), match="time zone"):
        session.scalars(select(Conversation).where(due_idle(NOON.replace(tzinfo=None)))).all()


def test_the_databases_clock_is_the_present_and_does_not_stand_still_in_a_transaction(engine: Engine) -> None:
    with engine.connect() as connection:
        first = current_time(connection)
        second = current_time(connection)
        while second == first:  # SQLite tells milliseconds
            second = current_time(connection)

    assert first < second < first + timedelta(minutes=1)
    assert abs(datetime.now(UTC) - second) < timedelta(minutes=1)


def test_the_predicates_of_sql_and_of_python_agree_on_every_order_of_the_deadlines(engine: Engine) -> None:
    steps = [NOON, NOON + MOMENT, NOON + 2 * MOMENT]
    for idle_at in steps:
        for expires_at in steps:
            for status, ended_at in (("pending", None), ("progress", None), ("closed", ENDED_AT)):
                insert_row(
                    engine,
                    idle_at=f"{idle_at:%F %T.%f}",
                    expires_at=f"{expires_at:%F %T.%f}",
                    status=status,
                    ended_at=ended_at,
                )
    with open_session(engine) as session:
        rows = {one.conv_id: one for one in session.scalars(select(Conversation))}
        in_sql = session.execute(select(conversations.c.conv_id, deadline, due_status)).all()
        assert len(in_sql) == 27
        for conv_id, its_deadline, its_status in in_sql:
            assert (its_deadline, its_status) == (rows[conv_id].deadline, rows[conv_id].status_when_due)
        for now in (NOON - MOMENT, *steps, NOON + 3 * MOMENT):
            active = [one for one in rows.values() if one.is_active]
            for predicate, in_python in (
                (overdue(now), [one for one in active if one.deadline <= now]),
                (ongoing(now), [one for one in active if one.deadline > now]),
                (due_idle(now), [one for one in active if one.idle_at <= now]),
                (due_expiry(now), [one for one in active if one.expires_at <= now]),
            ):
                picked = set(session.scalars(select(conversations.c.conv_id).where(predicate)))
                assert picked == {one.conv_id for one in in_python}


@pytest.mark.parametrize(
    "written",
    [
        "2026-01-31 12:30",
        "2026-01-31",
        "31/01/2026 12:30:00",
        "2026-13-31 12:30:00",
        "2026-01-32 12:30:00",
        "2026-02-30 12:30:00",
        "2026-01-31 25:30:00",
        "2026-01-31 24:00:00",
        "2026-01-31 12:30:00.",
        "2026-01-31 12:30:00.12.3",
        "2026-01-31 12:30:00 Europe/Paris",
        "1769862600",
        "",
    ],
)
def test_sqlite_refuses_what_is_no_instant(sqlite_url: str, written: str) -> None:
    engine = create_database_engine(sqlite_url)
    with pytest.raises(IntegrityError, match="idle_at_instant"):
        insert_row(engine, idle_at=written)
    engine.dispose()


@pytest.mark.parametrize("column", INSTANT_COLUMNS)
def test_sqlite_checks_every_instant_of_a_conversation(sqlite_url: str, column: str) -> None:
    engine = create_database_engine(sqlite_url)
    with pytest.raises(IntegrityError, match=f"{column}_instant"):
        insert_row(engine, **{"status": "closed", "ended_at": ENDED_AT, column: "2026-02-30 12:30:00"})
    engine.dispose()


#: The same instant, in forms that plain SQL may write; the first is what Adjourn writes.
FORMS = [
    "2026-01-31 12:30:00.000000",
    "2026-01-31 12:30:00",
    "2026-01-31 12:30:00.0",
    "2026-01-31 12:30:00+00:00",
    "2026-01-31 12:30:00.000000+00:00",
    "2026-01-31T12:30:00Z",
    "2026-01-31T14:30:00+02:00",
    "2026-01-31 07:30:00.000-05:00",
]


def in_utc(engine: Engine, written: str) -> str:
    """Return ``written`` as PostgreSQL needs it too, whose sessions have a time zone of their own."""
    return written if engine.dialect.name == "sqlite" or written[19:].lstrip(".0") else f"{written}+00:00"


@pytest.mark.parametrize("written", FORMS)
def test_an_instant_is_due_exactly_when_it_says_however_it_is_written(engine: Engine, written: str) -> None:
    insert_row(engine, idle_at=in_utc(engine, written))
    due = NOON + timedelta(minutes=30)

    with open_session(engine) as session:
        assert find_idle_conversations(session, now=due - MOMENT) == []
        assert [one.idle_at for one in find_idle_conversations(session, now=due)] == [due]


@pytest.mark.parametrize("written", FORMS)
def test_an_instant_that_plain_sql_changes_counts_from_then_on(engine: Engine, written: str) -> None:
    insert_row(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE conversations SET expires_at = '{in_utc(engine, written)}'")
    due = NOON + timedelta(minutes=30)

    assert process_expired_conversations(engine, now=due - MOMENT).count == 0
    assert process_expired_conversations(engine, now=due).count == 1


@pytest.mark.parametrize("idle_at", FORMS)
def test_a_tie_of_the_deadlines_is_expired_however_the_instants_are_written(engine: Engine, idle_at: str) -> None:
    for expires_at in FORMS:
        insert_row(engine, idle_at=in_utc(engine, idle_at), expires_at=in_utc(engine, expires_at))

    process_idle_conversations(engine, now=NOON + timedelta(hours=1))

    assert {one.status for one in all_conversations(engine)} == {ConversationStatus.EXPIRED}
    assert len(all_events(engine)) == len(FORMS)


def test_a_row_of_plain_sql_takes_activity_and_is_closed_like_any_other(engine: Engine) -> None:
    conv_id = uuid.UUID(insert_row(engine))
    with open_session(engine) as session:
        resumed = record_activity(session, conv_id=conv_id, now=NOON + timedelta(minutes=1), timeouts=TIMEOUTS)
        closed = close_conversation(session, conv_id=conv_id, now=NOON + timedelta(minutes=2))
        session.commit()

    assert resumed.conversation.conv_id == closed.conv_id == conv_id
    assert closed.metadata_ == {}
    assert [one.status for one in all_events(engine)] == ["progress", "closed"]


@pytest.mark.parametrize(
    "change", ["status = 'progress', ended_at = NULL", "status = 'closed'", "ended_at = updated_at"]
)
def test_what_has_ended_is_never_changed_again_whoever_writes(engine: Engine, change: str) -> None:
    conversation = opened(engine)
    process_idle_conversations(engine, now=NOON + timedelta(hours=1))

    with pytest.raises(IntegrityError, match="never changes again"), engine.begin() as connection:
        connection.execute(text(f"UPDATE conversations SET {change}"))

    with engine.begin() as connection:
        connection.execute(text("UPDATE conversations SET metadata = '{}', owner_id = 'archive'"))
    [after] = all_conversations(engine)
    assert (after.conv_id, after.status, after.owner_id) == (conversation.conv_id, "idle_timeout", "archive")


@pytest.mark.parametrize("instant", ["infinity", "-infinity", "10000-01-01 00:00:00+00", "0001-01-01 00:00:00+00"])
def test_postgresql_refuses_an_instant_that_python_cannot_read(postgresql_url: str, instant: str) -> None:
    engine = create_database_engine(postgresql_url)
    opened(engine)

    with pytest.raises(IntegrityError, match="conversations_instants_check"), engine.begin() as connection:
        connection.execute(text(f"UPDATE conversations SET expires_at = '{instant}'"))
    engine.dispose()


@pytest.mark.parametrize(
    "written", ["2026-01-31 12:00:00.12Z   ", "2026-01-31T12:00:00.1234 Z", "2026-01-31 12:00:00.1"]
)
def test_sqlite_reads_back_what_it_took(sqlite_url: str, written: str) -> None:
    engine = create_database_engine(sqlite_url)
    opened(engine)

    with engine.begin() as connection:
        connection.execute(text("UPDATE conversations SET expires_at = :written"), {"written": written})

    [conversation] = all_conversations(engine)
    assert timedelta(0) < conversation.expires_at - NOON < timedelta(seconds=0.2)
    engine.dispose()
