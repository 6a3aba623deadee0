"""What a worker does from when it is told to stop, or to start, whoever is away."""

import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import Middleware
from sqlalchemy import text

from actors.engine import cut_connections, keep_connections
from actors.parting import Parting
from actors.pickup import FrugalBroker, PromptPickup
from actors.startup import WorkerStart
from actors.stopping import Stopping
from services.database import create_database_engine
from services.redis_client import connect
from tests.servers import redis_server_with
from tests.support import wait_for

QUEUE = "drains"


@contextmanager
def broker_of(url: str, stopping: Stopping, *middleware: Middleware) -> Iterator[FrugalBroker]:
    with connect(url, timeout=5) as client:
        broker = FrugalBroker(client=client, stopping=stopping, middleware=[*middleware, stopping])
        broker.declare_queue(QUEUE)
        yield broker
        broker.close()


def send(broker: FrugalBroker, *names: str) -> None:
    for name in names:
        broker.enqueue(dramatiq.Message(queue_name=QUEUE, actor_name="one", args=(name,), kwargs={}, options={}))


def names(broker: FrugalBroker, listed: Any) -> list[str]:
    """Return what messages were sent as, by their ids."""
    texts: Any = broker.client.hmget(f"dramatiq:{QUEUE}.msgs", [*listed, "none"])
    return sorted(json.loads(text)["args"][0] for text in texts if text)


def waiting(broker: FrugalBroker) -> list[str]:
    return names(broker, broker.client.lrange(f"dramatiq:{QUEUE}", 0, -1))


def taken(broker: FrugalBroker) -> list[str]:
    return names(broker, broker.client.smembers(f"dramatiq:__acks__.{broker.broker_id}.{QUEUE}"))


def test_what_a_consumer_has_fetched_goes_back_when_it_is_asked_for_the_next(redis_url: str) -> None:
    stopping = Stopping()
    with broker_of(redis_url, stopping) as broker:
        send(broker, "a", "b", "c", "d")
        consumer: Any = broker.consume(QUEUE, prefetch=3)
        assert next(consumer).args == ("a",)
        assert (taken(broker), waiting(broker)) == (["a", "b", "c"], ["d"])

        stopping.tell()
        assert next(consumer) is None
        assert (taken(broker), waiting(broker)) == (["a"], ["b", "c", "d"])
        assert next(consumer) is None
        assert waiting(broker) == ["b", "c", "d"]


def test_what_a_consumer_has_fetched_goes_back_when_it_is_closed(redis_url: str) -> None:
    with broker_of(redis_url, Stopping()) as broker:
        send(broker, "a", "b", "c")
        consumer: Any = broker.consume(QUEUE, prefetch=3)
        message = next(consumer)
        consumer.close()
        assert (taken(broker), waiting(broker)) == (["a"], ["b", "c"])
        consumer.ack(message)
        assert taken(broker) == []


def test_a_message_that_a_thread_took_too_late_is_not_started_but_handed_back(redis_url: str) -> None:
    stopping = Stopping()
    runs: list[str] = []
    with broker_of(redis_url, stopping, PromptPickup(environment={})) as broker:
        dramatiq.actor(broker=broker, actor_name="one", queue_name=QUEUE)(lambda name: runs.append(name))  # noqa: PLW0108 - typed
        send(broker, "a")
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        consumer: Any = broker.consume(QUEUE)
        message = next(consumer)
        worker.start()
        stopping.tell()
        wait_for(lambda: worker.consumers[QUEUE].consumer, what="a consumer")
        worker.consumers[QUEUE].handle_message(message)
        wait_for(lambda: waiting(broker) == ["a"], what="its return")
        worker.stop()
        assert (runs, taken(broker), waiting(broker)) == ([], [], ["a"])


def test_a_message_that_is_done_while_redis_is_away_is_said_to_be_when_it_is_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.pickup.SETTLE_INTERVAL", 0.05)
    with (
        redis_server_with(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server,
        broker_of(server.url, Stopping()) as broker,
    ):
        send(broker, "a")
        consumer: Any = broker.consume(QUEUE)
        message = next(consumer)
        server.kill()
        saying = threading.Thread(target=consumer.ack, args=(message,))
        saying.start()
        # It counts as held until then.
        assert consumer.outstanding_message_count == 1
        server.start()
        saying.join(30)
        assert (consumer.outstanding_message_count, taken(broker), waiting(broker)) == (0, [], [])


def test_messages_that_cannot_be_handed_back_are_said_to_come_back(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server_with(tmp_path) as server, broker_of(server.url, Stopping()) as broker:
        send(broker, "a", "b")
        consumer: Any = broker.consume(QUEUE, prefetch=2)
        message = next(consumer)
        server.kill()
        consumer.requeue([message])
        consumer.close()
    assert caplog.text.count("messages not handed back") == 2


def test_a_run_whose_database_hangs_is_given_up_when_it_has_had_its_time(redis_url: str, postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    keep_connections(engine)
    stopping, is_running = Stopping(), threading.Event()
    errors: list[str] = []

    def sleep() -> None:
        try:
            with engine.connect() as connection:
                is_running.set()
                connection.execute(text("SELECT pg_sleep(60)"))
        except Exception as error:
            errors.append(type(error).__name__)
            raise

    client, probe = (connect(redis_url, timeout=seconds) for seconds in (5, 1))
    parting = Parting(stopping, client=client, probe=probe, cut_database=cut_connections, database_patience=0.3)
    with client, probe, broker_of(redis_url, stopping, parting) as broker:
        sleeper: Any = dramatiq.actor(broker=broker, actor_name="sleep", queue_name=QUEUE)(sleep)
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        worker.start()
        sleeper.send()
        assert is_running.wait(30)
        worker.stop(timeout=30_000)
        assert errors == ["OperationalError"]
        assert (taken(broker), waiting(broker)) == ([], [])
    engine.dispose()


def test_a_worker_says_what_it_waits_for_from_time_to_time_and_takes_messages_when_nothing_is_missing(
    redis_url: str, caplog: pytest.LogCaptureFixture, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("actors.startup.run_directory", lambda: tmp_path)
    goes_on = threading.Event()
    answers = chain([["no redis", "no database"]], repeat(["no database"]))
    stopping = Stopping()
    runs: list[str] = []

    def missing() -> Iterator[str]:
        return iter([] if goes_on.is_set() else next(answers))

    start = WorkerStart(stopping, missing=missing, interval=0.01, line_interval=0.3)
    with broker_of(redis_url, stopping, start) as broker:
        dramatiq.actor(broker=broker, actor_name="one", queue_name=QUEUE)(lambda name: runs.append(name))  # noqa: PLW0108 - typed
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        send(broker, "a")
        worker.start()
        wait_for(lambda: caplog.text.count("still waiting") == 2, what="two more lines")
        assert (start.awaited(), waiting(broker), runs) == ("no database", ["a"], [])
        goes_on.set()
        wait_for(lambda: runs == ["a"], what="the run")
        assert start.awaited() is None
        worker.stop()

    said = [record.getMessage() for record in caplog.records if record.name == "actors.startup"]
    assert [("no redis; no database" in line, "no database" in line) for line in said] == [
        (True, True),
        (False, True),
        (False, True),
        (False, False),
    ]


def test_a_worker_that_finds_all_at_once_says_nothing_of_waiting(
    redis_url: str, caplog: pytest.LogCaptureFixture, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.startup.run_directory", lambda: tmp_path)
    stopping = Stopping()
    start = WorkerStart(stopping, missing=lambda: iter([]))
    with broker_of(redis_url, stopping, start) as broker:
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        worker.start()
        wait_for(lambda: broker.is_open, what="its beginning")
        worker.stop()
    assert not [record for record in caplog.records if record.name == "actors.startup"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_told_by_a_signal_knows_before_dramatiq_does(number: signal.Signals) -> None:
    stopping = Stopping()
    known: list[bool] = []
    before = signal.signal(number, lambda *_: known.append(stopping.is_stopping()))
    try:
        stopping.after_process_boot(FrugalBroker())
        assert not stopping.wait(0)
        signal.raise_signal(number)
        signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert known == [True, True]
    assert [stopping.wait(0) for _ in range(3)] == [True] * 3  # for whoever waits, again and again
