"""``adjourn dead-letters``, on a sweep that a real worker could not do."""

import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from services.operations.dead_letters import letters_key, messages_key
from tests.acceptance.commands import BIN, environment, run, running
from tests.support import free_port, wait_for

SLOT = "2026-01-31T12:00:00+00:00"


@pytest.fixture
def variables(redis_url: str, sqlite_url: str) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "DATABASE_URL": sqlite_url}


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def send_tick(client: redis.Redis) -> None:
    """Send what a scheduler sends for a slot."""
    message = {
        "queue_name": "sweeps",
        "actor_name": "process_idle_conversations",
        "args": [],
        "kwargs": {},
        "options": {"redis_message_id": "tick-1", "scheduled_at": SLOT},
        "message_id": "message-1",
        "message_timestamp": 0,
    }
    with client.pipeline() as pipe:
        pipe.hset("dramatiq:sweeps.msgs", "tick-1", json.dumps(message))
        pipe.rpush("dramatiq:sweeps", "tick-1")
        pipe.execute()


def test_a_sweep_that_failed_is_listed_shown_requeued_and_run(
    client: redis.Redis, variables: dict[str, str], tmp_path: Path
) -> None:
    def adjourn(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("adjourn", "dead-letters", *arguments, directory=tmp_path, variables=variables)

    def last_run() -> dict[bytes, bytes]:
        noted: Any = client.hgetall("adjourn:task:process_idle_conversations")
        return dict(noted)

    options = ("--processes", "1", "--threads", "1")
    variables["dramatiq_prom_port"] = str(free_port())
    with (
        running("dramatiq", "actors", *options, directory=tmp_path, variables=variables),
        closing(sqlite3.connect(tmp_path / "adjourn.db")) as database,
    ):
        # Before that it waits for its tables.
        health = ("adjourn", "health", "worker")
        wait_for(lambda: run(*health, directory=tmp_path, variables=variables).returncode == 0, what="a ready worker")
        database.execute("ALTER TABLE conversations RENAME TO elsewhere")
        send_tick(client)
        wait_for(lambda: client.zcard(letters_key("sweeps")), what="a dead letter")

        listed = adjourn("list", "--json")
        assert (listed.returncode, listed.stderr) == (0, "")
        (letter,) = json.loads(listed.stdout)["letters"]
        assert (letter["id"], letter["queue"], letter["slot"]) == ("tick-1", "sweeps", "2026-01-31T12:00:00.000Z")
        assert letter["why"].startswith("OperationalError: no such table: ")

        # What has run since would make it useless as a tick.
        client.hset("adjourn:task:process_idle_conversations", "run_message_id", "another")
        database.execute("ALTER TABLE elsewhere RENAME TO conversations")
        requeued = adjourn("requeue", "tick")
        assert (requeued.returncode, requeued.stderr) == (0, "")
        assert requeued.stdout == "requeued tick-1 of sweeps\n1 requeued\n"
        wait_for(lambda: last_run().get(b"run_outcome") == b"done", what="the run")
        assert last_run()[b"run_message_id"] == b"message-1"

    assert client.zcard(letters_key("sweeps")) == 0


def test_who_drops_all_is_asked_first(client: redis.Redis, variables: dict[str, str], tmp_path: Path) -> None:
    for number in range(3):
        client.zadd(letters_key("sweeps"), {f"letter-{number}": number})
        client.hset(messages_key("sweeps"), f"letter-{number}", "{}")

    terminal, ours = pty.openpty()
    try:
        asked = subprocess.Popen(
            [str(BIN / "adjourn"), "dead-letters", "drop", "--all"],
            cwd=tmp_path,
            env=environment(variables),
            stdin=ours,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(terminal, b"n\n")
        out, err = asked.communicate(timeout=30)
    finally:
        os.close(terminal)
        os.close(ours)

    assert out.startswith("drop 3 dead letters for good? [y/N]: ")
    assert asked.returncode == 1
    assert "Aborted" in err
    assert client.zcard(letters_key("sweeps")) == 3
