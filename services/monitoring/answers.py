"""How a request for metrics or health is answered. Only what is known goes into an answer, nothing of the request."""

# ruff: noqa: PLC0415 - prometheus_client decides when it is imported whether metrics are of one process or of several

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase, BytesIO
from typing import TYPE_CHECKING, Any

from services.health import HealthReport
from services.logs import get_logger
from services.monitoring.http_server import HttpServer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: The most that is read of a request, in bytes: Prometheus says less than 1 KiB.
LARGEST_HEAD = 16 * 1024
#: What ``Accept`` may ask for, a format: prometheus_client stumbles over other versions, or repeats them in its answer.
_FORMAT = re.compile(
    r"[ \t]*[\w.+*-]+/[\w.+*-]+([ \t]*;[ \t]*(version=(0\.0\.1|0\.0\.4|1\.0\.0)|(q|charset|escaping)=[\w.-]+))*[ \t]*",
    re.ASCII,
)

#: Where a head ends: an empty line.
_ENDS = re.compile(rb"(^|\n)\r?\n\Z")

log = get_logger(__name__)


class Answers(BaseHTTPRequestHandler):
    """Answers one request, of which it reads no more than the head."""

    #: Of a client that does not say its own: the one before has no head in its answer.
    default_request_version = "HTTP/1.0"
    server: HttpServer
    registry: "CollectorRegistry | None"
    health: Callable[[], HealthReport]

    def handle(self) -> None:
        """Read the head of the request as a whole, and answer it."""
        with self.rfile as said:
            head = _read_head(said)
        self.rfile = BytesIO(head)
        self.requestline = self.request_version = self.command = ""
        self.server.hear(self.connection)
        if len(head) >= LARGEST_HEAD:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif _ENDS.search(head):  # else it has left in the middle
            super().handle()

    def do_GET(self) -> None:
        """Answer a request to read."""
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

    def version_string(self) -> str:
        """Return what the answer says of the server: no versions."""
        return "Adjourn"

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin an answer, which the client has to take from now on."""
        self.server.tell(self.connection)
        super().send_response(code, message)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request, without what was wrong with it: http.server would quote it."""
        del message, explain
        # http.server knows of no method that it could not have.
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self._answer(status, {"error": status.phrase})

    def _answer_metrics(self) -> None:
        if self.command == "HEAD":
            self._answer(HTTPStatus.OK, {})
            return
        formats = [one for one in self.headers.get("Accept", "").split(",") if _FORMAT.fullmatch(one)]
        del self.headers["Accept"]
        self.headers["Accept"] = ",".join(formats)
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
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _read_head(said: BufferedIOBase) -> bytes:
    """Return what a client says up to an empty line, or until it says no more; at most ``LARGEST_HEAD`` bytes."""
    head = bytearray()
    while line := said.readline(LARGEST_HEAD - len(head)):
        head += line
        if line in {b"\r\n", b"\n"}:
            break
    return bytes(head)


def answers_with(registry: "CollectorRegistry | None", health: Callable[[], HealthReport]) -> type[Answers]:
    """Return the class of what answers one request with the metrics of ``registry`` and with ``health``."""
    from prometheus_client import MetricsHandler

    def tell_metrics(self: Any) -> None:
        MetricsHandler.do_GET(self)

    attributes = {"registry": registry, "health": staticmethod(health), "tell_metrics": tell_metrics}
    return type("Handler", (Answers, MetricsHandler), attributes)
