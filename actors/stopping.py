"""Whether this worker was told to stop: a sweep then lets the batch in hand commit, and takes no further one."""

from threading import Event

import dramatiq
from dramatiq.middleware import Middleware


class Stopping(Middleware):
    """Knows whether the worker of this process is about to end. dramatiq waits for the runs that are under way."""

    def __init__(self) -> None:
        self._is_told = Event()

    def is_stopping(self) -> bool:
        """Return whether the worker was told to stop."""
        return self._is_told.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until the worker is told to stop; return whether it is."""
        return self._is_told.wait(seconds)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Begin anew."""
        del broker, worker
        self._is_told.clear()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Tell the runs."""
        del broker, worker
        self._is_told.set()
