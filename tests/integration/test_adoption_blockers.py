"""What is in the way of an adoption: each is found on a real table, and its advice mends it."""

import re

import pytest

from services.adoption.adopt import adopt, connected
from services.adoption.look import Look, look
from services.adoption.notes import find_notes
from services.adoption.step import Choices
from services.adoption.stopped import AdoptionStoppedError
from services.database import check_database, create_database_engine
from services.database_url import parse_database_url
from services.errors import InvalidValueError
from tests.platforms import MINIMAL, catalog, connect, run_sql
from tests.support import TIMEOUTS

CHOICES = Choices(TIMEOUTS, overdue="leave", close_duplicates=True)
ROW = "INSERT INTO conversations VALUES (gen_random_uuid(), 'acme', 'sms', '+331', '+332', 'pending', now())"
ANOTHER = ROW.replace("+331", "+333")
ENDED = "ALTER TABLE conversations ADD COLUMN ended_at timestamptz; UPDATE conversations SET ended_at = now()"

#: What the platform has, the kind of blocker, and what is said of it.
CASES = {
    "a view": (
        [MINIMAL.replace("conversations", "threads"), "CREATE VIEW conversations AS SELECT * FROM threads"],
        "not_a_table",
        "conversations is a view",
    ),
    "a partitioned table": (
        [
            f"{MINIMAL.rstrip()} PARTITION BY HASH (conv_id)",
            "CREATE TABLE part PARTITION OF conversations FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            ROW,
        ],
        "not_a_table",
        "conversations is a partitioned table",
    ),
    "an id that is no uuid": (
        [MINIMAL.replace("conv_id uuid", "conv_id text"), ROW],
        "column_type",
        "conv_id is text: it has to be uuid",
    ),
    "another primary key": (
        [
            MINIMAL.replace("conv_id uuid PRIMARY KEY", "conv_id uuid NOT NULL"),
            "ALTER TABLE conversations ADD COLUMN id bigserial PRIMARY KEY",
            ROW,
        ],
        "primary_key",
        "conv_id is not the primary key of conversations; it is id",
    ),
    "no primary key": (
        [MINIMAL.replace("PRIMARY KEY", "NOT NULL"), ROW],
        "primary_key",
        "conv_id is not the primary key of conversations; it has none",
    ),
    "a native enum": (
        [
            "CREATE TYPE state AS ENUM ('pending', 'closed')",
            MINIMAL.replace("status text NOT NULL", "status state NOT NULL DEFAULT 'pending'"),
            ROW,
        ],
        "enum_type",
        "status is of the native enum type state",
    ),
    "a status that is too short": (
        [MINIMAL.replace("status text", "status varchar(8)"), ROW],
        "column_type",
        "it has to hold 12 characters",
    ),
    "an owner that is a number": (
        [MINIMAL.replace("owner_id text", "owner_id bigint"), ROW.replace("'acme'", "7")],
        "column_type",
        "owner_id is bigint: it has to be text or varchar",
    ),
    "instants without time zone": (
        [MINIMAL.replace("timestamptz", "timestamp"), ROW],
        "column_type",
        "updated_at is timestamp without time zone: an instant has to have a time zone",
    ),
    "metadata that is no jsonb": (
        [MINIMAL, "ALTER TABLE conversations ADD COLUMN metadata json DEFAULT '{}'", ROW],
        "column_type",
        "metadata is json: it has to be jsonb",
    ),
    "a deadline that is computed": (
        [
            MINIMAL.replace(
                "timestamptz NOT NULL",
                "timestamptz NOT NULL, idle_at timestamptz GENERATED ALWAYS AS "
                "((updated_at AT TIME ZONE 'UTC' + interval '1 h') AT TIME ZONE 'UTC') STORED",
            ),
            ROW,
        ],
        "generated_column",
        "idle_at is computed by the database",
    ),
    "nothing to make a session key from": (
        [MINIMAL, ROW, ANOTHER, "ALTER TABLE conversations DROP COLUMN from_number, DROP COLUMN channel"],
        "missing_column",
        "there is no column",
    ),
    "no last activity": (
        [MINIMAL, ROW, "ALTER TABLE conversations DROP COLUMN updated_at"],
        "missing_column",
        "there is no column updated_at",
    ),
    "parties that are NULL": (
        [
            MINIMAL,
            "ALTER TABLE conversations ALTER COLUMN from_number DROP NOT NULL",
            ROW,
            ANOTHER,
            "UPDATE conversations SET from_number = NULL",
        ],
        "no_session_key",
        "2 rows without from_number",
    ),
    "statuses in upper case": (
        [MINIMAL, ROW, "UPDATE conversations SET status = 'PENDING'"],
        "statuses",
        "'PENDING' (1); some differ in upper case only",
    ),
    "statuses of the platform's own": (
        [
            MINIMAL,
            "ALTER TABLE conversations ALTER COLUMN status DROP NOT NULL",
            ROW,
            ANOTHER,
            "UPDATE conversations SET status = CASE from_number WHEN '+331' THEN 'it''s snoozed' END",
        ],
        "statuses",
        "snoozed",
    ),
    "infinity": (
        [
            MINIMAL,
            "ALTER TABLE conversations ADD COLUMN expires_at timestamptz",
            ROW,
            ANOTHER,
            (
                "UPDATE conversations SET expires_at = CASE from_number WHEN '+331' THEN 'infinity' ELSE '-infinity' "
                "END::timestamptz"
            ),
        ],
        "instants",
        "2 rows with infinity, or a year that is not from 1 to 9999, in expires_at",
    ),
    "an activity at infinity": (
        [MINIMAL, ROW, ROW, "UPDATE conversations SET updated_at = 'infinity'"],
        "instants",
        "2 rows with infinity, or a year that is not from 1 to 9999, in updated_at",
    ),
    "an activity that is NULL": (
        [
            MINIMAL,
            "ALTER TABLE conversations ALTER COLUMN updated_at DROP NOT NULL",
            ROW,
            ROW,
            "UPDATE conversations SET updated_at = NULL",
        ],
        "no_activity",
        "2 rows without updated_at",
    ),
    "an end of what is active": (
        [MINIMAL, ROW, *ENDED.split(";")],
        "ended_and_active",
        "1 active row with an ended_at",
    ),
    "a table with a name of ours": (
        [MINIMAL, "CREATE TABLE conversation_events (id int)"],
        "name_taken",
        "the table conversation_events is there already",
    ),
    "an index with a name of ours": (
        [MINIMAL, "CREATE INDEX conversations_active_idle_at ON conversations (updated_at)"],
        "name_taken",
        "the index conversations_active_idle_at is there already",
    ),
    "a constraint with a name of ours": (
        [MINIMAL, "ALTER TABLE conversations ADD CONSTRAINT conversations_status_check CHECK (status <> '')"],
        "name_taken",
        "the constraint conversations_status_check is there already",
    ),
    "a trigger and a function with names of ours": (
        [
            MINIMAL,
            "CREATE FUNCTION conversations_stay_ended() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            (
                "CREATE TRIGGER conversations_stay_ended BEFORE UPDATE ON conversations FOR EACH ROW "
                "EXECUTE FUNCTION conversations_stay_ended()"
            ),
        ],
        "name_taken",
        "the function conversations_stay_ended is there already",
    ),
}


def look_at(url: str) -> Look:
    with connected(parse_database_url(url)) as connection:
        return look(connection, CHOICES)


def adopt_it(url: str) -> None:
    with connected(parse_database_url(url)) as connection:
        adopt(connection, CHOICES)


def run_advice(url: str, advice: str) -> None:
    """Run the advice as psql would: in one session, each statement by itself."""
    statements = re.sub(r"^--.*$", "", advice, flags=re.MULTILINE).split(";\n")
    with connect(url) as connection:
        for statement in statements:
            if statement.strip():
                connection.execute(statement.encode())


@pytest.mark.parametrize("case", CASES)
def test_what_is_in_the_way_is_named_and_its_advice_mends_it(case: str, empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    statements, kind, said = CASES[case]
    run_sql(url, *statements)
    before = catalog(url)

    with pytest.raises(AdoptionStoppedError, match="in the way; nothing was changed"):
        adopt_it(url)
    assert catalog(url) == before

    # What is wrong with the rows shows once the table's own shape is right.
    found = []
    while blockers := look_at(url).blockers:
        found += blockers
        for blocker in blockers:
            run_advice(url, blocker.advice)
        assert len(found) < 10
    assert kind in {blocker.kind for blocker in found}
    assert any(said in blocker.text for blocker in found), [blocker.text for blocker in found]
    adopt_it(url)
    engine = create_database_engine(url)
    check_database(engine)
    engine.dispose()


def test_a_table_beside_which_no_other_would_be_made_is_in_the_way(empty_postgresql_url: str) -> None:
    run_sql(
        empty_postgresql_url,
        f"CREATE SCHEMA platform; SET search_path = platform; {MINIMAL}; SET search_path = DEFAULT",
    )
    with connected(parse_database_url(empty_postgresql_url)) as connection:
        connection.exec_driver_sql("SET search_path = public, platform")
        connection.commit()
        (blocker,) = look(connection, CHOICES).blockers
        assert blocker.kind == "schema"
        connection.exec_driver_sql("SET search_path = platform")
        connection.commit()
        adopt(connection, CHOICES)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([], "there is no table conversations to adopt; to make one: adjourn migrate"),
        (["CREATE TABLE other (id int)"], "there is no table conversations"),
    ],
)
def test_where_there_is_no_table_it_says_what_makes_one(
    statements: list[str], said: str, empty_postgresql_url: str
) -> None:
    run_sql(empty_postgresql_url, *statements)

    with pytest.raises(InvalidValueError, match=said):
        look_at(empty_postgresql_url)


def test_a_table_of_adjourns_own_is_not_adopted(postgresql_url: str) -> None:
    with pytest.raises(InvalidValueError, match="Adjourn's own already"):
        adopt_it(postgresql_url)


def test_sqlite_is_not_adopted(sqlite_url: str) -> None:
    with pytest.raises(InvalidValueError, match="only PostgreSQL is"):
        adopt_it(sqlite_url)


def test_notes_say_what_does_not_stop_it(empty_postgresql_url: str) -> None:
    run_sql(
        empty_postgresql_url,
        MINIMAL.rstrip().removesuffix(")") + ", inbox_id int NOT NULL, id bigserial NOT NULL, expires_at timestamptz)",
        "CREATE TABLE alembic_version (version_num text)",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()",
        "INSERT INTO conversations VALUES (gen_random_uuid(), 'acme', 'sms', '+331', '+332', 'pending', now(), 7)",
    )

    seen = look_at(empty_postgresql_url)

    assert seen.notes == find_notes(seen.found.facts, seen.found.rows)
    said = " | ".join(seen.notes)
    assert "must be given: inbox_id." in said
    assert "fire for Adjourn's changes as well: touch" in said
    assert "alembic_version" in said
    assert "1 row without expires_at" in said
