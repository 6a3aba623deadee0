"""What becomes of a message that no worker can run, and of what lies beside it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Worker
from dramatiq.middleware import Retries
from structlog.testing import capture_logs

from actors import pickup, settling
from actors.broker import TickBroker
from actors.pickup import PromptPickup
from actors.stopping import Stopping
from services.operations.dead_letters import newest_letters
from services.redis_client import connect
from tests.chaos.conversations.garbage import (
    DRAINS,
    NO_MESSAGE,
    SWEEPS,
    UNREADABLE,
    Pushed,
    is_dead_letter,
    left,
    message,
    push,
    push_again,
)
from tests.support import wait_for

DONE = "process_idle_conversations"


class UnluckyBroker(TickBroker):
    """A broker that loses answers of Redis, and is refused, where it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: How many answers with messages in them it still loses, and by what.
        self.losing = 0
        self.lost_by: Exception = redis.TimeoutError("Timeout reading from socket")
        #: How often Redis still refuses to be told of a message.
        self.refusing = 0
        #: How often it still takes no message.
        self.full = 0

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Put a message into its queue."""
        if self.full:
            self.full -= 1
            raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
        return super().enqueue(message, delay=delay)

    def _dispatch(self, command: str) -> Callable[..., Any]:
        dispatch: Callable[..., Any] = super()._dispatch(command)  # type: ignore[no-untyped-call]

        def call(*arguments: Any) -> Any:
            if command == "ack" and self.refusing:
                self.refusing -= 1
                raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
            answer = dispatch(*arguments)
            if command == "fetch" and answer and self.losing:
                self.losing -= 1
                raise self.lost_by
            return answer

        return call


class Runs:
    """A worker of ``threads`` threads, and the ids of the messages that it has run."""

    def __init__(self, url: str, *, threads: int) -> None:
        self.ids: list[str] = []
        self.hold = threading.Event()
        self.hold.set()
        stopping = Stopping()
        self.broker = UnluckyBroker(
            client=connect(url, timeout=5),
            middleware=[PromptPickup(environment={}), Retries(), stopping],
            stopping=stopping,
        )
        for queue, name in ((SWEEPS, DONE), (DRAINS, "drain_backlog")):
            dramatiq.actor(broker=self.broker, actor_name=name, queue_name=queue, max_retries=0)(self._run)
        self.worker = Worker(self.broker, worker_threads=threads)

    def _run(self, marker: str = "") -> None:
        self.hold.wait(30)
        self.ids.append(marker)

    def close(self) -> None:
        self.hold.set()
        self.worker.stop()
        self.broker.close()
        self.broker.client.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@contextmanager
def worker_on(url: str, *, threads: int = 2) -> Iterator[Runs]:
    """Make a worker; start it with ``worker.start()``."""
    runs = Runs(url, threads=threads)
    try:
        yield runs
    finally:
        runs.close()


def send(client: redis.Redis, marker: str, *, queue: str = SWEEPS) -> Pushed:
    """Put a message that can be run into a queue."""
    return push(
        client,
        queue,
        marker,
        lambda queue, redis_id: dramatiq.get_encoder().encode(message(queue, redis_id, args=[marker])),
    )


def wait_until_nothing_is_left(client: redis.Redis, pushed: list[Pushed]) -> None:
    wait_for(lambda: not left(client, pushed), what=f"the end of {[one.name for one in pushed]}")


def test_what_lies_beside_and_behind_messages_that_nobody_can_run_is_run(redis_url: str, client: redis.Redis) -> None:
    pushed = []
    for name, writes in UNREADABLE.items():
        pushed.append(push(client, SWEEPS, name, writes))
        send(client, name)
    with worker_on(redis_url) as runs, capture_logs() as lines:
        runs.worker.start()
        wait_for(lambda: len(runs.ids) >= len(UNREADABLE), what="all that can be run")
        wait_until_nothing_is_left(client, pushed)

    assert sorted(runs.ids) == sorted(UNREADABLE)
    dead = {one.name for one in pushed if is_dead_letter(client, one)}
    assert dead == set(UNREADABLE) - {NO_MESSAGE}
    told = sorted(line["redis_message_id"] for line in lines if "redis_message_id" in line)
    assert told == sorted(one.redis_id for one in pushed)
    assert not client.keys("dramatiq:__acks__*")


def test_one_look_into_a_flood_of_them_ends_so_that_other_queues_are_looked_at(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickup, "LONGEST_LOOK", 0.0)
    for number in range(20):
        push(client, DRAINS, f"garbage {number}", lambda *_: b"no message")
    with worker_on(redis_url) as runs:
        runs.broker.begin(2)
        runs.broker.consume(DRAINS, prefetch=2)

        assert runs.broker.do_fetch(DRAINS, 2) == []

        assert client.llen(f"dramatiq:{DRAINS}") == 18


def test_a_dead_letter_says_why_nobody_could_run_it(redis_url: str, client: redis.Redis) -> None:
    whys = {
        "an unknown actor": "ActorNotFound: send_money",
        "another queue inside": "UnreadableMessageError: it says that it is in the queue payments",
    }
    pushed = [push(client, SWEEPS, name, UNREADABLE[name]) for name in whys]
    with worker_on(redis_url) as runs:
        runs.worker.start()
        wait_until_nothing_is_left(client, pushed)
    letters = newest_letters(client=client, queues=[SWEEPS], limit=5).letters
    assert {letter.address.id: letter.why for letter in letters} == {one.redis_id: whys[one.name] for one in pushed}


def test_a_copy_under_another_id_is_no_message(redis_url: str, client: redis.Redis) -> None:
    first = send(client, "once")
    payload: Any = client.hget(f"dramatiq:{SWEEPS}.msgs", first.redis_id)
    copies = [push(client, SWEEPS, "a copy", lambda _queue, _id: payload) for _ in range(3)]
    with worker_on(redis_url) as runs:
        runs.worker.start()
        wait_until_nothing_is_left(client, [first, *copies])
        assert runs.ids == ["once"]
    assert all(is_dead_letter(client, one) for one in copies)


def test_a_copy_of_what_is_being_run_is_no_message_either(redis_url: str, client: redis.Redis) -> None:
    with worker_on(redis_url) as runs:
        runs.hold.clear()
        runs.worker.start()
        first = send(client, "once")
        wait_for(lambda: runs.worker.consumers[SWEEPS].consumer.queued_message_ids, what="a run")  # type: ignore[union-attr]
        payload: Any = client.hget(f"dramatiq:{SWEEPS}.msgs", first.redis_id)
        copy = push(client, SWEEPS, "a copy", lambda _queue, _id: payload)
        wait_until_nothing_is_left(client, [copy])
        runs.hold.set()
        wait_until_nothing_is_left(client, [first])
        assert runs.ids == ["once"]
    assert is_dead_letter(client, copy)


def test_an_id_that_lies_in_its_queue_several_times_leaves_nothing_behind(redis_url: str, client: redis.Redis) -> None:
    first = send(client, "once")
    again = push_again(client, SWEEPS, times=5, under_its_own_id=True)
    with worker_on(redis_url, threads=8) as runs:
        runs.worker.start()
        wait_until_nothing_is_left(client, [first, *again])
        assert runs.ids == ["once"]
    assert not client.keys("dramatiq:__acks__*")


@pytest.mark.parametrize("lost_by", [redis.TimeoutError("Timeout reading from socket"), RuntimeError("a bug")])
def test_a_message_whose_answer_was_lost_goes_back_to_its_queue(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, lost_by: Exception
) -> None:
    # After a bug dramatiq starts the consumer anew.
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    with worker_on(redis_url) as runs:
        runs.broker.lost_by = lost_by
        runs.hold.clear()
        runs.worker.start()
        held = send(client, "in hand")
        wait_for(lambda: runs.worker.consumers[SWEEPS].consumer.queued_message_ids, what="a run")  # type: ignore[union-attr]
        runs.broker.losing = 1
        lost = send(client, "lost")
        wait_for(lambda: not runs.broker.losing, what="the loss of an answer")
        runs.hold.set()
        wait_until_nothing_is_left(client, [held, lost])
        # What is in hand was not taken for lost.
        assert sorted(runs.ids) == ["in hand", "lost"]


def test_a_delayed_message_for_which_there_was_no_room_at_its_time_is_run_later(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    with worker_on(redis_url) as runs:
        actor: Any = runs.broker.get_actor(DONE)
        for marker in ("first", "second"):
            actor.send_with_options(args=(marker,), delay=300)
        runs.broker.full = 1
        runs.worker.start()
        wait_for(lambda: sorted(runs.ids) == ["first", "second"], what="both")
        assert not runs.broker.full


def test_redis_is_told_that_a_message_is_done_once_it_does_not_refuse_any_more(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "SETTLE_INTERVAL", 0.05)
    with worker_on(redis_url) as runs:
        runs.broker.refusing = 2
        runs.worker.start()
        sent = send(client, "once")
        wait_until_nothing_is_left(client, [sent])
        assert (runs.ids, runs.broker.refusing) == (["once"], 0)
