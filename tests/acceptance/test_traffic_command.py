"""``adjourn traffic``: made-up conversations into the database of the environment, until it is stopped."""

import signal
import time
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, func, select, text

from models.conversation import ConversationStatus, conversations
from services.demo.stream import TIMEOUTS
from tests.acceptance.commands import PROMPTLY, Command, run, running
from tests.support import all_conversations, wait_for

_c = conversations.c


def written(command: Command) -> dict[str, int]:
    """Return what it says at its end."""
    [last] = [line for line in command.logged() if line["message"] == "stopped"]
    return {name: last[name] for name in ("messages", "opened", "closed")}


def count(engine: Engine, status: ConversationStatus | None = None) -> int:
    criteria = () if status is None else (_c.status == status,)
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(conversations).where(*criteria)).scalar_one()


def test_it_opens_resumes_and_closes_until_it_is_stopped(postgresql_url: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": postgresql_url, "LOG_FORMAT": "json"}
    engine = create_engine(postgresql_url, poolclass=NullPool)
    with running("adjourn", "traffic", "--rate", "40", directory=tmp_path, variables=variables) as command:
        for status in (ConversationStatus.PENDING, ConversationStatus.PROGRESS, ConversationStatus.CLOSED):
            wait_for(lambda each=status: count(engine, each), what=f"a conversation that is {status}")  # type: ignore[misc]
        command.send(signal.SIGTERM)
        told = time.monotonic()
        assert command.wait() == 0
        assert time.monotonic() - told < PROMPTLY

    said = written(command)
    assert said["opened"] == count(engine)
    assert said["closed"] == count(engine, ConversationStatus.CLOSED)
    assert said["messages"] > said["opened"]
    for conversation in all_conversations(engine):
        assert conversation.expires_at - conversation.created_at == TIMEOUTS.expiry
        assert conversation.idle_at - conversation.updated_at == TIMEOUTS.idle


def test_it_goes_on_for_as_long_as_it_is_told(sqlite_url: str, tmp_path: Path) -> None:
    started = time.monotonic()
    variables = {"DATABASE_URL": sqlite_url}
    done = run("adjourn", "traffic", "--seconds", "3", "--rate", "100", directory=tmp_path, variables=variables)

    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started >= 3
    assert count(create_engine(sqlite_url, poolclass=NullPool))


def test_it_waits_for_tables_and_for_a_database_that_went_away(
    postgresql_server: str, empty_postgresql_url: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": empty_postgresql_url, "LOG_FORMAT": "json"}
    engine, server = create_engine(empty_postgresql_url, poolclass=NullPool), create_engine(postgresql_server)
    name = engine.url.database
    with (
        running("adjourn", "traffic", "--rate", "50", directory=tmp_path, variables=variables) as command,
        server.connect().execution_options(isolation_level="AUTOCOMMIT") as administrator,
    ):
        command.wait_for_output("run: adjourn migrate")
        assert run("adjourn", "migrate", directory=tmp_path, variables=variables).returncode == 0
        wait_for(lambda: count(engine), what="a conversation")
        before = count(engine)

        administrator.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        administrator.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        command.wait_for_output("cannot write", times=2)
        administrator.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

        command.wait_for_output("the database is back", times=2)
        wait_for(lambda: count(engine) > before, what="further conversations")
        command.send(signal.SIGTERM)
        assert command.wait() == 0
    assert command.output.count("cannot write") == 2
    server.dispose()


def test_it_ends_at_once_also_while_the_database_does_not_answer(postgresql_url: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": postgresql_url, "LOG_FORMAT": "json"}
    engine = create_engine(postgresql_url, poolclass=NullPool)
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'conversations'::regclass")
    with running("adjourn", "traffic", "--rate", "100", directory=tmp_path, variables=variables) as command:
        wait_for(lambda: count(engine), what="a conversation")
        with engine.begin() as locking, engine.connect() as watching:
            locking.execute(text("LOCK TABLE conversations"))
            wait_for(lambda: watching.execute(waiting).scalar_one(), what="traffic that waits for the lock")
            command.send(signal.SIGTERM)
            told = time.monotonic()
            assert command.wait() == 0
            assert time.monotonic() - told < PROMPTLY


def test_its_help_says_that_it_is_made_up(tmp_path: Path) -> None:
    shown = " ".join(run("adjourn", "traffic", "--help", directory=tmp_path).stdout.split())

    assert "made-up conversations into DATABASE_URL" in shown
    assert "not into a database that you need" in shown
    assert f"idle out after {TIMEOUTS.idle.seconds} s and expire after {TIMEOUTS.expiry.seconds} s" in shown
