"""The worker process's own engine: made when first asked for, so it never crosses a fork."""

import os
import socket
import weakref
from contextlib import suppress
from functools import cache
from typing import Any

from sqlalchemy import Engine, event

from actors.settings import settings
from services.database import create_database_engine

#: Those to a server, of runs.
_connections: "weakref.WeakSet[Any]" = weakref.WeakSet()


@cache
def get_engine() -> Engine:
    """Return this process's engine for ``DATABASE_URL``."""
    engine = create_database_engine(settings.database)
    keep_connections(engine)
    return engine


@cache
def get_probe_engine() -> Engine:
    """Return one of a single connection: whether the database answers is asked beside runs that may hold all others."""
    return create_database_engine(settings.database, pool_size=1, max_overflow=0)


def keep_connections(engine: Engine) -> None:
    """Have ``cut_connections`` cut those of ``engine``, too. SQLite has none, and waits for nobody for long."""
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", lambda connection, _record: _connections.add(connection))


def cut_connections() -> int:
    """Fail what waits for the database, from any thread; return how many connections were open.

    They are of no use afterwards.
    """
    cut = 0
    for connection in list(_connections):
        # Closing it would take it apart under whoever waits. Its transaction is rolled back by the server.
        with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as same:  # closed already
            same.shutdown(socket.SHUT_RDWR)
            cut += 1
    return cut
