"""A backlog that a tick meets: the whole cluster drains it, bounded by a setting."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from services.database import create_database_engine
from tests.acceptance.commands import Command, running
from tests.support import wait_for

#: Due for an hour, a second apart from each other for a minute.
BACKLOG = text(
    "INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,"
    " metadata, created_at, updated_at, idle_at, expires_at)"
    " SELECT gen_random_uuid(), 'acme', 'ann', 'whatsapp', '+1', '+2', 'key:' || n, 'progress', '{}',"
    " now() - interval '2 hours', now() - interval '2 hours', now() - (n % 60 + 3600) * interval '1 second',"
    " now() + interval '1 day' FROM generate_series(1, :count) AS n"
)
SWEEPS = text("SELECT sweep_id::text, count(*) FROM conversation_events WHERE ended GROUP BY sweep_id")
ENDED = text("SELECT count(*) FROM conversations WHERE status = 'idle_timeout'")
COUNT = 30_000


def swept(worker: Command) -> list[dict[str, Any]]:
    """Return the lines about sweeps."""
    return [line for line in worker.logged() if line["message"] == "swept"]


def send_tick(client: redis.Redis, task: str = "idle") -> None:
    """Send a message to a sweep, as a process of the application may."""
    message = {
        "queue_name": "sweeps",
        "actor_name": f"process_{task}_conversations",
        "args": [],
        "kwargs": {},
        "options": {"redis_message_id": f"tick-{task}"},
        "message_id": f"tick-{task}",
        "message_timestamp": 0,
    }
    client.hset("dramatiq:sweeps.msgs", f"tick-{task}", json.dumps(message))
    client.rpush("dramatiq:sweeps", f"tick-{task}")


def drained(engine: Engine, client: redis.Redis) -> Counter[str]:
    """Return how many each sweep ended, once all are ended and no message is left."""

    def done() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(ENDED) == COUNT) and not client.exists(
                "dramatiq:sweeps.msgs", "dramatiq:drains.msgs"
            )

    wait_for(done, seconds=60, what="an empty backlog")
    with engine.connect() as connection:
        return Counter({row[0]: row[1] for row in connection.execute(SWEEPS)})


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    """An engine on a database that has the backlog."""
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(BACKLOG, {"count": COUNT})
    yield engine
    engine.dispose()


def variables(database_url: str, redis_url: str, *, batch_size: int, limit: int) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "LOG_FORMAT": "json",
        "BACKGROUND_TASK_BATCH_SIZE": str(batch_size),
        "BACKGROUND_TASK_DRAIN_WORKERS": str(limit),
    }


@pytest.mark.parametrize("limit", [1, 4])
def test_the_whole_cluster_drains_a_backlog(
    limit: int, engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    given = variables(postgresql_url, redis_url, batch_size=250, limit=limit)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        send_tick(client)
        with running("dramatiq", "actors", "--processes", "2", directory=tmp_path, variables=given) as worker:
            sweeps = drained(engine, client)
            wait_for(lambda: len(swept(worker)) >= len(sweeps), what="a line of each sweep")
            assert "Traceback" not in worker.output

        assert sweeps.total() == COUNT
        assert len(sweeps) == 1 if limit == 1 else 1 < len(sweeps) <= limit
        lines = {line["sweep_id"]: line for line in swept(worker)}
        assert {sweep_id: line["count"] for sweep_id, line in lines.items()} == dict(sweeps)
        assert all(line["drained"] for line in lines.values())
        (first,) = (line for line in lines.values() if "called_in" not in line)
        assert first.get("called", 0) == limit - 1
        # Nothing is left of it, neither crew nor calls, and the last run is the tick's.
        assert client.keys("adjourn:task:*") == ["adjourn:task:process_idle_conversations"]
        assert client.hget("adjourn:task:process_idle_conversations", "run_message_id") == "tick-idle"
        assert client.zcard("dramatiq:drains.XQ") == 0


def test_a_worker_that_is_stopped_lets_its_batch_commit_and_takes_no_further_one(
    engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    given = variables(postgresql_url, redis_url, batch_size=10, limit=2)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        send_tick(client)
        with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=given) as worker:
            wait_for(lambda: client.zcard("adjourn:task:process_idle_conversations:crew") == 2, what="two at work")
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        with engine.connect() as connection:
            ended, swept_by = connection.scalar(ENDED), Counter({row[0]: row[1] for row in connection.execute(SWEEPS)})

        assert 0 < swept_by.total() == ended < COUNT
        lines = swept(worker)
        assert {line["sweep_id"]: line["count"] for line in lines} == dict(swept_by)
        assert [(line["drained"], line["count"] % 10) for line in lines] == [(False, 0)] * 2
        assert client.keys("adjourn:task:*") == ["adjourn:task:process_idle_conversations"]
        assert not client.exists("dramatiq:sweeps.msgs", "dramatiq:drains.msgs")
        assert "Traceback" not in worker.output


#: Has each batch of the idle sweep wait until this test lets it go.
HOLD = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
    CREATE TRIGGER hold BEFORE UPDATE ON conversations FOR EACH ROW WHEN (NEW.status = 'idle_timeout')
        EXECUTE FUNCTION hold();
    UPDATE conversations SET expires_at = idle_at WHERE session_key = 'key:1'
"""


@pytest.mark.parametrize("size", ["--processes 1 --threads 2", "--processes 2 --threads 1"])
def test_a_tick_does_not_wait_behind_a_long_sweep(
    size: str, engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    given = variables(postgresql_url, redis_url, batch_size=10, limit=1)
    with engine.begin() as connection:
        connection.exec_driver_sql(HOLD)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client, engine.connect() as holding:
        holding.execute(text("SELECT pg_advisory_lock(1)"))
        send_tick(client, "idle")
        with running("dramatiq", "actors", *size.split(), directory=tmp_path, variables=given):
            wait_for(lambda: client.hget("adjourn:task:process_idle_conversations", "run_started_at"), what="the run")
            send_tick(client, "expired")
            wait_for(lambda: client.hget("adjourn:task:process_expired_conversations", "run_outcome"), what="the other")

            assert client.hget("adjourn:task:process_expired_conversations", "run_outcome") == "done"
            assert client.hget("adjourn:task:process_idle_conversations", "run_ended_at") is None
            holding.execute(text("SELECT pg_advisory_unlock(1)"))
