"""Schedulers of a test's own: a broker, actors that count their runs, and an election in this process."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dramatiq
import redis
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, Retries

from actors.broker import TickBroker
from actors.scheduler import create_scheduler
from actors.ticks import TickMiddleware
from services.redis_client import connect
from services.schedules import Schedule
from services.scheduling.runs import RunRecord
from services.scheduling.scheduler import Scheduler
from services.settings import load_settings
from tests.support import wait_for

# Importing the actors configures the logging of a process of theirs; this one is pytest's.
logging.getLogger().handlers.clear()


class CountedActor:
    """An actor on a broker of its own that counts its runs, and fails as often as it is told to."""

    def __init__(
        self, broker: RedisBroker, schedule: Schedule | None, *, failures: int = 0, name: str = "task", **options: Any
    ) -> None:
        self.runs = 0
        self._failures = failures
        self._lock = threading.Lock()
        if schedule is not None:
            options["periodic"] = schedule
        self.actor: Any = dramatiq.actor(
            broker=broker, actor_name=name, max_retries=3, min_backoff=10, max_backoff=10, **options
        )(self._run)

    def _run(self) -> None:
        with self._lock:
            self.runs += 1
            if self.runs <= self._failures:
                raise ConnectionError("try again")


@contextmanager
def broker_on(url: str, *middleware: Middleware) -> Iterator[TickBroker]:
    """Make a broker as production has it, with less of dramatiq's middleware."""
    client = connect(url, timeout=5)
    broker = TickBroker(client=client, middleware=[TickMiddleware(RunRecord(client)), Retries(), *middleware])
    try:
        yield broker
    finally:
        broker.close()
        scheduler: Any = broker.scheduler
        # In production their process ends here.
        others = [scheduler._client, scheduler._election._listener] if scheduler else []  # noqa: SLF001 - see above
        for one in (client, *others):
            one.connection_pool.disconnect()


def scheduler_of(broker: TickBroker, url: str, **variables: str) -> Scheduler:
    """Return a scheduler of the broker's actors that has not started; ``variables`` without their prefix."""
    given = {f"BACKGROUND_TASK_{name.upper()}": value for name, value in variables.items()}
    # The alarm of this process is pytest's.
    return create_scheduler(broker, load_settings(REDIS_URL=url, **given), wake_loop=_nothing)


def _nothing() -> None:
    """Wake nobody."""


@contextmanager
def campaigning(scheduler: Scheduler) -> Iterator[None]:
    """Start it, and stop it in the end."""
    scheduler.start()
    try:
        yield
    finally:
        scheduler.stop()


@contextmanager
def working(broker: TickBroker, threads: int = 1) -> Iterator[None]:
    """Run a worker."""
    worker = Worker(broker, worker_timeout=50, worker_threads=threads)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def wait_until_drained(url: str) -> None:
    """Wait until no message is left."""
    keys = ("dramatiq:default", "dramatiq:default.DQ", "dramatiq:default.msgs", "dramatiq:default.DQ.msgs")
    with redis.Redis.from_url(url) as client:
        wait_for(lambda: not client.exists(*keys), what="an empty queue")


def messages(url: str, queue: str = "default") -> list[dict[str, Any]]:
    """Return the messages of a queue, in their order."""
    with redis.Redis.from_url(url) as client:
        ids: Any = client.lrange(f"dramatiq:{queue}", 0, -1)
        return [json.loads(client.hget(f"dramatiq:{queue}.msgs", one)) for one in ids]
