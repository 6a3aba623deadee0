"""The broker that workers and scheduler share. Nothing is connected until the first message."""

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, default_middleware

from actors.settings import settings
from actors.startup import WorkerStart
from actors.ticks import TickMiddleware, is_tick
from services.logs import configure_logging, get_logger
from services.settings import unknown_variables

#: How long Redis may take to answer a command, in seconds.
REDIS_TIMEOUT = 5.0

log = get_logger(__name__)


class TickBroker(RedisBroker):
    """A RedisBroker whose ticks do not take the scheduler down with them.

    Periodiq ends when an enqueue fails. A tick that cannot be enqueued is lost instead, and said to be: the next one
    makes up for it.
    """

    def enqueue(self, message: dramatiq.Message[None], *, delay: int | None = None) -> dramatiq.Message[None]:
        """Enqueue a message as RedisBroker does; a tick in vain is logged, not raised."""
        try:
            enqueued: dramatiq.Message[None] = super().enqueue(message, delay=delay)
        except redis.RedisError as error:
            if not is_tick(message):
                raise
            # After a timeout nobody knows whether Redis took it.
            what = "tick unconfirmed" if isinstance(error, redis.TimeoutError) else "tick lost"
            log.error(what, actor=message.actor_name, reason=str(error))  # noqa: TRY400 - the reason says all
            return message
        return enqueued


def create_broker() -> TickBroker:
    """Return the broker of ``REDIS_URL`` with dramatiq's default middleware, Prometheus and ours."""
    middleware: list[Middleware] = [make() for make in default_middleware]
    if settings.enable_metrics:
        # Its import makes a directory for the metrics.
        from dramatiq.middleware.prometheus import Prometheus  # noqa: PLC0415

        middleware.insert(0, Prometheus())
    client = redis.Redis.from_url(
        settings.broker_url, socket_connect_timeout=REDIS_TIMEOUT, socket_timeout=REDIS_TIMEOUT
    )
    return TickBroker(client=client, middleware=[*middleware, TickMiddleware(), WorkerStart()])


configure_logging(level=settings.log_level, style=settings.log_format)
for variable in unknown_variables(os.environ):
    log.warning("unknown setting, ignored", variable=variable)
broker = create_broker()
dramatiq.set_broker(broker)
