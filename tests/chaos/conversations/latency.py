"""A network between the processes and Redis that takes its time."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

_CHUNK = 1 << 16


class SlowRoad:
    """A port of the loopback that leads to ``upstream``, with a time drawn anew for each way.

    The bounds of that time are in seconds. Nothing overtakes what was sent before it.
    """

    def __init__(self, upstream: int, *, least: float, most: float, rng: random.Random) -> None:
        self._upstream = upstream
        self._rng, self._least, self._most = rng, least, most
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self.port: int = self._server.getsockname()[1]
        #: How often something was passed on.
        self.passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no one any more, and cut those who are connected."""
        for one in (self._server, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                upstream = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                return
            for one in (client, upstream):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open |= {client, upstream}
            self._lead(client, upstream)
            self._lead(upstream, client)

    def _lead(self, source: socket.socket, target: socket.socket) -> None:
        under_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        threading.Thread(target=self._take, args=(source, under_way), daemon=True).start()
        threading.Thread(target=self._bring, args=(under_way, target), daemon=True).start()

    def _take(self, source: socket.socket, under_way: "SimpleQueue[tuple[float, bytes]]") -> None:
        arrives_at = 0.0
        while True:
            try:
                chunk = source.recv(_CHUNK)
            except OSError:
                chunk = b""
            arrives_at = max(arrives_at, time.monotonic() + self._rng.uniform(self._least, self._most))
            under_way.put((arrives_at, chunk))
            if not chunk:
                return

    def _bring(self, under_way: "SimpleQueue[tuple[float, bytes]]", target: socket.socket) -> None:
        while True:
            arrives_at, chunk = under_way.get()
            time.sleep(max(arrives_at - time.monotonic(), 0))
            try:
                if not chunk:
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(chunk)
            except OSError:
                return
            self.passed += 1


@contextmanager
def slow_road(upstream: int, *, least: float, most: float, rng: random.Random) -> Iterator[SlowRoad]:
    """Open one to a port of the loopback."""
    road = SlowRoad(upstream, least=least, most=most, rng=rng)
    try:
        yield road
    finally:
        road.close()
