"""The Redis whose schedulers a person asks, from any machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import redis

from services.errors import RedisUnavailableError
from services.redis_client import ANSWER_TIMEOUT, check_redis, connect
from services.settings import Settings


def redis_url_to_ask(settings: Settings) -> str:
    """Return REDIS_URL; else the private Redis of an ``adjourn run`` in the data directory; else the default.

    A data directory whose path is too long for a socket has its socket elsewhere, and is not found.
    """
    if settings.redis_url is None:
        # As the embedded stack makes it.
        socket = settings.data_dir.expanduser().absolute() / "redis" / "redis.sock"
        if os.path.lexists(socket) and socket.is_socket():
            return f"unix://{quote(str(socket))}"
    return settings.broker_url


@contextmanager
def asking(url: str) -> Iterator[redis.Redis]:
    """Yield a client of the Redis at ``url``.

    Raises RedisUnavailableError, which shows no password, when it does not answer, also later on.
    """
    check_redis(url)
    with connect(url, timeout=ANSWER_TIMEOUT) as client:
        try:
            yield client
        except (redis.RedisError, OSError) as error:
            raise RedisUnavailableError.at(url, error) from None
