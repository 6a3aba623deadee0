"""What ``adjourn status`` reads from Redis, and which Redis it asks."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine

from services.cluster.backlog_record import BacklogRecord
from services.cluster.state import (
    Asked,
    ClaimedSlot,
    QueueStatus,
    Run,
    RunOutcome,
    SchedulerState,
    Status,
    TaskStatus,
    Trigger,
    WorkerStatus,
)
from services.cluster.status import read_status
from services.embedded.redis_server import PrivateRedis
from services.errors import RedisUnavailableError
from services.operations.asking import asking, redis_url_to_ask
from services.operations.problems import problems_of
from services.operations.status_json import json_text
from services.scheduling import keys
from services.scheduling.queue import Outcome
from services.settings import load_settings
from services.tasks import Task, actor_of
from tests.servers import redis_server_with
from tests.statuses import BACKLOG, SECOND, overview_of, screen
from tests.support import NOON

IDLE = keys.task_key(actor_of(Task.IDLE))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def now_ms(client: redis.Redis) -> int:
    seconds, microseconds = client.time()
    return int(seconds * 1000 + microseconds // 1000)


def take_lease(client: redis.Redis, holder: str, *, lease_ms: int = 15_000, term: int = 7) -> None:
    client.set(keys.TERM, term)
    client.hset(keys.LEASE, mapping={"holder": holder, "term": term, "since": now_ms(client), "timeout": lease_ms})
    client.pexpire(keys.LEASE, lease_ms)
    be_heard(client, holder)


def be_heard(client: redis.Redis, scheduler: str, *, seconds_ago: float = 0, **about: Any) -> None:
    said = {"host": f"host-of-{scheduler}", "pid": 12, "started_at": NOON.isoformat(), "loop": "running", **about}
    client.hset(keys.MEMBERS, scheduler, json.dumps(said))
    client.zadd(keys.SEEN, {scheduler: now_ms(client) - seconds_ago * 1000})


def work(client: redis.Redis, worker: str, *, seconds_ago: float = 0, **about: Any) -> None:
    said = {"host": f"host-of-{worker}", "pid": 13, "started_at": NOON.isoformat(), "threads": 8, "busy": 2, **about}
    client.hset(keys.WORKERS, worker, json.dumps(said))
    client.zadd(keys.WORKERS_SEEN, {worker: now_ms(client) - seconds_ago * 1000})


def idle_task(status: Status) -> TaskStatus:
    return status.tasks[0]


# What is read


def test_an_empty_redis_has_no_leader_and_tasks_that_are_not_scheduled(client: redis.Redis) -> None:
    status = read_status(client=client)

    assert (status.leader, status.last_term, status.schedulers) == (None, None, ())
    assert [task.task for task in status.tasks] == list(Task)
    assert idle_task(status) == TaskStatus(
        task=Task.IDLE,
        actor="process_idle_conversations",
        runs=0,
        failures=0,
        ended=0,
        dropped=0,
    )
    assert (status.workers, status.queues, status.backlog) == ((), (), None)
    assert [problem.text for problem in problems_of(overview_of(status))] == [
        "no scheduler leads: none was ever heard of; start one with: periodiq actors"
    ]


def test_the_leader_comes_first_then_those_who_stand_by_then_those_who_are_gone(client: redis.Redis) -> None:
    be_heard(client, "a", seconds_ago=60)
    be_heard(client, "b", seconds_ago=5, loop="stuck")
    take_lease(client, "c")

    status = read_status(client=client)

    assert [(one.id, one.state) for one in status.schedulers] == [
        ("c", SchedulerState.LEADING),
        ("b", SchedulerState.STANDING_BY),
        ("a", SchedulerState.GONE),
    ]
    assert status.schedulers[1].host == "host-of-b"
    assert status.schedulers[1].started_at == NOON
    assert status.schedulers[1].loop == "stuck"
    assert status.leader is not None
    assert (status.leader.host, status.leader.pid, status.leader.term) == ("host-of-c", 12, 7)
    assert status.leader.since is not None
    assert status.now - 10 * SECOND < status.leader.since <= status.now
    assert status.leader.lease_ends_at is not None
    assert timedelta(seconds=5) < status.leader.lease_ends_at - status.now <= timedelta(seconds=15)


@pytest.mark.parametrize(
    ("lease_ms", "seconds_ago", "state"),
    [
        (3_000, 6, SchedulerState.STANDING_BY),
        (3_000, 9, SchedulerState.GONE),
        (120_000, 60, SchedulerState.STANDING_BY),
        (120_000, 127, SchedulerState.GONE),
    ],
)
def test_a_scheduler_is_gone_when_it_was_silent_for_a_lease_and_five_seconds_whatever_the_lease(
    client: redis.Redis, lease_ms: int, seconds_ago: float, state: SchedulerState
) -> None:
    be_heard(client, "quiet", seconds_ago=seconds_ago)
    take_lease(client, "leader", lease_ms=lease_ms)

    assert read_status(client=client).schedulers[1].state is state


def test_a_leader_who_is_not_among_the_members_is_shown_by_its_id(client: redis.Redis) -> None:
    client.hset(keys.LEASE, mapping={"holder": "somebody"})
    client.pexpire(keys.LEASE, 15_000)

    status = read_status(client=client)

    assert status.leader is not None
    assert (status.leader.id, status.leader.host, status.leader.term) == ("somebody", None, None)
    assert "leader  somebody" in screen(status)


def test_a_task_is_read_whole(client: redis.Redis) -> None:
    at = int(NOON.timestamp())
    client.hset(
        IDLE,
        mapping={
            "slot": at,
            "message_id": "m1",
            "outcome": "caught_up",
            "term": 3,
            "enqueued_at": at * 1000 + 2_500,
            "schedule": "every 60 s",
            "next_slot": at + 60,
            "dropped": 4,
            "awaited_since": at * 1000 + 4_000,
            "run_slot": at,
            "run_started_at": at * 1000 + 3_000,
            "run_ended_at": at * 1000 + 3_012,
            "run_outcome": "failed",
            "run_error": "the disk is full",
            "last_success_at": at * 1000 - 60_000,
            "interval": 60,
            "runs": 41,
            "failures": 3,
            "ended": 1_204,
            "paused_at": at * 1000 + 5_000,
            "paused_by": "ann@web-1",
            "trigger_id": "r2",
            "trigger_at": at * 1000 + 6_000,
            "trigger_by": "bob@web-1",
            "triggered_id": "r1",
            "triggered_at": at * 1000 + 1_000,
            "triggered_by": "cy@web-1",
            "triggered_message_id": "m0",
        },
    )

    task = idle_task(read_status(client=client))

    assert task == TaskStatus(
        task=Task.IDLE,
        actor="process_idle_conversations",
        schedule="every 60 s",
        interval=60 * SECOND,
        last_slot=ClaimedSlot(NOON, Outcome.CAUGHT_UP, NOON + 2.5 * SECOND, 3, "m1"),
        next_slot=NOON + 60 * SECOND,
        last_run=Run(NOON, NOON + 3 * SECOND, NOON + 3.012 * SECOND, RunOutcome.FAILED, error="the disk is full"),
        last_success_at=NOON - 60 * SECOND,
        runs=41,
        failures=3,
        ended=1_204,
        awaited_since=NOON + 4 * SECOND,
        dropped=4,
        pause=Asked(NOON + 5 * SECOND, "ann@web-1"),
        waiting_trigger=Trigger("r2", NOON + 6 * SECOND, "bob@web-1"),
        last_trigger=Trigger("r1", NOON + SECOND, "cy@web-1", "m0"),
    )
    assert task.last_slot is not None
    assert task.last_slot.lateness == 2.5 * SECOND


def test_a_run_that_has_not_ended_is_running_and_one_out_of_turn_has_no_slot(client: redis.Redis) -> None:
    client.hset(IDLE, mapping={"run_slot": "", "run_started_at": now_ms(client)})

    run = idle_task(read_status(client=client)).last_run

    assert run is not None
    assert (run.slot, run.outcome, run.duration) == (None, RunOutcome.RUNNING, None)


def test_a_slot_that_fell_in_a_pause_has_no_message(client: redis.Redis) -> None:
    client.hset(IDLE, mapping={"slot": 60, "message_id": "never-sent", "outcome": "paused"})

    slot = idle_task(read_status(client=client)).last_slot

    assert slot is not None
    assert (slot.outcome, slot.message_id) == (Outcome.PAUSED, None)


FIELDS = (
    *("slot", "message_id", "outcome", "term", "enqueued_at", "schedule", "next_slot", "dropped"),
    *("run_slot", "run_started_at", "run_ended_at", "run_outcome", "run_error", "paused_at", "paused_by"),
    *("last_success_at", "interval", "runs", "failures", "ended"),
    *("trigger_id", "trigger_at", "trigger_by"),
    *("triggered_id", "triggered_at", "triggered_by", "triggered_message_id"),
)


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"nan", b"-1", b"9" * 30, b"9" * 5_000, b"\x1b[31mred", b"[/red]"])
def test_values_that_make_no_sense_are_unknown_and_never_a_failure(client: redis.Redis, value: bytes) -> None:
    for task in Task:
        client.hset(keys.task_key(actor_of(task)), mapping=dict.fromkeys(FIELDS, value))
    client.set(keys.TERM, value)
    client.hset(keys.LEASE, mapping={"holder": "h", "term": value, "since": value, "timeout": value})
    client.hset(
        keys.MEMBERS, mapping={"h": value, b"\xff": b'{"pid": "x", "loop": [], "host": 1, "started_at": "noon"}'}
    )
    client.zadd(keys.SEEN, {"h": float("-inf"), "i": float("inf"), "j": 1e300, "k": -6e13})
    client.hset(keys.WORKERS, mapping={"w": value, "x": b'{"pid": [], "threads": "8", "busy": {}, "started_at": 1}'})
    client.zadd(keys.WORKERS_SEEN, {"w": float("-inf"), "y": 1e300})
    client.sadd(keys.QUEUES, value, "text")
    client.set("dramatiq:text", value)
    client.hset(keys.BACKLOG, mapping={"measured_at": now_ms(client), "active": value, f"{Task.IDLE}:due": value})

    status = read_status(client=client)

    assert json.loads(json_text(overview_of(status)))["leader"]["id"] == "h"
    assert "\x1b" not in screen(status)


def test_a_lease_of_any_length_can_be_shown(client: redis.Redis) -> None:
    take_lease(client, "h", lease_ms=2**60)
    client.zadd(keys.SEEN, {"h": -6e13})

    status = read_status(client=client)

    assert json.loads(json_text(overview_of(status)))["leader"]["lease_ends_at"] is None
    assert "leader  host-of-h (pid 12)" in screen(status)


def test_keys_of_another_type_are_unknown(client: redis.Redis) -> None:
    for key in (keys.LEASE, keys.MEMBERS, keys.SEEN, keys.WORKERS, keys.WORKERS_SEEN, keys.QUEUES, keys.BACKLOG, IDLE):
        client.set(key, "text")
    client.lpush(keys.TERM, "list")

    status = read_status(client=client)

    assert (status.leader, status.last_term, status.schedulers) == (None, None, ())
    assert idle_task(status).last_slot is None


def test_the_clock_of_the_machine_that_asks_does_not_matter(client: redis.Redis) -> None:
    take_lease(client, "leader")
    work(client, "worker")
    with time_machine.travel(datetime(2001, 1, 1, tzinfo=UTC)):
        shown = screen(read_status(client=client))

    assert re.search(r"term 7 for [0-9]+ ms", shown)
    assert "!" not in shown


def test_workers_that_are_alive_come_first_and_those_that_are_silent_are_gone(client: redis.Redis) -> None:
    work(client, "a", seconds_ago=16)
    work(client, "b", seconds_ago=14)
    client.zadd(keys.WORKERS_SEEN, {"c": now_ms(client)})
    client.hset(keys.WORKERS, "d", "{}")

    workers = read_status(client=client).workers

    assert [(one.id, one.is_alive) for one in workers] == [("c", True), ("b", True), ("d", False), ("a", False)]
    assert workers[1].heard_at is not None
    assert replace(workers[1], heard_at=None) == WorkerStatus("b", True, "host-of-b", 13, NOON, None, 8, 2)
    assert workers[0] == WorkerStatus("c", True, None, None, None, workers[0].heard_at, None, None)


def test_each_queue_has_what_waits_in_it_and_what_is_dead(client: redis.Redis) -> None:
    client.sadd(keys.QUEUES, "sweeps", "drains", "strings")
    client.rpush("dramatiq:sweeps", "m1", "m2")
    client.zadd("dramatiq:sweeps.XQ", {"m3": 1, "m4": 2, "m5": 3})
    client.set("dramatiq:strings", "no list")

    assert read_status(client=client).queues == (
        QueueStatus("drains", 0, 0),
        QueueStatus("strings", None, 0),
        QueueStatus("sweeps", 2, 3),
    )


def test_the_measured_backlog_is_read_as_it_was_written(client: redis.Redis) -> None:
    BacklogRecord(client).write(BACKLOG)

    assert read_status(client=client).backlog == BACKLOG


def test_a_redis_that_is_full_can_still_be_read(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        take_lease(client, "leader")
        client.config_set("maxmemory", 1)

        assert read_status(client=client).leader is not None


# Which Redis is asked


def test_the_private_redis_of_a_run_is_found_in_the_data_directory(tmp_path: Path) -> None:
    settings = load_settings(ADJOURN_DATA_DIR=str(tmp_path), REDIS_URL=None)
    assert redis_url_to_ask(settings) == "redis://127.0.0.1:6379/0"

    server = PrivateRedis(tmp_path / "redis").start()
    try:
        assert redis_url_to_ask(settings) == server.url
        with asking(settings) as client:
            assert read_status(client=client).leader is None
        named = load_settings(ADJOURN_DATA_DIR=str(tmp_path), REDIS_URL="redis://elsewhere/3")
        assert redis_url_to_ask(named) == "redis://elsewhere/3"
    finally:
        server.stop()

    assert redis_url_to_ask(settings) == "redis://127.0.0.1:6379/0"


def test_a_redis_that_stops_answering_is_one_line_without_its_password(redis_url: str) -> None:
    settings = load_settings(REDIS_URL=redis_url)

    with (
        pytest.raises(RedisUnavailableError, match="cannot use Redis at"),
        asking(settings),
    ):
        raise redis.ConnectionError("gone")

    with (
        pytest.raises(RedisUnavailableError) as refused,
        asking(load_settings(REDIS_URL="redis://:pa55word@127.0.0.1:1/0")),
    ):
        pass
    assert "pa55word" not in str(refused.value)
