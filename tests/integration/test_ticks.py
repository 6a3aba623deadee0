"""Ticks as workers take them: which run, which are dropped, and what is noted of it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis

from actors.broker import TickBroker
from services.schedules import Every, Schedule
from services.scheduling.keys import task_key
from services.scheduling.runs import RunRecord
from services.session_keys import canonical_session_key
from services.settings import Settings
from tests.schedulers import (
    CountedActor,
    broker_on,
    campaigning,
    messages,
    scheduler_of,
    wait_until_drained,
    working,
)
from tests.support import wait_for

HOURLY = Every(seconds=3_600)


@pytest.fixture
def broker(redis_url: str) -> Iterator[TickBroker]:
    with broker_on(redis_url) as broker:
        yield broker


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def tick(task: CountedActor, slot: datetime) -> None:
    """Send the message that a scheduler sends for a slot."""
    task.actor.send_with_options(scheduled_at=slot.isoformat())


def slot_before(hours: float, schedule: Schedule = HOURLY) -> datetime:
    slot = schedule.slot_at(datetime.now(UTC) - timedelta(hours=hours))
    assert slot is not None
    return slot


def test_a_backlog_of_ticks_is_one_run_and_the_current_one(
    broker: TickBroker, redis_url: str, client: redis.Redis
) -> None:
    task = CountedActor(broker, HOURLY)
    for hours in (5, 4, 3, 2, 1):
        tick(task, slot_before(hours))
    tick(task, slot_before(0))

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 2
    assert client.hget(task_key("task"), "dropped") == "4"


def test_a_tick_whose_next_slot_is_not_due_is_never_dropped(broker: TickBroker, redis_url: str) -> None:
    task = CountedActor(broker, HOURLY)
    for _ in range(3):
        tick(task, slot_before(0))
    tick(task, slot_before(-1))  # of a scheduler whose clock runs ahead

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 4


def test_a_queue_that_is_always_late_starves_nobody(broker: TickBroker, redis_url: str) -> None:
    task = CountedActor(broker, Every(seconds=1))
    with working(broker):
        for late in (30, 20, 10):
            # Each is late by more than its interval when it comes, and no run has begun since.
            with redis.Redis.from_url(redis_url) as client:
                client.hset(task_key("task"), "run_started_at", 0)
            tick(task, slot_before(late / 3_600, Every(seconds=1)))
            wait_until_drained(redis_url)

    assert task.runs == 3


def test_a_clock_of_redis_that_was_put_back_starves_nobody(
    broker: TickBroker, redis_url: str, client: redis.Redis
) -> None:
    task = CountedActor(broker, HOURLY)
    ahead = datetime.now(UTC) + timedelta(hours=3)
    client.hset(task_key("task"), "run_started_at", int(ahead.timestamp() * 1000))
    tick(task, slot_before(2))

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 1


def test_retries_are_not_dropped_however_old_their_slot_is(broker: TickBroker, redis_url: str) -> None:
    task = CountedActor(broker, Every(seconds=1), failures=3)
    tick(task, slot_before(2))

    with working(broker):
        wait_for(lambda: task.runs == 4, what="the third retry")
        wait_until_drained(redis_url)


def test_a_retry_keeps_the_slot_of_its_tick(redis_url: str) -> None:
    seen: list[dict[str, Any]] = []

    class Watch(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            del broker
            seen.append(dict(message.options))

    slot = slot_before(1)
    with broker_on(redis_url, Watch()) as broker:
        task = CountedActor(broker, HOURLY, failures=1)
        tick(task, slot)
        with working(broker):
            wait_for(lambda: task.runs == 2, what="the retry")
            wait_until_drained(redis_url)

    assert [options["scheduled_at"] for options in seen] == [slot.isoformat()] * 2
    assert [options.get("retries", 0) for options in seen] == [0, 1]


def test_the_message_of_a_worker_that_died_with_it_is_not_dropped_for_its_own_run(
    broker: TickBroker, redis_url: str, client: redis.Redis
) -> None:
    task = CountedActor(broker, HOURLY)
    tick(task, slot_before(2))
    (message,) = messages(redis_url)
    began = int(datetime.now(UTC).timestamp() * 1000) - 1
    client.hset(task_key("task"), mapping={"run_started_at": began, "run_message_id": message["message_id"]})

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 1


def test_what_a_person_sends_carries_no_slot_and_is_always_run(broker: TickBroker, redis_url: str) -> None:
    task = CountedActor(broker, HOURLY)
    for _ in range(3):
        task.actor.send()
    assert [set(message["options"]) for message in messages(redis_url)] == [{"redis_message_id"}] * 3

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 3


def test_a_run_that_a_person_asked_for_has_done_the_work_of_the_ticks_before_it(
    broker: TickBroker, redis_url: str
) -> None:
    task = CountedActor(broker, HOURLY)
    task.actor.send()
    tick(task, slot_before(1))

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 1


@pytest.mark.parametrize(("failures", "outcome"), [(0, "done"), (99, "failed")])
def test_the_last_run_is_noted(broker: TickBroker, client: redis.Redis, failures: int, outcome: str) -> None:
    task = CountedActor(broker, HOURLY, failures=failures)
    slot = slot_before(0)
    client.hset(task_key("task"), "awaited_since", 1)
    tick(task, slot)

    with working(broker):
        wait_for(lambda: client.hget(task_key("task"), "run_outcome"), what="the end of the run")

    noted: Any = client.hgetall(task_key("task"))
    assert "awaited_since" not in noted
    assert noted["run_outcome"] == outcome
    assert noted["run_slot"] == str(int(slot.timestamp()))
    now = datetime.now(UTC).timestamp() * 1000
    assert now - 60_000 < int(noted["run_started_at"]) <= int(noted["run_ended_at"]) <= now


def test_a_run_that_ends_says_nothing_of_another_that_has_begun_since(redis_url: str, client: redis.Redis) -> None:
    with redis.Redis.from_url(redis_url) as plain:
        record = RunRecord(plain)
        for message_id in ("first", "second"):
            record.begin("task", message_id, slot=None, useless_from=None, limit=timedelta(seconds=60))
        record.end("task", "first", error="it broke")
        assert client.hget(task_key("task"), "run_outcome") is None

        record.end("task", "second", error=None)
        assert client.hget(task_key("task"), "run_outcome") == "done"
        assert client.hmget(task_key("task"), "runs", "failures", "run_error") == ["2", "1", ""]
    assert client.hget(task_key("task"), "run_limit") == "60000"


def test_a_redis_that_takes_no_notes_stops_no_run(broker: TickBroker, redis_url: str, client: redis.Redis) -> None:
    task = CountedActor(broker, HOURLY)
    client.set(task_key("task"), "a foreign value: every note fails")
    tick(task, slot_before(3))

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 1


def test_a_run_that_was_called_in_is_not_the_last_run_of_a_task(
    broker: TickBroker, redis_url: str, client: redis.Redis
) -> None:
    task = CountedActor(broker, HOURLY)
    beside = CountedActor(broker, None, name="beside", called_in=True)
    tick(task, slot_before(0))
    with working(broker):
        wait_until_drained(redis_url)
        noted = client.hgetall(task_key("task"))
        beside.actor.send()
        wait_until_drained(redis_url)

    assert (task.runs, beside.runs) == (1, 1)
    assert client.hgetall(task_key("task")) == noted
    assert client.keys("adjourn:*") == [task_key("task")]


def test_who_is_called_in_by_runs_cannot_be_triggered(broker: TickBroker, redis_url: str, client: redis.Redis) -> None:
    CountedActor(broker, HOURLY)
    CountedActor(broker, None, name="beside", called_in=True)
    for name in ("task", "beside"):
        client.hset(task_key(name), "trigger_id", "asked for")

    with campaigning(scheduler_of(broker, redis_url)):
        wait_for(lambda: messages(redis_url), what="what was triggered")
        wait_for(lambda: client.hget(task_key("task"), "triggered_id"), what="the note")

    assert "beside" not in {message["actor_name"] for message in messages(redis_url)}


# The actors of production, in a process of their own because they read their settings when they are imported.


def run_actors(script: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {field.alias for field in Settings.model_fields.values()}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env={**kept, "ADJOURN_DATA_DIR": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(canonical_session_key.__code__.co_filename).parent.parent,
    )


def test_importing_the_actors_connects_to_nothing_and_a_task_that_is_off_has_no_schedule(tmp_path: Path) -> None:
    script = "import actors; print([a.actor_name for a in actors.broker.actors.values() if 'periodic' in a.options])"

    done = run_actors(
        script,
        tmp_path,
        REDIS_URL="redis://127.0.0.1:1",
        DATABASE_URL="postgresql://127.0.0.1:1/none",
        BACKGROUND_TASK_IDLE_ENABLED="false",
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['process_expired_conversations', 'measure_backlog']"


def test_a_process_that_is_no_scheduler_sends_whatever_it_is_told_to(redis_url: str, tmp_path: Path) -> None:
    script = "import actors\nactors.process_idle_conversations.send_with_options(scheduled_at='2026-01-31T12:00:00Z')"

    assert run_actors(script, tmp_path, REDIS_URL=redis_url).returncode == 0
    (message,) = messages(redis_url, "sweeps")
    assert message["options"]["scheduled_at"] == "2026-01-31T12:00:00Z"


def test_a_call_to_a_task_that_there_is_not_is_one_clear_line(redis_url: str, tmp_path: Path) -> None:
    script = (
        "import actors\n"
        "for task, sweep_id in (('nonsense', '0' * 32), ('idle_conversations', 'nonsense'), (None, 17)):\n"
        "    actors.drain_backlog(task, sweep_id)"
    )

    done = run_actors(script, tmp_path, REDIS_URL=redis_url, LOG_FORMAT="json")

    assert done.returncode == 0
    assert done.stderr.count("\n") == 3
    for line in done.stderr.splitlines():
        assert json.loads(line)["message"] == "nothing to drain: no such task or sweep"


def test_a_setting_that_makes_no_sense_ends_the_import_with_one_line(tmp_path: Path) -> None:
    done = run_actors("import actors", tmp_path, BACKGROUND_TASK_INTERVAL="soon")

    assert done.returncode == 1
    assert done.stderr.startswith("adjourn: BACKGROUND_TASK_INTERVAL='soon': ")
    assert done.stderr.count("\n") == 1


def test_an_old_message_that_names_no_instant_is_run_as_one_that_a_person_sent(
    broker: TickBroker, redis_url: str
) -> None:
    task = CountedActor(broker, HOURLY)
    for nonsense in ("yesterday", None, 17, "2026-01-31"):
        task.actor.send_with_options(scheduled_at=nonsense)

    with working(broker):
        wait_until_drained(redis_url)

    assert task.runs == 4
    with redis.Redis.from_url(redis_url) as client:
        assert json.loads(client.hget(task_key("task"), "run_slot") or b"null") is None
