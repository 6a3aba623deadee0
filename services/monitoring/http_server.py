"""An HTTP server for strangers: a thread for each client, few of them, and no patience with those that hold it up."""

import socket
import socketserver
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition
from typing import Any

from services.logs import get_logger

#: How many clients are there at once, each with a thread. Prometheus and the probes are two or three.
MOST_CLIENTS = 64
#: How long a client waits until there is room, in seconds, before it is turned away.
ROOM_TIMEOUT = 1.0
#: From one line of the log about clients that were turned away to the next, in seconds.
COMPLAINT_INTERVAL = 60.0

log = get_logger(__name__)


class HttpServer(ThreadingHTTPServer):
    """Answers with ``handler`` at an address, IPv4 or IPv6. ``patience`` is how long it waits for a client, in seconds.

    When there are ``MOST_CLIENTS`` and one more comes, whoever it has waited for longest leaves: for a request, or for
    an answer to be taken. So clients that are slow, or silent, keep out nobody who knows what it wants. Where all have
    asked and wait for us, the new one waits, too, and is turned away when none of them has left after a second.
    """

    # As many may wait to be let in. Whoever is beyond it tries again after a second, by its kernel.
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], patience: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._patience = patience
        #: Since when we wait for each client, on the monotonic clock, in seconds; None while it waits for us.
        self._clients: dict[Any, float | None] = {}
        self._left = Condition()
        self._is_full = False
        self._complained_at: float | None = None
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread of its own, or turn it away."""
        if self._let_in(request):
            super().process_request(request, client_address)
        else:
            self._complain()
            self.shutdown_request(request)

    def hear(self, request: Any) -> None:
        """Note that a client has said what it wants: the answer may take its time."""
        self._wait_since(request, None)

    def tell(self, request: Any) -> None:
        """Note that a client is about to be answered, and has to take it."""
        self._wait_since(request, time.monotonic())

    def shutdown_request(self, request: Any) -> None:
        """Be done with a client."""
        super().shutdown_request(request)
        with self._left:
            self._clients.pop(request, None)
            self._left.notify_all()

    def service_actions(self) -> None:
        """Leave clients that take too long. Called twice a second, and after each that came."""
        too_long_ago = time.monotonic() - self._patience
        with self._left:
            for request, since in self._clients.items():
                if since is not None and since < too_long_ago:
                    self._leave(request)

    def server_bind(self) -> None:
        """Bind, and leave out what HTTPServer does then: ask a name server who this machine is."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave alone what goes wrong with one client."""
        del request
        log.debug("request not answered", client=client_address[0], reason=repr(sys.exception()))

    def _let_in(self, request: Any) -> bool:
        with self._left:
            if len(self._clients) >= MOST_CLIENTS:
                waited_for = [(since, client) for client, since in self._clients.items() if since is not None]
                if waited_for:
                    self._leave(min(waited_for, key=lambda one: one[0])[1])
                # Not each of many in turn: they would be told in a quarter of an hour.
                timeout = 0 if self._is_full else ROOM_TIMEOUT
                self._is_full = not self._left.wait_for(lambda: len(self._clients) < MOST_CLIENTS, timeout)
                if self._is_full:
                    return False
            self._is_full = False
            self._clients[request] = time.monotonic()
            return True

    def _leave(self, request: Any) -> None:
        """Wake up the thread of a client, for which everything fails from now on."""
        self._clients[request] = None
        with suppress(OSError):  # it has just left by itself
            request.shutdown(socket.SHUT_RDWR)

    def _wait_since(self, request: Any, since: float | None) -> None:
        with self._left:
            if request in self._clients:
                self._clients[request] = since

    def _complain(self) -> None:
        now = time.monotonic()
        if self._complained_at is None or now - self._complained_at >= COMPLAINT_INTERVAL:
            self._complained_at = now
            log.warning("clients of the endpoint are turned away: too many at once", most=MOST_CLIENTS)
