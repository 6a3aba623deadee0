"""The process beside a command's worker processes that answers for them: it still does when they are stuck.

dramatiq tells it to end together with the workers, but these may have runs to bring to their end, and figures of them
that nobody has asked for yet. So it goes on until the last of them has ended; and no longer than whoever started it, so
that none of a command that was killed answers for the next one.
"""

import multiprocessing
import signal
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from services.logs import configure_logging
from services.monitoring.endpoint import Endpoint
from services.monitoring.run_directory import run_directory
from services.monitoring.worker_health import read_worker_health
from services.monitoring.worker_state import is_there, told_pids
from services.redis_client import connect
from services.settings import Settings, load_settings

#: How long Redis may take to answer a scrape, in seconds: Prometheus itself waits for ten.
REDIS_TIMEOUT = 2.0
#: How often to look whether the workers have ended, in seconds.
LOOK_INTERVAL = 0.1


def serve_worker() -> int:
    """Serve the metrics and the health of the worker command that started this process, until that ends."""
    told_to_end: list[int] = []
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda number, _frame: told_to_end.append(number))
    settings = load_settings()
    configure_logging(level=settings.log_level, style=settings.log_format)
    directory = run_directory()
    _endpoint(settings, directory).serve_in_background()
    parent = multiprocessing.parent_process()
    commands = [] if parent is None else [parent.sentinel]
    workers: set[int] = set()
    while not wait(commands, timeout=LOOK_INTERVAL):
        workers |= told_pids(directory)
        # Their command has seen them end, then. That this process ends is also what wakes it up: it waits for lines.
        if told_to_end and not any(is_there(pid) for pid in workers):
            break
    return 0


def _endpoint(settings: Settings, directory: Path) -> Endpoint:
    registry = None
    if settings.enable_metrics:
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - nobody loads what is turned off

        from services.monitoring.cluster_metrics import ClusterCollector  # noqa: PLC0415 - the same
        from services.monitoring.worker_files import WorkerFiles  # noqa: PLC0415 - the same

        registry = CollectorRegistry()
        registry.register(WorkerFiles(directory))
        registry.register(ClusterCollector(connect(settings.broker_url, timeout=REDIS_TIMEOUT)))
    return Endpoint(
        registry=registry,
        health=partial(read_worker_health, directory),
        host=settings.metrics_host,
        port=settings.worker_metrics_port,
        variable="dramatiq_prom_port",
    )
