"""What a worker process says to Redis every few seconds, and what it learns there."""

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import redis

from services.cluster.task_hash import task_status
from services.monitoring.success_watch import SuccessWatch
from services.monitoring.worker_state import Expectation, Threads
from services.scheduling import keys
from services.scheduling.scripts import load_script
from services.tasks import Task, actor_of
from services.values import redis_time

#: After how long of silence a worker process is forgotten: a person has to see that it is gone, or hangs.
FORGOTTEN_AFTER = timedelta(minutes=5)


class WorkerPresence:
    """One worker process in the eyes of the others, under an id of its own. Its calls raise redis.RedisError."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        queues: Iterable[str],
        pid: int,
        started_at: datetime,
        threads: Callable[[], Threads],
        successes: SuccessWatch,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        #: Until when each task must have succeeded, as Redis had it when it answered last.
        self.expected: dict[Task, Expectation] = {}
        self._id = str(uuid.uuid4())
        self._client = client
        self._queues = sorted(queues)
        self._about = {"host": socket.gethostname(), "pid": pid, "started_at": started_at.isoformat()}
        self._threads = threads
        self._successes = successes
        self._monotonic = monotonic
        self._seen = load_script(client, "worker_seen")

    def tell(self) -> None:
        """Say that this process is there, and look when the tasks succeeded last."""
        threads = self._threads()
        about = {**self._about, "threads": threads.count, "busy": threads.busy}
        forgotten_after = FORGOTTEN_AFTER // timedelta(milliseconds=1)
        self._seen(keys=[keys.WORKERS, keys.WORKERS_SEEN], args=[self._id, json.dumps(about), forgotten_after])
        self._look()
        # Last: a Redis that is full refuses this, as it does to give out messages.
        self._client.sadd(keys.QUEUES, *self._queues)

    def leave(self) -> None:
        """Take back that it is there, at its end."""
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hdel(keys.WORKERS, self._id)
            pipe.zrem(keys.WORKERS_SEEN, self._id)
            pipe.execute()

    def _look(self) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            for task in Task:
                pipe.hgetall(keys.task_key(actor_of(task)))
            # A key that somebody made of another type is an error of its own command.
            answers: list[Any] = pipe.execute(raise_on_error=False)
        at = self._monotonic()
        time_or_error, *hashes = answers
        if isinstance(time_or_error, redis.RedisError):
            raise time_or_error
        now = redis_time(*time_or_error)
        expected = {}
        for task, values in zip(Task, hashes, strict=True):
            if isinstance(values, redis.RedisError):
                continue
            status = task_status(task, actor=actor_of(task), values=values)
            expectation = self._successes.look(status, now=now, at=at)
            if expectation is not None:
                expected[task] = expectation
        self.expected = expected
