"""What stands between each scheduler and Redis: a TCP proxy that can lose, hold back and cut.

One thread runs an event loop with one listening port for each scheduler; a new process behind the same port goes
through the same proxy. The methods may be called from any other thread.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self

from tests.chaos.resp import Request, RequestReader

_CHUNK = 65536
_HOST = "127.0.0.1"


class Loss(Enum):
    """What a trap does to the request that falls into it."""

    #: Redis carries it out; its reply is thrown away and the connection closed.
    REPLY_CLOSED = auto()
    #: Redis carries it out; its reply is thrown away and the connection stays open, without a word ever after.
    REPLY_SILENT = auto()
    #: Redis never gets it, and the connection is closed.
    REQUEST_CLOSED = auto()
    #: Redis never gets it, and the connection stays open, without a word ever after.
    REQUEST_SILENT = auto()


class Gate(Enum):
    """What becomes of traffic."""

    OPEN = auto()
    #: Connections are closed as soon as they are made.
    REFUSING = auto()
    #: Bytes are held back in both directions, and delivered late once the gate opens, as TCP does.
    HOLDING = auto()


@dataclass
class Trap:
    """Waits for the next requests of a kind."""

    matches: Callable[[Request], bool]
    loss: Loss
    times: int
    #: When it closed.
    fired: list[float] = field(default_factory=list)

    def takes(self, request: Request) -> bool:
        """Return whether ``request`` falls into it, and note that it did."""
        if len(self.fired) >= self.times or not self.matches(request):
            return False
        self.fired.append(time.time())
        return True


class Connection:
    """A client's connection and the one to Redis that belongs to it.

    A dropped reply is "whatever Redis says next": redis-py waits for the reply to each request, so nothing else is
    under way on the connection.
    """

    def __init__(self, proxy: "Proxy", client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._loss: Loss | None = None
        self._mute = False

    async def carry_requests(self, reader: asyncio.StreamReader) -> None:
        """Pass on what the client sends, request by request, until it closes."""
        requests = RequestReader()
        while data := await reader.read(_CHUNK):
            for request in requests.feed(data):
                await self._proxy.opened.wait()
                if not self._mute:
                    self._pass_on(request)
            await self._server.drain()
        await self._proxy.opened.wait()

    async def carry_replies(self, reader: asyncio.StreamReader) -> None:
        """Pass on what Redis answers, until it closes."""
        while data := await reader.read(_CHUNK):
            await self._proxy.opened.wait()
            if self._loss is Loss.REPLY_CLOSED:
                self.abort()
            elif self._loss is Loss.REPLY_SILENT:
                self._mute = True
            if self._mute:
                continue
            self._client.write(data)
            await self._client.drain()

    def abort(self) -> None:
        """Close both ends at once."""
        self._mute = True
        for writer in (self._client, self._server):
            writer.transport.abort()

    def _pass_on(self, request: Request) -> None:
        trap = self._proxy.trap
        if trap is not None and trap.takes(request):
            self._loss = trap.loss
        if self._loss is Loss.REQUEST_CLOSED:
            self.abort()
        elif self._loss is Loss.REQUEST_SILENT:
            self._mute = True
        else:
            self._server.write(request.raw)


class Proxy:
    """The proxy of one scheduler."""

    def __init__(self, loop: asyncio.AbstractEventLoop, redis_port: int) -> None:
        self._loop = loop
        self._redis_port = redis_port
        self._connections: set[Connection] = set()
        self._gate = Gate.OPEN
        self._server: asyncio.Server | None = None
        self.opened = asyncio.Event()
        self.opened.set()
        self.trap: Trap | None = None
        self.port = 0

    async def listen(self) -> None:
        """Begin to listen on a free port."""
        self._server = await asyncio.start_server(self._serve, _HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, and close all connections."""
        if self._server is not None:
            self._server.close()
        self.opened.set()
        await self._cut()

    def set_trap(self, trap: Trap | None) -> None:
        """Wait for requests that fall into ``trap``; None clears it."""
        self._call(self._set_trap(trap))

    def cut(self) -> None:
        """Close all connections at once; new ones are taken."""
        self._call(self._cut())

    def set_gate(self, gate: Gate) -> None:
        """Refuse, hold back or let pass, from now on."""
        self._call(self._set_gate(gate))

    def _call(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=10)

    async def _set_trap(self, trap: Trap | None) -> None:
        self.trap = trap

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    async def _set_gate(self, gate: Gate) -> None:
        self._gate = gate
        if gate is Gate.HOLDING:
            self.opened.clear()
            return
        self.opened.set()
        if gate is Gate.REFUSING:
            await self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._gate is Gate.REFUSING:
            writer.transport.abort()
            return
        await self.opened.wait()
        try:
            from_redis, to_redis = await asyncio.open_connection(_HOST, self._redis_port)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(self, writer, to_redis)
        self._connections.add(connection)
        tasks = [
            asyncio.ensure_future(self._quietly(connection.carry_requests(reader))),
            asyncio.ensure_future(self._quietly(connection.carry_replies(from_redis))),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections.discard(connection)
            for each in (to_redis, writer):
                # What was written is still delivered.
                each.close()
            for task in tasks:
                task.cancel()

    @staticmethod
    async def _quietly(step: Coroutine[Any, Any, None]) -> None:
        with suppress(OSError):
            await step


class Proxies:
    """All proxies, and the thread that runs them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close_all(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def open(self, redis_port: int) -> Proxy:
        """Return a proxy that listens."""
        return asyncio.run_coroutine_threadsafe(self._open(redis_port), self._loop).result(timeout=10)

    async def _open(self, redis_port: int) -> Proxy:
        proxy = Proxy(self._loop, redis_port)
        await proxy.listen()
        self._proxies.append(proxy)
        return proxy

    async def _close_all(self) -> None:
        for proxy in self._proxies:
            await proxy.close()
        # With both ends closed, they come to their ends.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)
