"""The watch: a thread that reads everything every few seconds and writes it down."""

import threading
import time
import traceback
from pathlib import Path
from typing import Self

from tests.chaos.conversations.stack import Stack
from tests.soak.database import Database
from tests.soak.reading import Generations, read_command, read_metric_files, read_server
from tests.soak.redis_contents import RedisContents
from tests.soak.series import Name, Sample, write


class Watch:
    """Reads a stack every ``every`` seconds from its start to its end, into ``path``."""

    def __init__(self, stack: Stack, path: Path, *, every: float) -> None:
        self.path = path
        #: What kept it from reading.
        self.incidents: list[str] = []
        self._stack = stack
        self._every = every
        self._database = Database(stack.postgres)
        self._redis = RedisContents(stack.redis)
        self._generations = Generations()
        self._acknowledged = (0.0, 0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._acknowledged = (0.0, self._stack.traffic.counts.acknowledged)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._database.close()

    def _run(self) -> None:
        with self.path.open("w") as stream:
            number = 1
            while not self._stopped.wait(max(self._began + number * self._every - time.monotonic(), 0)):
                try:
                    write(stream, self._read())
                except Exception:  # noqa: BLE001 - a watch that ends would find nothing any more
                    self.incidents.append(f"the watch met an error:\n{traceback.format_exc()}")
                stream.flush()
                # Who was kept waiting does not make up for it.
                number = max(number + 1, int((time.monotonic() - self._began) / self._every))

    def _read(self) -> Sample:
        at = time.monotonic() - self._began
        stack = self._stack
        found: dict[Name, float] = self._read_rate(at)
        for process in [*stack.workers, *stack.schedulers]:
            found |= read_command(process, self._generations)
        for worker in list(stack.workers):
            found |= read_metric_files(worker)
        found |= self._read_servers()
        return Sample(at, found | self._database.read())

    def _read_rate(self, at: float) -> dict[Name, float]:
        (before, count), now = self._acknowledged, self._stack.traffic.counts.acknowledged
        self._acknowledged = (at, now)
        return {("clients", "acknowledged a second"): (now - count) / (at - before)} if at > before else {}

    def _read_servers(self) -> dict[Name, float]:
        """Return nothing of a server that a fault has taken away for the moment."""
        found: dict[Name, float] = {}
        try:
            pids = self._stack.postgres.pids()
        except (AssertionError, OSError):
            pids = []
        if pids:
            found |= read_server(self._generations.name("PostgreSQL", pids[0]), pids)
        redis_server = self._stack.redis.process
        if redis_server is not None:
            subject = self._generations.name("Redis", redis_server.pid)
            found |= read_server(subject, [redis_server.pid]) | self._redis.read(subject)
        return found
