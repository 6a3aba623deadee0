"""A platform's table becomes what ``adjourn migrate`` makes, whatever cuts the adoption short."""

import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.exc import DataError

from models import ConversationStatus
from services import foreign_writers, migrations
from services.adoption.adopt import adopt
from services.adoption.command import print_adoption
from services.adoption.look import look
from services.adoption.report import look_lines
from services.adoption.session import alone, connected
from services.adoption.step import Choices, Step
from services.adoption.steps import STEPS
from services.adoption.stopped import AdoptionStoppedError
from services.adoption.undo import undo
from services.adoption.waiting import telling_waits
from services.conversations import list_events, record_activity
from services.database import check_database, create_database_engine, open_session
from services.database_url import parse_database_url
from services.errors import InvalidValueError
from services.session_keys import canonical_session_key
from services.sweeps import process_expired_conversations, process_idle_conversations
from tests.acceptance.commands import PROJECT, running
from tests.plain_sql import connect, rows_of, run_sql
from tests.platforms import MINIMAL, catalog, hold_that_it_is_given_back
from tests.poolers import pooler_to
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
            # What is done again each time, and changes nothing, does not count; of that, little falls away at once.
            before, after = after, state(url)
            commits = commits + 1 if after == before else max(commits - 2, 1)
        else:
            return kills
    raise AssertionError("it never came to its end")


@pytest.mark.slow
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


def test_undoing_leaves_the_platform_with_what_it_had(url: str) -> None:
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


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1 / 0"])
def test_the_next_one_may_begin_before_the_server_has_noticed_that_the_connection_is_gone(
    statement: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connecting(url) as first, connecting(url) as second:
        monkeypatch.setattr(first, "invalidate", lambda: None)
        with suppress(DataError), alone(first):
            first.exec_driver_sql(statement)
        with alone(second):
            pass


def test_what_was_undone_can_be_adopted_again_and_the_record_goes_on(url: str) -> None:
    adopt_all(url, Choices(TIMEOUTS, overdue="end"))
    ended = rows_of(url, "SELECT count(*) FROM conversation_events")
    undo_all(url)

    adopt_all(url)

    assert rows_of(url, "SELECT count(*) FROM conversation_events") == ended
    with using(url) as engine:
        check_database(engine)


def test_a_later_adoption_takes_no_deadline_of_an_earlier_one_for_the_platforms_own(url: str) -> None:
    run_sql(url, "UPDATE conversations SET updated_at = now() - interval '3 days'")
    adopt_all(url)
    undo_all(url)
    run_sql(url, "UPDATE conversations SET updated_at = now()")

    with connecting(url) as connection:
        overdue = look(connection, LEAVE).found.overdue

    assert overdue is not None
    assert overdue.statuses.get("idle_timeout", 0) == 0


def test_what_is_overdue_is_told_from_what_is_dead(url: str) -> None:
    run_sql(
        url,
        "TRUNCATE conversations",
        "ALTER TABLE conversations ADD COLUMN expires_at timestamptz",
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, status, updated_at, expires_at)"
        " SELECT gen_random_uuid(), 'o', 'sms', '+' || i, '+0', 'progress', now() - i * interval '29 minutes',"
        " now() - interval '1 day' FROM generate_series(1, 3) AS i",
    )
    with connecting(url) as connection:
        seen = look(connection, LEAVE)

    assert seen.found.overdue is not None
    assert (seen.found.overdue.count, seen.found.overdue.lively) == (3, 1)
    told = "\n".join(look_lines(seen))
    assert "idle timeout 30m (BACKGROUND_TASK_IDLE_TIMEOUT), expire after 1d (BACKGROUND_TASK_EXPIRE_AFTER)" in told
    assert "of these with activity within the idle timeout: 1" in told


def test_there_is_nothing_to_undo_where_nothing_was_adopted(url: str) -> None:
    with pytest.raises(InvalidValueError, match="nothing was adopted"):
        undo_all(url)


def test_of_two_adoptions_at_once_the_second_says_so(url: str) -> None:
    with connecting(url) as connection, alone(connection):
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
                AdoptionStoppedError, match=r"2 tries did not get a lock .* nightly-report, for .*idle in"
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
                wait_for(lambda: rows_of(url, filled) == [(299,)], what="the fill of the others")
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
        "now() - n * interval '5 minutes' FROM generate_series(1, 2) AS n",
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
        AdoptionStoppedError, match=r"overdue \(up to a day: \d+; .*(?s:.*--overdue end.*--overdue leave)"
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


# What the platform does meanwhile


def give_duplicates(url: str) -> list[uuid.UUID]:
    """Open three conversations on a key of their own, and return their ids, the one with the latest activity first."""
    run_sql(
        url,
        "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, status, updated_at) "
        "SELECT gen_random_uuid(), 'twice', 'sms', '1', '2', 'pending', now() - n * interval '1 minute' "
        "FROM generate_series(1, 3) AS n",
    )
    return [
        row[0]
        for row in rows_of(url, "SELECT conv_id FROM conversations WHERE owner_id = 'twice' ORDER BY updated_at DESC")
    ]


def sweep(url: str) -> int:
    """End what is due, whichever deadline it has reached; return how many."""
    with using(url) as engine:
        now = datetime.now(UTC)
        return process_idle_conversations(engine, now=now).count + process_expired_conversations(engine, now=now).count


@pytest.mark.parametrize(
    ("change", "active"),
    [
        ("updated_at = clock_timestamp()", [1]),
        ("updated_at = now() - interval '150 seconds'", [0]),
    ],
)
def test_activity_that_comes_while_duplicates_are_closed_counts(url: str, change: str, active: list[int]) -> None:
    conv_ids = give_duplicates(url)

    close_behind(url, f"UPDATE conversations SET {change} WHERE conv_id = '{conv_ids[1]}'")

    found = dict(rows_of(url, "SELECT conv_id, status FROM conversations WHERE owner_id = 'twice'"))
    assert [place for place, conv_id in enumerate(conv_ids) if found[conv_id] == "pending"] == active


def test_a_duplicate_that_is_closed_while_duplicates_are_closed_does_not_take_the_last_one_along(url: str) -> None:
    conv_ids = give_duplicates(url)

    close_behind(url, f"UPDATE conversations SET status = 'closed' WHERE conv_id = '{conv_ids[0]}'")

    events = dict(rows_of(url, "SELECT conv_id, cause FROM conversation_events WHERE cause <> 'sweep'"))
    assert events == {conv_ids[0]: "writer", conv_ids[2]: "adoption"}


def close_behind(url: str, change: str) -> None:
    """Have duplicates closed while a writer has made a change and not committed it, until it is waited for."""
    with connect(url) as writer:

        def write(name: str) -> None:
            if name == "latest":
                writer.execute("BEGIN")
                writer.execute(change.encode())
                committing.start()

        def commit() -> None:
            try:
                wait_for(lambda: rows_of(url, WAITING) != [], what="a wait for the writer")
            finally:
                writer.execute("COMMIT")

        committing = threading.Thread(target=commit)
        adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True), after=write, patience=(30,))
        committing.join()


WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'adjourn' "
    "AND wait_event_type = 'Lock'"
)


def test_a_duplicate_past_its_deadline_gets_what_that_names(url: str) -> None:
    give_duplicates(url)
    run_sql(
        url,
        "UPDATE conversations SET updated_at = updated_at - interval '29 minutes' WHERE owner_id = 'twice'",
        "ALTER TABLE conversations ADD COLUMN expires_at timestamptz",
        "UPDATE conversations SET expires_at = now() + CASE WHEN updated_at < now() - interval '31 minutes 30 seconds' "
        "THEN interval '-1 hour' ELSE interval '1 hour' END WHERE owner_id = 'twice'",
    )

    adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True))

    found = "SELECT status FROM conversations WHERE owner_id = 'twice' ORDER BY updated_at DESC"
    assert rows_of(url, found) == [("pending",), ("idle_timeout",), ("expired",)]
    assert rows_of(
        url, "SELECT e.status, cause, deadline < occurred_at FROM conversation_events e ORDER BY last_activity_at DESC"
    ) == [("idle_timeout", "adoption", True), ("expired", "adoption", True)]


REOPENED = "(SELECT conv_id FROM conversations WHERE from_number = '+33 6 7')"


@pytest.mark.parametrize(
    "reopening", ["status = 'progress'", "status = 'progress', ended_at = NULL, updated_at = now()"]
)
def test_what_is_opened_again_while_it_is_adopted_goes_on_and_ends_in_time(url: str, reopening: str) -> None:
    give_duplicates(url)
    with pytest.raises(AdoptionStoppedError, match="--close-duplicates"):
        adopt_all(url)
    run_sql(
        url,
        f"UPDATE conversations SET status = 'closed' WHERE conv_id = {REOPENED}",
        f"UPDATE conversations SET {reopening} WHERE conv_id = {REOPENED}",
    )
    assert rows_of(url, f"SELECT status FROM conversation_events WHERE conv_id = {REOPENED}") == []

    adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True))

    # It is not due; the others are.
    assert sweep(url) > 0
    row = f"SELECT status, ended_at, idle_at - updated_at FROM conversations WHERE conv_id = {REOPENED}"
    assert rows_of(url, row) == [("progress", None, TIMEOUTS.idle)]
    run_sql(url, f"UPDATE conversations SET idle_at = now() - interval '1 s' WHERE conv_id = {REOPENED}")
    assert sweep(url) == 1


@pytest.mark.parametrize(
    ("reopened_after", "overdue"), [("undoing", "end"), ("undoing", "leave"), ("foreign writers", "end")]
)
def test_what_is_opened_again_after_its_end_was_recorded_does_not_keep_sweeps_from_ending_it(
    url: str, reopened_after: str, overdue: Literal["end", "leave"]
) -> None:
    choices = Choices(TIMEOUTS, overdue=overdue, foreign_writers=reopened_after == "undoing")
    adopt_all(url, Choices(TIMEOUTS, overdue="end"))
    (ended,) = rows_of(url, "SELECT count(*) FROM conversation_events WHERE ended")[0]
    undo_all(url)

    def reopen(name: str) -> None:
        if name == reopened_after:
            # Undone, it has no ended_at.
            clear = "" if name == "undoing" else ", ended_at = NULL"
            run_sql(url, f"UPDATE conversations SET status = 'progress'{clear} WHERE conv_id IN {SOME_ENDED}")

    reopen("undoing")
    done = adopt_all(url, choices, after=reopen)
    sweep(url)

    # Where the triggers are, they see to it; else the constraints do, from which on nothing is opened again.
    said = done["foreign writers" if choices.foreign_writers else "constraints"]
    assert "took back 5 ends of what was opened again" in str(said)
    assert rows_of(url, "SELECT count(*) FROM conversation_events WHERE ended") == [(ended,)]
    assert rows_of(url, "SELECT count(*) FROM conversations WHERE ended_at IS NULL AND idle_at <= now()") == [(0,)]


SOME_ENDED = "(SELECT conv_id FROM conversation_events WHERE ended ORDER BY event_id LIMIT 5)"


def test_statuses_that_are_none_of_ours_are_written_and_not_recorded_until_the_constraints(url: str) -> None:
    give_duplicates(url)
    with pytest.raises(AdoptionStoppedError, match="--close-duplicates"):
        adopt_all(url)

    for status in ("snoozed", "waiting_for_the_customer", "pending"):
        run_sql(url, f"UPDATE conversations SET status = '{status}' WHERE owner_id = 'twice'")
    assert rows_of(url, "SELECT status FROM conversation_events") == []

    adopt_all(url, Choices(TIMEOUTS, overdue="leave", close_duplicates=True))
    with using(url) as engine, open_session(engine) as session:
        (conv_id,) = rows_of(url, "SELECT conv_id FROM conversation_events LIMIT 1")[0]
        assert [one.status for one in list_events(session, conv_id=conv_id)] == [ConversationStatus.CLOSED]


# The platform's own rules


STAMPS = """
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER "Set updated_at" BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER stamp_changes BEFORE UPDATE ON conversations FOR EACH ROW
WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION stamp()
"""


def test_triggers_that_stamp_each_change_stop_the_fill_before_all_of_history_is_of_today(url: str) -> None:
    run_sql(url, STAMPS)
    activity = "SELECT conv_id, updated_at FROM conversations ORDER BY conv_id"
    before = rows_of(url, activity)

    with pytest.raises(AdoptionStoppedError, match=r"\(Set updated_at, stamp_changes\) sets updated_at") as stopped:
        adopt_all(url)
    assert rows_of(url, activity) == before

    run_sql(url, str(stopped.value).partition("run the same again:")[2])
    adopt_all(url, Choices(TIMEOUTS, overdue="end"))
    assert rows_of(url, activity) == before
    run_sql(url, "UPDATE conversations SET metadata = '{\"a\": 1}'")
    assert rows_of(url, "SELECT 1 FROM conversations WHERE updated_at < now() - interval '1 minute'") == []


KEEP = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it is archived'; END $$;
CREATE TRIGGER keep BEFORE UPDATE ON conversations FOR EACH ROW WHEN (OLD.status = 'closed') EXECUTE FUNCTION keep()
"""


def test_a_rule_of_the_platforms_own_that_refuses_a_change_is_told_with_its_step(url: str) -> None:
    run_sql(url, KEEP)

    with pytest.raises(
        AdoptionStoppedError,
        match=r"fill: the database refused it: it is archived \(PL/pgSQL function keep\(\).*run the same again",
    ):
        adopt_all(url)


def test_the_first_key_and_the_last_that_there_can_be_are_filled_and_noted(url: str) -> None:
    for number in (0, 2**128 - 1):
        row = f"'{uuid.UUID(int=number)}', 'edge', 'sms', '{number}', '+1', 'closed', now()"
        run_sql(url, f"INSERT INTO conversations VALUES ({row})")

    assert adopt_all(url)["fill"] == "filled 302 rows"

    edges = "SELECT conv_id FROM conversations JOIN latest_conversations USING (conv_id) WHERE owner_id = 'edge'"
    assert len(rows_of(url, edges)) == 2


def test_names_that_need_quotes_may_be_the_primary_keys(url: str) -> None:
    run_sql(url, """ALTER INDEX conversations_pkey RENAME TO "Conv""Key: 50%" """)
    before = catalog(url)

    adopt_all(url)
    assert "fillfactor=50" in repr(catalog(url)["storage"])
    undo_all(url)

    hold_that_it_is_given_back(before, catalog(url))


@pytest.mark.usefixtures("owner")
def test_undoing_takes_the_triggers_for_writers_whoever_has_installed_them(url: str) -> None:
    before = catalog(url)
    adopt_all(url, Choices(TIMEOUTS, foreign_writers=False, overdue="leave"))
    with using(url) as engine, engine.begin() as connection:
        foreign_writers.install(connection, timeouts=TIMEOUTS)

    undo_all(url)

    hold_that_it_is_given_back(before, catalog(url))


# Roles and sessions


@pytest.fixture
def owner(url: str) -> Iterator[str]:
    """A role that owns the table and may make others beside it."""
    name = f"owner_{uuid.uuid4().hex}"
    run_sql(
        url,
        f"CREATE ROLE {name}; GRANT CREATE ON SCHEMA public TO {name}; ALTER TABLE conversations OWNER TO {name}",
    )
    yield name
    run_sql(url, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_all_that_is_made_belongs_to_the_owner_of_the_table_whoever_adopts_it(url: str, owner: str) -> None:
    adopt_all(url)

    assert rows_of(
        url,
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    ) == [(owner,)]
    undo_all(url)


def test_who_has_the_owners_rights_but_may_not_take_its_place_is_told(url: str, owner: str) -> None:
    if int(rows_of(url, "SHOW server_version_num")[0][0]) < 160_000:
        pytest.skip("PostgreSQL 16 was the first to tell the two apart")
    member = f"member_{uuid.uuid4().hex}"
    run_sql(url, f"CREATE ROLE {member}; GRANT {owner} TO {member} WITH INHERIT TRUE, SET FALSE")
    with connecting(url) as connection:
        connection.exec_driver_sql(f"SET SESSION AUTHORIZATION {member}")
        connection.commit()
        with pytest.raises(
            AdoptionStoppedError, match=f"permission denied to set role .*{owner}.*connect as the owner"
        ):
            adopt(connection, LEAVE, **IMPATIENT)
    run_sql(url, f"DROP ROLE {member}")


def test_a_holder_of_another_role_is_named_to_who_may_not_see_what_it_does(url: str, owner: str) -> None:
    with connect(url) as holder, connecting(url) as connection:
        connection.exec_driver_sql(f"SET SESSION AUTHORIZATION {owner}")
        connection.commit()
        holder.execute("SET application_name = 'nightly-report'")
        with holder.transaction():
            holder.execute("SELECT 1 FROM conversations LIMIT 1")
            pid = holder.info.backend_pid
            with pytest.raises(
                AdoptionStoppedError, match=f"process {pid} of nightly-report, of the role .*pg_read_all_stats"
            ):
                adopt(connection, LEAVE, **IMPATIENT)


@pytest.mark.usefixtures("owner")
def test_a_worker_needs_no_other_right_than_the_page_says(url: str) -> None:
    adopt_all(url)
    worker = f"worker_{uuid.uuid4().hex}"
    run_sql(url, f"CREATE ROLE {worker}", *(grant.replace("worker", worker) for grant in GRANTS))
    with using(url) as engine:

        @event.listens_for(engine, "connect")
        def be_the_worker(connection: Any, _record: Any) -> None:
            connection.execute(f"SET SESSION AUTHORIZATION {worker}")
            connection.commit()

        check_database(engine)
        assert process_idle_conversations(engine, now=datetime.now(UTC)).count > 0
        with open_session(engine) as session:
            opened = open_conversation(session, now=datetime.now(UTC)).conversation
            record_activity(session, now=datetime.now(UTC), timeouts=TIMEOUTS, session_key=opened.session_key)
            assert len(list_events(session, conv_id=opened.conv_id)) == 1
            session.commit()
    run_sql(url, f"DROP OWNED BY {worker}; DROP ROLE {worker}")


GRANTS = re.findall(r"^    (GRANT [^;]+;)", (PROJECT / "docs" / "adopting.md").read_text(), flags=re.MULTILINE)


def test_limits_of_time_are_for_others(url: str) -> None:
    limits = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    limits += [row[0] for row in rows_of(url, "SELECT name FROM pg_settings WHERE name = 'transaction_timeout'")]
    for limit in limits:
        run_sql(url, f"ALTER DATABASE {make_url(url).database} SET {limit} = '10min'")

    with connecting(url) as connection, alone(connection):
        found = [connection.exec_driver_sql(f"SHOW {limit}").scalar_one() for limit in limits]

    assert set(found) == {"0"}


def test_behind_a_transaction_pooler_it_is_refused_before_anything_is_locked(url: str, tmp_path: Path) -> None:
    with pooler_to(url, tmp_path, connections=2) as pooled:
        assert rows_of(pooled, "SELECT count(*) FROM conversations") == [(300,)]
        for act in (adopt_all, undo_all):
            with pytest.raises(InvalidValueError, match="there is a pooler between"):
                act(pooled)
        with connecting(pooled) as connection:
            assert look(connection, LEAVE).blockers == []
        assert rows_of(url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


# What is told


def test_whoever_is_waited_for_is_told(url: str) -> None:
    told: list[str] = []
    with connect(url) as holder, connecting(url) as connection, holder.transaction():
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SET application_name = 'forgotten'")
        # Of another table: an index is not made while anybody may still want the table as it was.
        holder.execute("SELECT 1 FROM pg_class")

        def release(blockers: list[str]) -> None:
            told.extend(blockers)
            holder.execute("COMMIT")

        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("SET statement_timeout = '20s'")
        with telling_waits(parse_database_url(url), connection, release, period=0.05):
            connection.exec_driver_sql("CREATE INDEX CONCURRENTLY an_index ON conversations (owner_id)")

    assert [
        one for one in told if re.fullmatch(r"process \d+ of forgotten, for .* \(idle in transaction\)", one)
    ] == told
    assert len(told) == 1


def test_each_step_is_told_before_and_after_and_an_interruption_how_it_goes_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(url) as holder, holder.transaction():
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1 FROM pg_class")
        arguments = ("adjourn", "adopt", "--overdue", "leave")
        with running(*arguments, directory=tmp_path, variables={"DATABASE_URL": url}) as adoption:
            wait_for(lambda: rows_of(url, WAITING) != [], what="a wait for the holder")
            adoption.send(signal.SIGINT)
            assert adoption.wait() == 130
    said = adoption.output
    assert " 7. duplicates\n    nothing to do\n 8. indexes\ninterrupted; " in said
    assert "run the same again, and it goes on from here" in said

    monkeypatch.setenv("DATABASE_URL", url)
    print_adoption(foreign_writers=True, overdue="leave", close_duplicates=False)
    said = capsys.readouterr().out
    assert " 8. indexes\n    made conversations_active_session_key, " in said
    assert said.endswith("\nadopted\n")
