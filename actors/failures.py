"""Why messages became dead letters: dramatiq keeps the message as it was sent, and not what went wrong."""

from datetime import timedelta

import dramatiq
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware

from services.logs import get_logger
from services.scheduling.failures import FailureNotes

log = get_logger(__name__)


class DeadLetterNotes(Middleware):
    """Notes why a message failed for good, for as long as dramatiq keeps the letter."""

    def __init__(self, client: redis.Redis) -> None:
        self._notes = FailureNotes(client)

    def before_nack(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        """Note it. After a run nobody knows yet whether there will be another; here all that are lost come by."""
        error = message._exception  # noqa: SLF001 - dramatiq puts it there, and has no other name for it
        if error is None or not isinstance(broker, RedisBroker):
            return
        try:
            self._notes.note(
                message.options["redis_message_id"],
                actor=message.actor_name,
                error=error,
                ttl=timedelta(milliseconds=broker.dead_message_ttl),
            )
        except redis.RedisError as failure:
            log.debug("failure not noted", actor=message.actor_name, reason=str(failure))
