"""The adoption: a look, and then the steps, of which each is done, or done already."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import URL, Connection, NullPool, func, select

from services.adoption import locks
from services.adoption.counted import counted
from services.adoption.look import Look, look, require_postgresql
from services.adoption.notes import missing_rights
from services.adoption.step import Choices, Step, Work
from services.adoption.steps import STEPS
from services.adoption.stopped import AdoptionStoppedError
from services.database import check_reachable, create_database_engine

#: The advisory lock of whoever adopts: "adopting" in ASCII.
_LOCK = int.from_bytes(b"adopting")

#: Told of each step when it is through: what was done (None: it was done already), and how long it took, in seconds.
OnStep = Callable[[Step, str | None, float], None]


def adopt(
    connection: Connection,
    choices: Choices,
    *,
    on_look: Callable[[Look], None] = lambda _: None,
    on_step: OnStep = lambda *_: None,
    patience: Sequence[float] = locks.PATIENCE,
    pause: float = locks.PAUSE,
) -> None:
    """Bring the table ``conversations`` to what ``adjourn migrate`` makes, while others write to it.

    It may be cut short at any moment, and be run again. ``connection`` is one of its own: ``connected``.

    Raises InvalidValueError where there is nothing to adopt, AdoptionStoppedError when it is blocked or stops.
    """
    with alone(connection):
        seen = look(connection, choices)
        on_look(seen)
        if seen.blockers:
            raise AdoptionStoppedError(f"{counted(len(seen.blockers), 'thing')} in the way; nothing was changed")
        if (missing := missing_rights(seen.found.facts)) is not None:
            raise AdoptionStoppedError(f"{missing}; nothing was changed")
        work = Work(connection, choices, patience, pause)
        for step in STEPS:
            started = time.monotonic()
            done = step.run(work)
            on_step(step, done, time.monotonic() - started)


@contextmanager
def connected(url: URL) -> Iterator[Connection]:
    """Yield the one connection that all of an adoption goes over, so that its lock is gone when its work is.

    Raises DatabaseUnavailableError.
    """
    engine = create_database_engine(url, poolclass=NullPool)
    check_reachable(engine)
    with engine.connect() as connection:
        yield connection


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Hold the lock of whoever adopts or undoes it.

    Raises InvalidValueError on another database than PostgreSQL, AdoptionStoppedError when somebody else holds it.
    """
    require_postgresql(connection)
    with connection.begin():
        # A role's own limits are meant for short statements, and an instant without time zone is in UTC.
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.exec_driver_sql(f"SET {name} = 0")
        connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        is_mine = connection.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar_one()
    if not is_mine:
        raise AdoptionStoppedError("another adjourn adopt is at work on this database; wait for its end")
    try:
        yield
    finally:
        # With the connection goes the lock.
        connection.invalidate()
