"""What happens in a worker process from when it is told to stop until it has ended: it waits for nobody who is away."""

import socket
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware

from actors.stopping import Stopping
from services.errors import first_line
from services.logs import get_logger
from services.sweeps import BATCH_TIMEOUT

#: How long Redis may take to answer a worker that is about to end, in seconds.
REDIS_PATIENCE = 1.0
#: How long a run may go on, in seconds: its last batch, and a moment. Then its database hangs.
DATABASE_PATIENCE = BATCH_TIMEOUT.total_seconds() + 1.0
#: How often to look whether Redis answers, in seconds.
INTERVAL = 0.2

log = get_logger(__name__)


class Parting(Middleware):
    """Ends a worker soon once it is told to stop, whatever is away.

    Its threads start no further run, and what they had not started goes back to its queue. While ``probe`` gets no
    answer from Redis, every command of ``client`` fails at once, also those that wait for one. When
    ``database_patience`` is over, in seconds, ``cut_database`` fails what still waits for the database.
    """

    def __init__(
        self,
        stopping: Stopping,
        *,
        client: redis.Redis,
        probe: redis.Redis,
        cut_database: Callable[[], int],
        database_patience: float = DATABASE_PATIENCE,
    ) -> None:
        self._stopping = stopping
        self._client = client
        self._pool = client.connection_pool
        self._probe = probe
        self._cut_database = cut_database
        self._database_patience = database_patience
        self._has_ended = Event()

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Wait for the word to stop."""
        del broker
        Thread(target=self._run, args=(worker,), name="parting", daemon=True).start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """End."""
        del broker, worker
        self._has_ended.set()

    def _run(self, worker: dramatiq.Worker) -> None:
        self._stopping.wait()
        cut_at = time.monotonic() + self._database_patience
        while not self._has_ended.is_set():
            for thread in list(worker.workers):
                thread.stop()
            self._look_at_redis()
            hand_back(worker)
            if time.monotonic() >= cut_at:
                cut_at = time.monotonic() + self._database_patience
                if cut := self._cut_database():
                    log.warning("the database hangs: its connections are cut, and their runs have failed", cut=cut)
            self._has_ended.wait(INTERVAL)

    def _look_at_redis(self) -> None:
        try:
            self._probe.ping()
        except redis.RedisError as error:
            if self._client.connection_pool is self._pool:
                log.warning("redis does not answer, and is not waited for", reason=first_line(error))
            self._client.connection_pool = _Refusal()
            _cut(self._pool)
        else:
            self._client.connection_pool = self._pool


class _Refusal(redis.ConnectionPool):
    """Stands in for the connections to a Redis that does not answer."""

    def get_connection(self, *_arguments: Any, **_options: Any) -> Any:
        """Raise redis.ConnectionError."""
        raise redis.ConnectionError("it does not answer, and this worker ends")


def hand_back(worker: dramatiq.Worker) -> None:
    """Put messages that no thread of ``worker`` has started back into their queues."""
    unstarted: dict[str, list[MessageProxy]] = defaultdict(list)
    for item in iter_queue(worker.work_queue):
        unstarted[item.message.queue_name].append(item.message)
    for queue_name, messages in unstarted.items():
        worker.consumers[queue_name].requeue_messages(messages)


def _cut(pool: redis.ConnectionPool) -> None:
    """Fail the commands that wait for an answer on a connection of ``pool``."""
    # disconnect() would take the connection apart under whoever reads from it.
    for connection in list(pool._in_use_connections):  # noqa: SLF001 - redis-py has no other way to get at them
        with suppress(OSError, AttributeError):  # it has just ended
            connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 - the same
