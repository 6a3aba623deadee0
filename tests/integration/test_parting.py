"""What a worker does from when it is told to stop, or to start, whoever is away."""

import json
import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Worker
from dramatiq.middleware import Middleware
from sqlalchemy import NullPool, text
from sqlalchemy.exc import OperationalError

from actors.broker import broker as production_broker
from actors.engine import RunConnections, get_engine
from actors.parting import Parting
from actors.pickup import FrugalBroker, PromptPickup
from actors.startup import Dependencies, WorkerStart
from actors.stopping import Stopping
from services.database import check_database, check_reachable, create_database_engine
from services.errors import DatabaseUnavailableError
from services.redis_client import connect
from services.settings import load_settings
from tests.servers import redis_server_with
from tests.support import free_port, wait_for

QUEUE = "drains"
#: Patience, in seconds, with what does answer: on a busy machine that may take a while.
AMPLE = 30.0


@contextmanager
def broker_of(url: str, stopping: Stopping, *middleware: Middleware) -> Iterator[FrugalBroker]:
    with connect(url, timeout=5) as client:
        broker = FrugalBroker(client=client, stopping=stopping, middleware=[*middleware, stopping])
        broker.declare_queue(QUEUE)
        yield broker
        broker.close()


def send(broker: FrugalBroker, *names: str) -> None:
    if "one" not in broker.actors:
        dramatiq.actor(broker=broker, actor_name="one", queue_name=QUEUE)(lambda _name: None)
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
    monkeypatch.setattr("actors.settling.SETTLE_INTERVAL", 0.05)
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


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of the loopback where everybody may connect, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def asks(database_url: str) -> Callable[[], None]:
    """Return what asks a database whether it answers."""
    return lambda: check_reachable(create_database_engine(database_url, poolclass=NullPool))


@contextmanager
def database_run(
    redis_url: str, postgresql_url: str, ask: Callable[[], None], *, answer_patience: float = AMPLE
) -> Iterator[tuple[Worker, list[str]]]:
    """Have a worker at a run that waits for the database; yields it, and what comes of the run.

    The database of the run is well: when it looks as if it hung, that is for what ``ask`` meets.
    """
    engine = create_database_engine(postgresql_url)
    connections = RunConnections()
    connections.remember(engine)
    stopping, is_running = Stopping(), threading.Event()
    outcomes: list[str] = []

    def wait() -> None:
        try:
            with engine.connect() as connection:
                is_running.set()
                connection.execute(text("SELECT pg_advisory_xact_lock(7)"))
            outcomes.append("done")
        except Exception as error:
            outcomes.append(type(error).__name__)
            raise

    with connect(redis_url, timeout=AMPLE) as client, connect(redis_url, timeout=AMPLE) as probe:
        parting = Parting(
            stopping,
            client=client,
            probe=probe,
            ask_database=ask,
            cut_database=connections.cut,
            redis_patience=AMPLE,
            database_patience=0.1,
            answer_patience=answer_patience,
        )
        with broker_of(redis_url, stopping, parting) as broker:
            waiter: Any = dramatiq.actor(broker=broker, actor_name="wait", queue_name=QUEUE)(wait)
            worker = Worker(broker, worker_threads=1, worker_timeout=10)
            worker.start()
            waiter.send()
            assert is_running.wait(30)
            yield worker, outcomes
            assert (taken(broker), waiting(broker)) == ([], [])
    engine.dispose()


@contextmanager
def locked(postgresql_url: str, statement: str) -> Iterator[Callable[[], None]]:
    """Hold the lock that ``statement`` takes; yields what lets it go."""
    engine = create_database_engine(postgresql_url)
    with engine.connect() as connection:
        connection.execute(text(statement))
        yield connection.rollback
    engine.dispose()


def test_a_run_whose_database_says_nothing_is_given_up_when_it_has_had_its_time(
    redis_url: str, postgresql_url: str, silent_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    ask = asks(f"postgresql://u@127.0.0.1:{silent_port}/x")
    with (
        locked(postgresql_url, "SELECT pg_advisory_xact_lock(7)"),
        database_run(redis_url, postgresql_url, ask, answer_patience=0.3) as (worker, outcomes),
    ):
        worker.stop(timeout=30_000)
        assert outcomes == ["OperationalError"]
    assert caplog.text.count("the database does not answer") == 1


@pytest.mark.parametrize("answer", ["an answer", "a refusal"])
def test_a_run_that_takes_its_time_is_left_alone_while_the_database_answers(
    answer: str, redis_url: str, postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask = asks(postgresql_url if answer == "an answer" else f"postgresql://u@127.0.0.1:{free_port()}/x")
    asked: list[None] = []

    def counted() -> None:
        try:
            ask()
        finally:
            asked.append(None)

    with (
        locked(postgresql_url, "SELECT pg_advisory_xact_lock(7)") as let_go,
        database_run(redis_url, postgresql_url, counted) as (worker, outcomes),
    ):
        stop = threading.Thread(target=worker.stop)
        stop.start()
        wait_for(lambda: len(asked) > 2, what="questions to the database")
        let_go()
        stop.join(30)
        assert outcomes == ["done"]
    assert "the database does not answer" not in caplog.text


def test_the_workers_of_production_cut_the_connections_of_their_runs_when_the_database_says_nothing(
    postgresql_url: str, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_engine.cache_clear()
    (parting,) = [one for one in production_broker.middleware if isinstance(one, Parting)]
    monkeypatch.setattr(parting, "answer_patience", AMPLE)
    monkeypatch.setattr("actors.engine.settings", load_settings(DATABASE_URL=postgresql_url))
    engine = get_engine()
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        parting.look_at_database()
        connection.execute(text("SELECT 1"))
        silent = f"postgresql://u@127.0.0.1:{silent_port}/x"
        monkeypatch.setattr("actors.engine.settings", load_settings(DATABASE_URL=silent))
        monkeypatch.setattr(parting, "answer_patience", 0.3)
        parting.look_at_database()
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT 1"))
        connection.invalidate()
    engine.dispose()
    get_engine.cache_clear()


def test_a_redis_that_is_back_before_the_worker_has_ended_is_used_again(tmp_path: Any) -> None:
    is_running, may_end = threading.Event(), threading.Event()
    stopping = Stopping()

    def wait() -> None:
        is_running.set()
        may_end.wait(60)

    with (
        redis_server_with(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server,
        broker_of(server.url, stopping) as broker,
        connect(server.url, timeout=AMPLE) as probe,
    ):
        client = broker.client
        broker.add_middleware(
            Parting(
                stopping,
                client=client,
                probe=probe,
                ask_database=lambda: None,
                cut_database=lambda: 0,
                redis_patience=AMPLE,  # one that is gone refuses at once
            )
        )
        waiter: Any = dramatiq.actor(broker=broker, actor_name="wait", queue_name=QUEUE)(wait)
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        worker.start()
        waiter.send()
        assert is_running.wait(30)
        server.kill()
        stop = threading.Thread(target=worker.stop)
        stop.start()
        try:
            wait_for(lambda: "this worker ends" in said_by(client), what="commands that fail at once")
            server.start()
            wait_for(lambda: not said_by(client), what="commands that are answered")
        finally:
            may_end.set()
            stop.join(30)
        assert (taken(broker), waiting(broker)) == ([], [])


def test_whatever_the_question_to_redis_raises_redis_is_asked_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = Stopping()
    with (
        connect(redis_url, timeout=5) as client,
        connect(redis_url, timeout=1) as probe,
        broker_of(redis_url, stopping) as broker,
    ):
        parting = Parting(stopping, client=client, probe=probe, ask_database=lambda: None, cut_database=lambda: 0)
        worker = Worker(broker, worker_threads=1)
        ping, is_torn = probe.ping, threading.Event()
        is_torn.set()

        def torn() -> Any:
            if is_torn.is_set():
                raise AttributeError("'NoneType' object has no attribute 'recv'")
            return ping()

        monkeypatch.setattr(probe, "ping", torn)
        parting.before_worker_boot(broker, worker)
        stopping.tell()
        wait_for(lambda: "this worker ends" in said_by(client), what="commands that fail at once")
        is_torn.clear()
        wait_for(lambda: not said_by(client), what="commands that are answered")
        parting.after_worker_shutdown(broker, worker)


def said_by(client: redis.Redis) -> str:
    """Return what is wrong with a command; nothing when it is answered."""
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    return ""


def test_sentinels_that_hang_are_not_waited_for(redis_url: str, silent_port: int) -> None:
    stopping, has_begun = Stopping(), threading.Event()
    url = f"redis+sentinel://127.0.0.1:{silent_port},127.0.0.1:{silent_port}/service/0"
    with (
        connect(url, timeout=60) as client,
        connect(url, timeout=60) as probe,
        broker_of(redis_url, stopping) as broker,
    ):
        parting = Parting(
            stopping,
            client=client,
            probe=probe,
            ask_database=lambda: None,
            cut_database=lambda: 0,
            redis_patience=0.2,
        )

        def command() -> None:
            has_begun.set()
            said_by(client)

        asking = threading.Thread(target=command, daemon=True)
        asking.start()
        assert has_begun.wait(30)
        worker = Worker(broker, worker_threads=1)
        parting.before_worker_boot(broker, worker)
        stopping.tell()
        asking.join(20)
        parting.after_worker_shutdown(broker, worker)
        assert not asking.is_alive()


def test_a_worker_whose_database_says_nothing_says_so_and_asks_once(
    redis_url: str,
    postgresql_url: str,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.startup.run_directory", lambda: tmp_path)
    engine = create_database_engine(postgresql_url)
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        check_database(engine)

    def check_other() -> None:
        if not is_other_there.is_set():
            raise DatabaseUnavailableError("the other one refuses")

    stopping, is_other_there = Stopping(), threading.Event()
    with locked(postgresql_url, "LOCK TABLE adjourn_version IN ACCESS EXCLUSIVE MODE") as let_go:
        missing = Dependencies({"the database": check, "another": check_other}, patience=1).missing
        start = WorkerStart(stopping, missing=missing, interval=0.01, line_interval=0.1)
        with broker_of(redis_url, stopping, start) as broker:
            worker = Worker(broker, worker_threads=1, worker_timeout=10)
            worker.start()
            wait_for(lambda: caplog.text.count("still waiting") >= 2, what="lines about it")
            said = str(start.awaited())
            assert re.fullmatch(r"no answer of the database since [-0-9]+ [:0-9]+ UTC; the other one refuses", said)
            assert len(asked) == 1
            is_other_there.set()
            let_go()
            wait_for(lambda: broker.is_open, what="its beginning")
            worker.stop()
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
    asked_at: list[float] = []

    def missing() -> Iterator[str]:
        asked_at.append(time.monotonic())
        return iter([] if goes_on.is_set() else next(answers))

    start = WorkerStart(stopping, missing=missing, interval=0.01, line_interval=0.3)
    with broker_of(redis_url, stopping, start) as broker:
        dramatiq.actor(broker=broker, actor_name="one", queue_name=QUEUE)(lambda name: runs.append(name))  # noqa: PLW0108 - typed
        worker = Worker(broker, worker_threads=1, worker_timeout=10)
        send(broker, "a")
        worker.start()
        wait_for(lambda: caplog.text.count("still waiting") >= 2, what="two more lines")
        assert (start.awaited(), waiting(broker), runs) == ("no database", ["a"], [])
        goes_on.set()
        wait_for(lambda: runs == ["a"], what="the run")
        assert start.awaited() is None
        worker.stop()

    said = [record.getMessage() for record in caplog.records if record.name == "actors.startup"]
    first, *further, last = [("no redis; no database" in line, "no database" in line) for line in said]
    assert (first, set(further), last) == ((True, True), {(False, True)}, (False, False))
    # However long the test took to see them, and however often it was asked.
    assert 2 <= len(further) <= (asked_at[-1] - asked_at[0]) / 0.3


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
