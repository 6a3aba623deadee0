"""What Redis tells of itself: memory, clients, keys, and how long each list, set and hash is."""

import re
from collections import defaultdict
from typing import Any

import redis

from services.scheduling.keys import failure_key
from tests.chaos.conversations.redis_server import Redis
from tests.soak.series import Name

_NOTES = failure_key("")
#: The names of keys that belong to one process or message have its id in them; they count together.
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}")


class RedisContents:
    """Reads them again and again, and knows which keys there have been: what is empty is not there."""

    def __init__(self, server: Redis) -> None:
        self._server = server
        self._known: set[Name] = set()

    def read(self, subject: str) -> dict[Name, float]:
        """Return what there is; nothing while Redis does not answer."""
        try:
            with self._server.client() as client:
                return self._read(client, subject)
        except redis.RedisError:
            return {}

    def _read(self, client: redis.Redis, subject: str) -> dict[Name, float]:
        memory: Any = client.info("memory")
        clients: Any = client.info("clients")
        keys: list[str] = sorted(client.scan_iter(count=1000))
        lengths: defaultdict[Name, float] = defaultdict(float)
        for key in keys:
            length = _length_of(client, key)
            if length is not None:
                lengths[_ID.sub("*", key), "length"] += length
        self._known |= set(lengths)
        return {
            (subject, "used memory"): float(memory["used_memory"]),
            # But for the one that asks.
            (subject, "clients"): float(clients["connected_clients"] - 1),
            # Each dead letter has a note of its own; how many there are, the length of their set says.
            (subject, "keys"): float(sum(not key.startswith(_NOTES) for key in keys)),
            **{name: lengths[name] for name in sorted(self._known)},
        }


def _length_of(client: redis.Redis, key: str) -> float | None:
    """Return None for a text, and for what is gone by now."""
    kind: Any = client.type(key)
    lengths: dict[str, Any] = {"list": client.llen, "hash": client.hlen, "set": client.scard, "zset": client.zcard}
    return float(lengths[kind](key)) if kind in lengths else None
