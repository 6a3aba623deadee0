"""What a process answers over HTTP."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from threading import Event
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from services.health import HealthReport, HealthStatus, Role
from services.monitoring.endpoint import Endpoint
from tests.support import free_port, wait_for

#: Of the endpoints of these tests, in seconds: for a busy machine to say what it wants.
PATIENCE = 2.0

HEALTHY = HealthReport(role=Role.WORKER, status=HealthStatus.HEALTHY, is_live=True)
DEGRADED = HealthReport(role=Role.WORKER, status=HealthStatus.DEGRADED, is_live=True, reasons=("no database",))
STOPPED = HealthReport(role=Role.WORKER, status=HealthStatus.STOPPED, is_live=False, reasons=("it hangs",))


class Slow(Collector):
    """Takes longer to answer than a client may take to ask."""

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        Event().wait(PATIENCE + 1.5)
        yield from ()


class Broken(Collector):
    """Cannot say what it counts."""

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        raise OSError("the files are gone")


class Served:
    """An endpoint on a port of its own, and what it says of its health, which may change."""

    def __init__(self, registry: CollectorRegistry | None, port: int | None = None) -> None:
        self.report = HEALTHY
        self.port = port or free_port()
        endpoint = Endpoint(
            registry=registry,
            health=lambda: self.report,
            host="127.0.0.1",
            port=self.port,
            variable="A_PORT",
            patience=PATIENCE,
        )
        endpoint.serve_in_background()
        self.wait()

    def wait(self) -> None:
        def answers() -> bool:
            with closing(socket.socket()) as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(answers, what="the endpoint")

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()


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


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(method: str, served: Served) -> None:
    assert served.get("/metrics", method)[0] == HTTPStatus.NOT_IMPLEMENTED


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
    registry.register(Slow())

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
