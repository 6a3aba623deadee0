"""Which messages a worker takes, and when: none that it has no thread for, so that nothing waits behind long runs."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Worker

from actors.broker import TickBroker
from actors.pickup import IDLE_PAUSE_MS, FrugalBroker, PromptPickup
from actors.stopping import Stopping
from services.redis_client import connect
from tests.schedulers import broker_on
from tests.support import wait_for

LONG, SHORT = "sweeps", "drains"


class WatchedBroker(TickBroker):
    """A broker that counts how often it was asked for messages of a queue, and fails once where it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.looks: Counter[str] = Counter()
        self.failing: set[str] = set()

    def do_fetch(self, queue_name: str, count: int) -> list[bytes]:
        if queue_name in self.failing:
            self.failing.discard(queue_name)
            raise ValueError("a message that nobody can read")
        fetched = super().do_fetch(queue_name, count)
        self.looks[queue_name] += 1
        return fetched

    @contextmanager
    def nothing_fetched(self) -> Iterator[None]:
        """Let messages come together before any of them is taken."""
        with self._fetching:
            yield

    def wait_for_looks(self, queue_name: str) -> None:
        """Wait until it has looked for messages that are there now."""
        seen = self.looks[queue_name]
        wait_for(lambda: self.looks[queue_name] >= seen + 2, what="a look into the queue")


class WorkerProcess:
    """What one process of ``dramatiq actors`` has: a broker, a worker, a long run that lasts until it is let go."""

    def __init__(self, url: str, *, threads: int, **options: Any) -> None:
        self.stopping = Stopping()
        self.broker = WatchedBroker(
            client=connect(url, timeout=5),
            middleware=[PromptPickup(environment={}), self.stopping],
            stopping=self.stopping,
            **options,
        )
        self.running = 0
        self.done = 0
        self.let_go = threading.Event()
        self.long: Any = dramatiq.actor(broker=self.broker, actor_name="long", queue_name=LONG)(self._run_long)
        self.also_long: Any = dramatiq.actor(broker=self.broker, actor_name="also_long", queue_name=SHORT)(
            self._run_long
        )
        self.short: Any = dramatiq.actor(broker=self.broker, actor_name="short", queue_name=SHORT)(self._run_short)
        self.worker = Worker(self.broker, worker_threads=threads)

    def _run_long(self) -> None:
        self.running += 1
        self.let_go.wait(60)

    def _run_short(self) -> None:
        self.done += 1

    def close(self) -> None:
        self.let_go.set()
        self.worker.stop()
        self.broker.close()
        self.broker.client.close()


@contextmanager
def worker_process(
    url: str, *, threads: int = 1, delayed: int | None = None, **options: Any
) -> Iterator[WorkerProcess]:
    """Start one; it holds ``delayed`` messages of each queue that are for later. ``options`` are its broker's."""
    with ExitStack() as exits:
        process = WorkerProcess(url, threads=threads, **options)
        exits.callback(process.close)
        process.worker.delay_prefetch = delayed or process.worker.delay_prefetch
        process.worker.start()
        yield process


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def waiting(client: redis.Redis, queue: str) -> int:
    """Return how many messages of a queue nobody has taken."""
    return int(client.llen(f"dramatiq:{queue}"))


def sign_of_life(client: redis.Redis, process: WorkerProcess) -> float:
    """Return when a process showed dramatiq last that it lives, in milliseconds."""
    shown: Any = client.zscore("dramatiq:__heartbeats__", process.broker.broker_id)
    return float(shown or 0)


def test_a_short_message_is_done_while_a_long_run_goes_on(redis_url: str) -> None:
    with worker_process(redis_url, threads=2) as process:
        process.long.send()
        wait_for(lambda: process.running, what="the long run")
        process.short.send()
        wait_for(lambda: process.done, what="the short one")
        assert not process.let_go.is_set()


def test_a_process_whose_threads_are_busy_leaves_messages_to_others(redis_url: str, client: redis.Redis) -> None:
    with worker_process(redis_url) as full:
        full.long.send()
        wait_for(lambda: full.running, what="the long run")
        full.short.send()
        full.long.send()
        for queue in (SHORT, LONG):
            full.broker.wait_for_looks(f"{queue}.DQ")  # of its own queue it does not even ask
        full.broker.wait_for_looks(SHORT)
        assert (waiting(client, SHORT), waiting(client, LONG)) == (1, 1)

        with worker_process(redis_url, threads=2) as other:
            wait_for(lambda: other.done and other.running, what="both messages")
        assert (full.running, full.done) == (1, 0)


def test_a_process_takes_no_more_than_it_has_threads_for(redis_url: str, client: redis.Redis) -> None:
    with worker_process(redis_url, threads=2) as process:
        process.long.send()
        wait_for(lambda: process.running == 1, what="the first run")
        with process.broker.nothing_fetched():
            for _ in range(3):
                process.also_long.send()
        wait_for(lambda: process.running == 2, what="the second run")
        process.broker.wait_for_looks(SHORT)
        assert waiting(client, SHORT) == 2


def test_a_consumer_that_takes_over_after_an_error_answers_for_what_still_runs(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)
    with redis.Redis.from_url(redis_url) as client, worker_process(redis_url, threads=2) as process:
        process.long.send()
        wait_for(lambda: process.running, what="the run")
        first = process.worker.consumers[LONG].consumer

        process.broker.failing.add(LONG)
        wait_for(lambda: process.worker.consumers[LONG].consumer not in {first, None}, what="another consumer")
        with process.broker.nothing_fetched():
            for _ in range(3):
                process.also_long.send()
        wait_for(lambda: process.running == 2, what="the second run")
        process.broker.wait_for_looks(SHORT)

        assert waiting(client, SHORT) == 2


def test_a_process_that_was_full_takes_messages_when_a_thread_is_free_again(redis_url: str) -> None:
    with worker_process(redis_url) as process:
        for actor in (process.long, process.short, process.short):
            actor.send()
            wait_for(lambda: process.running, what="the long run")
        process.let_go.set()
        wait_for(lambda: process.done == 2, what="the short ones")


def test_a_full_process_is_still_known_to_live(redis_url: str, client: redis.Redis) -> None:
    with worker_process(redis_url) as process:
        process.long.send()
        wait_for(lambda: process.running, what="the long run")
        client.zadd("dramatiq:__heartbeats__", {process.broker.broker_id: 0})
        wait_for(lambda: sign_of_life(client, process), what="a sign of its life")


def test_so_is_one_that_can_hold_no_more_delayed_messages_either(redis_url: str, client: redis.Redis) -> None:
    with worker_process(redis_url, delayed=1, heartbeat_timeout=1_000) as process:
        process.long.send()
        wait_for(lambda: process.running, what="the long run")
        for actor in (process.long, process.short):
            actor.send_with_options(delay=3_600_000)
        later: Any = [process.worker.consumers[f"{queue}.DQ"] for queue in (LONG, SHORT)]
        wait_for(lambda: all(one.consumer.outstanding_message_count for one in later), what="messages for later")
        client.zadd("dramatiq:__heartbeats__", {process.broker.broker_id: 0})
        wait_for(lambda: sign_of_life(client, process), what="a sign of its life")


def test_a_run_that_goes_on_for_long_after_the_word_to_stop_is_not_begun_by_another_worker(
    redis_url: str, client: redis.Redis
) -> None:
    timeout = 4_000
    looking = {"heartbeat_timeout": timeout, "maintenance_chance": 1_000_000}
    with worker_process(redis_url, **looking) as ending, worker_process(redis_url, **looking) as other:
        with other.broker.nothing_fetched():
            ending.long.send()
            wait_for(lambda: ending.running, what="the run")
        stop = threading.Thread(target=ending.worker.stop)
        stop.start()
        wait_for(ending.stopping.is_stopping, what="the word to stop")
        told_at = time.time() * 1000
        wait_for(
            lambda: other.running or sign_of_life(client, ending) > told_at + timeout * 1.25,
            what="signs of life for longer than the time after which it would be dead",
        )
        other.broker.wait_for_looks(f"{LONG}.DQ")
        other.broker.wait_for_looks(LONG)
        assert (ending.running, other.running) == (1, 0)

        ending.let_go.set()
        stop.join(30)
        assert not client.keys("dramatiq:__acks__*")


def test_a_worker_that_was_told_to_stop_takes_no_message(redis_url: str, client: redis.Redis) -> None:
    with worker_process(redis_url, threads=2) as process:
        process.long.send()
        wait_for(lambda: process.running, what="the long run")
        assert not process.stopping.is_stopping()
        stop = threading.Thread(target=process.worker.stop)
        stop.start()
        wait_for(process.stopping.is_stopping, what="the end of taking messages")
        process.short.send()
        process.broker.wait_for_looks(SHORT)
        assert waiting(client, SHORT) == 1

        process.let_go.set()
        stop.join(30)
        assert not stop.is_alive()


def boot(*, threads: int = 8, **environment: str) -> tuple[Worker, FrugalBroker]:
    """Return a worker that has begun to boot, and its broker."""
    pickup = PromptPickup(environment)
    broker = FrugalBroker(middleware=[pickup])
    worker = Worker(broker, worker_threads=threads)
    pickup.before_worker_boot(broker, worker)
    return worker, broker


def test_a_worker_looks_for_messages_often_and_holds_as_many_as_it_has_threads() -> None:
    worker, broker = boot(threads=3)

    assert (worker.worker_timeout, worker.queue_prefetch, broker.capacity) == (IDLE_PAUSE_MS, 3, 3)


def test_what_dramatiqs_own_variables_say_counts() -> None:
    worker, broker = boot(dramatiq_worker_timeout="1000", dramatiq_queue_prefetch="16")

    assert (worker.worker_timeout, worker.queue_prefetch, broker.capacity) == (1000, 16, None)


def test_a_broker_without_a_worker_fetches_as_dramatiqs_does(redis_url: str) -> None:
    with broker_on(redis_url) as broker:
        actor: Any = dramatiq.actor(broker=broker, actor_name="one", queue_name=SHORT)(lambda: None)
        for _ in range(3):
            actor.send()

        assert len(broker.do_fetch(SHORT, 2)) == 2
