"""A worker that is told to stop: the batch in hand commits, no other is begun, and it waits for nobody who is away."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from services.database import create_database_engine
from tests.acceptance.commands import PROMPTLY, Command, running
from tests.acceptance.test_backlog import BACKLOG, ENDED, send_tick, swept
from tests.servers import redis_server_with
from tests.support import wait_for

SIZE = 10
#: Has each batch wait until the test lets it go.
HOLD = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
    CREATE TRIGGER hold BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION hold()
"""
WAITING = text(
    "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
)


class Batches:
    """Those of a backlog, which wait for this to let them go."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._holder = engine.connect()
        self._holder.execute(text("SELECT pg_advisory_lock(1)"))

    def wait_for_one(self) -> int:
        """Wait until one is in hand; return the process of the database that is at it."""

        def waiting() -> int | None:
            with self._engine.connect() as connection:
                serving: int | None = connection.scalar(WAITING)
                return serving

        return wait_for(waiting, what="a batch in hand")

    def let_go(self) -> None:
        self._holder.rollback()
        self._holder.execute(text("SELECT pg_advisory_unlock(1)"))

    def cut_off(self, serving: int) -> None:
        """Have the database end one of its processes, as it does with all when it is stopped."""
        self._holder.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": serving})

    def ended(self) -> int | None:
        """Return how many conversations are ended."""
        with self._engine.connect() as connection:
            count: int | None = connection.scalar(ENDED)
        return count

    def close(self) -> None:
        self._holder.close()


@pytest.fixture
def batches(postgresql_url: str) -> Iterator[Batches]:
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(BACKLOG, {"count": 20 * SIZE})
        connection.exec_driver_sql(HOLD)
    held = Batches(engine)
    yield held
    held.close()
    engine.dispose()


def one_thread(directory: Path, database_url: str, redis_url: str, **variables: str) -> AbstractContextManager[Command]:
    """Run a worker with a single thread."""
    given = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "LOG_FORMAT": "json",
        "BACKGROUND_TASK_BATCH_SIZE": str(SIZE),
        **variables,
    }
    return running("dramatiq", "actors", "--processes", "1", "--threads", "1", directory=directory, variables=given)


def tell(worker: Command, number: signal.Signals = signal.SIGTERM) -> None:
    """Tell a worker to stop, and return once its process knows, which is before dramatiq does anything about it."""
    worker.send(number)
    wait_for(lambda: "Stopping worker process" in worker.output, what="word of it")


def ends_promptly(worker: Command) -> None:
    started = time.monotonic()
    assert worker.wait() == 0
    assert time.monotonic() - started < PROMPTLY
    assert "Traceback" not in worker.output


def send_runs(client: redis.Redis, count: int) -> None:
    """Send messages for further runs at the same backlog."""
    for number in range(count):
        name = f"more-{number}"
        message = {
            "queue_name": "drains",
            "actor_name": "drain_backlog",
            "args": ["idle_conversations", f"00000000-0000-4000-8000-00000000000{number}"],
            "kwargs": {},
            "options": {"redis_message_id": name},
            "message_id": name,
            "message_timestamp": int(time.time() * 1000),
        }
        client.hset("dramatiq:drains.msgs", name, json.dumps(message))
        client.rpush("dramatiq:drains", name)


def taken(client: redis.Redis) -> list[bytes]:
    """Return the messages that some worker has taken and neither finished nor handed back."""
    keys: Any = client.keys("dramatiq:__acks__*")
    messages: Any = [message for key in keys for message in client.smembers(key)]
    return sorted(messages)


def test_the_batch_in_hand_commits_and_what_was_not_started_goes_back_at_once(
    batches: Batches, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    prefetching = {"dramatiq_queue_prefetch": "8"}
    with (
        redis.Redis.from_url(redis_url) as client,
        one_thread(tmp_path, postgresql_url, redis_url, **prefetching) as worker,
    ):
        send_tick(client)
        batches.wait_for_one()
        send_runs(client, 5)
        wait_for(lambda: len(taken(client)) == 6, what="all of them in the worker")
        tell(worker)
        # The batch is still in hand.
        wait_for(lambda: client.llen("dramatiq:drains") == 5, seconds=PROMPTLY, what="their return")
        assert (taken(client), batches.ended()) == ([b"tick-idle"], 0)
        batches.let_go()
        ends_promptly(worker)

        assert batches.ended() == SIZE
        assert [(line["count"], line["drained"]) for line in swept(worker)] == [(SIZE, False)]
        assert client.hget("adjourn:task:process_idle_conversations", "run_outcome") == b"done"
        assert sorted(client.lrange("dramatiq:drains", 0, -1)) == [b"more-%d" % number for number in range(5)]
        # Of the run itself nothing is left, nor of the worker.
        assert (client.hlen("dramatiq:drains.msgs"), client.exists("dramatiq:sweeps.msgs"), taken(client)) == (5, 0, [])
        assert not client.exists("adjourn:workers:members", "adjourn:task:process_idle_conversations:crew")


@pytest.mark.parametrize("redis_is", ["refusing", "hanging"])
def test_a_redis_that_is_away_is_not_waited_for(
    redis_is: str, batches: Batches, postgresql_url: str, tmp_path: Path
) -> None:
    with redis_server_with(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        with redis.Redis.from_url(server.url) as client:
            send_tick(client)
        with one_thread(tmp_path, postgresql_url, server.url) as worker:
            batches.wait_for_one()
            if redis_is == "refusing":
                server.kill()
            else:
                assert server.process is not None
                server.process.send_signal(signal.SIGSTOP)
            tell(worker)
            batches.let_go()
            ends_promptly(worker)

        assert batches.ended() == SIZE
        said = [line for line in worker.logged() if "redis was not told that a message is done" in line["message"]]
        assert [line["message"].rpartition(": ")[2] for line in said] == ["it comes back, and is run again"]
        # It is there, for when Redis is.
        if redis_is == "refusing":
            server.start()
        else:
            assert server.process is not None
            server.process.send_signal(signal.SIGCONT)
        with redis.Redis.from_url(server.url) as client:
            assert (taken(client), client.hlen("dramatiq:sweeps.msgs")) == ([b"tick-idle"], 1)


def test_a_run_that_loses_its_database_ends_with_the_worker_and_leaves_word(
    batches: Batches, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_url) as client, one_thread(tmp_path, postgresql_url, redis_url) as worker:
        send_tick(client)
        serving = batches.wait_for_one()
        tell(worker)
        batches.cut_off(serving)
        ends_promptly(worker)

        assert batches.ended() == 0
        assert client.hget("adjourn:task:process_idle_conversations", "run_outcome") == b"failed"
        assert (client.zcard("dramatiq:sweeps.XQ"), taken(client)) == (1, [])


def test_no_batch_is_begun_from_the_signal_on_also_when_the_worker_is_reloaded(
    batches: Batches, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    with redis.Redis.from_url(redis_url) as client, one_thread(tmp_path, postgresql_url, redis_url) as worker:
        send_tick(client)
        batches.wait_for_one()
        tell(worker, signal.SIGHUP)
        batches.let_go()  # the next one would take a hundredth of the second until dramatiq looks
        worker.wait_for_output("Worker process is ready", times=2)
        assert batches.ended() == SIZE
        send_tick(client)
        wait_for(lambda: batches.ended() == 20 * SIZE, what="the rest of the backlog")
