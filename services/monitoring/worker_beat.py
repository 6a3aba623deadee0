"""The heartbeat of a worker process: a thread that writes the process's state down once a second.

It asks nobody and waits for nothing: what it writes was found out by others, and it logs nothing, for the log may be a
pipe that nobody reads. That a state could not be written shows in its age.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from services.monitoring.worker_state import BEAT_INTERVAL, WorkerState, remove_state, write_state


class WorkerBeat:
    """Writes what ``state`` returns into ``directory``: when it starts, and then on."""

    def __init__(self, directory: Path, state: Callable[[], WorkerState], *, pid: int) -> None:
        self._directory = directory
        self._state = state
        self._pid = pid
        self._is_stopped = Event()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first state, and begin."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End, and remove the state: the process is about to end in good order."""
        self._is_stopped.set()
        self._thread.join(BEAT_INTERVAL)
        remove_state(self._directory, self._pid)

    def _run(self) -> None:
        next_at = time.monotonic()
        while not self._is_stopped.is_set():
            next_at = max(next_at + BEAT_INTERVAL, time.monotonic())
            self._is_stopped.wait(next_at - time.monotonic())
            self._beat()

    def _beat(self) -> None:
        # A disk that is broken, or a mistake of ours.
        with suppress(Exception):
            write_state(self._directory, self._state())
