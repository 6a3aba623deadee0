"""The Redis under test."""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.server import Server


class Redis(Server):
    """A real redis-server that can be killed, stopped, emptied and started again."""

    def client(self) -> redis.Redis:
        """Return a client that repeats nothing; close it."""
        return redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True)
