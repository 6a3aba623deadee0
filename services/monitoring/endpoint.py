"""What a process answers over HTTP: its metrics, whether it lives, and whether it is ready."""

# ruff: noqa: PLC0415 - prometheus_client decides when it is imported whether metrics are of one process or of several

import json
import socket
import socketserver
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

from services.health import HealthReport
from services.logs import get_logger

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
        self._handler = _handler(registry, health)
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
                server = _Server((self._host, self._port), self._handler, self._patience)
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
                log.info("metrics and health", url=f"http://{self._host}:{server.server_port}/")
                server.serve_forever()

    def serve_in_background(self) -> None:
        """Serve as ``serve`` does, in a thread that ends with the process."""
        Thread(target=self.serve, name="endpoint", daemon=True).start()


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], patience: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        #: Until when each client has to say what it wants, on the monotonic clock, in seconds.
        self._deadlines: dict[Any, float] = {}
        self._patience = patience
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread of its own."""
        self._deadlines[request] = time.monotonic() + self._patience
        super().process_request(request, client_address)

    def hear(self, request: Any) -> None:
        """Note that a client has said what it wants: to answer may take longer."""
        self._deadlines.pop(request, None)
        request.settimeout(self._patience)

    def shutdown_request(self, request: Any) -> None:
        """Be done with a client."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Leave clients that take too long. Called twice a second."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if now > deadline:
                with suppress(OSError):  # it has just left by itself
                    request.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        """Bind, and leave out what HTTPServer does then: ask a name server who this machine is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave alone what goes wrong with one client."""
        del request
        log.debug("request not answered", client=client_address[0], reason=repr(sys.exception()))


class _Answers(BaseHTTPRequestHandler):
    """Answers one request."""

    registry: "CollectorRegistry | None"
    health: Callable[[], HealthReport]

    def do_GET(self) -> None:
        if isinstance(self.server, _Server):
            self.server.hear(self.connection)
        path = self.path.partition("?")[0]
        # dramatiq's own endpoint tells them on any path.
        if path in {"/", "/metrics"} and self.registry is not None:
            self._answer_metrics()
        elif path in {"/healthz", "/readyz"}:
            report = self.health()
            well = report.is_live if path == "/healthz" else report.is_ready
            self._answer(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, report.as_object())
        else:
            off = "; metrics are off (BACKGROUND_TASK_ENABLE_METRICS)" if path == "/metrics" else ""
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"there are /metrics, /healthz and /readyz{off}"})

    do_HEAD = do_GET  # noqa: N815 - its name

    def tell_metrics(self) -> None:
        """Answer with the metrics of ``registry``."""
        raise NotImplementedError

    def _answer_metrics(self) -> None:
        if self.command == "HEAD":
            self._answer(HTTPStatus.OK, {})
            return
        try:
            self.tell_metrics()
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("metrics not told")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"metrics not told: {error}"})

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _handler(registry: "CollectorRegistry | None", health: Callable[[], HealthReport]) -> type[BaseHTTPRequestHandler]:
    """Return the class of what answers one request with the metrics of ``registry`` and with ``health``."""
    from prometheus_client import MetricsHandler

    def tell_metrics(self: Any) -> None:
        MetricsHandler.do_GET(self)

    answers = {"registry": registry, "health": staticmethod(health), "tell_metrics": tell_metrics}
    return type("Handler", (_Answers, MetricsHandler), answers)
