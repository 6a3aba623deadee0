"""A worker process that watches itself, and a scheduler that does, on a real Redis."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from sqlalchemy import Engine

from actors.health import WorkerHealth
from actors.stopping import Stopping
from services.cluster.status import read_status
from services.database import create_database_engine
from services.health import HealthReport, HealthStatus, Role
from services.monitoring.success_watch import SuccessWatch
from services.monitoring.worker_health import read_worker_health
from services.monitoring.worker_presence import WorkerPresence
from services.monitoring.worker_state import Threads, read_states, state_file
from services.redis_client import connect
from services.schedules import Every
from services.scheduling import keys
from services.scheduling.clock import RedisClock
from services.scheduling.election import Election
from services.scheduling.lease import Lease
from services.scheduling.queue import TRIES
from services.scheduling.scheduler import Scheduler
from services.settings import load_settings
from services.tally import RunTally
from services.tasks import Task, actor_of
from tests.schedulers import broker_on, campaigning, messages, scheduler_of, working
from tests.servers import redis_server_with, relay_to
from tests.support import NOON, wait_for

IDLE_KEY = keys.task_key(actor_of(Task.IDLE))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    engine = create_database_engine(sqlite_url)
    yield engine
    engine.dispose()


def health_of(client: redis.Redis, engine: Engine, directory: Path) -> tuple[WorkerHealth, Stopping]:
    """Return the middleware of a worker that watches itself, and the one that knows whether it is stopping."""
    stopping = Stopping()
    health = WorkerHealth(
        load_settings(),
        client=client,
        engine=lambda: engine,
        tally=RunTally(),
        directory=lambda: directory,
        is_stopping=stopping.is_stopping,
    )
    return health, stopping


@contextmanager
def watched_worker(
    url: str, engine: Engine, directory: Path, *, actor: Callable[[], None] = lambda: None
) -> Iterator[Any]:
    """Run a worker of two threads that watches itself, with an actor on the queue ``default``; yield the actor."""
    client = connect(url, timeout=5)
    health, stopping = health_of(client, engine, directory)
    with client, broker_on(url, stopping, health) as broker:
        declared: Any = dramatiq.actor(broker=broker, actor_name="task")(actor)
        with working(broker, threads=2):
            yield declared


def test_a_worker_writes_down_how_it_is_while_it_runs_and_nothing_is_left_then(
    redis_url: str, client: redis.Redis, sqlite_engine: Engine, tmp_path: Path
) -> None:
    entered, released = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert released.wait(30)

    with watched_worker(redis_url, sqlite_engine, tmp_path, actor=work) as actor:
        assert read_worker_health(tmp_path).is_ready  # from its first moment
        actor.send()
        assert entered.wait(30)
        state = wait_for(lambda: next((one for one in read_states(tmp_path) if one.threads.busy), None))
        assert (state.pid, state.threads) == (os.getpid(), Threads(2, 1))
        released.set()
        wait_for(lambda: read_states(tmp_path)[0].threads.busy == 0, what="a free thread")

        (worker,) = wait_for(lambda: read_status(client=client).workers, what="a worker in Redis")
        assert (worker.is_alive, worker.pid, worker.threads) == (True, os.getpid(), 2)
        assert worker.started_at == state.started_at
        assert client.smembers(keys.QUEUES) == {b"default"}
    assert list(tmp_path.glob("worker-*")) == []
    assert not client.exists(keys.WORKERS, keys.WORKERS_SEEN)


def test_a_worker_whose_consumer_has_ended_takes_no_messages_and_a_restart_would_help(
    redis_url: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    client = connect(redis_url, timeout=5)
    health, stopping = health_of(client, sqlite_engine, tmp_path)
    with client, broker_on(redis_url, stopping, health) as broker:
        broker.declare_queue("default")
        worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=1)
        worker.start()
        try:
            worker.consumers["default"].stop()
            report = wait_for(lambda: ill(tmp_path), what="the report")
            assert report.reasons == (
                f"worker process {os.getpid()}: it takes no messages of the queue default: its consumer has ended",
            )
            assert not report.is_live
        finally:
            worker.stop()


def ill(directory: Path) -> HealthReport | None:
    report = read_worker_health(directory)
    return None if report.is_ready else report


def presence(client: redis.Redis, **given: Any) -> WorkerPresence:
    arguments: dict[str, Any] = {
        "queues": {"sweeps", "drains"},
        "pid": 11,
        "started_at": NOON,
        "threads": lambda: Threads(8, 3),
        "successes": SuccessWatch({Task.IDLE: Every(seconds=60)}),
        "monotonic": lambda: 1000.0,
    }
    return WorkerPresence(client, **arguments | given)


def test_redis_is_told_who_works_and_forgets_who_has_been_silent_for_five_minutes(client: redis.Redis) -> None:
    one, other = presence(client), presence(client, pid=12)
    one.tell()
    other.tell()

    members: Any = client.hgetall(keys.WORKERS)
    ids = {json.loads(said)["pid"]: member for member, said in members.items()}
    assert json.loads(members[ids[11]]) == {
        "host": socket.gethostname(),
        "pid": 11,
        "started_at": NOON.isoformat(),
        "threads": 8,
        "busy": 3,
    }
    assert set(client.zrange(keys.WORKERS_SEEN, 0, -1)) == set(ids.values())
    assert client.smembers(keys.QUEUES) == {b"sweeps", b"drains"}

    for pid, seconds_ago in ((11, 301), (12, 280)):
        client.zadd(keys.WORKERS_SEEN, {ids[pid]: now_in_redis(client) - seconds_ago * 1000})
    three = presence(client, pid=13)
    three.tell()
    said: Any = client.hvals(keys.WORKERS)
    assert {json.loads(one)["pid"] for one in said} == {12, 13}
    assert client.zcard(keys.WORKERS_SEEN) == 2
    other.leave()
    three.leave()
    assert not client.exists(keys.WORKERS, keys.WORKERS_SEEN)


def now_in_redis(client: redis.Redis) -> int:
    """Return Redis's time in milliseconds."""
    told: Any = client.time()
    return int(told[0]) * 1000


def test_the_success_that_counts_is_the_one_that_redis_has(client: redis.Redis) -> None:
    now = now_in_redis(client)
    here = presence(client)
    here.tell()
    at_start = here.expected[Task.IDLE].late_from
    assert 120 < at_start - 1000 <= 195
    assert Task.EXPIRED not in here.expected  # it is disabled

    client.hset(IDLE_KEY, "last_success_at", now - 60_000)
    here.tell()
    assert here.expected[Task.IDLE].late_from <= at_start
    client.hset(IDLE_KEY, mapping={"paused_at": now, "paused_by": "ann"})
    here.tell()
    assert here.expected == {}


def test_a_redis_that_is_full_cannot_be_used_and_knows_the_worker_all_the_same(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, connect(server.url, timeout=5) as client:
        client.config_set("maxmemory", 1)

        with pytest.raises(redis.ResponseError, match="maxmemory"):
            presence(client).tell()
        status = read_status(client=client)
        assert [worker.is_alive for worker in status.workers] == [True]
        assert status.is_full


def test_the_key_of_one_task_costs_no_worker_its_place(client: redis.Redis) -> None:
    client.set(IDLE_KEY, "somebody else's")

    here = presence(client)
    here.tell()
    assert here.expected == {}
    assert [worker.is_alive for worker in read_status(client=client).workers] == [True]


def test_a_redis_that_refuses_to_write_is_none_that_can_be_used(client: redis.Redis) -> None:
    client.set(keys.WORKERS, "somebody else's")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        presence(client).tell()


def test_a_state_that_cannot_be_written_costs_the_worker_nothing_but_its_health(
    redis_url: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    done = threading.Event()
    with watched_worker(redis_url, sqlite_engine, tmp_path, actor=done.set) as actor:
        path = state_file(tmp_path, os.getpid())
        blocked = path.with_suffix(".json.tmp")
        wait_for(lambda: made(blocked), what="a moment in which no state is written")
        wait_for(lambda: time.monotonic() - read_states(tmp_path)[0].told > 2.5, what="states that are not written")
        (before,) = read_states(tmp_path)
        wait_for(lambda: read_states(tmp_path)[0].heard > before.heard, what="another sign that it lives")
        assert read_states(tmp_path)[0].told == before.told
        actor.send()
        assert done.wait(30)
        blocked.rmdir()
        wait_for(lambda: read_states(tmp_path)[0].told > before.told, what="a state once it can be written again")


def made(directory: Path) -> bool:
    """Make a directory, unless there is something of its name."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def test_on_a_disk_that_was_full_from_the_start_a_process_is_still_heard_of(
    redis_url: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    blocked = state_file(tmp_path, os.getpid()).with_suffix(".json.tmp")
    blocked.mkdir()
    with watched_worker(redis_url, sqlite_engine, tmp_path, actor=lambda: None):
        wait_for(lambda: read_worker_health(tmp_path).processes, what="the process")
        report = read_worker_health(tmp_path)
        assert (report.status, report.is_live) == (HealthStatus.DEGRADED, True)
        blocked.rmdir()
        wait_for(lambda: read_worker_health(tmp_path).is_ready, what="health once there is room")


def test_a_scheduler_knows_whether_it_leads_and_what_it_enqueued(redis_url: str) -> None:
    with broker_on(redis_url) as broker:
        dramatiq.actor(broker=broker, actor_name=actor_of(Task.IDLE), periodic=Every(seconds=1))(lambda: None)
        scheduler = scheduler_of(broker, redis_url)
        assert scheduler.health().reasons == ("the election is dead: its thread has ended or hangs",)
        with campaigning(scheduler):
            wait_for(lambda: scheduler.health().tasks[Task.IDLE].successes, what="a tick")
            report = scheduler.health()
            assert (report.role, report.is_ready, report.processes[0].leads) == (Role.SCHEDULER, True, True)
            assert report.tasks[Task.IDLE].items_processed == report.tasks[Task.IDLE].runs
            assert report.tasks[Task.IDLE].total_seconds > 0

            with broker_on(redis_url) as second:
                standby = scheduler_of(second, redis_url)
                with campaigning(standby):
                    wait_for(lambda: standby._election._leader, what="another's lead")  # noqa: SLF001 - not told
                    assert standby.health().is_ready
                    assert standby.health().processes[0].leads is False
        assert not scheduler.health().is_live


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_election_whose_thread_has_ended_is_said_to_be_dead(redis_url: str) -> None:
    def end(_actor: str, _options: object) -> None:
        raise SystemExit

    with broker_on(redis_url) as broker:
        dramatiq.actor(broker=broker, actor_name="task", periodic=Every(seconds=1))(lambda: None)
        scheduler = scheduler_of(broker, redis_url)
        scheduler._send = end  # noqa: SLF001 - nothing that it sends by itself ends the thread
        with campaigning(scheduler):
            report = wait_for(lambda: (said := scheduler.health()) and (said if said.reasons else None))
            assert report.status.value == "stopped"
            assert report.reasons == ("the election is dead: its thread has ended or hangs",)


@contextmanager
def scheduler_at(url: str) -> Iterator[Scheduler]:
    """Run a scheduler with one task, whose slot is made up for when it leads."""
    with broker_on(url) as broker:
        dramatiq.actor(broker=broker, actor_name=actor_of(Task.IDLE), periodic=Every(seconds=3600))(lambda: None)
        scheduler = scheduler_of(broker, url)
        with campaigning(scheduler):
            yield scheduler


def test_a_tick_that_was_not_confirmed_is_said_until_its_slot_is_known_to_be_claimed(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, relay_to(server.port) as relay:
        # The one before has loaded the scripts.
        with scheduler_at(server.url) as scheduler:
            wait_for(lambda: messages(server.url), what="a tick")
        with redis.Redis.from_url(server.url) as client:
            client.flushdb()
        # The answer to each try is lost, but the first one is carried out.
        for _ in range(TRIES):
            relay.lose_answer_to(b'"actor_name"')
        with scheduler_at(f"redis://127.0.0.1:{relay.port}/0") as scheduler:
            wait_for(lambda: scheduler.health().tasks[Task.IDLE].failures == 1, what="the failure")
            wait_for(lambda: scheduler.health().is_ready, what="health once it is known to be claimed")
            assert scheduler.health().tasks[Task.IDLE].successes == 0
            assert len(messages(server.url)) == 1


def test_a_leader_elsewhere_is_known_with_each_try(client: redis.Redis) -> None:
    clock = SimpleNamespace(seconds=0.0)
    minute = timedelta(minutes=1)
    assert Lease(client, timeout=minute, clock=RedisClock()).acquire("{}") is None
    election = Election(
        Lease(client, timeout=minute, clock=RedisClock()),
        renew_interval=minute / 2,
        about=lambda: "{}",
        on_lead=lambda: None,
        on_renewal=lambda: None,
        on_contact=lambda: None,
        listener=client,
        monotonic=lambda: clock.seconds,
    )
    election.start()
    clock.seconds = 100.0
    election.wake()
    wait_for(lambda: election.leaderless_for() == 0, what="news of the leader")
    assert election.is_alive()
    election.stop(timeout=30)
    assert not election.is_alive()
