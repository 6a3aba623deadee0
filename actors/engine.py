"""The worker process's own engine: made when first asked for, so it never crosses a fork."""

import os
import socket
import weakref
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Any

from sqlalchemy import Engine, NullPool, event

from actors.settings import settings
from services.database import check_reachable, create_database_engine


class RunConnections:
    """The connections of runs to a server, so that what waits for it can be failed."""

    def __init__(self) -> None:
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._adding = Lock()

    def remember(self, engine: Engine) -> None:
        """Remember those that ``engine`` makes from now on. SQLite has none, and waits for nobody for long."""
        if engine.dialect.name == "postgresql":
            # First of all who are told: SQLAlchemy has questions to a new connection itself.
            event.listen(engine, "connect", lambda connection, _record: self._add(connection), insert=True)

    def cut(self) -> int:
        """Fail what waits for the database, from any thread; return how many connections were open.

        They are of no use afterwards.
        """
        with self._adding:
            connections = list(self._connections)
            self._connections.clear()
        cut = 0
        for connection in connections:
            # Closing it would take it apart under whoever waits. Its transaction is rolled back by the server.
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as same:  # closed already
                same.shutdown(socket.SHUT_RDWR)
                cut += 1
        return cut

    def _add(self, connection: Any) -> None:
        with self._adding:
            self._connections.add(connection)


run_connections = RunConnections()


@cache
def get_engine() -> Engine:
    """Return this process's engine for ``DATABASE_URL``."""
    engine = create_database_engine(settings.database)
    run_connections.remember(engine)
    return engine


@cache
def get_probe_engine() -> Engine:
    """Return one of a single connection: whether the database answers is asked beside runs that may hold all others."""
    return create_database_engine(settings.database, pool_size=1, max_overflow=0)


def ask_database() -> None:
    """Return when the database answers, on a connection of its own, whatever tables are locked.

    Raises DatabaseUnavailableError when it refuses.
    """
    check_reachable(create_database_engine(settings.database, poolclass=NullPool))
