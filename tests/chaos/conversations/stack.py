"""Everything that is under test together: PostgreSQL, Redis, workers, schedulers, and clients that never stop."""

import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.acceptance.commands import run
from tests.chaos.conversations.backlog import Backlog, Reading
from tests.chaos.conversations.postgresql import PostgreSQLServer
from tests.chaos.conversations.processes import Process
from tests.chaos.conversations.redis_server import Redis
from tests.chaos.conversations.traffic import Traffic
from tests.histories.record import Checkpoint
from tests.servers import Relay
from tests.support import attempts, wait_for

#: The settings of the processes under test, in seconds.
INTERVAL, LEASE, RENEW = 1, 3, 1
#: Small enough for a sweep of the traffic after an outage to take several batches.
BATCH_SIZE = 50
#: What a batch may take, from the tick on its list to the commit, with all else that two cores have to do.
BATCH = 1.0
#: One interval plus one batch: so long after its deadline nothing is left due, and so long after a fault either.
LONGEST_DUE = INTERVAL + BATCH
#: All must have been well for so long to be called well.
_STEADY = 1.0
#: Who is not well by then never will be.
WELL_TIMEOUT = 60.0
_READY = "Worker process is ready for action"


class NeverWellError(Exception):
    """Something did not come back after a fault."""


class Stack:
    """``workers`` commands of one process each, ``schedulers``, and traffic of ``rate`` operations a second.

    ``environment`` is for the commands, over what all of them have; ``statements`` the superuser runs on the migrated
    database before anybody else is there. ``slack`` is what a machine that is busy otherwise may add, in seconds.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        workers: int = 2,
        schedulers: int = 2,
        clients: int = 8,
        rate: float = 150.0,
        environment: dict[str, str] | None = None,
        statements: Sequence[str] = (),
        slack: float = 0.0,
    ) -> None:
        self.rng = rng
        #: For how long anything may be due when all is well, in seconds.
        self.longest_due = LONGEST_DUE + slack
        #: What the harness noticed on its way.
        self.incidents: list[str] = []
        self.directory = Path(tempfile.mkdtemp(prefix="adjourn-chaos-"))
        # PostgreSQL runs as another user when this is root.
        self.directory.chmod(0o755)
        self.postgres = PostgreSQLServer(self.directory)
        self.redis = Redis(self.directory / "redis")
        #: The way of the clients to PostgreSQL, on which answers may get lost. Workers go straight.
        self.relay = Relay(self.postgres.port)
        self.database_url = self.postgres.url
        self.redis_url = self.redis.url
        self.traffic = Traffic(
            self.postgres.url_through(self.relay.port),
            self.directory / "history.jsonl",
            clients=clients,
            rate=rate,
            seed=rng.randrange(2**32),
        )
        self.backlog = Backlog(self.postgres)
        #: Those that should be running.
        self.workers: list[Process] = []
        self.schedulers: list[Process] = []
        #: Also those that ended.
        self.processes: list[Process] = []
        self._counts = (workers, schedulers)
        self._environment = environment or {}
        self._statements = statements
        #: Of PostgreSQL and Redis, once they have started.
        self.versions = ("", "")
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.callback(self.relay.close)
            self.postgres.create()
            exits.callback(self.postgres.remove)
            self.postgres.start()
            exits.callback(self.postgres.stop)
            self.postgres.create_database()
            self.redis.start()
            exits.callback(self.redis.stop)
            self.versions = self._ask_versions()
            exits.callback(self.kill_all)
            migrated = run("adjourn", "migrate", directory=self.directory, variables=self.environment())
            assert migrated.returncode == 0, migrated.stderr
            with self.postgres.connect_as_superuser() as connection:
                for statement in self._statements:
                    connection.execute(statement.encode())
            workers, schedulers = self._counts
            for _ in range(workers):
                self.start_worker()
            for _ in range(schedulers):
                self.start_scheduler()
            exits.callback(self.backlog.close)
            exits.enter_context(self.traffic)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def remove(self) -> None:
        """Delete what is left of it, the logs and the history included."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the variables of its processes."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "LOG_FORMAT": "json",
            "BACKGROUND_TASK_INTERVAL": str(INTERVAL),
            "BACKGROUND_TASK_BATCH_SIZE": str(BATCH_SIZE),
            "BACKGROUND_TASK_LEASE_TIMEOUT": f"{LEASE}s",
            "BACKGROUND_TASK_RENEW_INTERVAL": f"{RENEW}s",
            "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
            **self._environment,
        }

    def start_worker(self, *, processes: int = 1, **environment: str) -> Process:
        """Start ``dramatiq actors`` with ``environment`` beside what all have; it is one of ``workers``."""
        command = ["dramatiq", "actors", "--processes", str(processes), "--threads", "4"]
        worker = self._start("worker", command, environment)
        self.workers.append(worker)
        return worker

    def start_scheduler(self, **environment: str) -> Process:
        """Start ``periodiq actors`` in the same way; it is one of ``schedulers``."""
        scheduler = self._start("scheduler", ["periodiq", "actors"], environment)
        self.schedulers.append(scheduler)
        return scheduler

    def replace(self, process: Process, **environment: str) -> Process:
        """Start another in the place of one that has ended, as a supervisor does."""
        self.forget(process)
        if process.kind == "worker":
            return self.start_worker(processes=1, **environment)
        return self.start_scheduler(**environment)

    def wait_until_ready(self, worker: Process) -> None:
        """Return when a worker that was started takes messages."""
        wait_for(lambda: _READY in worker.output, seconds=WELL_TIMEOUT, what=f"the readiness of {worker}")

    def forget(self, process: Process) -> None:
        """Expect no more of a process."""
        for known in (self.workers, self.schedulers):
            if process in known:
                known.remove(process)

    def stop(self, process: Process) -> None:
        """Send SIGTERM, wait for the end, and note it when it does not come, or not well."""
        process.terminate()
        self.finish(process)

    def finish(self, process: Process) -> None:
        """Wait for the end of a process after SIGTERM, and note it when it does not come, or not well."""
        code = process.finish()
        if code is None:
            self.incidents.append(f"{process} did not end after SIGTERM, and was killed")
        elif code != 0:
            self.incidents.append(f"{process} ended with {code} after SIGTERM, not 0")
        self.forget(process)

    def kill_all(self) -> None:
        """End all processes of ours."""
        for one in self.processes:
            if one.is_running:
                one.kill()

    def wait_until_well(self, *, after: str = "") -> float:
        """Wait until nothing is overdue and all clients are answered, for a while, and all workers take messages.

        Returns for how many seconds, from the call on, something was overdue or a client not answered. The checkpoint
        goes into the history.

        Raises NeverWellError when that does not come about within ``WELL_TIMEOUT``.
        """
        began = since = time.monotonic()
        missing = ""
        for _ in attempts(WELL_TIMEOUT, pause=0.05):
            self._watch_for_ends()
            reading = self.backlog.read()
            at = time.monotonic()
            missing = self._missing(reading, began)
            if missing:
                since = at
                continue
            assert reading is not None
            # Another does the work of those that are not there yet, but the next fault wants all of them.
            missing = self._asleep()
            if not missing and at - since >= _STEADY:
                self.traffic.note(
                    Checkpoint(at=reading.at, due_since=reading.due_since, allowed=self.longest_due, after=after)
                )
                return since - began
        raise NeverWellError(f"{WELL_TIMEOUT:g} s after {after or 'the start'} there was still {missing}")

    def _missing(self, reading: Reading | None, began: float) -> str:
        """Return what is not well, nothing when all is."""
        if reading is None:
            return "no answer of PostgreSQL"
        if reading.longest_due > self.longest_due:
            return f"a conversation that was due for {reading.longest_due:.1f} s"
        if not self.traffic.is_acknowledged_since(began):
            return "a client that was not answered"
        return ""

    def _asleep(self) -> str:
        """Return the workers that are still starting."""
        asleep = [one.name for one in self.workers if _READY not in one.output]
        return f"no word of {', '.join(asleep)}" if asleep else ""

    def _watch_for_ends(self) -> None:
        """Note the processes that ended by themselves, and start others in their place."""
        for one in [*self.workers, *self.schedulers]:
            if not one.is_running and not one.ended_by_us:
                self.incidents.append(f"{one} ended by itself with {one.exit_code}: see {one.log.name}")
                one.finish()
                self.replace(one)

    def _ask_versions(self) -> tuple[str, str]:
        with self.postgres.connect() as connection, self.redis.client() as client:
            (postgresql,) = connection.execute("SHOW server_version").fetchone() or ("",)
            told: dict[str, Any] = client.info("server")
            return str(postgresql), str(told["redis_version"])

    def _start(self, kind: str, arguments: list[str], environment: dict[str, str]) -> Process:
        process = Process(kind, arguments, self.directory, self.environment() | environment)
        self.processes.append(process)
        return process
