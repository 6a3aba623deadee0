"""A worker process ends when the command that started it was killed: nobody would look after it, nor ask how it is."""

import multiprocessing
import os
import signal
from threading import Thread

import dramatiq
from dramatiq.middleware import Middleware

from actors.stopping import Stopping
from services.logs import get_logger

#: How often to look, in seconds.
INTERVAL = 1.0

log = get_logger(__name__)


class EndWithCommand(Middleware):
    """Tells this process to stop, as its command would have, once that is gone: the batch in hand still commits."""

    def __init__(self, stopping: Stopping) -> None:
        self._stopping = stopping

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Begin to look."""
        del broker, worker
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid is not None:
            Thread(target=self._watch, args=(parent.pid,), name="watch of the command", daemon=True).start()

    def _watch(self, command: int) -> None:
        while not self._stopping.wait(INTERVAL):
            if os.getppid() != command:
                log.warning("the command that started this process is gone, so it ends", command=command)
                os.kill(os.getpid(), signal.SIGTERM)
                return
