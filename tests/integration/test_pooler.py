"""Behind a real PgBouncer in transaction mode, which prepared statements do not survive."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

import psycopg
import psycopg.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from services import migrations
from services.conversations import close_conversation, list_active_conversations, list_events, record_activity
from services.database import check_database, create_database_engine, open_session, set_locally
from services.monitoring.backlog_measurement import measure_backlog
from services.settings import load_settings
from services.simulation.report import print_simulation
from services.sweeps import process_expired_conversations, process_idle_conversations
from tests.acceptance.commands import run, running
from tests.plain_sql import plain_url
from tests.poolers import pooler_to
from tests.support import NOON, TIMEOUTS, all_events, open_conversation, wait_for

#: psycopg prepares a statement that a connection has sent five times.
ROUNDS = 8
#: Due for an hour.
BACKLOG = text(
    "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status,"
    " created_at, updated_at, idle_at, expires_at)"
    " SELECT gen_random_uuid(), 'acme', 'sms', '+1', '+2', 'key:' || n, 'progress', now() - interval '2 hours',"
    " now() - interval '2 hours', now() - interval '1 hour', now() + interval '1 day' FROM generate_series(1, :count) n"
)
#: What a server says of a statement that another connection has prepared, or that it was never told of.
NOT_PREPARED_HERE = (psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)


@pytest.fixture(scope="module")
def pooler(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a pooler with two connections to the server for each of its databases."""
    with pooler_to(postgresql_server, tmp_path_factory.mktemp("pooler"), connections=2) as url:
        yield url


@pytest.fixture(scope="module")
def narrow_pooler(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a pooler with one connection to the server for each of its databases."""
    with pooler_to(postgresql_server, tmp_path_factory.mktemp("pooler"), connections=1) as url:
        yield url


def through(pooler: str, database_url: str) -> str:
    """Return the URL of a database through the pooler."""
    return f"{pooler.rpartition('/')[0]}/{database_url.partition('?')[0].rpartition('/')[2]}"


def engines(url: str, count: int, exits: ExitStack, *, prepared: bool) -> list[Engine]:
    """Return engines as so many processes would have them, by their settings."""
    settings = load_settings(DATABASE_URL=url, DATABASE_PREPARED_STATEMENTS=prepared)
    made = [create_database_engine(settings.database) for _ in range(count)]
    for engine in made:
        exits.callback(engine.dispose)
    return made


def occupy_names(url: str, connections: int) -> None:
    """Prepare on each of the server's connections what psycopg would call its first statements.

    Whoever prepares as much as one statement from now on fails.
    """
    plain = plain_url(url)
    with ExitStack() as exits:
        # All at once, each in a transaction, so that each is another connection of the server's.
        held = [exits.enter_context(psycopg.connect(plain, prepare_threshold=None)) for _ in range(connections)]
        for connection in held:
            for number in range(20):
                connection.execute(f"PREPARE _pg3_{number} AS SELECT {number}".encode())


def live_through(engine: Engine, number: int) -> None:
    """Do all that an application does with a conversation, and sweep.

    Each transaction is committed: at a rollback psycopg forgets what it has prepared, and begins to count anew.
    """
    later = NOON + timedelta(hours=1)
    with open_session(engine) as session:
        key = open_conversation(session, number=number).conversation.session_key
        open_conversation(session, number=number)
        of_key = record_activity(session, session_key=key, now=NOON, timeouts=TIMEOUTS)
        record_activity(session, conv_id=of_key.conversation.conv_id, now=NOON, timeouts=TIMEOUTS)
        assert list_active_conversations(session, owner_id="acme")
        session.commit()
        # It is idle by now: this ends it, and opens the next.
        following = record_activity(session, session_key=key, now=later, timeouts=TIMEOUTS)
        assert following.opened
        close_conversation(session, conv_id=following.conversation.conv_id, now=later)
        events = list_events(session, conv_id=of_key.conversation.conv_id)
        assert [event.status for event in events] == ["progress", "idle_timeout"]
        session.commit()
    process_idle_conversations(engine, now=later)
    process_expired_conversations(engine, now=later)


def live_side_by_side(url: str, *, prepared: bool) -> None:
    """Have three processes do it in turn, so that each meets what the others left on the server, and one look on."""
    with ExitStack() as exits:
        *those, looking_on = engines(url, 4, exits, prepared=prepared)
        for turn in range(ROUNDS):
            for place, engine in enumerate(those):
                live_through(engine, turn * len(those) + place)
            check_database(looking_on)
            assert measure_backlog(looking_on).active is not None


def test_everything_works_without_prepared_statements(narrow_pooler: str, postgresql_url: str) -> None:
    live_side_by_side(through(narrow_pooler, postgresql_url), prepared=False)


def test_with_them_it_fails_so_the_pooler_is_one(narrow_pooler: str, postgresql_url: str) -> None:
    with pytest.raises(DBAPIError) as failed:
        live_side_by_side(through(narrow_pooler, postgresql_url), prepared=True)

    assert isinstance(failed.value.orig, NOT_PREPARED_HERE)


def test_tables_are_made_and_removed_through_it(narrow_pooler: str, empty_postgresql_url: str) -> None:
    with ExitStack() as exits:
        [engine] = engines(through(narrow_pooler, empty_postgresql_url), 1, exits, prepared=False)

        migrations.upgrade(engine)
        check_database(engine)
        migrations.downgrade(engine, "base")

        with engine.connect() as connection:
            assert connection.scalar(text("SELECT to_regclass('conversations')")) is None


def test_several_that_migrate_at_once_wait_for_each_other(pooler: str, empty_postgresql_url: str) -> None:
    with ExitStack() as exits:
        those = engines(through(pooler, empty_postgresql_url), 3, exits, prepared=False)

        assert in_threads(lambda: migrations.upgrade(those.pop())) == []

        [engine] = engines(empty_postgresql_url, 1, exits, prepared=False)
        check_database(engine)


def in_threads(work: Callable[[], object], count: int = 3) -> list[Exception]:
    """Do it in so many threads at once; return what went wrong."""
    failures: list[Exception] = []

    def doing() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is for the thread that looks
            failures.append(error)

    threads = [threading.Thread(target=doing) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_what_is_set_for_a_transaction_is_not_left_to_whoever_comes_next(
    narrow_pooler: str, postgresql_url: str
) -> None:
    with ExitStack() as exits:
        first, second = engines(through(narrow_pooler, postgresql_url), 2, exits, prepared=False)
        process_idle_conversations(first, now=NOON)
        measure_backlog(first)
        with first.begin() as connection:
            set_locally(connection, statement_timeout="12345")
            backend = connection.scalar(text("SELECT pg_backend_pid()"))

        with second.connect() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) == backend
            changed = connection.execute(
                text("SELECT name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%'")
            )
            # What PgBouncer itself carries from one connection to the next.
            assert set(changed.scalars()) <= {"application_name", "client_encoding", "DateStyle", "TimeZone"}
            assert connection.scalar(text("SHOW application_name")) == "adjourn"
            assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_two_sweeps_at_once_end_each_conversation_once(pooler: str, postgresql_url: str) -> None:
    count = 1_000
    with ExitStack() as exits:
        [directly] = engines(postgresql_url, 1, exits, prepared=True)
        with directly.begin() as connection:
            connection.execute(BACKLOG, {"count": count})
            now = connection.scalar(text("SELECT now()"))
        those = engines(through(pooler, postgresql_url), 2, exits, prepared=False)
        swept: list[int] = []
        # Neither goes on before the other has ended a batch as well: one might be done before the other has begun.
        both = threading.Barrier(2, timeout=60)
        met = threading.local()

        def proceed() -> bool:
            if not hasattr(met, "place"):
                met.place = both.wait()
            return True

        def sweep() -> None:
            swept.append(process_idle_conversations(those.pop(), now=now, batch_size=20, proceed=proceed).count)

        assert in_threads(sweep, count=2) == []
        assert sum(swept) == count
        assert all(swept), "one did it alone"
        assert len({event.conv_id for event in all_events(directly)}) == len(all_events(directly)) == count


def test_the_commands_take_the_setting(pooler: str, empty_postgresql_url: str, redis_url: str, tmp_path: Path) -> None:
    """Two workers and a scheduler, migrate and run --once, all through the pooler."""
    variables = {
        "DATABASE_URL": through(pooler, empty_postgresql_url),
        "DATABASE_PREPARED_STATEMENTS": "false",
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "BACKGROUND_TASK_BATCH_SIZE": "20",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
    }
    occupy_names(variables["DATABASE_URL"], 2)
    migrated = run("adjourn", "migrate", directory=tmp_path, variables=variables)
    assert migrated.returncode == 0, migrated.stderr
    with ExitStack() as exits:
        [directly] = engines(empty_postgresql_url, 1, exits, prepared=True)
        with directly.begin() as connection:
            connection.execute(BACKLOG, {"count": 500})
        commands = (("dramatiq", "actors", "-p", "1"), ("dramatiq", "actors", "-p", "1"), ("periodiq", "actors"))
        worker, other, _ = [
            exits.enter_context(running(*command, directory=tmp_path, variables=variables)) for command in commands
        ]
        wait_for(lambda: len(all_events(directly)) == 500, seconds=60, what="the events of all")
        with directly.begin() as connection:
            connection.execute(BACKLOG, {"count": 500})
        once = run("adjourn", "run", "--once", directory=tmp_path, variables=variables)

        assert once.returncode == 0, once.stderr
        assert "prepared statement" not in worker.output + other.output


def test_a_simulation_takes_the_setting_for_the_database_that_it_is_given(
    narrow_pooler: str,
    empty_postgresql_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = through(narrow_pooler, empty_postgresql_url)
    occupy_names(url, 1)
    history = tmp_path / "history.csv"
    history.write_text("at,session_key\n" + "".join(f"2026-01-31T12:{m:02}:00Z,ann\n" for m in range(20)))
    simulate = partial(print_simulation, history, idle_timeouts=["30m"], expire_after="24h", output="jsonl")

    monkeypatch.setenv("DATABASE_PREPARED_STATEMENTS", "false")
    simulate(database=url)
    assert json.loads(capsys.readouterr().out)["messages"] == 20

    monkeypatch.setenv("DATABASE_PREPARED_STATEMENTS", "true")
    with pytest.raises(DBAPIError, match="already exists"):
        simulate(database=url)
