"""Our metrics beside dramatiq's, in the same files: dramatiq's Prometheus middleware says where those are."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import dramatiq

from actors.settings import settings
from services.monitoring.run_directory import BASE_VARIABLE, run_directory

if TYPE_CHECKING:
    from services.monitoring.metrics import WorkerMetrics

# dramatiq reads these when its middleware is imported, and makes the directory. It knows no variable that is empty.
os.environ[BASE_VARIABLE] = str(run_directory())
os.environ["dramatiq_prom_host"] = settings.metrics_host  # noqa: SIM112 - dramatiq's names
os.environ["dramatiq_prom_port"] = str(settings.worker_metrics_port)  # noqa: SIM112 - the same

from dramatiq.middleware.prometheus import Prometheus


class Metrics(Prometheus):
    """dramatiq's metrics, and in ``worker`` those of ours, once dramatiq has said that there are several processes.

    Import it in a worker's process only. dramatiq's own endpoint is replaced by ours: actors/endpoint.py.
    """

    worker: "WorkerMetrics"

    @property
    def forks(self) -> list[Callable[[], int]]:
        """No process of dramatiq's to serve them."""
        return []

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """Make all metrics of this process."""
        super().after_process_boot(broker)
        from services.monitoring.metrics import WorkerMetrics  # noqa: PLC0415 - not before, see there

        self.worker = WorkerMetrics(
            periodic_actors=[name for name, actor in broker.actors.items() if "periodic" in actor.options]
        )
