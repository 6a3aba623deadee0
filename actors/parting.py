"""What happens in a worker process from when it is told to stop until it has ended: it waits for nobody who is away."""

import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from redis.sentinel import SentinelConnectionPool

from actors.stopping import Stopping
from services.due import BATCH_TIMEOUT
from services.errors import first_line
from services.logs import get_logger
from services.operations.inquiry import ask_in_background

#: How long Redis may take to answer a worker that is about to end, in seconds.
REDIS_PATIENCE = 1.0
#: How long a run may go on, in seconds: its last batch, and a moment. Then its database may hang, and is asked.
DATABASE_PATIENCE = BATCH_TIMEOUT.total_seconds() + 1.0
#: How long the database may take to answer then, in seconds; less than a try to connect takes (CONNECT_TIMEOUT).
ANSWER_PATIENCE = 4.0
#: How often to look whether Redis answers, in seconds.
INTERVAL = 0.2

log = get_logger(__name__)


class Parting(Middleware):
    """Ends a worker soon once it is told to stop, whatever is away.

    What its threads have not started goes back to its queue. While ``probe`` gets no answer from Redis within
    ``redis_patience``, every command of ``client`` fails at once, also those that wait for one. Every
    ``database_patience`` ``ask_database`` asks the database; when nothing has come of it after ``answer_patience``, not
    even a refusal, ``cut_database`` fails what waits for it. A run that takes its time, while the database answers, is
    left alone. All patience is in seconds.
    """

    def __init__(
        self,
        stopping: Stopping,
        *,
        client: redis.Redis,
        probe: redis.Redis,
        ask_database: Callable[[], None],
        cut_database: Callable[[], int],
        redis_patience: float = REDIS_PATIENCE,
        database_patience: float = DATABASE_PATIENCE,
        answer_patience: float = ANSWER_PATIENCE,
    ) -> None:
        self._stopping = stopping
        self._client = client
        self._pool = client.connection_pool
        self._probe = probe
        self._ask_database = ask_database
        self._cut_database = cut_database
        self._redis_patience = redis_patience
        self._database_patience = database_patience
        self.answer_patience = answer_patience
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
        Thread(target=self._watch_database, name="parting from the database", daemon=True).start()
        while not self._has_ended.is_set():
            self._look_at_redis()
            hand_back(worker)
            self._has_ended.wait(INTERVAL)

    def _watch_database(self) -> None:
        while not self._has_ended.wait(self._database_patience):
            self.look_at_database()

    def look_at_database(self) -> None:
        """Ask the database, and cut the connections of runs to it when it says nothing."""
        answered, _ = wait([ask_in_background(self._ask_database)], timeout=self.answer_patience)
        if not answered and (cut := self._cut_database()):
            log.warning("the database does not answer: its connections are cut, and what waits for it fails", cut=cut)

    def _look_at_redis(self) -> None:
        try:
            # The limit is for all of it: a client that asks sentinels first gives each of them its time.
            ask_in_background(self._probe.ping).result(timeout=self._redis_patience)
        except Exception as error:  # noqa: BLE001 - redis-py raises others too when a connection is torn down under it
            if self._has_ended.is_set():
                return
            if self._client.connection_pool is self._pool:
                reason = "no answer in time" if isinstance(error, TimeoutError) else first_line(error)
                log.warning("redis does not answer, and is not waited for", reason=reason)
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
    """Fail the commands that wait for an answer on a connection of ``pool``, or for a sentinel to name the master."""
    for one in (pool, *_pools_of_sentinels(pool)):
        # disconnect() would take the connection apart under whoever reads from it.
        for connection in list(one._in_use_connections):  # noqa: SLF001 - redis-py has no other way to get at them
            with suppress(OSError, AttributeError):  # it has just ended
                connection._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001 - the same


def _pools_of_sentinels(pool: redis.ConnectionPool) -> Iterator[redis.ConnectionPool]:
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            yield sentinel.connection_pool
