"""The process beside a command's worker processes that answers for them: it still does when they are stuck."""

from services.logs import configure_logging
from services.monitoring.endpoint import Endpoint
from services.monitoring.run_directory import run_directory
from services.monitoring.worker_health import read_worker_health
from services.redis_client import connect
from services.settings import load_settings

#: How long Redis may take to answer a scrape, in seconds: Prometheus itself waits for ten.
REDIS_TIMEOUT = 2.0


def serve_worker() -> int:
    """Serve the metrics and the health of the worker command that started this process, until it is terminated."""
    settings = load_settings()
    configure_logging(level=settings.log_level, style=settings.log_format)
    directory = run_directory()
    registry = None
    if settings.enable_metrics:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - nobody loads what is turned off

        from services.monitoring.cluster import ClusterCollector  # noqa: PLC0415 - the same
        from services.monitoring.worker_files import WorkerFiles  # noqa: PLC0415 - the same

        registry = CollectorRegistry()
        registry.register(WorkerFiles(directory))
        registry.register(ClusterCollector(connect(settings.broker_url, timeout=REDIS_TIMEOUT)))
    Endpoint(
        registry=registry,
        health=lambda: read_worker_health(directory),
        host=settings.metrics_host,
        port=settings.worker_metrics_port,
        variable="dramatiq_prom_port",
    ).serve()
    return 0
