"""What is in the way of an adoption: each is found on a real table, and its advice mends it."""

import re
from dataclasses import replace

import pytest
from sqlalchemy import make_url

from services.adoption.adopt import adopt
from services.adoption.blockers import Blocker
from services.adoption.look import Look, look
from services.adoption.session import connected
from services.adoption.step import Choices
from services.adoption.stopped import AdoptionStoppedError
from services.database import check_database, create_database_engine
from services.database_url import parse_database_url
from services.errors import InvalidValueError
from tests.plain_sql import connect, rows_of, run_sql
from tests.platforms import MINIMAL, catalog
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
            "ALTER TABLE conversations ALTER from_number DROP NOT NULL, ALTER from_number TYPE varchar(16)",
            ROW.replace("VALUES (", "SELECT ").replace("now())", "now() FROM generate_series(1, 1002)"),
            "UPDATE conversations SET from_number = NULL",
        ],
        "no_session_key",
        "1,002 rows without from_number",
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
    "a primary key whose name needs quotes": (
        [
            MINIMAL.replace("conv_id uuid PRIMARY KEY", "conv_id uuid NOT NULL"),
            'ALTER TABLE conversations ADD COLUMN "Id" bigserial CONSTRAINT "PK_Conversations" PRIMARY KEY',
            ROW,
        ],
        "primary_key",
        "it is Id",
    ),
    "a CHECK without two of the statuses, by the name that PostgreSQL gives it": (
        [
            MINIMAL.replace(
                "status text NOT NULL", "status varchar(20) NOT NULL CHECK (status IN ('pending','progress','expired'))"
            ),
        ],
        "refused_statuses",
        "the CHECK platform_conversations_status_check refuses idle_timeout, closed",
    ),
    "a CHECK that no active row could be ended with": (
        [
            MINIMAL,
            (
                'ALTER TABLE conversations ADD COLUMN "Closed%" timestamptz, ADD CONSTRAINT ends_whole '
                "CHECK ((status IN ('pending','progress')) = (\"Closed%\" IS NULL))"
            ),
            ROW,
        ],
        "refused_statuses",
        "the CHECK ends_whole refuses idle_timeout, expired to rows that are there",
    ),
    "a CHECK that refuses what mends the rows": (
        [
            MINIMAL.replace("status text NOT NULL", "status text NOT NULL CHECK (status IN ('open', 'done'))"),
            "ALTER TABLE conversations ADD CHECK ((status = 'open') = (channel = 'sms'))",
            ROW.replace("pending", "open"),
        ],
        "statuses",
        "'open' (1)",
    ),
    "old rows that break a constraint": (
        [
            MINIMAL,
            ROW,
            ANOTHER,
            "ALTER TABLE conversations ADD CONSTRAINT \"Short\" CHECK (from_number <> '+333') NOT VALID",
        ],
        "broken_rows",
        "the constraint Short is NOT VALID, and 1 row would not satisfy it",
    ),
    "a table that inherits from it, and one that it inherits from": (
        [
            "CREATE TABLE threads (conv_id uuid)",
            f"{MINIMAL.rstrip()} INHERITS (threads)",
            ROW,
            'CREATE TABLE "Old" (PRIMARY KEY (conv_id)) INHERITS (conversations)',
        ],
        "inheritance",
        '"Old" inherits from conversations',
    ),
    "a partition": (
        [
            f"{MINIMAL.replace('conversations', 'threads').rstrip()} PARTITION BY HASH (conv_id)",
            "CREATE TABLE conversations PARTITION OF threads FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            ROW,
        ],
        "inheritance",
        "conversations is a partition of threads",
    ),
    "one ending of each kind for a pair": (
        [
            MINIMAL,
            ROW,
            'ALTER TABLE conversations ADD CONSTRAINT "One" UNIQUE (owner_id, from_number, to_number, status)',
            "CREATE UNIQUE INDEX \"Two\" ON conversations (lower(from_number), status) WHERE status <> 'closed'",
        ],
        "unique_index",
        'the unique index "One" on owner_id, from_number, to_number, status lets one',
    ),
}

#: Defaults of the platform's, and what is said of each.
DEFAULTS = {
    "status": ("text DEFAULT 'it''s 100% open'", "status has the default 'it''s 100% open', which is none of"),
    "ended_at": ("timestamptz DEFAULT now()", "ended_at has the default now()"),
    "expires_at": ("timestamptz DEFAULT 'infinity'", "which is infinity, or of a year"),
    "idle_at": ("timestamptz DEFAULT '9999-12-31'", "which is infinity, or of a year"),
    "session_key": ("text DEFAULT 'none'", "the same for all"),
}


def look_at(url: str) -> Look:
    with connected(parse_database_url(url)) as connection:
        return look(connection, CHOICES)


def adopt_it(url: str) -> None:
    with connected(parse_database_url(url)) as connection:
        adopt(connection, CHOICES)


def run_advice(url: str, advice: str) -> None:
    """Run the advice as psql would: in one session, each statement by itself."""
    statements = re.findall(
        r"(?:[^;$]|\$\$.*?\$\$)+", re.sub(r"^--.*$", "", advice, flags=re.MULTILINE), flags=re.DOTALL
    )
    with connect(url) as connection:
        for statement in statements:
            if statement.strip():
                connection.execute(statement.encode())


def mend(url: str) -> list[Blocker]:
    """Run the advice until nothing is in the way, and return what was."""
    # What is wrong with the rows shows once the table's own shape is right.
    found: list[Blocker] = []
    while blockers := look_at(url).blockers:
        # Each is mended at once.
        assert not {blocker.kind for blocker in found} & {blocker.kind for blocker in blockers}, blockers
        found += blockers
        for blocker in blockers:
            run_advice(url, blocker.advice)
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_in_the_way_is_named_and_its_advice_mends_it(case: str, empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    statements, kind, said = CASES[case]
    run_sql(url, *statements)
    before = catalog(url)

    with pytest.raises(AdoptionStoppedError, match="in the way; nothing was changed"):
        adopt_it(url)
    assert catalog(url) == before

    found = mend(url)
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


def test_defaults_that_adjourn_would_refuse_are_in_the_way(empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    run_sql(
        url,
        MINIMAL.replace("    status text NOT NULL,\n", ""),
        *(f"ALTER TABLE conversations ADD COLUMN {name} {definition}" for name, (definition, _) in DEFAULTS.items()),
        "ALTER TABLE conversations ALTER COLUMN updated_at SET DEFAULT now()",
    )
    unlike = "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number) VALUES "

    found = mend(url)

    assert {blocker.kind for blocker in found} == {"default"}
    for _, said in DEFAULTS.values():
        assert any(said in blocker.text for blocker in found), said
    adopt_it(url)
    run_sql(url, *(f"{unlike} (gen_random_uuid(), 'acme', 'sms', '+33{n}', '+332')" for n in range(2)))
    assert rows_of(url, "SELECT status, ended_at, count(DISTINCT session_key) FROM conversations GROUP BY 1, 2") == [
        ("pending", None, 2)
    ]


def test_row_level_security_that_hides_rows_is_in_the_way(empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    owner, reader = (f"{role}_of_{make_url(url).database}" for role in ("owner", "reader"))
    run_sql(
        url,
        MINIMAL,
        ROW,
        *(f"CREATE ROLE {role} LOGIN" for role in (owner, reader)),
        f"GRANT ALL ON SCHEMA public TO {owner}",
        f"ALTER TABLE conversations OWNER TO {owner}",
        f"GRANT SELECT ON conversations TO {reader}",
        "CREATE POLICY own ON conversations USING (owner_id = current_setting('app.owner', true))",
        "ALTER TABLE conversations ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE conversations FORCE ROW LEVEL SECURITY",
    )
    as_owner, as_reader = (
        make_url(url).set(username=role).render_as_string(hide_password=False) for role in (owner, reader)
    )
    try:
        # Whoever looks: it is the owner who adopts.
        for seen in (look_at(url), look_at(as_owner)):
            (blocker,) = seen.blockers
            assert blocker.text.startswith(f"row-level security is forced on {owner} as well")
            assert seen.found.rows is None
        run_advice(as_owner, blocker.advice)
        (blocker,) = look_at(as_reader).blockers
        assert blocker.text == f"row-level security shows {reader} some rows only"
        run_advice(url, blocker.advice)
        assert look_at(as_reader).blockers == []
        adopt_it(as_owner)
    finally:
        run_sql(url, *(f"DROP OWNED BY {role}" for role in (owner, reader)), f"DROP ROLE {owner}, {reader}")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_an_encoding_that_lacks_what_is_needed_is_in_the_way(encoding: str, empty_postgresql_url: str) -> None:
    url, name = make_url(empty_postgresql_url), f"{make_url(empty_postgresql_url).database}_old"
    old = url.set(database=name).render_as_string(hide_password=False)
    run_sql(empty_postgresql_url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE 'C'")
    try:
        run_sql(old, MINIMAL, ROW)
        (blocker,) = look_at(old).blockers
        assert blocker.text.startswith(f"the database is of {encoding}")
        if encoding == "LATIN1":
            with connected(parse_database_url(old)) as connection:
                adopt(connection, replace(CHOICES, foreign_writers=False))
    finally:
        run_sql(empty_postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


def test_no_time_limit_ends_a_look(empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    slow = "CREATE FUNCTION slow() RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT true FROM pg_sleep(0.3)'"
    run_sql(url, MINIMAL, ROW, slow, "ALTER TABLE conversations ADD CHECK (slow() AND channel <> '') NOT VALID")
    limits = rows_of(url, "SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')")
    for (limit,) in limits:
        run_sql(url, f"ALTER DATABASE {make_url(url).database} SET {limit} = '250ms'")

    (note,) = look_at(url).notes
    assert note.endswith("VALIDATE CONSTRAINT says so")


def test_triggers_that_a_fill_would_fire_are_noted(empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    run_sql(
        url,
        MINIMAL,
        "ALTER TABLE conversations ADD COLUMN ended_at timestamptz",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END'",
        *(
            f"CREATE TRIGGER {name} {at} ON conversations FOR EACH ROW EXECUTE FUNCTION touch()"
            for name, at in {
                '"Touch"': "BEFORE UPDATE",
                "by_status": "BEFORE UPDATE OF status",
                "notify_ended": "AFTER UPDATE OF status, ended_at",
                "audit": "AFTER INSERT OR UPDATE",
                "off": "BEFORE UPDATE",
            }.items()
        ),
        "ALTER TABLE conversations DISABLE TRIGGER off",
        ROW.replace("now()", "'2020-02-02 00:00+00'"),
    )

    before, after, others = look_at(url).notes
    assert before.startswith("triggers BEFORE UPDATE: Touch. The fill fires them for every row")
    assert after.startswith("other triggers at an UPDATE: audit, notify_ended. The fill")
    assert others == "triggers that are there, and fire for Adjourn's changes as well: by_status"

    # As the notes say it.
    for note in (before, after):
        run_sql(url, f"ALTER TABLE {re.findall(r'ALTER TABLE (.*?);', note)[0]}")
    adopt_it(url)
    assert rows_of(url, "SELECT updated_at::date::text FROM conversations") == [("2020-02-02",)]
    for note in (before, after):
        run_sql(url, f"ALTER TABLE {re.findall(r'ALTER TABLE ([^;]*)$', note)[0]}")
    # Nothing is to be filled any longer.
    assert look_at(url).notes == [
        "triggers that are there, and fire for Adjourn's changes as well: Touch, audit, by_status, notify_ended"
    ]


def test_rules_of_the_platforms_are_noted(empty_postgresql_url: str) -> None:
    url = empty_postgresql_url
    run_sql(
        url,
        MINIMAL,
        "ALTER TABLE conversations ADD COLUMN deleted boolean, ADD COLUMN idle_at timestamptz DEFAULT now(), "
        "ADD COLUMN session_key text DEFAULT gen_random_uuid()::text",
        "ALTER TABLE conversations ADD UNIQUE (owner_id, channel, from_number, to_number)",
        "CREATE UNIQUE INDEX live ON conversations (session_key, status) WHERE NOT deleted",
        "CREATE UNIQUE INDEX of_active ON conversations (from_number) WHERE status IN ('pending', 'progress')",
        "CREATE UNIQUE INDEX by_time ON conversations (from_number, updated_at)",
        "ALTER TABLE conversations ADD CONSTRAINT new_only CHECK (from_number <> '') NOT VALID",
        "ALTER TABLE conversations ADD CONSTRAINT kept CHECK (status <> 'expired' OR NOT deleted)",
        ROW,
    )

    seen = look_at(url)

    assert seen.blockers == []
    said = [
        "the constraint new_only is NOT VALID, but no row breaks it",
        "CHECKs of the platform's own that may refuse an end: kept.",
        "idle_at has the default now(), so a conversation that is opened without it is due at once",
        "session_key has the default",
        "the unique index conversations_owner_id_channel_from_number_to_number_key on owner_id,",
        "the unique index live on session_key, status WHERE",
    ]
    assert len(seen.notes) == len(said)
    assert all(note.startswith(start) for note, start in zip(seen.notes, said, strict=True)), seen.notes


def test_notes_say_what_does_not_stop_it(empty_postgresql_url: str) -> None:
    run_sql(
        empty_postgresql_url,
        MINIMAL.rstrip().removesuffix(")")
        + ", user_id bigint, inbox_id int NOT NULL, id bigserial NOT NULL, expires_at timestamptz)",
        "CREATE TABLE alembic_version (version_num text)",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION touch()",
        "INSERT INTO conversations VALUES (gen_random_uuid(), 'acme', 'sms', '+331', '+332', 'pending', now(), 7, 7)",
    )

    seen = look_at(empty_postgresql_url)

    said = " | ".join(seen.notes)
    assert "must be given: inbox_id." in said
    assert "triggers BEFORE UPDATE: touch." in said
    assert "user_id is bigint, which is left as it is." in said
    assert "alembic_version" in said
    assert "1 row without expires_at" in said
