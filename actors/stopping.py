"""Whether this worker was told to stop: a sweep then lets the batch in hand commit, and takes no further one."""

import signal
import threading
from queue import Empty, SimpleQueue
from types import FrameType

import dramatiq
from dramatiq.middleware import Middleware

#: By which dramatiq tells a worker process to stop.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Stopping(Middleware):
    """Knows whether the worker of this process is about to end, from the signal on.

    dramatiq finds out up to a second later, and waits for the runs that are under way. Who was told once stays so: a
    process has one worker.
    """

    def __init__(self) -> None:
        self._is_told = False
        #: Holds a token once it is told; whoever takes it puts it back. Its put is reentrant, so a signal handler may
        #: call it; to set an Event is not.
        self._token: SimpleQueue[None] = SimpleQueue()

    def is_stopping(self) -> bool:
        """Return whether the worker was told to stop."""
        return self._is_told

    def wait(self, seconds: float | None = None) -> bool:
        """Wait so long, or until the worker is told to stop; return whether it is."""
        try:
            self._token.get(timeout=seconds)
        except Empty:
            return False
        self._token.put(None)
        return True

    def tell(self) -> None:
        """Tell the worker to stop. Safe in a signal handler."""
        self._is_told = True
        self._token.put(None)

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """Learn of the signals, before dramatiq does."""
        del broker
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                self._learn_of(number)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Tell those that no signal told."""
        del broker, worker
        self.tell()

    def _learn_of(self, number: signal.Signals) -> None:
        dramatiqs = signal.getsignal(number)
        if not callable(dramatiqs):
            return

        def handle(received: int, frame: FrameType | None) -> None:
            self.tell()
            dramatiqs(received, frame)

        signal.signal(number, handle)
