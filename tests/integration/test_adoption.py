"""A platform's table becomes what ``adjourn migrate`` makes, whatever cuts the adoption short."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, make_url

from models import ConversationStatus
from services import foreign_writers, migrations
from services.adoption import adopt as adopting
from services.adoption.adopt import adopt, connected
from services.adoption.look import look
from services.adoption.step import Choices, Step
from services.adoption.steps import STEPS
from services.adoption.stopped import AdoptionStoppedError
from services.adoption.undo import undo
from services.conversations import record_activity
from services.database import check_database, create_database_engine, open_session
from services.database_url import parse_database_url
from services.errors import InvalidValueError
from services.session_keys import canonical_session_key
from services.sweeps import process_idle_conversations
from tests.platforms import MINIMAL, catalog, connect, hold_that_it_is_given_back, rows_of, run_sql
from tests.support import TIMEOUTS, open_conversation, wait_for

#: Tries that a test has time for.
IMPATIENT: dict[str, Any] = {"patience": (0.05, 0.1), "pause": 0.05}
LEAVE = Choices(TIMEOUTS, overdue="leave")
ROWS = """
INSERT INTO conversations
SELECT gen_random_uuid(), 'acme', 'sms', '+33 6 ' || n, '+331', (ARRAY['pending', 'progress', 'closed'])[1 + n % 3],
    now() - n * interval '1 minute'
FROM generate_series(1, 300) AS n
"""


@pytest.fixture
def url(empty_postgresql_url: str) -> str:
    """A database with the least of a platform, 300 rows."""
    # Nothing here is about a server that loses power.
    run_sql(
        empty_postgresql_url,
        MINIMAL,
        ROWS,
        f"ALTER DATABASE {make_url(empty_postgresql_url).database} SET synchronous_commit = off",
    )
    return empty_postgresql_url


@contextmanager
def connecting(url: str) -> Iterator[Connection]:
    with connected(parse_database_url(url)) as connection:
        yield connection


@contextmanager
def using(url: str) -> Iterator[Engine]:
    engine = create_database_engine(url)
    yield engine
    engine.dispose()


def adopt_all(
    url: str, choices: Choices = LEAVE, *, after: Callable[[str], None] = lambda _: None, **given: Any
) -> dict[str, str | None]:
    """Adopt it, and return what each step did; ``after`` is told the name of each."""
    done: dict[str, str | None] = {}

    def note(step: Step, what: str | None, _seconds: float) -> None:
        done[step.name] = what
        after(step.name)

    with connecting(url) as connection:
        adopt(connection, choices, on_step=note, **IMPATIENT | given)
    return done


def undo_all(url: str, **given: Any) -> None:
    with connecting(url) as connection:
        undo(connection, LEAVE, **IMPATIENT | given)


def test_an_adopted_table_is_the_one_that_migrate_makes(empty_postgresql_url: str) -> None:
    with using(empty_postgresql_url) as engine:
        migrations.upgrade(engine)
        with engine.begin() as connection:
            foreign_writers.install(connection, timeouts=TIMEOUTS)
    made = catalog(empty_postgresql_url)
    # Of the types that the models have; text will do as well, and is written otherwise in constraints.
    platform = MINIMAL.replace("status text", "status varchar(16)").replace(" text", " varchar")
    run_sql(empty_postgresql_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", platform, ROWS)

    adopt_all(empty_postgresql_url)

    for kind, rows in catalog(empty_postgresql_url).items():
        assert [row for row in rows if "adjourn_adoption" not in str(row[:2])] == made[kind], kind


def test_what_is_compared_holds_what_must_not_be_forgotten(url: str) -> None:
    adopt_all(url)
    written = repr(catalog(url))

    for name in (
        "conversations_active_session_key",
        "conversations_active_idle_at",
        "conversations_status_check",
        "conversations_instants_check",
        "conversations_stay_ended",
        "conversations_keep_latest",
        "zz_adjourn_activity",
        "vacuum_index_cleanup=on",
        "fillfactor=50",
        "conversation_events_conv_id_ended",
    ):
        assert name in written


def test_what_was_null_is_filled_from_what_the_platform_has(url: str) -> None:
    (before,) = rows_of(url, "SELECT updated_at, conv_id FROM conversations WHERE from_number = '+33 6 5'")

    adopt_all(url, Choices(TIMEOUTS, overdue="leave"))

    assert rows_of(
        url,
        "SELECT created_at, updated_at, idle_at, expires_at, ended_at, session_key, metadata "
        "FROM conversations WHERE from_number = '+33 6 5'",
    ) == [
        (
            before[0],
            before[0],
            before[0] + TIMEOUTS.idle,
            before[0] + TIMEOUTS.expiry,
            before[0],
            canonical_session_key(owner_id="acme", channel="sms", from_number="+3365", to_number="+331"),
            {},
        )
    ]
    assert rows_of(url, "SELECT count(*) FROM conversations WHERE (ended_at IS NULL) <> (status <> 'closed')") == [(0,)]
    assert rows_of(url, "SELECT count(*) FROM latest_conversations JOIN conversations USING (conv_id)") == [(300,)]


def test_what_the_platform_has_by_itself_stays(url: str) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    run_sql(
        url,
        "ALTER TABLE conversations "
        "ADD COLUMN idle_at timestamptz(3), ADD COLUMN session_key text, ADD COLUMN metadata jsonb",
        f"UPDATE conversations SET idle_at = '{later}', session_key = 'own', metadata = '{{\"a\": 1}}' "
        "WHERE from_number = '+33 6 5'",
    )

    adopt_all(url)

    assert rows_of(url, "SELECT idle_at, session_key, metadata FROM conversations WHERE from_number = '+33 6 5'") == [
        (later, "own", {"a": 1})
    ]
    assert rows_of(url, "SELECT count(*) FROM conversations WHERE metadata = '{}'") == [(299,)]


def test_parties_that_say_nothing_share_their_key_with_nobody(url: str) -> None:
    run_sql(url, "UPDATE conversations SET from_number = ' '")

    adopt_all(url)

    assert rows_of(url, "SELECT count(*) FROM conversations WHERE session_key <> conv_id::text") == [(0,)]


def test_services_and_sweeps_work_on_the_adopted_table(url: str) -> None:
    adopt_all(url)
    with using(url) as engine:
        check_database(engine)
        with open_session(engine) as session:
            opened = open_conversation(session, now=datetime.now(UTC)).conversation
            session.commit()
        with open_session(engine) as session:
            resumed = record_activity(session, now=datetime.now(UTC), timeouts=TIMEOUTS, session_key=opened.session_key)
            session.commit()
        swept = process_idle_conversations(engine, now=datetime.now(UTC))

    assert resumed.conversation.status is ConversationStatus.PROGRESS
    # Of 300, a third is closed; those of the last half hour are not due.
    assert swept.count == rows_of(url, "SELECT count(*) FROM conversation_events WHERE cause = 'sweep'")[0][0]
    assert 160 <= swept.count <= 200


def test_a_second_adoption_changes_nothing(url: str) -> None:
    adopt_all(url)
    first = catalog(url), rows_of(url, "SELECT * FROM conversations ORDER BY conv_id")

    done = adopt_all(url)

    assert set(done.values()) == {None}
    assert (catalog(url), rows_of(url, "SELECT * FROM conversations ORDER BY conv_id")) == first


class KilledError(Exception):
    """What stands in for the end of the process: the server sees the same, a connection that is gone."""


#: How statements begin that change something.
CHANGES = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "VACUUM", "DO", "WITH", "REVOKE")


def kill_after(connection: Connection, *, commits: int) -> None:
    """End the connection when it is about to change something, once so many of its changes are committed."""
    committed, is_changed = 0, False

    @event.listens_for(connection, "before_cursor_execute")
    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal committed, is_changed
        if statement.lstrip().startswith(CHANGES):
            if committed == commits:
                raise KilledError
            is_changed = True
            if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
                commit(connection)

    @event.listens_for(connection, "commit")
    def commit(_connection: Any) -> None:
        nonlocal committed, is_changed
        committed += is_changed
        is_changed = False


def state(url: str) -> object:
    """Return all that an adoption changes."""
    book = (
        "SELECT added FROM adjourn_adoption"
        if rows_of(url, "SELECT to_regclass('adjourn_adoption')")[0][0]
        else "SELECT 1"
    )
    return catalog(url), rows_of(url, book), rows_of(url, "SELECT * FROM conversations ORDER BY conv_id")


def kill_at_every_commit(url: str, act: Callable[[Connection], None]) -> int:
    """Do ``act`` again and again, killed each time as soon as it has got further; return how often it was killed."""
    commits, after = 1, state(url)
    for kills in range(200):
        try:
            with connecting(url) as connection:
                kill_after(connection, commits=commits)
                act(connection)
        except KilledError:
            # What is done again each time, and changes nothing, does not count.
            before, after = after, state(url)
            commits = commits + 1 if after == before else 1
        else:
            return kills
    raise AssertionError("it never came to its end")


def test_an_adoption_and_its_undoing_that_are_killed_at_every_commit_come_to_their_end(url: str) -> None:
    before = catalog(url)
    adopt_all(url)
    adopted = catalog(url)
    undo_all(url)
    undone = catalog(url)
    run_sql(url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public", MINIMAL, ROWS)
    assert catalog(url) == before

    kills = kill_at_every_commit(url, lambda connection: adopt(connection, LEAVE, **IMPATIENT))

    assert kills > 20
    assert catalog(url) == adopted
    assert kill_at_every_commit(url, lambda connection: undo(connection, LEAVE, **IMPATIENT)) > 5
    assert catalog(url) == undone


@pytest.mark.parametrize("last", ["columns", "foreign writers", "indexes", "overdue"])
def test_an_adoption_that_is_half_done_can_be_undone(url: str, last: str) -> None:
    before = catalog(url)

    def end(name: str) -> None:
        if name == last:
            raise KilledError

    with pytest.raises(KilledError):
        adopt_all(url, after=end)
    undo_all(url)

    hold_that_it_is_given_back(before, catalog(url))


def test_an_index_that_was_left_unfinished_is_made_anew(url: str) -> None:
    adopt_all(url)
    run_sql(url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'conversations_active_idle_at'::regclass")

    done = adopt_all(url)

    assert done["indexes"] == "made conversations_active_idle_at"
    assert rows_of(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


def test_undoing_leaves_the_platform_with_what_it_had_and_columns_that_may_be_null(url: str) -> None:
    run_sql(
        url,
        "ALTER TABLE conversations SET (autovacuum_vacuum_scale_factor = 0.3)",
        "ALTER TABLE conversations ADD COLUMN metadata jsonb",
        "ALTER INDEX conversations_pkey SET (fillfactor = 80)",
    )
    before = catalog(url)
    adopt_all(url)

    undo_all(url)

    hold_that_it_is_given_back(before, catalog(url))
    run_sql(url, "INSERT INTO conversations VALUES (gen_random_uuid(), 'a', 'b', 'c', 'd', 'anything', now())")


def test_what_was_undone_can_be_adopted_again_and_the_record_goes_on(url: str) -> None:
    adopt_all(url, Choices(TIMEOUTS, overdue="end"))
    ended = rows_of(url, "SELECT count(*) FROM conversation_events")
    undo_all(url)

    adopt_all(url)

    assert rows_of(url, "SELECT count(*) FROM conversation_events") == ended
    with using(url) as engine:
        check_database(engine)


def test_there_is_nothing_to_undo_where_nothing_was_adopted(url: str) -> None:
    with pytest.raises(InvalidValueError, match="nothing was adopted"):
        undo_all(url)


def test_of_two_adoptions_at_once_the_second_says_so(url: str) -> None:
    with connecting(url) as connection, adopting.alone(connection):
        for act in (adopt_all, undo_all):
            with pytest.raises(AdoptionStoppedError, match="another adjourn adopt is at work"):
                act(url)

    adopt_all(url)


def test_a_transaction_that_holds_the_table_is_named_and_what_is_done_stays(url: str) -> None:
    with connect(url) as holder:
        holder.execute("SET application_name = 'nightly-report'")
        with holder.transaction():
            holder.execute("SELECT 1 FROM conversations LIMIT 1")
            with pytest.raises(
                AdoptionStoppedError, match=r"2 tries did not get a lock .* nightly-report for .*idle in"
            ):
                adopt_all(url)

    assert adopt_all(url)["book"] is None


def test_writers_behind_the_adoption_wait_no_longer_than_a_try(url: str) -> None:
    waits: list[float] = []
    with connect(url) as holder, connect(url) as writer, holder.transaction():
        holder.execute("SELECT 1 FROM conversations LIMIT 1")
        stopped = threading.Event()

        def write() -> None:
            while not stopped.is_set():
                started = datetime.now(UTC)
                writer.execute("UPDATE conversations SET updated_at = now() WHERE from_number = '+33 6 1'")
                waits.append((datetime.now(UTC) - started).total_seconds())

        thread = threading.Thread(target=write)
        thread.start()
        with pytest.raises(AdoptionStoppedError):
            adopt_all(url, patience=(0.1, 0.2), pause=0.3)
        stopped.set()
        thread.join()

    # Whoever holds the table did not let go of it: without an end of the tries they would wait still.
    assert max(waits) > 0.05
    assert len(waits) > 2


def test_rows_that_others_hold_are_left_out_and_come_back_to(url: str) -> None:
    with connect(url) as holder:

        def hold(name: str) -> None:
            if name == "foreign writers":
                holder.execute("BEGIN")
                holder.execute("SELECT 1 FROM conversations WHERE from_number = '+33 6 7' FOR UPDATE")
                releasing.start()

        def release() -> None:
            filled = "SELECT count(*) FROM conversations WHERE session_key IS NOT NULL"
            try:
                wait_for(lambda: rows_of(url, filled) == [(299,)], seconds=10, what="the fill of the others")
            finally:
                holder.execute("COMMIT")

        releasing = threading.Thread(target=release)
        done = adopt_all(url, after=hold)
        releasing.join()

    assert done["fill"] == "filled 300 rows"


def test_of_several_conversations_of_a_key_the_last_that_was_opened_is_noted(url: str) -> None:
    run_sql(
        url,
        "TRUNCATE conversations",
        "INSERT INTO conversations SELECT gen_random_uuid(), 'acme', 'sms', '+33 6 ' || n % 3, '+331', 'closed', "
        "now() - (n * 7 % 60) * interval '1 day' FROM generate_series(1, 60) AS n",
    )

    adopt_all(url)

    last = (
        "SELECT DISTINCT ON (session_key) session_key, conv_id FROM conversations ORDER BY session_key, created_at DESC"
    )
    assert rows_of(url, "SELECT session_key, conv_id FROM latest_conversations ORDER BY 1") == rows_of(url, last)


def test_duplicates_stop_it_before_the_index_unless_they_are_to_be_closed(url: str) -> None:
    run_sql(
        url,
        "INSERT INTO conversations SELECT gen_random_uuid(), 'acme', 'SMS', '+3361', '+331', 'pending', "
        "now() - n * interval '1 hour' FROM generate_series(1, 2) AS n",
    )
    ordered = rows_of(
        url, "SELECT conv_id FROM conversations WHERE from_number IN ('+33 6 1', '+3361') ORDER BY updated_at DESC"
    )
    named = " ".join(str(row[0]) for row in ordered)

    with pytest.raises(AdoptionStoppedError, match=f"1 session key with .*\n  {named}\n.*--close-duplicates"):
        adopt_all(url)
    assert rows_of(url, "SELECT to_regclass('conversations_active_session_key')") == [(None,)]

    assert adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True))["duplicates"] == (
        "closed 2 duplicates of 1 session key"
    )
    assert rows_of(
        url, "SELECT conv_id, status, cause, previous_status FROM conversation_events ORDER BY deadline DESC"
    ) == [(row[0], "closed", "adoption", "pending") for row in ordered[1:]]


def test_duplicates_that_a_writer_makes_before_the_index_is_there_stop_it_and_leave_no_index(url: str) -> None:
    def make_duplicates(name: str) -> None:
        if name == "duplicates":
            run_sql(
                url,
                "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, status, updated_at) "
                "SELECT gen_random_uuid(), 'acme', 'sms', '+3361', '+331', 'pending', now()",
            )

    with pytest.raises(AdoptionStoppedError, match="1 session key with more than one active"):
        adopt_all(url, after=make_duplicates)
    assert rows_of(url, "SELECT to_regclass('conversations_active_session_key')") == [(None,)]

    run_sql(url, "DELETE FROM conversations WHERE from_number = '+3361'")
    adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True), after=make_duplicates)
    assert rows_of(url, "SELECT count(*) FROM conversation_events WHERE cause = 'adoption'") == [(1,)]


def test_what_is_overdue_stops_it_until_somebody_has_chosen(url: str) -> None:
    with pytest.raises(
        AdoptionStoppedError, match=r"overdue \(up to a day: \d+\).*(?s:.*--overdue end.*--overdue leave)"
    ):
        adopt_all(url, Choices(TIMEOUTS))
    with using(url) as engine, pytest.raises(InvalidValueError, match="run: adjourn adopt"):
        migrations.upgrade(engine)

    done = adopt_all(url, Choices(TIMEOUTS, overdue="end"))

    (count,) = rows_of(
        url, "SELECT count(*) FROM conversation_events WHERE cause = 'adoption' AND status = 'idle_timeout'"
    )
    assert done["overdue"] == f"ended {count[0]}"
    assert rows_of(url, "SELECT count(*) FROM conversations WHERE ended_at IS NULL AND idle_at <= now()") == [(0,)]
    assert adopt_all(url, Choices(TIMEOUTS))["overdue"] is None


def test_without_the_triggers_the_application_has_to_keep_up(url: str) -> None:
    choices = Choices(TIMEOUTS, foreign_writers=False, overdue="leave")
    insert = (
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, status, updated_at) "
        "VALUES (gen_random_uuid(), 'acme', 'sms', '+44', '+331', 'pending', now())"
    )

    def write(name: str) -> None:
        if name == "indexes":
            run_sql(
                url,
                insert.replace("updated_at)", "updated_at, session_key, created_at)").replace(
                    "now())", "now(), 'x', now())"
                ),
            )

    with pytest.raises(AdoptionStoppedError, match=r"1 row written since the fill .*--no-foreign-writers"):
        adopt_all(url, choices, after=write)

    done = adopt_all(url, choices)
    assert "application keeps" in str(done["foreign writers"])
    assert rows_of(url, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_adjourn%'") == [(0,)]


def test_a_timeout_that_has_changed_gets_into_the_triggers_with_the_next_run(url: str) -> None:
    adopt_all(url)

    adopt_all(url, Choices(type(TIMEOUTS)(idle=timedelta(minutes=7), expiry=TIMEOUTS.expiry), overdue="leave"))

    run_sql(
        url,
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, status, updated_at) "
        "VALUES (gen_random_uuid(), 'acme', 'sms', '+44', '+331', 'pending', now())",
    )
    assert rows_of(url, "SELECT idle_at - updated_at FROM conversations WHERE from_number = '+44'") == [
        (timedelta(minutes=7),)
    ]


def test_a_look_needs_no_right_but_to_read_and_changes_nothing(url: str) -> None:
    role = f"reader_{uuid.uuid4().hex}"
    run_sql(url, f"CREATE ROLE {role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    before = state(url)
    try:
        with connecting(url) as connection:
            connection.exec_driver_sql(f"SET SESSION AUTHORIZATION {role}")
            connection.commit()
            read_only = []

            @event.listens_for(connection, "before_cursor_execute")
            def ask(_connection: Any, cursor: Any, *_: Any) -> None:
                read_only.append(cursor.connection.execute("SHOW transaction_read_only").fetchone()[0])

            seen = look(connection, LEAVE)
            assert set(read_only) == {"on"}
            with pytest.raises(AdoptionStoppedError, match=f"{role} can look but not adopt"):
                adopt(connection, LEAVE, **IMPATIENT)
    finally:
        run_sql(url, f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert seen.blockers == []
    assert [step.name for step in STEPS if step.to_do(seen.found) is None] == ["duplicates"]
    assert state(url) == before


def test_what_a_look_foretells_is_what_an_adoption_does(url: str) -> None:
    with connecting(url) as connection:
        seen = look(connection, Choices(TIMEOUTS, overdue="end")).found
    assert seen.overdue is not None
    assert seen.rows is not None

    done = adopt_all(url, Choices(TIMEOUTS, overdue="end"))

    assert done["overdue"] == f"ended {seen.overdue.count}"
    assert seen.rows.to_fill == {
        "session_key": 300,
        "created_at": 300,
        "idle_at": 300,
        "expires_at": 300,
        "ended_at": 100,
    }


def test_overdue_conversations_are_told_by_how_long(url: str) -> None:
    run_sql(
        url,
        "TRUNCATE conversations",
        "INSERT INTO conversations SELECT gen_random_uuid(), 'acme', 'sms', n, '+1', 'pending', now() - late::interval "
        "- interval '30 minutes' FROM unnest(ARRAY['1 day', '1 day 1 s', '7 days', '29 days', '31 days', '364 days', "
        "'366 days', '-1 minute']) WITH ORDINALITY AS given (late, n)",
    )

    with connecting(url) as connection:
        overdue = look(connection, LEAVE).found.overdue

    assert overdue is not None
    # A day is over a moment after it is up.
    assert list(overdue.ages.values()) == [0, 2, 2, 2, 1]
    assert overdue.statuses == {"idle_timeout": 7}
