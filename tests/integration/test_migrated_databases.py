"""The databases that tests share one after another: nothing of one test is there in the next."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from services.database import create_database_engine
from services.sweeps import process_idle_conversations
from tests.migrated_databases import MigratedDatabases, url_of
from tests.plain_sql import connect, rows_of, run_sql
from tests.support import NOON, all_conversations, all_events, opened, wait_for


@pytest.fixture
def databases(postgresql_server: str) -> Iterator[MigratedDatabases]:
    databases = MigratedDatabases(postgresql_server)
    yield databases
    databases.drop()


def is_unused(server: str, name: str) -> bool:
    return not rows_of(server, f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}'")


def test_rows_are_gone_and_numbers_begin_again(postgresql_server: str, databases: MigratedDatabases) -> None:
    first = databases.take()
    numbers = []
    for name in (first, None):
        taken = name or databases.take()
        assert taken == first
        engine = create_database_engine(url_of(postgresql_server, taken))
        assert (all_conversations(engine), all_events(engine)) == ([], [])
        opened(engine, now=NOON)
        process_idle_conversations(engine, now=NOON + timedelta(days=1))
        numbers.append([event.event_id for event in all_events(engine)])
        engine.dispose()
        # The server notices a moment later, until when it would count as in use.
        wait_for(lambda: is_unused(postgresql_server, first), what="the end of the engine's connections")
        databases.give_back(taken)
    assert numbers == [[1], [1]]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE conversations ADD COLUMN more int",
        "ALTER TABLE conversations ADD CONSTRAINT no_sms CHECK (channel <> 'sms')",
        "DROP INDEX conversations_active_idle_at",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE SCHEMA more",
        "CREATE POLICY more ON conversations",
        "UPDATE adjourn_version SET version_num = '0001'",
        "ANALYZE pg_class",
        "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET jit = off', current_database()); END$$",
    ],
)
def test_a_database_that_was_changed_is_not_used_again(
    change: str, postgresql_server: str, databases: MigratedDatabases
) -> None:
    name = databases.take()
    run_sql(url_of(postgresql_server, name), change)
    databases.give_back(name)
    assert databases.take() != name


def test_a_database_that_somebody_is_connected_to_is_not_used_again(
    postgresql_server: str, databases: MigratedDatabases
) -> None:
    name = databases.take()
    with connect(url_of(postgresql_server, name)):
        databases.give_back(name)
    assert databases.take() != name
