"""The threads by which a worker process watches itself: a heartbeat, a probe of the database and one of Redis."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import redis
from sqlalchemy import Engine, false, select

from models.conversation import conversations
from services.database import reading
from services.logs import get_logger
from services.monitoring.success_watch import SuccessWatch
from services.monitoring.worker_beat import WorkerBeat
from services.monitoring.worker_presence import WorkerPresence
from services.monitoring.worker_probes import Probe
from services.monitoring.worker_state import Threads, WorkerState
from services.schedules import Schedule
from services.tally import RunTally
from services.tasks import Task

log = get_logger(__name__)

#: How long a question to Redis that is under way may take at the end, in seconds.
PARTING_PATIENCE = 1.0
#: Reads no row, and fails unless the database, the table and the right to read it are there.
_QUESTION = select(conversations.c.conv_id).where(false())


class WorkerWatch:
    """Watches the worker process that it is made in, after the fork, from ``start`` to ``stop``.

    ``threads`` says what dramatiq's threads do, given for how long Redis has been answering, in seconds; it must return
    at once. ``schedules`` are those of the tasks that are enabled. ``is_ending`` says whether its last
    runs come to their end, ``awaited`` what it waits for before it takes messages.
    """

    def __init__(
        self,
        directory: Path,
        *,
        client: redis.Redis,
        engine: Callable[[], Engine],
        schedules: Mapping[Task, Schedule],
        queues: Iterable[str],
        tally: RunTally,
        threads: Callable[[float], Threads],
        is_ending: Callable[[], bool],
        awaited: Callable[[], str | None],
    ) -> None:
        self._started_at, self._started = datetime.now(UTC), time.monotonic()
        self._engine = engine
        self._tally = tally
        self._threads_now = threads
        self._is_ending = is_ending
        self._awaited = awaited
        self._presence = WorkerPresence(
            client,
            queues=queues,
            pid=os.getpid(),
            started_at=self._started_at,
            threads=self._threads,
            successes=SuccessWatch(schedules),
        )
        self._database = Probe(self._ask_database, name="the database")
        self._redis = Probe(self._presence.tell, name="redis")
        self._beat = WorkerBeat(directory, self._state, pid=os.getpid())

    def start(self) -> None:
        """Begin."""
        self._beat.start()
        self._database.start()
        self._redis.start()

    def stop(self) -> None:
        """End, and tell Redis that this process is gone. A database that hangs is not waited for."""
        self._beat.stop()
        self._database.stop(timeout=0)
        # Else its answer might come after we have left, and this process would be there for five minutes.
        self._redis.stop(timeout=PARTING_PATIENCE)
        try:
            self._presence.leave()
        except redis.RedisError as error:
            log.debug("redis was not told that this worker is gone: it will notice", reason=str(error))

    def _ask_database(self) -> None:
        with reading(self._engine()) as connection:
            connection.execute(_QUESTION)

    def _threads(self) -> Threads:
        return self._threads_now(self._redis.answered_for())

    def _state(self) -> WorkerState:
        now = time.monotonic()
        return WorkerState(
            pid=os.getpid(),
            started_at=self._started_at,
            started=self._started,
            heard=now,
            told=now,
            threads=self._threads(),
            database=self._database.answer(),
            redis=self._redis.answer(),
            tasks=self._tally.counts(),
            expected=self._presence.expected,
            is_ending=self._is_ending(),
            awaited=self._awaited(),
        )
