"""How a worker answers for the messages that it took: each is done, has failed for good, or goes back to its queue."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import _RedisConsumer
from dramatiq.errors import ConnectionClosed

from services.errors import first_line
from services.logs import get_logger

if TYPE_CHECKING:
    from actors.pickup import FrugalBroker

#: While Redis does not answer, or refuses: from one look for messages to the next, and from one try to say that a
#: message is done to the next, in seconds. dramatiq's are 3 and 5, which would be an outage longer than it was.
LOOK_INTERVAL = 0.5
SETTLE_INTERVAL = 0.5

log = get_logger(__name__)


class WatchedConsumer(_RedisConsumer):
    """A consumer that leaves word with its broker of when it looked for messages.

    While Redis does not answer it waits, and keeps what it holds. Once the worker is told to stop it waits for Redis no
    more, and hands back what it took and nobody has started.
    """

    broker: "FrugalBroker"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        #: What it answers for, by the ids in Redis: ``queued_message_ids`` are dramatiq's, which a retry shares.
        self.in_hand: set[str] = set()

    def __next__(self) -> Any:
        """Return the next message, or None when there is none for now."""
        self.broker.looked_at[self.queue_name] = time.monotonic()
        self.broker.show_life(self.queue_name)
        try:
            message = super().__next__()
        except (ConnectionClosed, redis.RedisError):  # the broker has said why
            self.broker.stopping.wait(LOOK_INTERVAL)
            return None
        if message is None:
            return None
        self.in_hand.add(message.options["redis_message_id"])
        if not self.broker.stopping.is_stopping():
            return message
        self._hand_back(message)
        self.close()
        return None

    def ack(self, message: MessageProxy) -> None:
        """Say that a message is done, or hand it back when it was not started."""
        if message.message_id in self.broker.unstarted:
            self._hand_back(message)
        else:
            self._settle("ack", message)

    def nack(self, message: MessageProxy) -> None:
        """Say that a message has failed for good."""
        self._settle("nack", message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand messages back to their queue. That it cannot be done is logged, not raised: dramatiq would end."""
        given = list(messages)
        try:
            super().requeue(given)
        except redis.RedisError as error:
            log.warning(
                "messages not handed back: another worker runs them in a minute or two",
                queue=self.queue_name,
                count=len(given),
                reason=first_line(error),
            )

    def close(self) -> None:
        """Hand back what was fetched and nobody has seen."""
        fetched, self.message_cache = self.message_cache, []
        self.requeue(MessageProxy(dramatiq.Message.decode(data)) for data in fetched)

    def _hand_back(self, message: MessageProxy) -> None:
        self.requeue([message])
        self._forget(message)

    def _settle(self, command: str, message: MessageProxy) -> None:
        told = log.bind(actor=message.actor_name, message_id=message.message_id)
        is_first = True
        try:
            while True:
                # Once it is told, one try is all.
                is_last = self.broker.stopping.is_stopping()
                try:
                    self.broker.settle(command, self.queue_name, message.options["redis_message_id"])
                except redis.RedisError as error:
                    if is_last:
                        told.warning(
                            "redis was not told that a message is done: it comes back, and is run again",
                            reason=first_line(error),
                        )
                        return
                    if is_first:
                        told.warning(
                            "redis is not told that a message is done: its thread tries again, and waits",
                            reason=first_line(error),
                        )
                    is_first = False
                    self.broker.stopping.wait(SETTLE_INTERVAL)
                else:
                    return
        finally:
            self._forget(message)

    def _forget(self, message: MessageProxy) -> None:
        self.queued_message_ids.discard(message.message_id)
        self.in_hand.discard(message.options["redis_message_id"])
