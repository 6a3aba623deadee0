"""The real commands, started as production starts them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import redis

from benchmarks.errors import BenchmarkError
from benchmarks.machine import PROJECT
from services.embedded.child import find_command, tethered

IDLE = "process_idle_conversations"
EXPIRED = "process_expired_conversations"
#: How long a command may take to stop before it is killed, in seconds.
_STOP_TIMEOUT = 20
_OURS = ("BACKGROUND_TASK_", "ADJOURN_", "LOG_", "DATABASE_URL", "REDIS_URL", "dramatiq_", "PROMETHEUS_")


def environment(given: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Return this process's environment with the given settings and no others, for a command of its own ports."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    ports = {"dramatiq_prom_port": str(_free_port()), "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0"}
    path = os.pathsep.join(filter(None, [str(PROJECT), kept.get("PYTHONPATH")]))
    metrics = directory / f"prometheus-{time.monotonic_ns()}"
    return kept | ports | {"dramatiq_prom_db": str(metrics), "PYTHONPATH": path} | dict(given)


@contextmanager
def running(*arguments: str, directory: Path, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run an installed command; stop it, and whatever it started, at the end.

    Raises BenchmarkError when it ended by itself.
    """
    log = directory / f"{arguments[0]}-{time.monotonic_ns()}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            tethered([find_command(arguments[0]), *arguments[1:]]),
            cwd=directory,
            env=environment(settings, directory),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        yield process
        if process.poll() is not None:
            raise BenchmarkError(f"{arguments[0]} ended: {log.read_text(errors='replace')[-2000:]}")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Ticker:
    """A process of its own that puts ticks on the queue, as a scheduler does, when it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def send(self, actor: str) -> None:
        """Have a tick put on the queue; returns once it is there."""
        self._tell(f"send {actor}")

    def wait(self) -> None:
        """Return when all that is on the queue has been done."""
        self._tell("wait")

    def _tell(self, line: str) -> None:
        _write(self._process.stdin, line)
        self.expect_answer()

    def expect_answer(self) -> None:
        """Return when it says that what it was told is done.

        Raises BenchmarkError when it ends instead.
        """
        said = self._process.stdout.readline() if self._process.stdout else ""
        if said.strip() != "done":
            raise BenchmarkError(f"the ticker ended: {said}")


@contextmanager
def ticking(*, directory: Path, settings: Mapping[str, str]) -> Iterator[Ticker]:
    """Yield a ticker that is ready."""
    process = subprocess.Popen(
        tethered([sys.executable, "-m", "benchmarks.ticker"]),
        cwd=directory,
        env=environment(settings, directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        ticker = Ticker(process)
        ticker.expect_answer()
        yield ticker
    finally:
        process.kill()
        process.communicate()


@contextmanager
def working(
    url: str, redis_url: str, directory: Path, **given: str
) -> Iterator[tuple[Ticker, subprocess.Popen[bytes]]]:
    """Yield a ticker and ``dramatiq actors`` that has worked before: as by default, but for what is ``given``."""
    empty(redis_url)
    settings = {"DATABASE_URL": url, "REDIS_URL": redis_url, **given}
    with ticking(directory=directory, settings=settings) as ticker:
        # As many as there may be processes, twice: each has then imported, connected and prepared what it needs.
        warming = 2 * (os.cpu_count() or 1)
        for _ in range(warming):
            ticker.send(EXPIRED)
        with running("dramatiq", "actors", directory=directory, settings=settings) as worker:
            ticker.wait()
            for _ in range(warming):
                ticker.send(EXPIRED)
            ticker.wait()
            yield ticker, worker


def empty(redis_url: str) -> None:
    """Have Redis forget everything."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
    return port


def _write(stream: IO[Any] | None, line: str) -> None:
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()
