"""Why a message failed for good: a note in Redis, because the dead letter itself does not say so."""

import json
import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

from redis import Redis

from services.errors import first_line
from services.scheduling import keys

#: How much of an error is noted, in characters.
LONGEST_ERROR = 200


class FailureNotes:
    """The notes, each by the id under which its message lies in Redis. Its calls raise redis.RedisError.

    That id is the option ``redis_message_id``; a retry of a message has another one, and the same ``message_id``.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client

    def note(self, redis_message_id: str, *, actor: str, error: BaseException, ttl: timedelta) -> None:
        """Note that the run of a message failed with ``error``, for as long as its dead letter is kept: ``ttl``.

        The moment is this machine's, in milliseconds, as is that of the dead letter itself.
        """
        said = {
            "at": time.time_ns() // 1_000_000,
            "actor": actor,
            "error": error_line(error),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._client.set(keys.failure_key(redis_message_id), json.dumps(said), px=ttl)

    def read(self, redis_message_ids: Sequence[bytes]) -> list[bytes | None]:
        """Return what was noted of each message, JSON; None where nothing was."""
        if not redis_message_ids:
            return []
        noted: list[bytes | None] = self._client.mget([note_key(one) for one in redis_message_ids])  # type: ignore[assignment]
        return noted


def note_key(redis_message_id: bytes) -> bytes:
    """Return where the note of a message is; its id, as it was found in Redis, may be any bytes."""
    return keys.failure_key("").encode() + redis_message_id


def error_line(error: BaseException) -> str:
    """Return the type of ``error`` and the first line of what it says; the driver's own, of one of SQLAlchemy's.

    A database's further lines are statements, parameters and the values of rows: people's numbers.
    """
    cause = getattr(error, "orig", None) or error
    name, said = type(cause).__name__, first_line(error)
    return (name if said == name else f"{name}: {said}")[:LONGEST_ERROR]
