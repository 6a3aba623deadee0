"""The Redis under test: a real redis-server on a TCP port that can be killed, restarted and emptied."""

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.embedded.child import tethered
from services.embedded.redis_server import find_redis_server
from tests.acceptance.commands import free_port

_START_TIMEOUT = 10.0


class Server:
    """One redis-server with its data in ``directory``.

    Its append-only file is synced before every reply (``appendfsync always``): "restarted with its data" has to mean
    all of it. With ``everysec``, a write may be answered while it still waits for a sync that is under way, and a
    killed Redis then forgets what it confirmed. That is another fault, of which the loss of all data is the worst case.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def start(self) -> None:
        """Start it, and return when it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._directory.with_suffix(".log")),
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            tethered([find_redis_server(), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        with redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=1) as client:
            while True:
                with suppress(redis.RedisError):
                    client.ping()
                    return
                if time.monotonic() > deadline:
                    raise RuntimeError(f"redis-server did not start: see {self._directory.with_suffix('.log')}")
                time.sleep(0.01)

    def stop(self, *, kill: bool = False) -> None:
        """Shut it down, or kill it; its data stays."""
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def empty(self) -> None:
        """Delete the data of a server that is stopped."""
        shutil.rmtree(self._directory)
