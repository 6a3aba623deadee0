"""How a worker takes messages: at once, and none that it has no thread for."""

import os
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

import dramatiq
from dramatiq.broker import Consumer
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.middleware import Middleware

#: How long an idle worker may sleep until it looks for messages again, in milliseconds. dramatiq's own second is as
#: long as the shortest interval.
IDLE_PAUSE_MS = 100


class WatchedConsumer(_RedisConsumer):
    """A consumer that leaves word with its broker of when it looked for messages."""

    def __next__(self) -> Any:
        """Return the next message, or None when there is none for now."""
        self.broker.looked_at[self.queue_name] = time.monotonic()
        return super().__next__()


class FrugalBroker(RedisBroker):
    """A RedisBroker whose worker fetches no message that it has no thread for, whichever queues they lie in.

    dramatiq fetches two messages a thread, of each queue. What comes in behind long runs would then wait in one
    process, while others have nothing to do.
    """

    #: How many messages this process may hold, running ones included; None: as many as dramatiq says.
    capacity: int | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: When the consumer of each queue looked for messages last, on the monotonic clock, in seconds.
        self.looked_at: dict[str, float] = {}
        self._consumers: dict[str, Any] = {}
        self._fetching = Lock()

    @property
    def consumer_class(self) -> type[WatchedConsumer]:
        """What RedisBroker consumes with."""
        return WatchedConsumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Return a consumer of a queue, as RedisBroker does."""
        consumer: Any = super().consume(queue_name, prefetch, timeout)
        if queue_name not in self.delay_queues:
            # One that takes over after an error answers for what still runs.
            if queue_name in self._consumers:
                consumer.queued_message_ids = self._consumers[queue_name].queued_message_ids
            self._consumers[queue_name] = consumer
        started: Consumer = consumer
        return started

    def begin(self, capacity: int | None) -> None:
        """Begin anew, with nothing in hand."""
        self.capacity = capacity
        self._consumers.clear()

    def do_fetch(self, queue_name: str, count: int) -> list[bytes]:
        """Fetch ``count`` messages at most, on behalf of the queue's consumer.

        Delayed messages wait for no thread. To look for them shows dramatiq that this process lives, when it is full.
        """
        if self.capacity is None or queue_name in self.delay_queues:
            return self._fetch(queue_name, count)
        with self._fetching:
            held = sum(consumer.outstanding_message_count for consumer in self._consumers.values())
            if held >= self.capacity:
                return []
            # The consumer will do so itself; another one must not count before it has.
            consumer = self._consumers[queue_name]
            consumer.message_cache = self._fetch(queue_name, min(count, self.capacity - held))
            fetched: list[bytes] = consumer.message_cache
            return fetched

    def _fetch(self, queue_name: str, count: int) -> list[bytes]:
        fetched: list[bytes] = self._dispatch("fetch")(queue_name, count)
        return fetched


class PromptPickup(Middleware):
    """Has a worker look for messages ten times a second, and hold no more of them than it has threads.

    dramatiq's own variables, where they are set, say otherwise: ``dramatiq_worker_timeout`` and
    ``dramatiq_queue_prefetch``.
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

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Fetch no more: what came in while the last runs end would wait for that, and be put back."""
        del worker
        if isinstance(broker, FrugalBroker):
            broker.capacity = 0
