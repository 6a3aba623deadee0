"""What clients that are slow, mad or many do to the endpoint of a real scheduler: nothing that others would notice."""

import errno
import http.client
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from services.monitoring.http_server import MOST_CLIENTS
from tests.acceptance.commands import PROMPTLY, Command, running
from tests.support import free_port, wait_for

#: Many more than are let in, by a client that can have a thousand files open.
CROWD = 1000
SEVERAL = 2 * MOST_CLIENTS
#: What a process may have taken that it does not give back, in bytes: Python keeps pages, and metrics grow by a bit.
LEFTOVER = 24 << 20

Crowd = list[socket.socket]


class Scheduler:
    """A `periodiq actors`, its endpoint, and what it holds."""

    def __init__(self, command: Command, port: int) -> None:
        self.command = command
        self.port = port
        self._proc = Path(f"/proc/{command.process.pid}")

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        client.setblocking(False)
        return client

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request("GET", "/metrics", headers={"Accept": "text/plain;version=0.0.4"})
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()

    @property
    def files(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    @property
    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))

    @property
    def memory(self) -> int:
        return int((self._proc / "statm").read_text().split()[1]) * 4096


@pytest.fixture(scope="module")
def scheduler(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    port = free_port()
    variables = {"REDIS_URL": redis_server, "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": str(port)}
    with running("periodiq", "actors", directory=tmp_path_factory.mktemp("scheduler"), variables=variables) as command:
        scheduler = Scheduler(command, port)

        def is_there() -> bool:
            with suppress(OSError):
                return bool(scheduler.scrape())
            return False

        wait_for(is_there, what="metrics")
        yield scheduler


def say(client: socket.socket, text: bytes) -> None:
    """Say as much of ``text`` as is listened to."""
    with suppress(OSError):
        client.send(text)


def says_nothing(scheduler: Scheduler) -> Crowd:
    return [scheduler.connect() for _ in range(CROWD)]


def dribbles(scheduler: Scheduler) -> Crowd:
    crowd = [scheduler.connect() for _ in range(SEVERAL)]
    for letter in b"GET /metrics":
        for client in crowd:
            say(client, bytes([letter]))
    return crowd


def never_takes_its_answer(scheduler: Scheduler) -> Crowd:
    crowd = []
    for _ in range(SEVERAL):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.connect(("127.0.0.1", scheduler.port))
        client.setblocking(False)
        say(client, b"GET /metrics HTTP/1.0\r\n\r\n")
        crowd.append(client)
    return crowd


def asks_and_closes_its_half(scheduler: Scheduler) -> Crowd:
    crowd = [scheduler.connect() for _ in range(SEVERAL)]
    for number, client in enumerate(crowd):
        say(client, b"GET /healthz HTTP/1.0\r\n" + b"\r\n" * (number % 2))
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
    return crowd


def resets_in_the_middle(scheduler: Scheduler) -> Crowd:
    for _ in range(SEVERAL):
        client = scheduler.connect()
        say(client, b"GET /metrics HTTP/1.0\r\n\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return []


def says(text: bytes) -> Callable[[Scheduler], Crowd]:
    def crowd(scheduler: Scheduler) -> Crowd:
        clients = [scheduler.connect() for _ in range(SEVERAL)]
        for client in clients:
            say(client, text)
        return clients

    return crowd


CROWDS: dict[str, Callable[[Scheduler], Crowd]] = {
    "says nothing": says_nothing,
    "a byte at a time": dribbles,
    "never takes its answer": never_takes_its_answer,
    "closes its half": asks_and_closes_its_half,
    "resets in the middle": resets_in_the_middle,
    "a line without end": says(b"GET /" + b"a" * (1 << 20)),
    "a field without end": says(b"GET / HTTP/1.0\r\nA: " + b"a" * (1 << 20)),
    "fields without end": says(b"GET / HTTP/1.0\r\n" + b"A: a\r\n" * (1 << 17)),
    "garbage": says(b"GET " + random.Random(7).randbytes(1 << 12).replace(b"\n", b"") + b" HTTP/1.0\r\n\r\n"),
    "TLS": says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512)),
    "another version": says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
}


@pytest.mark.parametrize("kind", CROWDS)
def test_a_crowd_keeps_out_no_one_and_leaves_nothing_behind(kind: str, scheduler: Scheduler) -> None:
    scheduler.scrape()  # so that it has its connection to Redis
    threads, files, memory = scheduler.threads, scheduler.files, scheduler.memory
    said = len(scheduler.command.output)
    with ExitStack() as crowd:
        for client in CROWDS[kind](scheduler):
            crowd.enter_context(client)
        for _ in range(3):
            began = time.monotonic()
            assert "scheduler_is_leader" in scheduler.scrape()
            assert time.monotonic() - began < PROMPTLY
        assert scheduler.threads <= threads + MOST_CLIENTS + 1

    wait_for(lambda: scheduler.threads <= threads, what="the end of their threads")
    wait_for(lambda: scheduler.files <= files, what="the closing of their connections")
    assert scheduler.memory < memory + LEFTOVER
    written = scheduler.command.output[said:]
    assert "Traceback" not in written
    assert written.count("turned away") <= 1
    assert written.count("\n") <= 3


def test_it_is_reached_from_this_machine_only_unless_told_otherwise(scheduler: Scheduler) -> None:
    # Another address of the loopback, as one of another network would be.
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.2", scheduler.port)) == errno.ECONNREFUSED
    assert scheduler.scrape()
