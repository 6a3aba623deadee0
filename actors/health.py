"""Each worker process watches itself, from when its threads run until they have ended."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from sqlalchemy import Engine

from actors.ticks import DEFAULT_TIME_LIMIT
from services.monitoring.worker_state import Threads
from services.monitoring.worker_watch import WorkerWatch
from services.settings import Settings
from services.tally import RunTally
from services.tasks import Task

#: How much longer than its limit a run may go on before that is said, in seconds: dramatiq interrupts it between two
#: steps of Python, and not while it waits for a database.
OVERRUN = 15.0
#: A consumer that has not looked for messages for longer than this and its own pause, in seconds, though Redis answers,
#: takes none.
LOOK_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Run:
    """A message that a thread is at."""

    actor: str
    #: On the monotonic clock, in seconds.
    started: float
    #: How long it may take, in seconds.
    limit: float


class WorkerHealth(Middleware):
    """Has each worker process write its state into ``directory``, ask the database and Redis, and tell Redis of itself.

    ``engine`` and ``directory`` are called in the process, after the fork, when its threads run. What fails then is in
    the log; the worker works all the same. Once it ``is_stopping``, that its threads end is no sign of trouble.
    ``awaited`` says what it waits for before it takes messages, None when it does not.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: redis.Redis,
        engine: Callable[[], Engine],
        tally: RunTally,
        directory: Callable[[], Path],
        is_stopping: Callable[[], bool],
        awaited: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._client = client
        self._engine = engine
        self._tally = tally
        self._directory = directory
        self._is_stopping = is_stopping
        self._awaited = awaited
        #: By the id of the message. Its methods are atomic, so whoever reads it waits for nobody.
        self._runs: dict[str, Run] = {}
        self._watch: WorkerWatch | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Begin anew, before there are threads."""
        del broker, worker
        self._runs.clear()

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Begin."""
        looked_at: Mapping[str, float] = getattr(broker, "looked_at", {})
        look_timeout = LOOK_TIMEOUT + worker.worker_timeout / 1000

        def threads(redis_answered_for: float) -> Threads:
            return threads_of(
                worker,
                runs=list(self._runs.values()),
                looked_at={} if redis_answered_for < look_timeout else looked_at,
                look_timeout=look_timeout,
                now=time.monotonic(),
                is_ending=self._is_stopping(),
            )

        watch = WorkerWatch(
            self._directory(),
            client=self._client,
            engine=self._engine,
            schedules={task: self._settings.schedule(task) for task in Task if self._settings.is_enabled(task)},
            queues=broker.get_declared_queues(),
            tally=self._tally,
            threads=threads,
            is_ending=self._is_stopping,
            awaited=self._awaited,
        )
        watch.start()
        self._watch = watch

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """End."""
        del broker, worker
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Note that a thread is busy."""
        options = broker.get_actor(message.actor_name).options
        limit = message.options.get("time_limit") or options.get("time_limit") or DEFAULT_TIME_LIMIT
        self._runs[message.message_id] = Run(message.actor_name, time.monotonic(), limit / 1000)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Note that it is free again."""
        del broker, result, exception
        self._runs.pop(message.message_id, None)

    def after_skip_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Note that it is free again."""
        del broker
        self._runs.pop(message.message_id, None)


def threads_of(
    worker: Any,
    *,
    runs: list[Run],
    looked_at: Mapping[str, float],
    now: float,
    look_timeout: float = LOOK_TIMEOUT,
    is_ending: bool = False,
) -> Threads:
    """Return what the threads of a dramatiq worker do, at ``now`` of the monotonic clock.

    ``looked_at`` is when the consumer of each queue last looked for messages, ``look_timeout`` how long ago it may be.
    """
    overruns = tuple(
        f"a run of {run.actor} goes on for {now - run.started:.0f} s, though it may take {run.limit:.0f} s"
        for run in runs
        if now - run.started > run.limit + OVERRUN
    )
    count = len(worker.workers)
    return Threads(count, len(runs), () if is_ending else tuple(_gone(worker, looked_at, now, look_timeout)), overruns)


def _gone(worker: Any, looked_at: Mapping[str, float], now: float, look_timeout: float) -> list[str]:
    """Return what only a restart mends."""
    said = []
    dead = sum(not thread.is_alive() for thread in worker.workers)
    if dead:
        said.append(f"{dead} of its {len(worker.workers)} threads have ended")
    for queue, consumer in sorted(worker.consumers.items()):
        silent = now - looked_at.get(queue, now)
        if not consumer.is_alive():
            said.append(f"it takes no messages of the queue {queue}: its consumer has ended")
        elif silent > look_timeout:
            said.append(f"it takes no messages of the queue {queue}: it has not looked for {silent:.0f} s")
    return said
