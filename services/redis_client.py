"""Redis, as the broker finds it."""

import redis

from services.errors import RedisUnavailableError

#: How long to wait for Redis to answer, in seconds.
ANSWER_TIMEOUT = 3.0


def check_redis(url: str) -> None:
    """Return when the Redis at ``url`` answers.

    Raises RedisUnavailableError.
    """
    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=ANSWER_TIMEOUT, socket_timeout=ANSWER_TIMEOUT, retry=None
        ) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        raise RedisUnavailableError.at(url, error) from None
    except ValueError:
        # Its text may quote the password.
        raise RedisUnavailableError.at(url, "it is not a URL of Redis") from None
