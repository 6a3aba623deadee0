"""Locks on a table that others write to all the time: taken briefly, or not at all and then again.

Whoever waits for a lock that excludes writers holds up every writer that comes after, for as long as it waits. So each
try waits a little longer than the last, and between two tries the writers go on.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.adoption.holders import read_holders
from services.adoption.stopped import AdoptionStoppedError
from services.database import set_locally

T = TypeVar("T")

#: How long each try waits for the lock, in seconds: the most that a writer waits behind it. The first ones get it
#: between two short transactions. From the sixth on it is longer than PostgreSQL's deadlock_timeout (1 s), after which
#: an autovacuum of the table is told to make way; an earlier end of the wait would find it there each time.
PATIENCE: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.8, 2, 2, 2, 2, 2)
#: From one try to the next, in seconds.
PAUSE = 1.0

#: Excludes readers as well: for ALTER TABLE that changes catalogs only.
ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
#: Excludes writers, but not readers: for CREATE TRIGGER.
SHARE_ROW_EXCLUSIVE = "SHARE ROW EXCLUSIVE"

_GIVES_WAY = {
    "55P03",  # lock_not_available: lock_timeout is over
    "40P01",  # deadlock_detected
}


def briefly(
    connection: Connection,
    act: Callable[[Connection], T],
    *,
    mode: str | None = None,
    patience: Sequence[float] = PATIENCE,
    pause: float = PAUSE,
) -> T:
    """Do ``act`` in a transaction of its own that waits for no lock longer than ``patience`` says, and tries again.

    With a ``mode`` the table is locked before anything else, so that no lock grows on the way, which could end in a
    deadlock with a writer.

    Raises AdoptionStoppedError, which names who holds the lock, when the last try did not get it.
    """
    for number, seconds in enumerate(patience):
        if number:
            time.sleep(pause)
        try:
            with connection.begin():
                set_locally(connection, lock_timeout=f"{round(seconds * 1000)}ms")
                if mode is not None:
                    connection.exec_driver_sql(f"LOCK TABLE conversations IN {mode} MODE")
                return act(connection)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _GIVES_WAY:
                raise
    held = read_holders(connection)
    whose = f"these have one: {', '.join(held)}" if held else "whoever held it has let go of it since"
    raise AdoptionStoppedError(
        f"{len(patience)} tries did not get a lock on conversations; {whose}. End what holds it and run the same "
        "again: it goes on from here"
    )
