"""What a process answers over HTTP: its metrics, whether it lives, and whether it is ready."""

# ruff: noqa: PLC0415 - prometheus_client decides when it is imported whether metrics are of one process or of several

import time
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING

from services.health import HealthReport
from services.logs import get_logger
from services.monitoring.answers import answers_with
from services.monitoring.http_server import HttpServer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: How long a client may take to say what it wants and, in one piece, to take the answer, in seconds.
REQUEST_TIMEOUT = 5.0
#: From one try to have the port to the next, in seconds: whoever is restarted may find the one before still there.
PORT_INTERVAL = 1.0

log = get_logger(__name__)


class Endpoint:
    """Serves ``/metrics`` of a registry, ``/healthz`` and ``/readyz``. It only reads.

    ``/healthz`` is 503 when a restart would help, ``/readyz`` unless all is well; both say why, as JSON. Without a
    registry there are no metrics. ``variable`` is the one that sets the port, which is 0 for any that is free.
    ``patience`` is how long a client may take, in seconds.
    """

    def __init__(
        self,
        *,
        registry: "CollectorRegistry | None",
        health: Callable[[], HealthReport],
        host: str,
        port: int,
        variable: str,
        patience: float = REQUEST_TIMEOUT,
    ) -> None:
        if registry is not None:
            from services.monitoring.health_metrics import HealthCollector

            registry.register(HealthCollector(health))
        self._handler = answers_with(registry, health)
        self._host = host
        self._port = port
        self._variable = variable
        self._patience = patience

    def serve(self) -> None:
        """Serve until the process ends.

        A port that is taken is logged, once, and tried again and again: what the process is there for is worth more.
        """
        said = None
        while True:
            try:
                server = HttpServer((self._host, self._port), self._handler, self._patience)
            except OSError as error:
                if said != str(error):
                    said = str(error)
                    log.warning(
                        "no metrics and no health: the port cannot be used",
                        host=self._host,
                        reason=said,
                        **{self._variable: self._port},
                    )
                time.sleep(PORT_INTERVAL)
            else:
                host = f"[{self._host}]" if ":" in self._host else self._host
                log.info("metrics and health", url=f"http://{host}:{server.server_port}/")
                server.serve_forever()

    def serve_in_background(self) -> None:
        """Serve as ``serve`` does, in a thread that ends with the process."""
        Thread(target=self.serve, name="endpoint", daemon=True).start()
