"""The fenced enqueue on a real Redis: what must hold however a leader is paused, replaced or cut off."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from services.redis_client import connect
from services.scheduling import keys
from services.scheduling.clock import RedisClock
from services.scheduling.lease import Lease
from services.scheduling.queue import FencedQueue, Outcome, Push, Tick, TooEarlyError
from tests.servers import redis_server_with, relay_to

SECOND = timedelta(seconds=1)
TASK = keys.task_key("task")


class Leader:
    """A scheduler's hand on lease and queue, without the rest of it."""

    def __init__(self, url: str) -> None:
        self.client = connect(url, timeout=10)
        self.lease = Lease(self.client, timeout=timedelta(seconds=15), clock=RedisClock())
        broker = RedisBroker(client=self.client, middleware=[])  # type: ignore[no-untyped-call]
        self.queue = FencedQueue(self.client, self.lease, push=broker.scripts["dispatch"])
        self.lead()

    def lead(self) -> None:
        assert self.lease.acquire("{}") is None
        assert self.lease.hold
        self.hold = self.lease.hold

    def enqueue(self, tick: Tick, number: int = 1) -> Outcome:
        return self.queue.enqueue(tick, push(number), hold=self.hold).outcome


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        yield client


Leaders = Callable[[str], Leader]


@pytest.fixture
def leaders() -> Iterator[Leaders]:
    """Make schedulers that lead the Redis of a URL, one after the other."""
    with ExitStack() as clients:

        def lead(url: str) -> Leader:
            leader = Leader(url)
            clients.enter_context(closing(leader.client))
            return leader

        yield lead


@pytest.fixture
def leader(leaders: Leaders, redis_url: str) -> Leader:
    return leaders(redis_url)


def push(number: int = 1) -> Push:
    arguments = ("enqueue", 1, "default", "broker", 60_000, 60_000, 0, 1, f"id-{number}", json.dumps(number))
    return Push(message_id=f"id-{number}", key="dramatiq", arguments=arguments)


def tick(seconds_ago: float = 0, *, caught_up: bool = False) -> Tick:
    slot = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=seconds_ago)
    return Tick("task", slot, slot + SECOND, caught_up=caught_up)


def pushed(client: redis.Redis) -> list[str]:
    ids: Any = client.lrange("dramatiq:default", 0, -1)
    assert client.hlen("dramatiq:default.msgs") == len(ids)
    return list(ids)


def test_a_slot_is_enqueued_once_and_what_became_of_it_is_noted(leader: Leader, client: redis.Redis) -> None:
    due = tick()

    assert leader.enqueue(due) is Outcome.ENQUEUED
    assert leader.enqueue(due, 2) is Outcome.DUPLICATE

    assert pushed(client) == ["id-1"]
    noted: Any = client.hgetall(TASK)
    now = datetime.now(UTC).timestamp() * 1000
    assert now - 60_000 < int(noted["enqueued_at"]) <= now
    assert noted.pop("awaited_since") == noted.pop("enqueued_at")
    assert noted == {
        "slot": str(int(due.slot.timestamp())),
        "next_slot": str(int(due.next_slot.timestamp())),
        "outcome": "enqueued",
        "term": "1",
        "message_id": "id-1",
    }


def test_slots_are_enqueued_in_their_order_only(leader: Leader, client: redis.Redis) -> None:
    assert leader.enqueue(tick(60)) is Outcome.ENQUEUED
    assert leader.enqueue(tick(30), 2) is Outcome.ENQUEUED
    assert leader.enqueue(tick(45), 3) is Outcome.DUPLICATE

    assert pushed(client) == ["id-1", "id-2"]


def test_each_task_has_slots_of_its_own(leader: Leader, client: redis.Redis) -> None:
    due = tick()
    other = Tick("other", due.slot, due.next_slot)

    assert leader.enqueue(due) is Outcome.ENQUEUED
    assert leader.enqueue(other, 2) is Outcome.ENQUEUED
    assert pushed(client) == ["id-1", "id-2"]


def test_what_was_enqueued_is_not_enqueued_again_by_another_leader(
    leaders: Leaders, leader: Leader, redis_url: str, client: redis.Redis
) -> None:
    due = tick()
    leader.enqueue(due)
    leader.lease.release()

    assert leaders(redis_url).enqueue(due, 2) is Outcome.DUPLICATE
    assert pushed(client) == ["id-1"]


def test_a_pause_between_check_and_push_enqueues_nothing(
    leaders: Leaders, leader: Leader, redis_url: str, client: redis.Redis
) -> None:
    assert leader.lease.hold  # it checks, and is paused
    client.delete(keys.LEASE)  # its lease runs out
    successor = leaders(redis_url)

    assert leader.enqueue(tick()) is Outcome.NOT_LEADER
    assert pushed(client) == []
    assert successor.enqueue(tick(), 2) is Outcome.ENQUEUED


def test_a_lease_that_ran_out_enqueues_nothing_even_when_nobody_else_leads(leader: Leader, client: redis.Redis) -> None:
    client.delete(keys.LEASE)

    assert leader.enqueue(tick()) is Outcome.NOT_LEADER
    assert pushed(client) == []
    assert not client.exists(TASK)


def test_an_old_term_enqueues_nothing_even_of_the_same_holder(leader: Leader, client: redis.Redis) -> None:
    old = leader.hold
    leader.lead()

    assert leader.queue.enqueue(tick(), push(), hold=old).outcome is Outcome.NOT_LEADER
    assert pushed(client) == []
    assert leader.enqueue(tick(), 2) is Outcome.ENQUEUED


def test_a_call_that_is_repeated_changes_nothing_and_is_answered_as_before(
    leaders: Leaders, leader: Leader, redis_url: str, client: redis.Redis
) -> None:
    due = tick(3, caught_up=True)
    first = leader.queue.enqueue(due, push(), hold=leader.hold)
    client.delete(keys.LEASE)
    leaders(redis_url)  # another leads by now, and Redis's clock went on

    assert leader.queue.enqueue(due, push(), hold=leader.hold) == first
    assert first.outcome is Outcome.CAUGHT_UP
    assert pushed(client) == ["id-1"]


def test_a_late_twin_of_a_call_changes_nothing_when_the_schedule_has_gone_on(
    leader: Leader, client: redis.Redis
) -> None:
    leader.enqueue(tick(2))
    leader.enqueue(tick(1), 2)

    assert leader.enqueue(tick(2)) is Outcome.DUPLICATE
    assert pushed(client) == ["id-1", "id-2"]


def test_a_lost_answer_is_asked_for_again_and_the_tick_is_enqueued_once(leaders: Leaders, tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, relay_to(server.port) as relay:
        leader = leaders(f"redis://127.0.0.1:{relay.port}/0")
        leader.enqueue(tick(5))  # the script is known from here on
        relay.lose_answer_to(b"id-2")

        assert leader.enqueue(tick(), 2) is Outcome.ENQUEUED
        with redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
            assert pushed(client) == ["id-1", "id-2"]


def test_a_redis_that_is_gone_is_said_to_be_after_a_few_tries(leaders: Leaders, tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server:
        leader = leaders(server.url)
        server.kill()

        with pytest.raises(redis.ConnectionError):
            leader.enqueue(tick())


def test_a_redis_that_is_full_neither_claims_nor_pushes(leaders: Leaders, tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server:
        leader = leaders(server.url)
        with redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.ResponseError, match="maxmemory"):
                leader.enqueue(tick())
            assert pushed(client) == []
            assert not client.exists(TASK)

            client.config_set("maxmemory", 0)
            assert leader.enqueue(tick()) is Outcome.ENQUEUED


def test_a_queue_of_another_kind_of_value_is_claimed_by_nobody(leader: Leader, client: redis.Redis) -> None:
    client.set("dramatiq:default.msgs", "foreign")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        leader.enqueue(tick())
    assert not client.exists(TASK)


@pytest.mark.parametrize(("ahead", "outcome"), [(14, Outcome.DUPLICATE), (3_600, Outcome.ENQUEUED)])
def test_a_mark_of_a_clock_that_was_put_back_holds_the_schedule_up_for_a_lease_at_most(
    leader: Leader, client: redis.Redis, ahead: int, outcome: Outcome
) -> None:
    client.hset(TASK, "slot", int(datetime.now(UTC).timestamp()) + ahead)

    assert leader.enqueue(tick()) is outcome


def test_a_slot_that_is_still_to_come_is_not_enqueued(leader: Leader, client: redis.Redis) -> None:
    for ahead in (10, 600):
        with pytest.raises(TooEarlyError, match="still to come"):
            leader.enqueue(tick(-ahead))
    assert not client.exists(TASK)

    assert leader.enqueue(tick(-1)) is Outcome.ENQUEUED  # nobody's idea of Redis's clock is exact


def test_a_paused_task_claims_its_slots_without_a_message(leader: Leader, client: redis.Redis) -> None:
    client.hset(TASK, "paused_at", 1)
    due = tick(1)

    assert leader.enqueue(due) is Outcome.PAUSED
    assert leader.enqueue(due) is Outcome.PAUSED  # the same call again
    assert leader.enqueue(due, 2) is Outcome.DUPLICATE
    assert pushed(client) == []

    client.hdel(TASK, "paused_at")
    assert leader.enqueue(tick(), 3) is Outcome.ENQUEUED


def test_a_trigger_pushes_one_message_and_strikes_the_request(leader: Leader, client: redis.Redis) -> None:
    client.hset(TASK, mapping={"trigger_id": "r1", "trigger_at": 1, "trigger_by": "ann@host"})

    assert leader.queue.trigger("task", "r1", push(), hold=leader.hold)
    assert leader.queue.trigger("task", "r1", push(2), hold=leader.hold)  # its answer was lost

    assert pushed(client) == ["id-1"]
    noted: Any = client.hgetall(TASK)
    assert noted.pop("awaited_since") == noted.pop("triggered_at")
    assert noted == {"triggered_id": "r1", "triggered_by": "ann@host", "triggered_message_id": "id-1"}


def test_a_trigger_that_was_taken_back_or_comes_from_an_old_term_pushes_nothing(
    leader: Leader, client: redis.Redis
) -> None:
    assert not leader.queue.trigger("task", "r1", push(), hold=leader.hold)

    client.hset(TASK, "trigger_id", "r1")
    client.delete(keys.LEASE)
    assert not leader.queue.trigger("task", "r1", push(), hold=leader.hold)
    assert pushed(client) == []
    assert client.hget(TASK, "trigger_id") == "r1"
