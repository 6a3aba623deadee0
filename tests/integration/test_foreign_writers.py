"""Programs that write plain SQL and know of ``updated_at``, ``expires_at`` and ``status`` only, and their triggers."""

import re
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test
from psycopg import errors
from psycopg.rows import dict_row
from sqlalchemy import Connection, Engine
from sqlalchemy import event as hooks
from sqlalchemy.exc import OperationalError

from models import ConversationStatus, EventCause
from services import cli, foreign_writers, migrations
from services.conversations import close_conversation, record_activity
from services.database import create_database_engine, open_session
from services.errors import InvalidValueError
from services.foreign_writers import install, is_installed, remove
from services.foreign_writers_functions import WHITESPACE
from services.session_keys import canonical_session_key
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts
from tests.integration import test_concurrency, test_conversation_model
from tests.plain_sql import plain_url, run_sql
from tests.support import MOMENT, NOON, TIMEOUTS, all_conversations, all_events, opened, wait_for

MINUTE = timedelta(minutes=1)
IDLE_AT = NOON + TIMEOUTS.idle
EXPIRES_AT = NOON + TIMEOUTS.expiry
#: What a conversation is opened with by a program that knows nothing else.
PAIR = {"owner_id": "acme", "channel": "SMS", "from_number": "+33 6 00 00 00 01", "to_number": "+33123456789"}
KEY = "acme:sms:+33123456789:+33600000001"

DOCS = Path(__file__).resolve().parents[2] / "docs" / "conversations.md"
Row = dict[str, Any]


class Writer:
    """A program that knows none of our code: each statement is a transaction, unless it begins one."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(plain_url(url), autocommit=True, row_factory=dict_row)

    def run(self, statement: str, **values: Any) -> list[Row]:
        """Run a statement and return its rows."""
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def open(self, **given: Any) -> Row:
        """Insert a conversation, and return its row."""
        columns = PAIR | given
        names = ", ".join(columns)
        (row,) = self.run(
            f"INSERT INTO conversations ({names}) VALUES ({', '.join(f'%({name})s' for name in columns)}) RETURNING *",
            **columns,
        )
        return row

    def change(self, conv_id: uuid.UUID, **given: Any) -> Row:
        """Change a conversation, and return its row."""
        changes = ", ".join(f"{name} = %({name})s" for name in given)
        (row,) = self.run(
            f"UPDATE conversations SET {changes} WHERE conv_id = %(conv_id)s RETURNING *", conv_id=conv_id, **given
        )
        return row

    def events(self) -> list[Row]:
        """Return the record, first to last."""
        return self.run("SELECT * FROM conversation_events ORDER BY event_id")

    def now(self) -> datetime:
        """Return the database's time."""
        (row,) = self.run("SELECT clock_timestamp() AS now")
        found: datetime = row["now"]
        return found


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    """An engine on a database with the triggers."""
    engine = create_database_engine(postgresql_url, pool_size=24)
    with engine.begin() as connection:
        install(connection, timeouts=TIMEOUTS)
    yield engine
    engine.dispose()


@contextmanager
def writing(engine: Engine) -> Iterator[Writer]:
    writer = Writer(engine.url.render_as_string(hide_password=False))
    with writer.connection:
        yield writer


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    with writing(engine) as writer:
        yield writer


# What is left out is filled in


@pytest.mark.parametrize("written", ["left out", "NULL"])
def test_what_an_opening_leaves_out_is_filled_in(writer: Writer, written: str) -> None:
    filled = ("conv_id", "session_key", "status", "metadata", "created_at", "updated_at", "idle_at", "expires_at")
    before = writer.now()

    row = writer.open(**dict.fromkeys(filled, None) if written == "NULL" else {})

    assert before < row["created_at"] < writer.now()
    assert row["updated_at"] == row["created_at"]
    assert row["idle_at"] == row["created_at"] + TIMEOUTS.idle
    assert row["expires_at"] == row["created_at"] + TIMEOUTS.expiry
    assert (row["session_key"], row["status"], row["metadata"], row["ended_at"]) == (KEY, "pending", {}, None)
    assert isinstance(row["conv_id"], uuid.UUID)


WHOLE = PAIR | {
    "conv_id": uuid.UUID(int=1),
    "user_id": "user",
    "session_key": "key",
    "status": "progress",
    "metadata": '{"a": 1}',
    "created_at": NOON,
    "updated_at": NOON + MINUTE,
    "idle_at": NOON + 3 * MINUTE,
    "expires_at": NOON + 2 * MINUTE,
}


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("session_key", KEY),
        ("status", "pending"),
        ("metadata", {}),
        ("created_at", NOON + MINUTE),
        ("updated_at", NOON),
        ("idle_at", NOON + MINUTE + TIMEOUTS.idle),
        ("expires_at", NOON + TIMEOUTS.expiry),
    ],
)
def test_what_an_opening_gives_is_kept_and_only_the_rest_is_filled_in(
    writer: Writer, left_out: str, expected: object
) -> None:
    row = writer.open(**{name: None if name == left_out else value for name, value in WHOLE.items()})

    assert row == WHOLE | {"metadata": {"a": 1}, "ended_at": None, left_out: expected}


def test_a_conversation_that_is_inserted_as_ended_gets_its_end(writer: Writer) -> None:
    before = writer.now()

    row = writer.open(status="closed", updated_at=NOON)
    given = writer.open(status="expired", updated_at=NOON, ended_at=IDLE_AT)

    assert before < row["ended_at"] < writer.now()
    assert given["ended_at"] == IDLE_AT
    assert writer.events() == []  # it has not changed


def test_what_makes_no_sense_is_refused_as_before(writer: Writer) -> None:
    for refused, constraint in (
        ({"ended_at": NOON}, "conversations_ended_at_check"),
        ({"status": "open"}, "conversations_status_check"),
        ({"updated_at": "infinity"}, "conversations_instants_check"),
        ({"owner_id": None}, "owner_id"),
    ):
        with pytest.raises(errors.IntegrityError, match=constraint):
            writer.open(**refused)


def test_many_rows_of_one_statement_are_each_filled_in(writer: Writer) -> None:
    writer.run(
        "INSERT INTO conversations (owner_id, channel, from_number, to_number, updated_at) "
        "SELECT 'acme', 'sms', n::text, '0', %(noon)s::timestamptz + n * interval '1 minute' "
        "FROM generate_series(1, 3) AS n",
        noon=NOON,
    )
    with writer.connection.cursor().copy(
        "COPY conversations (owner_id, channel, from_number, to_number, updated_at) FROM STDIN"
    ) as copy:
        for number in (4, 5):
            copy.write_row(("acme", "sms", str(number), "0", NOON + number * MINUTE))

    found = writer.run("SELECT session_key, idle_at FROM conversations ORDER BY idle_at")
    assert [tuple(row.values()) for row in found] == [
        (f"acme:sms:0:{number}", IDLE_AT + number * MINUTE) for number in range(1, 6)
    ]


def test_an_upsert_finds_the_active_conversation_of_the_pair(writer: Writer) -> None:
    upsert = (
        "INSERT INTO conversations (owner_id, channel, from_number, to_number, updated_at) "
        "VALUES (%(owner_id)s, %(channel)s, %(from_number)s, %(to_number)s, %(at)s) "
        "ON CONFLICT (session_key) WHERE status IN ('pending', 'progress') DO "
    )
    resume = upsert + "UPDATE SET updated_at = excluded.updated_at, status = 'progress' RETURNING *"
    back = PAIR | {"from_number": PAIR["to_number"], "to_number": PAIR["from_number"]}

    (first,) = writer.run(resume, **PAIR, at=NOON)
    (second,) = writer.run(resume, **back, at=NOON + MINUTE)
    nothing = writer.run(upsert + "NOTHING RETURNING *", **PAIR, at=NOON + 2 * MINUTE)

    assert (second["conv_id"], second["status"]) == (first["conv_id"], "progress")
    assert second["idle_at"] == IDLE_AT + MINUTE
    assert second["expires_at"] == EXPIRES_AT
    assert nothing == []
    assert [one["status"] for one in writer.events()] == ["progress"]


def test_who_cannot_be_told_from_others_shares_a_conversation_with_nobody(writer: Writer) -> None:
    rows = [writer.open(from_number=" ") for _ in range(2)]

    assert [row["session_key"] for row in rows] == [str(row["conv_id"]) for row in rows]


def test_a_second_active_conversation_of_a_pair_is_refused(writer: Writer) -> None:
    writer.open()
    with pytest.raises(errors.UniqueViolation, match="conversations_active_session_key"):
        writer.open()


# Deadlines follow the activity


@pytest.mark.parametrize("idle", [1 * MINUTE, 30 * MINUTE, 36 * 60 * MINUTE])
@pytest.mark.parametrize("status", ["pending", "progress"])
def test_activity_moves_the_idle_deadline_by_the_timeout_of_the_row(
    writer: Writer, idle: timedelta, status: str
) -> None:
    row = writer.open(updated_at=NOON, idle_at=NOON + idle, status=status)

    for step in (MOMENT, MINUTE, timedelta(days=40)):
        row = writer.change(row["conv_id"], updated_at=row["updated_at"] + step)
        assert row["idle_at"] == row["updated_at"] + idle
    assert row["expires_at"] == EXPIRES_AT
    assert writer.events() == []


def test_many_rows_of_one_statement_each_keep_their_timeout(writer: Writer) -> None:
    rows = [writer.open(from_number=str(n), updated_at=NOON, idle_at=NOON + n * MINUTE) for n in (5, 10, 15)]

    writer.run("UPDATE conversations SET updated_at = updated_at + interval '1 minute'")

    found = {row["conv_id"]: row["idle_at"] for row in writer.run("SELECT * FROM conversations")}
    assert found == {row["conv_id"]: row["idle_at"] + MINUTE for row in rows}


@pytest.mark.parametrize("late", [MOMENT, MINUTE, timedelta(days=1)])
def test_a_stamp_from_before_the_last_activity_moves_nothing_back(writer: Writer, late: timedelta) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    row = writer.change(conv_id, updated_at=NOON - late, status="progress")
    assert (row["updated_at"], row["idle_at"], row["status"]) == (NOON, IDLE_AT, "progress")

    row = writer.change(conv_id, updated_at=NOON + MINUTE)
    assert row["idle_at"] == IDLE_AT + MINUTE  # the timeout has not grown


def test_a_change_without_activity_moves_nothing(writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    for change in ({"metadata": '{"a": 1}'}, {"updated_at": NOON}, {"expires_at": NOON + MINUTE}):
        row = writer.change(conv_id, **change)
        assert (row["updated_at"], row["idle_at"]) == (NOON, IDLE_AT)
    assert row["expires_at"] == NOON + MINUTE


@pytest.mark.parametrize("stamp", [NOON - MINUTE, NOON, NOON + MINUTE])
def test_an_idle_deadline_that_is_given_counts_in_whichever_direction(writer: Writer, stamp: datetime) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    row = writer.change(conv_id, updated_at=stamp, idle_at=IDLE_AT - 5 * MINUTE)
    assert (row["updated_at"], row["idle_at"]) == (stamp, IDLE_AT - 5 * MINUTE)

    # What is given once is the row's timeout from then on.
    row = writer.change(conv_id, updated_at=NOON + 10 * MINUTE)
    assert row["idle_at"] == NOON + 10 * MINUTE + (IDLE_AT - 5 * MINUTE - stamp)


def test_who_saves_a_whole_row_as_it_was_read_moves_the_deadline(writer: Writer) -> None:
    row = writer.open(updated_at=NOON)
    conv_id = row.pop("conv_id")

    saved = writer.change(conv_id, **row | {"updated_at": NOON + MINUTE, "metadata": "{}"})

    assert saved["idle_at"] == IDLE_AT + MINUTE


def test_null_in_a_change_is_left_out(writer: Writer) -> None:
    row = writer.open(updated_at=NOON)
    needed = ("session_key", "status", "metadata", "created_at", "updated_at", "idle_at", "expires_at")

    assert writer.change(row["conv_id"], **dict.fromkeys(needed, None)) == row
    moved = writer.change(row["conv_id"], updated_at=NOON + MINUTE, idle_at=None)
    assert moved["idle_at"] == IDLE_AT + MINUTE


def test_a_deadline_from_before_the_last_activity_is_no_timeout_to_keep(writer: Writer) -> None:
    """Somebody moved ``updated_at`` alone before the triggers were there."""
    for idle_at in (NOON, NOON - MINUTE):
        conv_id = writer.open(updated_at=NOON, idle_at=idle_at, session_key=str(idle_at))["conv_id"]
        assert writer.change(conv_id, updated_at=NOON + MINUTE)["idle_at"] == IDLE_AT + MINUTE


def test_a_day_has_24_hours_in_whatever_time_zone_a_writer_lives(writer: Writer) -> None:
    before_the_change = datetime(2026, 3, 28, 22, tzinfo=UTC)  # in Paris the next day has 23
    writer.run("SET TIME ZONE 'Europe/Paris'")
    row = writer.open(updated_at=before_the_change)
    longer = writer.open(updated_at=before_the_change, idle_at=before_the_change + timedelta(days=3), session_key="3")

    moved = writer.change(longer["conv_id"], updated_at=before_the_change + MINUTE)

    assert row["expires_at"].astimezone(UTC) == before_the_change + TIMEOUTS.expiry
    assert moved["idle_at"].astimezone(UTC) == before_the_change + MINUTE + timedelta(days=3)


def test_a_platforms_own_trigger_that_stamps_each_change_counts_as_activity(writer: Writer) -> None:
    writer.run("""
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.updated_at := NEW.updated_at + interval '1 minute'; RETURN NEW; END $$;
        CREATE TRIGGER update_updated_at BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION stamp()
    """)
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    row = writer.change(conv_id, metadata='{"a": 1}')
    assert (row["updated_at"], row["idle_at"]) == (NOON + MINUTE, IDLE_AT + MINUTE)

    closed = writer.change(conv_id, status="closed")
    assert closed["idle_at"] == IDLE_AT + MINUTE  # it ends nothing later


# What has ended


def test_a_closing_gets_its_end_and_its_event(writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]
    before = writer.now()

    row = writer.change(conv_id, status="closed", updated_at=NOON + MINUTE)

    assert before < row["ended_at"] < writer.now()
    assert (row["idle_at"], row["expires_at"]) == (IDLE_AT, EXPIRES_AT)  # as they were when it ended
    (recorded,) = writer.events()
    recorded.pop("event_id")
    assert recorded == {
        "conv_id": conv_id,
        "previous_status": "pending",
        "status": "closed",
        "ended": True,
        "deadline": IDLE_AT,
        "last_activity_at": NOON,
        "cause": "writer",
        "sweep_id": None,
        "occurred_at": row["ended_at"],
    }


def test_an_end_that_is_given_is_kept_and_recorded(writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON, expires_at=NOON + MINUTE)["conv_id"]

    row = writer.change(conv_id, status="expired", ended_at=NOON + 2 * MINUTE)

    assert row["ended_at"] == NOON + 2 * MINUTE
    (recorded,) = writer.events()
    assert (recorded["deadline"], recorded["occurred_at"]) == (NOON + MINUTE, NOON + 2 * MINUTE)


def test_each_change_of_status_is_recorded_once_and_nothing_else_is(writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]
    writer.change(conv_id, updated_at=NOON + MINUTE)
    writer.change(conv_id, status="pending")
    writer.change(conv_id, status="progress", updated_at=NOON + 2 * MINUTE)
    writer.change(conv_id, status="progress", updated_at=NOON + 3 * MINUTE)
    writer.change(conv_id, status="closed")
    writer.change(conv_id, status="closed", metadata="{}")

    found = [(one["previous_status"], one["status"], one["cause"]) for one in writer.events()]
    assert found == [("pending", "progress", "writer"), ("progress", "closed", "writer")]
    # As the change found them.
    assert [one["last_activity_at"] - NOON for one in writer.events()] == [MINUTE, 3 * MINUTE]
    assert [one["deadline"] - IDLE_AT for one in writer.events()] == [MINUTE, 3 * MINUTE]


def test_what_has_ended_keeps_its_deadlines_and_its_end_and_stays_ended(writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]
    ended = writer.change(conv_id, status="closed")

    row = writer.change(conv_id, updated_at=NOON + MINUTE, idle_at=None, ended_at=ended["ended_at"])
    assert row == ended | {"updated_at": NOON + MINUTE}

    for change in ({"status": "progress"}, {"status": "expired"}, {"ended_at": NOON}, {"ended_at": None}):
        with pytest.raises(errors.CheckViolation, match="never changes again"):
            writer.change(conv_id, **change)


def test_many_rows_of_one_statement_each_get_their_event(writer: Writer) -> None:
    rows = [writer.open(from_number=str(n), updated_at=NOON) for n in range(3)]

    writer.run("UPDATE conversations SET status = 'closed' WHERE from_number <> '1'")

    assert Counter(one["conv_id"] for one in writer.events()) == Counter(
        row["conv_id"] for row in rows if row["from_number"] != "1"
    )


def test_a_message_after_the_deadline_resumes_what_no_sweep_has_ended(engine: Engine, writer: Writer) -> None:
    """The limit of rule 4: the triggers cannot tell which conversation a message is for."""
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    row = writer.change(conv_id, updated_at=IDLE_AT, status="progress")

    assert row["idle_at"] == IDLE_AT + TIMEOUTS.idle
    assert process_idle_conversations(engine, now=IDLE_AT + MINUTE).count == 0


# While a table is being adopted


def test_rows_without_deadlines_are_filled_in_as_they_are_touched(writer: Writer) -> None:
    nullable = ("session_key", "created_at", "idle_at", "expires_at")
    writer.run(f"""
        ALTER TABLE conversations DISABLE TRIGGER USER, DROP CONSTRAINT conversations_ended_at_check,
        {", ".join(f"ALTER COLUMN {name} DROP NOT NULL" for name in nullable)}
    """)
    columns = PAIR | {"metadata": "{}", "updated_at": NOON} | dict.fromkeys(nullable, None)
    ids = {
        number: writer.open(conv_id=uuid.UUID(int=number), status=status, **columns | {"from_number": str(number)})[
            "conv_id"
        ]
        for number, status in enumerate(["pending", "pending", "pending", "expired"])
    }
    writer.run("ALTER TABLE conversations ENABLE TRIGGER USER")

    touched = writer.change(ids[0], metadata='{"a": 1}')
    active = writer.change(ids[1], updated_at=NOON + MINUTE)
    closed = writer.change(ids[2], status="closed")
    ended_before = writer.change(ids[3], metadata='{"a": 1}')

    assert (touched["session_key"], touched["idle_at"]) == ("acme:sms:+33123456789:0", IDLE_AT)
    assert (active["idle_at"], active["created_at"]) == (IDLE_AT + MINUTE, NOON + MINUTE)
    assert active["expires_at"] == EXPIRES_AT + MINUTE
    assert ended_before["ended_at"] == NOON
    (recorded,) = writer.events()
    assert (recorded["conv_id"], recorded["deadline"], recorded["last_activity_at"]) == (ids[2], IDLE_AT, NOON)
    assert recorded["occurred_at"] == closed["ended_at"]


# Rights and names


@pytest.fixture
def role(writer: Writer) -> Iterator[str]:
    """A role that may write ``conversations``, and nothing else."""
    name = f"adjourn_writer_{uuid.uuid4().hex[:12]}"
    writer.run(f"CREATE ROLE {name}; GRANT SELECT, INSERT, UPDATE, DELETE ON conversations TO {name}")
    yield name
    writer.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("hardened", [False, True])
def test_a_role_that_may_write_conversations_needs_no_other_right(
    engine: Engine, writer: Writer, role: str, *, hardened: bool
) -> None:
    if hardened:
        writer.run("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        with engine.begin() as connection:
            remove(connection)
            install(connection, timeouts=TIMEOUTS)
    with writing(engine) as other:
        other.run(f"SET ROLE {role}")
        conv_id = other.open(updated_at=NOON)["conv_id"]
        other.change(conv_id, updated_at=NOON + MINUTE, status="progress")
        other.change(conv_id, status="closed")
        gone = other.open(from_number="2")["conv_id"]
        other.run("DELETE FROM conversations WHERE conv_id = %(gone)s", gone=gone)
        for table in ("conversation_events", "latest_conversations"):
            with pytest.raises(errors.InsufficientPrivilege):
                other.run(f"SELECT FROM {table}")

    assert [one["status"] for one in writer.events()] == ["progress", "closed"]
    assert [row["conv_id"] for row in writer.run("SELECT conv_id FROM latest_conversations")] == [conv_id]


def test_a_role_that_may_write_a_view_needs_no_right_to_the_schema_behind_it(engine: Engine, writer: Writer) -> None:
    """As where an API has a schema of its own, and nobody else has rights to the tables'."""
    role = f"adjourn_writer_{uuid.uuid4().hex[:12]}"
    columns = ("conv_id", *PAIR, "status", "updated_at")
    writer.run(f"""
        CREATE ROLE {role};
        CREATE SCHEMA api;
        CREATE VIEW api.conversations AS SELECT {", ".join(columns)} FROM public.conversations;
        GRANT USAGE ON SCHEMA api TO {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON api.conversations TO {role};
        REVOKE ALL ON SCHEMA public FROM PUBLIC
    """)
    with writing(engine) as other:
        other.run(f"SET ROLE {role}; SET search_path = api")
        conv_id = other.open(updated_at=NOON)["conv_id"]
        other.change(conv_id, updated_at=NOON + MINUTE, status="progress")
        other.change(conv_id, status="closed")
        with pytest.raises(errors.InsufficientPrivilege, match="schema public"):
            other.run("SELECT FROM public.conversations")
    writer.run(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert [one["status"] for one in writer.events()] == ["progress", "closed"]
    assert [row["session_key"] for row in writer.run("SELECT session_key FROM latest_conversations")] == [KEY]


def test_nothing_that_a_role_makes_is_taken_for_adjourns_own(engine: Engine, writer: Writer, role: str) -> None:
    """Operators in a schema where everybody may make things, tables of the same names, a search_path of its own."""
    writer.run(f"GRANT CREATE ON SCHEMA public TO {role}; CREATE SCHEMA theirs AUTHORIZATION {role}")
    with writing(engine) as other:
        other.run(f"""
            SET ROLE {role};
            CREATE TABLE theirs.conversation_events (LIKE public.conversations);
            CREATE TABLE theirs.latest_conversations (LIKE public.conversations);
        """)
        for schema in ("theirs", "public"):
            other.run(f"""
                CREATE FUNCTION {schema}.seize(a uuid, b uuid) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'seized by %', current_user; END $$;
                CREATE FUNCTION {schema}.seize(a varchar, b varchar) RETURNS boolean LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'seized by %', current_user; END $$;
                CREATE OPERATOR {schema}.= (FUNCTION = {schema}.seize, LEFTARG = uuid, RIGHTARG = uuid);
                CREATE OPERATOR {schema}.= (FUNCTION = {schema}.seize, LEFTARG = varchar, RIGHTARG = varchar);
            """)
        other.run("SET search_path = theirs, pg_catalog")
        other.run(
            "INSERT INTO public.conversations (owner_id, channel, from_number, to_number) "
            "VALUES ('acme', 'sms', '1', '2')"
        )
        other.run("UPDATE public.conversations SET session_key = 'key', status = 'progress'")
        other.run("UPDATE public.conversations SET status = 'closed'")
        other.run("DELETE FROM public.conversations")

    assert [one["status"] for one in writer.events()] == ["progress", "closed"]


@pytest.mark.parametrize(
    "function", ["adjourn_complete_conversation", "adjourn_record_change", "conversations_keep_latest"]
)
def test_nobody_else_may_put_a_function_of_ours_on_a_table(
    engine: Engine, writer: Writer, role: str, function: str
) -> None:
    writer.run(f"CREATE SCHEMA theirs AUTHORIZATION {role}")
    with writing(engine) as other:
        other.run(f"SET ROLE {role}; CREATE TABLE theirs.forged (LIKE conversations)")
        with pytest.raises(errors.InsufficientPrivilege, match=function):
            other.run(f"CREATE TRIGGER forge AFTER UPDATE ON theirs.forged FOR EACH ROW EXECUTE FUNCTION {function}()")


def test_the_tables_may_be_in_any_schema(empty_postgresql_url: str) -> None:
    run_sql(empty_postgresql_url, """CREATE SCHEMA "it's :100%" """)
    engine = create_database_engine(empty_postgresql_url)

    @hooks.listens_for(engine, "begin")
    def go_there(connection: Connection) -> None:
        connection.exec_driver_sql("""SET LOCAL search_path = "it's :100%%" """)

    migrations.upgrade(engine)
    with engine.begin() as connection:
        install(connection, timeouts=TIMEOUTS)
        assert is_installed(connection)
    with writing(engine) as writer:
        writer.run("""
            INSERT INTO "it's :100%".conversations (owner_id, channel, from_number, to_number)
            VALUES ('acme', 'sms', '1', '2');
            UPDATE "it's :100%".conversations SET status = 'closed'
        """)
    assert [recorded.cause for recorded in all_events(engine)] == [EventCause.WRITER]
    with engine.begin() as connection:
        remove(connection)
    engine.dispose()


# The session key


awkward = st.text(alphabet="ab:%3A+@/ 0é().-\u2010\u00a0\n", max_size=6)
parts = awkward | st.from_regex(r"\+?[0-9 ().-]{1,8}", fullmatch=True) | st.text(max_size=6)


def key_in_python(owner_id: str, channel: str, one: str, other: str) -> str | None:
    try:
        return canonical_session_key(owner_id=owner_id, channel=channel, from_number=one, to_number=other)
    except InvalidValueError:
        return None


def test_the_session_key_in_sql_is_that_of_the_services(writer: Writer) -> None:
    def storable(text: str) -> bool:
        return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)

    @settings(max_examples=200, suppress_health_check=list(HealthCheck), database=None)
    @given(
        parts.filter(storable), parts.filter(storable).map(str.lower), parts.filter(storable), parts.filter(storable)
    )
    @example("a", "SMS", "+33 (1) 23-45.67", "33")
    @example("a", "b", "\U0001f600", "\uffff")  # by UTF-16 they would be the other way round
    @example("a", "b", "+", "Z")
    def compare(owner_id: str, channel: str, one: str, other: str) -> None:
        (found,) = writer.run(
            "SELECT adjourn_session_key(%(owner_id)s, %(channel)s, %(one)s, %(other)s) AS key",
            owner_id=owner_id,
            channel=channel,
            one=one,
            other=other,
        )
        assert found["key"] == key_in_python(owner_id, channel, one, other)

    compare()


def test_whitespace_in_sql_is_that_of_python() -> None:
    assert set(WHITESPACE) == {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}


def test_a_part_that_is_null_makes_no_key(writer: Writer) -> None:
    for place in range(4):
        given = ", ".join("NULL" if number == place else f"'{number}'" for number in range(4))
        assert writer.run(f"SELECT adjourn_session_key({given}) AS key") == [{"key": None}]


# Installing and removing


def triggers(writer: Writer) -> list[str]:
    found = writer.run("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname")
    return [row["tgname"] for row in found]


def functions(writer: Writer) -> list[str]:
    found = writer.run("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname")
    return [row["proname"] for row in found]


OF_THE_TABLES = ["conversations_keep_latest", "conversations_stay_ended"]
OF_OURS = ["zz_adjourn_activity", "zz_adjourn_opening", "zz_adjourn_record"]


def test_what_is_removed_leaves_nothing_and_removing_again_is_no_harm(engine: Engine, writer: Writer) -> None:
    assert triggers(writer) == OF_THE_TABLES + OF_OURS
    for _ in range(2):
        with engine.begin() as connection:
            remove(connection)
        assert triggers(writer) == functions(writer) == OF_THE_TABLES
        with engine.connect() as connection:
            assert not is_installed(connection)
    with pytest.raises(errors.NotNullViolation):
        writer.open()


@pytest.mark.parametrize(
    "spoilt",
    [
        "DROP TRIGGER zz_adjourn_record ON conversations",
        "ALTER TABLE conversations DISABLE TRIGGER zz_adjourn_record",
        """
        CREATE OR REPLACE TRIGGER zz_adjourn_record AFTER UPDATE ON conversations FOR EACH ROW WHEN (false)
        EXECUTE FUNCTION adjourn_record_change();
        COMMENT ON TRIGGER zz_adjourn_record ON conversations IS 'another'
        """,
    ],
)
def test_a_trigger_that_is_missing_or_off_or_another_is_made_anew(engine: Engine, writer: Writer, spoilt: str) -> None:
    writer.run(spoilt)
    with engine.begin() as connection:
        assert is_installed(connection) == ("another" in spoilt)
        install(connection, timeouts=TIMEOUTS)
        assert is_installed(connection)

    writer.change(writer.open()["conv_id"], status="closed")
    assert len(writer.events()) == 1


def test_other_timeouts_are_for_what_opens_from_then_on_and_need_no_lock(engine: Engine, writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]
    with writer.connection.transaction():
        writer.change(conv_id, metadata="{}")  # it holds the table against whoever wants to change it
        with engine.begin() as connection:
            install(
                connection, timeouts=Timeouts(idle=timedelta(seconds=90, microseconds=1), expiry=timedelta(days=400))
            )

    new = writer.open(from_number="2", updated_at=NOON)
    assert new["idle_at"] == NOON + timedelta(seconds=90, microseconds=1)
    assert new["expires_at"] == NOON + timedelta(days=400)
    assert writer.change(conv_id, updated_at=NOON + MINUTE)["idle_at"] == IDLE_AT + MINUTE


@pytest.mark.parametrize("do", [lambda connection: install(connection, timeouts=TIMEOUTS), remove])
def test_who_does_not_get_the_table_soon_gives_up(
    engine: Engine, writer: Writer, monkeypatch: pytest.MonkeyPatch, do: Callable[[Connection], None]
) -> None:
    monkeypatch.setattr(foreign_writers, "_LOCK_TIMEOUT", "50ms")
    if do is not remove:
        with engine.begin() as connection:
            remove(connection)
    before = triggers(writer)

    with writer.connection.transaction():
        writer.run("UPDATE conversations SET metadata = '{}'")
        with pytest.raises(OperationalError, match="lock timeout"), engine.begin() as connection:
            do(connection)

    assert triggers(writer) == before


def test_several_that_install_at_once_wait_for_each_other(engine: Engine) -> None:
    def install_again(number: int) -> None:
        with engine.begin() as connection:
            install(connection, timeouts=Timeouts(idle=number * MINUTE, expiry=TIMEOUTS.expiry))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(install_again, range(1, 13)))


def test_sqlite_has_none(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    with engine.begin() as connection:
        assert not is_installed(connection)
        with pytest.raises(InvalidValueError, match="PostgreSQL only"):
            install(connection, timeouts=TIMEOUTS)
        with pytest.raises(InvalidValueError, match="PostgreSQL only"):
            remove(connection)
    engine.dispose()


def test_without_tables_there_is_nothing_to_put_them_on(empty_postgresql_url: str) -> None:
    engine = create_database_engine(empty_postgresql_url)
    with engine.begin() as connection:
        assert not is_installed(connection)
        with pytest.raises(InvalidValueError, match="no tables"):
            install(connection, timeouts=TIMEOUTS)
        # A change of status could not be recorded, and would be refused.
        connection.exec_driver_sql("CREATE TABLE conversations (status text)")
        with pytest.raises(InvalidValueError, match="no tables"):
            install(connection, timeouts=TIMEOUTS)
    engine.dispose()


# As the docs have it


def test_the_statements_of_the_docs_do_what_they_say(writer: Writer) -> None:
    written = re.sub(r" +-- .*", "", DOCS.read_text())
    open_or_resume, message, close = re.findall(r"^    ((?:INSERT|UPDATE) [^;]+;)", written, re.MULTILINE)

    def on(statement: str, conv_id: uuid.UUID) -> list[Row]:
        return writer.run(statement.replace("…", str(conv_id)).replace(";", " RETURNING status"))

    (first,) = writer.run(open_or_resume)
    (second,) = writer.run(open_or_resume)
    assert (first["status"], second["status"]) == ("pending", "progress")
    conv_id = first["conv_id"]
    assert second["conv_id"] == conv_id
    assert on(message, conv_id) == [{"status": "progress"}]
    assert on(close, conv_id) == [{"status": "closed"}]
    assert on(message, conv_id) == on(close, conv_id) == []
    (third,) = writer.run(open_or_resume)
    assert third["conv_id"] != conv_id


# By the command


def test_adjourn_migrate_installs_and_removes_and_says_so(
    empty_postgresql_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_postgresql_url)
    monkeypatch.setenv("BACKGROUND_TASK_IDLE_TIMEOUT", "45m")
    engine = create_database_engine(empty_postgresql_url)

    def told(*, foreign_writers: bool | None) -> tuple[list[str], bool]:
        cli.migrate(foreign_writers=foreign_writers)
        with engine.connect() as connection:
            return capsys.readouterr().out.splitlines()[1:], is_installed(connection)

    assert told(foreign_writers=None) == ([], False)
    in_place = ["triggers for other writers: in place; idle timeout 45m, expire after 1d"]
    assert told(foreign_writers=True) == (in_place, True)
    with writing(engine) as writer:
        row = writer.open(updated_at=NOON)
    assert row["idle_at"] == NOON + 45 * MINUTE
    assert told(foreign_writers=None) == ([], True)
    assert told(foreign_writers=False) == (["triggers for other writers: removed"], False)
    for arguments in ({"revision": "0002"}, {"down": True}):
        with pytest.raises(typer.BadParameter, match="newest revision only"):
            cli.migrate(foreign_writers=True, **arguments)
    engine.dispose()


def test_adjourn_migrate_refuses_on_sqlite_before_it_makes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'adjourn.db'}")
    for wanted in (True, False):
        with pytest.raises(InvalidValueError, match="PostgreSQL only"):
            cli.migrate(foreign_writers=wanted)
    assert list(tmp_path.iterdir()) == []


# Beside the services


def test_the_services_do_not_notice_the_triggers_whatever_happens_in_whatever_order(engine: Engine) -> None:
    class WithTriggers(test_conversation_model.Conversations):
        @invariant()
        def no_event_is_the_triggers(self) -> None:
            assert EventCause.WRITER not in {one.cause for one in all_events(self.engine)}

    WithTriggers.engine = engine
    run_state_machine_as_test(
        WithTriggers,
        settings=settings(
            max_examples=5, stateful_step_count=30, database=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_writers_and_sweeps_at_once_lose_and_double_nothing_with_the_triggers(engine: Engine) -> None:
    acknowledged, swept = test_concurrency.run_all(engine, writers=4, messages=60, keys=3, sweeps=2)

    test_concurrency.check(engine, acknowledged, swept)
    assert EventCause.WRITER not in {one.cause for one in all_events(engine)}


def test_a_number_of_the_record_is_not_spent_on_what_the_services_have_written(engine: Engine) -> None:
    for number in range(3):
        opened(engine, number=number)
    process_idle_conversations(engine, now=IDLE_AT)
    for number in (4, 4, 5, 5):
        opened(engine, number=number)

    assert [one.event_id for one in all_events(engine)] == [1, 2, 3, 4, 5]


def test_who_says_that_it_writes_its_events_is_taken_at_its_word_for_a_transaction(writer: Writer) -> None:
    conv_id = writer.open()["conv_id"]
    with writer.connection.transaction():
        writer.run("SET LOCAL adjourn.writes_events = 'on'")
        writer.change(conv_id, status="progress")
    assert writer.events() == []

    writer.change(conv_id, status="closed")
    assert [one["status"] for one in writer.events()] == ["closed"]


def test_a_shorter_timeout_that_meets_the_old_deadline_exactly_counts_as_none(engine: Engine) -> None:
    """The one case in which the triggers cannot tell a service's statement from one without ``idle_at``."""
    conversation = opened(engine)
    shorter = Timeouts(idle=TIMEOUTS.idle - MINUTE, expiry=TIMEOUTS.expiry)
    for late, timeout in ((MOMENT, shorter.idle), (timedelta(0), TIMEOUTS.idle), (-MOMENT, shorter.idle)):
        now = NOON + MINUTE + late
        with open_session(engine) as session:
            moved = record_activity(session, conv_id=conversation.conv_id, now=now, timeouts=shorter)
            assert moved.conversation.idle_at == now + timeout
            session.rollback()


def test_the_sweeps_and_the_services_take_up_what_another_writer_opened(engine: Engine, writer: Writer) -> None:
    due, active = (writer.open(updated_at=NOON, from_number=str(number))["conv_id"] for number in range(2))
    with open_session(engine) as session:
        activity = record_activity(session, conv_id=active, now=NOON + MINUTE, timeouts=TIMEOUTS)
        session.commit()
    assert not activity.opened

    assert process_expired_conversations(engine, now=IDLE_AT).count == 0
    assert process_idle_conversations(engine, now=IDLE_AT).count == 1

    assert {one.conv_id: one.status for one in all_conversations(engine)} == {
        due: ConversationStatus.IDLE_TIMEOUT,
        active: ConversationStatus.PROGRESS,
    }
    assert [one.cause for one in all_events(engine)] == [EventCause.ACTIVITY, EventCause.SWEEP]


# Races


def test_a_sweep_leaves_out_what_another_writer_holds_and_its_activity_counts(engine: Engine, writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    with writer.connection.transaction():
        writer.change(conv_id, updated_at=NOON + MINUTE)
        assert process_idle_conversations(engine, now=IDLE_AT).count == 0

    assert process_idle_conversations(engine, now=IDLE_AT).count == 0
    assert process_idle_conversations(engine, now=IDLE_AT + MINUTE).count == 1


@pytest.mark.parametrize("change", ["updated_at = clock_timestamp()", "status = 'progress'", "status = 'closed'"])
def test_a_change_that_waits_for_a_sweep_meets_what_has_ended(engine: Engine, writer: Writer, change: str) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]
    statement = f"UPDATE conversations SET {change} WHERE conv_id = '{conv_id}' AND status IN ('pending', 'progress')"

    with ThreadPoolExecutor(1) as pool:
        with test_concurrency.uncommitted_sweep(engine):
            futures = [pool.submit(writer.run, f"{statement} RETURNING conv_id")]
            wait_for(lambda: test_concurrency.count_waiting(engine) == 1, what="a wait for the sweep")
        assert futures[0].result(30) == []  # so the writer knows, and opens the next

    (event,) = all_events(engine)
    (conversation,) = all_conversations(engine)
    assert (event.cause, conversation.status, conversation.idle_at) == (EventCause.SWEEP, "idle_timeout", IDLE_AT)


def test_a_change_that_does_not_ask_for_the_status_cannot_bring_back_what_a_sweep_has_ended(
    engine: Engine, writer: Writer
) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    with ThreadPoolExecutor(1) as pool:
        with test_concurrency.uncommitted_sweep(engine):
            future = pool.submit(writer.change, conv_id, status="progress", updated_at=IDLE_AT)
            wait_for(lambda: test_concurrency.count_waiting(engine) == 1, what="a wait for the sweep")
        with pytest.raises(errors.CheckViolation, match="never changes again"):
            future.result(30)


def test_a_service_that_waits_for_a_closing_of_another_writer_opens_the_next(engine: Engine, writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    def message() -> bool:
        with open_session(engine) as session:
            activity = record_activity(session, conv_id=conv_id, now=NOON + MINUTE, timeouts=TIMEOUTS)
            session.commit()
        return activity.opened

    def close() -> ConversationStatus:
        with open_session(engine) as session:
            closed = close_conversation(session, conv_id=conv_id, now=NOON + MINUTE)
            session.commit()
        return closed.status

    with ThreadPoolExecutor(2) as pool:
        with writer.connection.transaction():
            writer.change(conv_id, status="closed")
            opened_next, closed = pool.submit(message), pool.submit(close)
            wait_for(lambda: test_concurrency.count_waiting(engine) == 2, what="two waits for the writer")
        assert opened_next.result(30)
        assert closed.result(30) is ConversationStatus.CLOSED
    assert [one.cause for one in all_events(engine)] == [EventCause.WRITER]


def test_a_message_of_another_writer_waits_for_a_services_and_both_count(engine: Engine, writer: Writer) -> None:
    conv_id = writer.open(updated_at=NOON)["conv_id"]

    with ThreadPoolExecutor(1) as pool:
        with open_session(engine) as session:
            record_activity(session, conv_id=conv_id, now=NOON + 2 * MINUTE, timeouts=TIMEOUTS)
            future = pool.submit(writer.change, conv_id, updated_at=NOON + MINUTE, status="progress")
            wait_for(lambda: test_concurrency.count_waiting(engine) == 1, what="a wait for the service")
            session.commit()
        row = future.result(30)

    assert (row["updated_at"], row["idle_at"]) == (NOON + 2 * MINUTE, IDLE_AT + 2 * MINUTE)
    assert [one.cause for one in all_events(engine)] == [EventCause.ACTIVITY]
