"""What workers tell of the runs of a task, and whether a tick is still of use."""

from datetime import datetime, timedelta

from redis import Redis

from services.scheduling import keys
from services.scheduling.scripts import load_script


class RunRecord:
    """The last run of each actor, and how many there were, in Redis. Its calls raise redis.RedisError."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._begin = load_script(client, "begin_run")
        self._end = load_script(client, "end_run")

    def begin(
        self, actor: str, message_id: str, *, slot: datetime | None, useless_from: datetime | None, limit: timedelta
    ) -> bool:
        """Note that a run begins; return False when it is for a tick that is of no more use.

        ``slot`` is that of the run's tick, if it is for one. From ``useless_from`` on, the run is dropped if another
        one, of another message, has begun since the slot: that one saw all that this would. Both by Redis's clock.
        ``limit`` is how long it may take before it is interrupted.
        """
        written = ["" if instant is None else int(instant.timestamp()) for instant in (slot, useless_from)]
        return bool(
            self._begin(keys=[keys.task_key(actor)], args=[message_id, *written, limit // timedelta(milliseconds=1)])
        )

    def end(self, actor: str, message_id: str, *, error: str | None) -> None:
        """Count a run that has ended, and note how, unless another has begun since. ``error`` is why it failed."""
        self._end(keys=[keys.task_key(actor)], args=[message_id, "done" if error is None else "failed", error or ""])

    def add_ended(self, actor: str, count: int) -> None:
        """Count conversations that a run of the actor's task ended."""
        self._client.hincrby(keys.task_key(actor), "ended", count)
