"""``adjourn run``: everything on one machine, as the real commands, started together and stopped together."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TextIO

from services import migrations
from services.database import check_database, create_database_engine
from services.database_url import shown_url
from services.embedded.child import Child, find_command
from services.embedded.data_directory import hold_data_directory, prepare_data_directory
from services.embedded.redis_server import REDIS_DIRECTORY, PrivateRedis
from services.errors import SettingsError
from services.health import Role
from services.logs import get_logger
from services.monitoring.addresses import ENDPOINTS_FILE, base_url
from services.monitoring.run_directory import BASE_VARIABLE as RUNS_VARIABLE
from services.redis_client import ANSWER_TIMEOUT, check_redis, connect
from services.scheduling.lease import forget_schedulers
from services.settings import Settings
from services.tasks import Task

#: How long the commands may take to stop, in seconds, before they are killed: the whole run is gone within two.
STOP_TIMEOUT = 1.5
#: dramatiq's variables.
HOST = "dramatiq_prom_host"
WORKER_PORT = "dramatiq_prom_port"
SCHEDULER_PORT = "BACKGROUND_TASK_SCHEDULER_METRICS_PORT"

log = get_logger(__name__)
_PACKAGES = Path(__file__).resolve().parents[2]


class Stack:
    """A scheduler, a worker and, unless the settings name others, SQLite and a private Redis in the data directory.

    A context manager. Entering raises AdjournError when something cannot start, and leaves nothing running; leaving
    stops everything.
    """

    def __init__(
        self, settings: Settings, *, overrides: Mapping[str, str] | None = None, output: TextIO | None = None
    ) -> None:
        self._settings = settings
        self._output = output or sys.stderr
        self._overrides = dict(overrides or {})
        #: Something changed. Its put is reentrant, so a signal handler may call it; that of Event is not.
        self._changed: SimpleQueue[None] = SimpleQueue()
        self._exits = ExitStack()
        self._children: list[Child] = []
        self._redis: PrivateRedis | None = None

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            require_a_task(self._settings)
            directory = prepare_data_directory(self._settings.data_dir)
            lock = exits.enter_context(hold_data_directory(directory))
            prepare_database(self._settings)
            environment = os.environ | self._overrides
            environment["DATABASE_URL"] = self._settings.database.render_as_string(hide_password=False)
            environment["REDIS_URL"] = self._start_redis(directory, lock, exits)
            environment |= _endpoints_environment(directory, self._settings)
            if self._output.isatty():
                environment.setdefault("FORCE_COLOR", "1")  # the commands write to a pipe, a person reads it
            exits.callback(self._stop_children)
            self._start("worker", environment, "dramatiq", "actors", "--processes", "1", "--threads", "4")
            self._start("scheduler", environment, "periodiq", "actors")
            log.info(
                "started",
                database=shown_url(self._settings.database),
                redis="private" if self._redis else "REDIS_URL",
                **_tell_endpoints(environment, directory, exits),
            )
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    @property
    def is_up(self) -> bool:
        """Whether everything was started."""
        return bool(self._children)

    def failure(self) -> str | None:
        """Return what has ended by itself, None while all run."""
        for child in self._children:
            if child.exit_code is not None:
                return f"the {child.name} ended with exit code {child.exit_code}"
        if self._redis is not None and not self._redis.is_running():
            return "the private redis-server ended"
        return None

    def wait(self) -> str | None:
        """Wait until something ends by itself, and return what; or until ``wake``, and return None."""
        while True:
            try:
                self._changed.get(timeout=1)
            except Empty:
                # A private Redis tells nobody that it ended.
                if (failure := self.failure()) is None:
                    continue
                return failure
            return self.failure()

    def wake(self) -> None:
        """Make ``wait`` return. Safe in a signal handler."""
        self._changed.put(None)

    def _start_redis(self, directory: Path, lock: int, exits: ExitStack) -> str:
        if self._settings.redis_url is not None:
            check_redis(self._settings.redis_url)
            return self._settings.redis_url
        self._redis = PrivateRedis(directory / REDIS_DIRECTORY, inherit=(lock,))
        exits.callback(self._redis.stop)
        url = self._redis.start().url
        with connect(url, timeout=ANSWER_TIMEOUT) as client:
            # We hold the data directory, so whoever still has the lease was killed.
            forget_schedulers(client)
        return url

    def _start(self, name: str, environment: Mapping[str, str], command: str, *arguments: str) -> None:
        # Our packages first: the directory that a person stands in may have an `actors` of its own.
        whole = [find_command(command), *arguments, "--path", str(_PACKAGES)]
        self._children.append(Child(name, whole, environment=environment, output=self._output, on_exit=self.wake))

    def _stop_children(self) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT
        for child in reversed(self._children):
            child.terminate()
        for child in reversed(self._children):
            child.finish(timeout=deadline - time.monotonic())


def require_a_task(settings: Settings) -> None:
    """Raise SettingsError when no task is enabled: Periodiq would end at once."""
    if not any(settings.is_enabled(task) for task in Task):
        raise SettingsError(
            "BACKGROUND_TASK_IDLE_ENABLED and BACKGROUND_TASK_EXPIRED_ENABLED are both false, so there is nothing to "
            "run; set one of them to true"
        )


def prepare_database(settings: Settings) -> None:
    """Make the embedded database and its tables; check one that the settings name.

    Raises DataDirectoryError, DatabaseUnavailableError or DatabaseNotMigratedError.
    """
    embedded = settings.database_url is None
    if embedded:
        prepare_data_directory(settings.data_dir)
    engine = create_database_engine(settings.database)
    try:
        if embedded:
            migrations.upgrade(engine)
        check_database(engine)
    finally:
        engine.dispose()


def _endpoints_environment(directory: Path, settings: Settings) -> dict[str, str]:
    """Return where the two tell how they are: on ports that are free, unless told which."""
    ports = {WORKER_PORT: settings.worker_metrics_port, SCHEDULER_PORT: settings.scheduler_metrics_port}
    return {
        RUNS_VARIABLE: os.environ.get(RUNS_VARIABLE) or str(directory / "runs"),
        HOST: settings.metrics_host,
        # One that was asked for is waited for; else another will do.
        **{name: str(port if port and os.environ.get(name) else _free_port(port)) for name, port in ports.items()},
    }


def _tell_endpoints(environment: Mapping[str, str], directory: Path, exits: ExitStack) -> dict[str, str]:
    """Write down for ``adjourn health`` where the two tell how they are, while the run lasts; return it for the log."""
    urls = {role.value: base_url(role, environment) for role in Role}
    path = directory / ENDPOINTS_FILE
    path.write_text(json.dumps({"pid": os.getpid(), **urls}))
    exits.callback(path.unlink, missing_ok=True)
    return urls


def _free_port(preferred: int) -> int:
    """Return ``preferred`` when nothing listens on it, else a port that is free."""
    for port in (preferred, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no free port")
