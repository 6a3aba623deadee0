"""What Redis knows of the cluster, as metrics."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from prometheus_client import CollectorRegistry

from services.backlog import UNKNOWN, Backlog, TaskBacklog
from services.cluster.backlog_record import BacklogRecord
from services.monitoring.cluster_metrics import ClusterCollector
from services.redis_client import connect
from services.scheduling import keys
from services.scheduling.runs import RunRecord
from services.tasks import Task
from tests.support import NOON

IDLE, EXPIRED = "process_idle_conversations", "process_expired_conversations"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


def told(client: redis.Redis) -> dict[str, float]:
    """Return the value of each series."""
    registry = CollectorRegistry()
    registry.register(ClusterCollector(client))
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_of_a_redis_that_does_not_answer_only_that_is_told() -> None:
    with connect("redis://127.0.0.1:1/0", timeout=1) as nobody:
        assert told(nobody) == {"background_redis_up": 0}


def test_what_an_empty_redis_does_not_know_is_left_out(client: redis.Redis) -> None:
    assert told(client) == {
        "background_redis_up": 1,
        "background_workers_alive": 0,
        "background_schedulers_alive": 0,
        "background_task_paused idle_conversations": 0,
        "background_task_paused expired_conversations": 0,
    }


def test_runs_pauses_queues_and_letters_are_told(client: redis.Redis) -> None:
    record = RunRecord(client)
    for message_id, error in (("m1", None), ("m2", "it broke")):
        record.begin(IDLE, message_id, slot=None, useless_from=None, limit=timedelta(seconds=60))
        record.end(IDLE, message_id, error=error)
    client.hset(keys.task_key(EXPIRED), mapping={"interval": 90, "paused_at": 1})
    client.sadd(keys.QUEUES, "sweeps")
    client.rpush("dramatiq:sweeps", "a", "b")
    client.zadd("dramatiq:sweeps.XQ", {"c": 1})
    seconds, microseconds = client.time()

    values = told(client)

    assert values["background_task_last_success_timestamp_seconds idle_conversations"] == pytest.approx(
        seconds + microseconds / 1e6, abs=5
    )
    assert "background_task_last_success_timestamp_seconds expired_conversations" not in values
    assert values["background_task_interval_seconds expired_conversations"] == 90
    assert values["background_task_paused expired_conversations"] == 1
    assert values["background_queue_messages sweeps"] == 2
    assert values["background_dead_letters sweeps"] == 1


def test_the_backlog_is_told_as_it_was_measured_and_what_could_not_be_is_left_out(client: redis.Redis) -> None:
    due = TaskBacklog(due=3, due_is_capped=False, oldest_due=timedelta(seconds=4.5))
    tasks = {Task.IDLE: due, Task.EXPIRED: UNKNOWN}
    measured = Backlog(NOON, active=7, active_is_estimate=False, tasks=tasks, set_aside=2)
    BacklogRecord(client).write(measured)

    values = told(client)

    assert values["background_backlog_measured_timestamp_seconds"] == NOON.timestamp()
    assert values["active_conversations"] == 7
    assert values["conversations_set_aside"] == 2
    assert values["conversations_due idle_conversations"] == 3
    assert values["conversations_oldest_due_seconds idle_conversations"] == 4.5
    assert not [name for name in values if name.startswith("conversations_") and "expired" in name]


def test_nothing_due_is_nought_seconds_and_not_unknown(client: redis.Redis) -> None:
    nothing = TaskBacklog(due=0, due_is_capped=False, oldest_due=None)
    BacklogRecord(client).write(Backlog(NOON, 0, active_is_estimate=False, tasks=dict.fromkeys(Task, nothing)))

    values = told(client)

    assert values["conversations_due expired_conversations"] == 0
    assert values["conversations_oldest_due_seconds expired_conversations"] == 0
