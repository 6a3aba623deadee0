"""The Redis whose schedulers a person asks, from any machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from services.embedded.redis_server import find_private_redis
from services.errors import RedisUnavailableError
from services.redis_client import ANSWER_TIMEOUT, check_redis, connect
from services.settings import Settings


def redis_url_to_ask(settings: Settings) -> str:
    """Return REDIS_URL; else the private Redis of an ``adjourn run`` in the data directory; else the default."""
    return settings.redis_url or find_private_redis(settings.data_dir) or settings.broker_url


def connect_to_ask(settings: Settings) -> redis.Redis:
    """Return a client of that Redis, which answers.

    Raises RedisUnavailableError, which shows no password and says what to look at.
    """
    url = redis_url_to_ask(settings)
    try:
        check_redis(url)
    except RedisUnavailableError as error:
        hint = "" if settings.redis_url else "; REDIS_URL, which is not set, would name another"
        raise RedisUnavailableError(f"{str(error).rstrip('.')}{hint}") from None
    return connect(url, timeout=ANSWER_TIMEOUT)


@contextmanager
def asking(settings: Settings) -> Iterator[redis.Redis]:
    """Yield a client of that Redis.

    Raises RedisUnavailableError, which shows no password, when it does not answer, also later on.
    """
    url = redis_url_to_ask(settings)
    with connect_to_ask(settings) as client:
        try:
            yield client
        except (redis.RedisError, OSError) as error:
            raise RedisUnavailableError.at(url, error) from None
