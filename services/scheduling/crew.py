"""The crew of a task: the runs, anywhere in the cluster, that drain its backlog at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from redis import Redis

from services.scheduling import keys
from services.scheduling.scripts import load_script

#: Who was not heard of for so long has lost its place: it was killed. Members say every second that they are there.
SILENCE = timedelta(seconds=2)
#: A call that nobody followed for so long is lost. Longer than any queue of calls is, so that none grows.
CALL_TIMEOUT = timedelta(minutes=10)

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Muster:
    """What became of a member's asking for its place."""

    is_in: bool
    #: How many are in.
    size: int
    #: Those who are to be called in.
    called: Sequence[str] = ()


class Crew:
    """The members of a task's crew, in Redis, at most ``limit`` of them. Its calls raise redis.RedisError."""

    def __init__(self, client: Redis, actor: str, *, limit: int) -> None:
        self.limit = limit
        self._client = client
        self._keys = [keys.crew_key(actor), keys.calls_key(actor)]
        self._join = load_script(client, "join_crew")

    def join_or_stay(self, member: str, *, candidates: Sequence[str] = ()) -> Muster:
        """Take a place for ``member``, or keep the one it has; it lapses after ``SILENCE``.

        As many of ``candidates`` as there is room for are noted as called in, and no further ones until those have
        come; whoever asks must send for them.
        """
        timeouts = (SILENCE // _MILLISECOND, CALL_TIMEOUT // _MILLISECOND)
        is_in, size, called = self._join(keys=self._keys, args=[member, self.limit, *timeouts, *candidates])
        return Muster(is_in=bool(is_in), size=int(size), called=candidates[: int(called)])

    def leave(self, *members: str) -> None:
        """Give up the places of ``members``, whether they came or were only called."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in self._keys:
                pipe.zrem(key, *members)
            pipe.execute()
