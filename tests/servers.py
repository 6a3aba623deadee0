"""Redis servers with options of a test's choice, and a relay that loses answers or speaks TLS in front of one."""

import selectors
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis

from services.embedded.child import tethered
from services.embedded.redis_server import find_redis_server
from tests.support import free_port, wait_for

#: The type of the first record of a TLS connection.
_HANDSHAKE = b"\x16"
#: With this a client of PostgreSQL asks for TLS, before all else, and with that it gets it.
_SSL_REQUEST, _SSL_GRANTED = b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"S"


class RedisServer:
    """A redis-server on a port of the loopback. Its data, if its options keep any, outlives ``kill`` and ``stop``."""

    def __init__(self, directory: Path, *arguments: str, password: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._arguments = arguments
        self._password = password

    @property
    def url(self) -> str:
        """Where to reach it, with its password."""
        return f"redis://{f':{self._password}@' if self._password else ''}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and return when it answers."""
        log = self.directory / f"redis-{self.port}.log"
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory), "--logfile", str(log)]
        # The arguments come first: a configuration file has to.
        self.process = subprocess.Popen(
            tethered([find_redis_server(), *self._arguments, *options]), stdout=subprocess.DEVNULL, process_group=0
        )
        wait_for(self.is_answering, what=f"an answer of redis-server, see {log}")

    def is_answering(self) -> bool:
        """Return whether it answers; a refusal for want of a password is an answer."""
        assert self.process is None or self.process.poll() is None, "redis-server ended"
        try:
            with redis.Redis.from_url(f"redis://127.0.0.1:{self.port}?protocol=2", socket_timeout=1) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it with SIGTERM, upon which it saves what its options say."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@contextmanager
def redis_server_with(directory: Path, *options: str, password: str = "") -> Iterator[RedisServer]:
    """Start a redis-server with ``options``, such as ``"--appendonly", "yes"``; nothing is kept unless they say so."""
    directory.mkdir(parents=True, exist_ok=True)
    login = ["--requirepass", password, "--masterauth", password] if password else []
    server = RedisServer(directory, "--save", "", *login, *options, password=password)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def sentinel_of(
    port: int,
    directory: Path,
    *,
    service: str,
    password: str = "",
    master_password: str = "",
    down_after: float = 60,
) -> Iterator[RedisServer]:
    """Start a sentinel that watches the master on ``port`` by itself.

    It replaces one that has been silent for ``down_after`` seconds, and names it no more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    configuration = directory / "sentinel.conf"
    lines = [
        f"sentinel monitor {service} 127.0.0.1 {port} 1",
        f"sentinel down-after-milliseconds {service} {round(down_after * 1000)}",
        f"sentinel failover-timeout {service} 1000",
    ]
    if master_password:
        lines.append(f"sentinel auth-pass {service} {master_password}")
    if password:
        lines.append(f"requirepass {password}")
    configuration.write_text("\n".join(lines) + "\n")
    sentinel = RedisServer(directory, str(configuration), "--sentinel", password=password)
    sentinel.start()
    try:
        yield sentinel
    finally:
        sentinel.kill()


class Relay:
    """A port of the loopback that passes everything on to another, or to a Unix socket, and may lose answers.

    With ``tls``, a client that begins with a TLS handshake, or asks for one as those of PostgreSQL do, gets one;
    ``encrypted`` counts them.
    """

    def __init__(self, upstream: int | Path, *, tls: ssl.SSLContext | None = None) -> None:
        self._upstream = upstream
        self._tls = tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self._lost: list[bytes] = []
        self._connections = 0
        self._silent_up_to = 0
        self.encrypted = 0
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_answer_to(self, part: bytes) -> None:
        """Pass the next command with ``part`` in it on, and close the connection instead of passing its answer back."""
        self._lost.append(part)

    def fall_silent(self) -> None:
        """Pass nothing on any more, in either direction, for those who are connected; they are not told."""
        self._silent_up_to = self._connections

    def close(self) -> None:
        """Accept no one any more."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._connections += 1
            threading.Thread(target=self._serve, args=(client, self._connections), daemon=True).start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        with ExitStack() as sockets, suppress(OSError):
            sockets.enter_context(plain)
            client = plain
            if self._tls is not None and _wants_tls(plain):
                client = sockets.enter_context(self._tls.wrap_socket(plain, server_side=True))
                self.encrypted += 1
            upstream = sockets.enter_context(self._connect())
            ready = sockets.enter_context(selectors.DefaultSelector())
            ready.register(client, selectors.EVENT_READ, upstream)
            ready.register(upstream, selectors.EVENT_READ, client)
            loses = False
            while True:
                for key, _ in ready.select():
                    assert isinstance(key.fileobj, socket.socket)
                    received = key.fileobj.recv(1 << 16)
                    # What TLS has decrypted already does not make the socket ready.
                    while isinstance(key.fileobj, ssl.SSLSocket) and key.fileobj.pending():
                        received += key.fileobj.recv(1 << 16)
                    if not received or (loses and key.fileobj is upstream):
                        return
                    if key.fileobj is client and self._lost and self._lost[0] in received:
                        self._lost.pop()
                        loses = True
                    if number > self._silent_up_to:
                        key.data.sendall(received)

    def _connect(self) -> socket.socket:
        if isinstance(self._upstream, int):
            return socket.create_connection(("127.0.0.1", self._upstream))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._upstream))
        return connection


def _wants_tls(client: socket.socket) -> bool:
    if client.recv(len(_SSL_REQUEST), socket.MSG_PEEK) == _SSL_REQUEST:
        client.recv(len(_SSL_REQUEST))
        client.sendall(_SSL_GRANTED)
    return client.recv(1, socket.MSG_PEEK) == _HANDSHAKE


@contextmanager
def relay_to(upstream: int | Path, *, tls: ssl.SSLContext | None = None) -> Iterator[Relay]:
    """Open a relay to a port of the loopback or to a Unix socket, with ``tls`` towards its clients."""
    relay = Relay(upstream, tls=tls)
    try:
        yield relay
    finally:
        relay.close()
