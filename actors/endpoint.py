"""The process that answers for a worker command over HTTP: metrics and health, in place of dramatiq's own."""

from collections.abc import Callable

from dramatiq.middleware import Middleware

from services.monitoring.worker_endpoint import serve_worker


class WorkerEndpoint(Middleware):
    """Has dramatiq start one process beside its worker processes that serves them all."""

    @property
    def forks(self) -> list[Callable[[], int]]:
        """What that process runs."""
        return [serve_worker]
