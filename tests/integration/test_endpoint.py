"""What a process answers over HTTP."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from services.health import HealthReport, HealthStatus, Role
from services.monitoring.endpoint import Endpoint
from services.monitoring.http_server import MOST_CLIENTS
from tests.support import free_port, wait_for

#: Of the endpoints of these tests, in seconds: for a busy machine to say what it wants.
PATIENCE = 2.0

#: In /proc/net/tcp.
ESTABLISHED = "01"
#: What it accepts.
OF_PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

HEALTHY = HealthReport(role=Role.WORKER, status=HealthStatus.HEALTHY, is_live=True)
DEGRADED = HealthReport(role=Role.WORKER, status=HealthStatus.DEGRADED, is_live=True, reasons=("no database",))
STOPPED = HealthReport(role=Role.WORKER, status=HealthStatus.STOPPED, is_live=False, reasons=("it hangs",))


class Slow(Collector):
    """Takes longer to answer than a client may take to ask: so many seconds, or until it is told to go on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: When, on the monotonic clock, in seconds.
        self.asked: list[float] = []
        self.go_on = Event()

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        self.asked.append(time.monotonic())
        self.go_on.wait(self._seconds)
        yield from ()


class Broken(Collector):
    """Cannot say what it counts."""

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        raise OSError("the files are gone")


class Served:
    """An endpoint on a port of its own, and what it says of its health, which may change."""

    def __init__(self, registry: CollectorRegistry | None, port: int | None = None, *, host: str = "127.0.0.1") -> None:
        self.report = HEALTHY
        self.port = port or free_port()
        self._reached = "::1" if host == "::1" else "127.0.0.1"
        endpoint = Endpoint(
            registry=registry,
            health=lambda: self.report,
            host=host,
            port=self.port,
            variable="A_PORT",
            patience=PATIENCE,
        )
        endpoint.serve_in_background()
        self.wait()

    def wait(self) -> None:
        def answers() -> bool:
            with suppress(OSError), socket.create_connection((self._reached, self.port)):
                return True
            return False

        wait_for(answers, what="the endpoint")

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def clients(self) -> int:
        """Return how many clients there are: their connections at this end."""
        mine = f":{self.port:04X}"
        connections = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(local.endswith(mine) and state == ESTABLISHED for _, local, _, state, *_ in connections)

    def say(self, text: str) -> str:
        """Say it, and return the whole answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(text.encode())
            with client.makefile("rb") as answer:
                return answer.read().decode()


@pytest.fixture(scope="module")
def served() -> Served:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    return Served(registry)


@pytest.mark.parametrize("path", ["/metrics", "/", "/metrics?name[]=things_total"])
def test_metrics_are_told(path: str, served: Served) -> None:
    status, text = served.get(path)

    assert status == HTTPStatus.OK
    assert "things_total 3.0" in text


@pytest.mark.parametrize(
    ("report", "live", "ready"), [(HEALTHY, 200, 200), (DEGRADED, 200, 503), (STOPPED, 503, 503)], ids=str
)
def test_liveness_and_readiness_are_told_with_the_reasons(
    report: HealthReport, live: int, ready: int, served: Served
) -> None:
    served.report = report

    for path, expected in (("/healthz", live), ("/readyz", ready)):
        status, text = served.get(path)
        assert status == expected
        assert json.loads(text) == report.as_object()


def test_an_unknown_path_is_told_which_there_are(served: Served) -> None:
    status, text = served.get("/health")

    assert status == HTTPStatus.NOT_FOUND
    assert "/metrics, /healthz and /readyz" in json.loads(text)["error"]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/", "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PURGE", "get"])
def test_it_only_reads(method: str, path: str, served: Served) -> None:
    answer = served.say(f"{method} {path} HTTP/1.0\r\nContent-Length: 3\r\n\r\nyes")

    assert answer.startswith("HTTP/1.0 405 Method Not Allowed\r\n")
    assert "\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/hostname",
        "/metrics/../../etc/hostname",
        "/%2e%2e/%2e%2e/etc/hostname",
        "//etc/hostname",
        "/metrics/",
        "/services/",
        "/static",
        "/.",
        "*",
        "http://elsewhere/metrics",
    ],
)
def test_there_are_no_files_and_no_directories(path: str, served: Served) -> None:
    answer = served.say(f"GET {path} HTTP/1.0\r\n\r\n")

    assert answer.startswith("HTTP/1.0 404 Not Found\r\n")
    assert json.loads(answer.partition("\r\n\r\n")[2]) == {"error": "there are /metrics, /healthz and /readyz"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /quoted HTTP/1.0", 404),
        ("GET /metrics?name[]=quoted HTTP/1.0", 200),
        ("GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0-quoted", 200),
        ("GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version=quoted", 200),
        ("GET /metrics HTTP/1.0\r\nAccept: text/plain;version=1.0.0\r\n quoted: 1", 200),
        ("GET /metrics HTTP/1.0\r\nAccept-Encoding: quoted", 200),
        ("GET /healthz HTTP/1.0\r\nHost: quoted\r\nOrigin: quoted", 200),
        ("quoted /metrics HTTP/1.0", 405),
        ("GET /quoted", 404),
        ("GET /metrics quoted", 400),
        ("GET /metrics and quoted HTTP/1.0", 400),
        ("quoted", 400),
        ("GET /metrics HTTP/quoted", 400),
        ("GET /metrics HTTP/9.quoted", 400),
        ("GET /metrics HTTP/2.0", 505),
        ("GET /" + "quoted" * 4000 + " HTTP/1.0", 431),
        ("GET / HTTP/1.0" + "\r\nA: quoted" * 101, 431),
        ("GET / HTTP/1.0" + "\r\nA: quoted" * 4000, 431),
    ],
)
def test_nothing_of_a_request_is_in_the_answer(request_: str, status: int, served: Served) -> None:
    served.report = HEALTHY
    answer = served.say(f"{request_}\r\n\r\n")

    assert answer.startswith(f"HTTP/1.0 {status} ")
    assert "quoted" not in answer.lower()


@pytest.mark.parametrize(
    ("accept", "told"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (
            OF_PROMETHEUS_3,
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        ("application/openmetrics-text; version=77.0.0", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_prometheus_gets_the_format_that_it_asks_for(accept: str, told: str, served: Served) -> None:
    assert f"\r\nContent-Type: {told}\r\n" in served.say(f"GET /metrics HTTP/1.0\r\nAccept: {accept}\r\n\r\n")


def test_an_answer_names_no_versions(served: Served) -> None:
    assert "\r\nServer: Adjourn\r\n" in served.say("GET /healthz HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("host", ["::1", "::", "0.0.0.0", "localhost"])
def test_it_listens_where_it_is_told_to(host: str) -> None:
    served = Served(None, host=host)

    if host == "::":
        assert served.get("/healthz")[0] == HTTPStatus.OK, "all addresses are those of IPv4 as well"
    reached = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(host, host)
    connection = http.client.HTTPConnection(reached, served.port, timeout=30)
    with closing(connection):
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == HTTPStatus.OK


def test_who_comes_when_all_wait_for_an_answer_is_turned_away_within_seconds() -> None:
    registry = CollectorRegistry()
    slow = Slow(60)
    registry.register(slow)
    served = Served(registry)
    with ExitStack() as clients:

        def ask(path: str) -> socket.socket:
            client = socket.create_connection(("127.0.0.1", served.port), timeout=30)
            clients.enter_context(client).sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return client

        let_in = [ask("/metrics") for _ in range(MOST_CLIENTS)]
        wait_for(lambda: len(slow.asked) == MOST_CLIENTS, what="their being heard")
        for _ in range(3):
            late = ask("/healthz")
            with suppress(ConnectionResetError):  # it had asked
                assert late.recv(1) == b""
        slow.go_on.set()
        for client in let_in:
            assert client.recv(12) == b"HTTP/1.0 200"
    assert served.get("/healthz")[0] == HTTPStatus.OK


def test_without_metrics_there_is_health() -> None:
    served = Served(None)

    status, text = served.get("/metrics")
    assert status == HTTPStatus.NOT_FOUND
    assert "BACKGROUND_TASK_ENABLE_METRICS" in text
    assert served.get("/readyz")[0] == HTTPStatus.OK


def test_metrics_that_cannot_be_told_are_an_error_and_health_still_is() -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    served = Served(registry)

    status, text = served.get("/metrics")
    assert status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "the files are gone" in text
    assert served.get("/healthz")[0] == HTTPStatus.OK


def test_an_answer_may_take_its_time() -> None:
    registry = CollectorRegistry()
    registry.register(Slow(PATIENCE + 1.5))

    assert Served(registry).get("/metrics")[0] == HTTPStatus.OK


def test_clients_that_say_nothing_or_nonsense_hold_up_nobody(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as silent, socket.socket() as odd:
        odd.connect(("127.0.0.1", served.port))
        odd.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert served.get("/metrics")[0] == HTTPStatus.OK
        silent.settimeout(30)
        assert silent.recv(1) == b""  # it is given up


def test_clients_that_say_a_byte_now_and_then_are_left_in_the_end(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as dripping:
        dripping.settimeout(0.2)

        def is_left() -> bool:
            try:
                dripping.sendall(b"x")
                return dripping.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_for(is_left, what="the end of the server's patience")


def test_a_client_that_never_takes_its_answer_is_left_in_the_end() -> None:
    registry = CollectorRegistry()
    # More than the kernel keeps for whoever does not read it.
    Counter("things", "Things. " + "x" * (16 << 20), registry=registry)
    served = Served(registry)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert client.recv(8) == b"HTTP/1.0"
        assert served.clients() == 1
        wait_for(lambda: served.clients() == 0, what="the end of the server's patience")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_the_head_of_an_answer_is_told_without_it(path: str, served: Served) -> None:
    served.report = HEALTHY

    assert served.get(path, "HEAD") == (HTTPStatus.OK, "")


def test_a_port_that_is_taken_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        served = Served(None, port)  # whoever holds it accepts, so far
    wait_for(lambda: _answers(served), what="an answer once the port is free")


def _answers(served: Served) -> bool:
    try:
        return served.get("/healthz")[0] == HTTPStatus.OK
    except OSError:
        return False
