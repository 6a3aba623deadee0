"""How a worker takes messages: at once, none that it has no thread for, and none once it is told to stop."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Lock
from typing import Any

import dramatiq
import redis
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, SkipMessage

from actors.settling import WatchedConsumer
from actors.sorting import Sorter
from actors.stopping import Stopping
from services.errors import first_line
from services.logs import get_logger

#: How long an idle worker may sleep until it looks for messages again, in milliseconds. dramatiq's own second is as
#: long as the shortest interval.
IDLE_PAUSE_MS = 100
#: How long one look into a queue goes on while it finds nothing but what nobody can run, in seconds: the other queues
#: of the process wait for it.
LONGEST_LOOK = 0.5
#: How often, at least, a process that fetches nothing shows that it lives, within the time after which it is taken for
#: dead and its messages are run by others (dramatiq's minute).
SIGNS = 10

log = get_logger(__name__)


class FrugalBroker(RedisBroker):
    """A RedisBroker whose worker fetches no message that it has no thread for, whichever queues they lie in.

    dramatiq fetches two messages a thread, of each queue. What comes in behind long runs would then wait in one
    process, while others have nothing to do. Nothing is fetched while it is not ``is_open``, nor once the worker is
    told to stop.
    """

    #: How many messages this process may hold, running ones included; None: as many as dramatiq says.
    capacity: int | None = None
    #: Whether this process may take messages yet.
    is_open: bool = True

    def __init__(self, *, stopping: Stopping | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.stopping = stopping or Stopping()
        #: When the consumer of each queue looked for messages last, on the monotonic clock, in seconds.
        self.looked_at: dict[str, float] = {}
        #: The ids of messages that a thread took and must not start.
        self.unstarted: set[str] = set()
        self._sorter = Sorter(self, self.settle)
        self._consumers: dict[str, Any] = {}
        self._fetching = Lock()
        self._is_cut_off = False
        self._shown_at = time.monotonic()

    @property
    def consumer_class(self) -> type[WatchedConsumer]:
        """What RedisBroker consumes with."""
        return WatchedConsumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Return a consumer of a queue, as RedisBroker does."""
        consumer: Any = super().consume(queue_name, prefetch, timeout)
        before = self._consumers.get(queue_name)
        if before is not None and queue_name in self.delay_queues:
            # What waited in memory for its time, dramatiq has forgotten with the one before.
            self._sorter.doubt(queue_name)
        elif before is not None:
            # One that takes over after an error answers for what still runs.
            consumer.queued_message_ids, consumer.in_hand = before.queued_message_ids, before.in_hand
        self._consumers[queue_name] = consumer
        started: Consumer = consumer
        return started

    def begin(self, capacity: int | None) -> None:
        """Begin anew, with nothing in hand."""
        self.capacity = capacity
        self._consumers.clear()

    def do_fetch(self, queue_name: str, count: int) -> list[bytes]:
        """Fetch ``count`` messages at most that can be run, on behalf of the queue's consumer.

        Delayed messages wait for no thread.
        """
        if not self.is_open or self.stopping.is_stopping():
            return []
        if self.capacity is None or queue_name in self.delay_queues:
            return self._take(queue_name, count)
        with self._fetching:
            held = sum(
                consumer.outstanding_message_count
                for name, consumer in self._consumers.items()
                if name not in self.delay_queues
            )
            if held >= self.capacity:
                return []
            # The consumer will do so itself; another one must not count before it has.
            consumer = self._consumers[queue_name]
            consumer.message_cache = self._take(queue_name, min(count, self.capacity - held))
            fetched: list[bytes] = consumer.message_cache
            return fetched

    def show_life(self, queue_name: str) -> None:
        """Show dramatiq that this process lives, when it has fetched nothing for a while: it may be full, or ending.

        One that does not take messages yet has none that others could take for a dead one's.
        """
        silence = time.monotonic() - self._shown_at
        if self.is_open and silence >= self.heartbeat_timeout / 1000 / SIGNS:
            with suppress(redis.RedisError):
                self._fetch(queue_name, 0)

    def settle(self, command: str, queue_name: str, redis_message_id: str | bytes) -> None:
        """Say that a message is done (``ack``), has failed for good (``nack``), or is for others (``requeue``).

        Raises redis.RedisError.
        """
        self._dispatch(command)(queue_name, redis_message_id)

    def _take(self, queue_name: str, count: int) -> list[bytes]:
        consumer = self._consumers.get(queue_name)
        in_hand = None if consumer is None else consumer.in_hand
        until = time.monotonic() + LONGEST_LOOK
        while True:
            try:
                fetched = self._fetch(queue_name, count)
                runnable = self._sorter.sort(queue_name, fetched, in_hand=in_hand)
            except Exception:
                self._sorter.doubt(queue_name)
                raise
            # What lies behind messages that nobody can run does not wait for the next look.
            if runnable or not fetched or self.stopping.is_stopping() or time.monotonic() >= until:
                return runnable

    def _fetch(self, queue_name: str, count: int) -> list[bytes]:
        self._shown_at = time.monotonic()
        try:
            fetched: list[bytes] = self._dispatch("fetch")(queue_name, count)
        except redis.RedisError as error:
            if not self._is_cut_off and not self.stopping.is_stopping():
                self._is_cut_off = True
                log.error("no messages are taken: redis does not answer, or refuses", reason=first_line(error))  # noqa: TRY400 - one line
            raise
        if self._is_cut_off:
            self._is_cut_off = False
            log.info("messages are taken again: redis is back")
        return fetched


class PromptPickup(Middleware):
    """Has a worker look for messages ten times a second, and hold no more of them than it has threads.

    dramatiq's own variables, where they are set, say otherwise: ``dramatiq_worker_timeout`` and
    ``dramatiq_queue_prefetch``. Put it before what tells Redis that a run begins.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Set both, before the worker makes its threads."""
        if not self._environment.get("dramatiq_worker_timeout"):
            worker.worker_timeout = IDLE_PAUSE_MS
        capacity = None
        if not self._environment.get("dramatiq_queue_prefetch"):
            worker.queue_prefetch = capacity = worker.worker_threads
        if isinstance(broker, FrugalBroker):
            broker.begin(capacity)

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Start no message once the worker is told to stop: it goes back to its queue."""
        if isinstance(broker, FrugalBroker) and broker.stopping.is_stopping():
            broker.unstarted.add(message.message_id)
            raise SkipMessage
