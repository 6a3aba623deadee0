"""The two commands that run production, on plain SQL's conversations."""

import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, text

from tests.acceptance.commands import free_port, run, running
from tests.support import all_conversations, all_events, wait_for

INSERT = text(
    "INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,"
    " metadata, created_at, updated_at, idle_at, expires_at) VALUES (:conv_id, 'acme', 'ann', 'whatsapp', '+1', '+2',"
    " :session_key, 'progress', '{}', :opened, :opened, :idle_at, :expires_at)"
)


def insert(engine: Engine, conv_id: str, *, idle_in: timedelta, expires_in: timedelta) -> None:
    now = datetime.now(UTC)
    on_sqlite = engine.dialect.name == "sqlite"

    def instant(value: datetime) -> str:
        return value.strftime("%Y-%m-%d %H:%M:%S") if on_sqlite else value.isoformat()

    with engine.begin() as connection:
        connection.execute(
            INSERT,
            {
                "conv_id": conv_id,
                "session_key": conv_id,
                "opened": instant(now - timedelta(days=2)),
                "idle_at": instant(now + idle_in),
                "expires_at": instant(now + expires_in),
            },
        )


def test_worker_and_scheduler_end_what_is_due_and_leave_the_rest(
    engine: Engine, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    hour = timedelta(hours=1)
    insert(engine, "00000000-0000-4000-8000-000000000001", idle_in=-hour, expires_in=hour)
    insert(engine, "00000000-0000-4000-8000-000000000002", idle_in=hour, expires_in=-hour)
    insert(engine, "00000000-0000-4000-8000-000000000003", idle_in=hour, expires_in=hour)
    port = str(free_port())
    variables = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "LOG_FORMAT": "json",
        "dramatiq_prom_port": port,
        "dramatiq_prom_db": str(tmp_path / "prometheus"),
    }
    with (
        running("dramatiq", "actors", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler,
    ):
        wait_for(lambda: len(all_events(engine)) == 2, what="two events")
        worker.wait_for_output('"message": "swept"', times=2)

        statuses = {str(one.conv_id)[-1]: one.status.value for one in all_conversations(engine)}
        assert statuses == {"1": "idle_timeout", "2": "expired", "3": "progress"}
        for event in all_events(engine):
            assert event.cause == "sweep"
            assert event.occurred_at >= event.deadline
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            exposed = response.read().decode()
        assert 'dramatiq_messages_total{actor_name="process_idle_conversations",queue_name="sweeps"}' in exposed
        assert "Traceback" not in worker.output + scheduler.output


def test_one_failing_task_does_not_stop_the_other(postgresql_url: str, redis_url: str, tmp_path: Path) -> None:
    from services.database import create_database_engine  # noqa: PLC0415 - with its own engine, not both kinds

    engine = create_database_engine(postgresql_url)
    hour = timedelta(hours=1)
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE conversations ADD CONSTRAINT no_idle CHECK (status <> 'idle_timeout') NOT VALID")
        )
    insert(engine, "00000000-0000-4000-8000-000000000001", idle_in=-hour, expires_in=hour)
    insert(engine, "00000000-0000-4000-8000-000000000002", idle_in=hour, expires_in=-hour)
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "BACKGROUND_TASK_INTERVAL": "1"}
    with (
        running("dramatiq", "actors", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables),
    ):
        worker.wait_for_output("no_idle", times=2)  # it failed, and was tried again at a later tick
        wait_for(lambda: len(all_events(engine)) == 1, what="the expired one's event")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE conversations DROP CONSTRAINT no_idle"))
        wait_for(lambda: len(all_events(engine)) == 2, what="the idle one's event, once its cause is mended")
    engine.dispose()


def test_the_scheduler_goes_on_when_redis_was_away(sqlite_url: str, tmp_path: Path) -> None:
    from services.embedded.redis_server import PrivateRedis  # noqa: PLC0415 - one that this test may stop

    server = PrivateRedis(tmp_path / "redis").start()
    variables = {"DATABASE_URL": sqlite_url, "REDIS_URL": server.url, "BACKGROUND_TASK_INTERVAL": "1"}
    try:
        with running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler:
            with redis.Redis.from_url(server.url) as client:
                wait_for(lambda: client.llen("dramatiq:sweeps"), what="the first tick")
            server.stop()
            scheduler.wait_for_output("tick lost")
            server.start()
            with redis.Redis.from_url(server.url) as client:
                client.replicaof("127.0.0.1", "1")  # as after a failover: it takes no writes
                scheduler.wait_for_output("READONLY")
                client.replicaof("NO", "ONE")
            with redis.Redis.from_url(server.url) as client:
                client.delete("dramatiq:sweeps")
                wait_for(lambda: client.llen("dramatiq:sweeps"), what="a tick after the outage")
            assert "Traceback" not in scheduler.output
    finally:
        server.stop()


@pytest.mark.parametrize("command", ["dramatiq", "periodiq"])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"BACKGROUND_TASK_INTERVAL": "soon"}, "BACKGROUND_TASK_INTERVAL='soon': 'soon' is not a duration"),
        ({"BACKGROUND_TASK_BATCH_SIZE": "-1"}, "BACKGROUND_TASK_BATCH_SIZE='-1': "),
        ({"DATABASE_URL": "mysql://u:secret@h/x"}, "DATABASE_URL: 'mysql' is not supported"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0", "BACKGROUND_TASK_INTERVAL": "1"}, "cannot use Redis at redis://127"),
    ],
)
def test_a_setting_that_makes_no_sense_ends_a_command_with_a_line(
    command: str, variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = run(command, "actors", directory=tmp_path, variables=variables)

    lines = [line for line in ended.stderr.splitlines() if line.startswith("adjourn: ")]
    assert ended.returncode != 0
    assert lines, ended.stderr
    assert all(said in line for line in lines)
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot use the database at postgresql+psycopg://u:***@127.0.0.1:1/x"),
        ("sqlite:///not-migrated.db", "has no Adjourn tables; run: adjourn migrate"),
    ],
)
def test_a_worker_without_a_usable_database_ends_with_a_line(
    url: str, said: str, redis_url: str, tmp_path: Path
) -> None:
    ended = run("dramatiq", "actors", directory=tmp_path, variables={"DATABASE_URL": url, "REDIS_URL": redis_url})

    assert ended.returncode != 0
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


def test_a_variable_that_is_misspelt_is_said_to_be(tmp_path: Path) -> None:
    variables = {"BACKGROUND_TASK_INTERVALL": "1"}

    assert (
        "BACKGROUND_TASK_INTERVALL"
        in run("python", "-c", "import actors", directory=tmp_path, variables=variables).stderr
    )


def test_importing_the_actors_connects_to_nothing(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    ended = run(
        "python", "-c", "import actors; print(sorted(actors.broker.actors))", directory=tmp_path, variables=variables
    )

    assert ended.stdout.strip() == "['process_expired_conversations', 'process_idle_conversations']"
    assert ended.returncode == 0
